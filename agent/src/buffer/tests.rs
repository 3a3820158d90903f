//! Promises of the whole buffer.
