//! Being merged: the shared row and entry types.

pub mod entry;
pub mod row;
