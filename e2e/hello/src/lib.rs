//! What the sample app and the tests that call it have in common.

pub mod fnv;
