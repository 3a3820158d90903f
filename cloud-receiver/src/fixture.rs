//! Test material.
