//! What the fuzz targets do with an input: they run code that strangers reach, and panic when something does not hold. So `expect` and `unwrap`
//! are assertions here, like those of tests: libFuzzer keeps the input with which one has failed.
//!
//! `cargo e2e fuzz` builds and runs them.

#[cfg(fuzzing)]
pub mod answer;
#[cfg(fuzzing)]
pub mod forwarded;
pub mod frames;
#[cfg(fuzzing)]
pub mod host;
#[cfg(fuzzing)]
mod pod;
#[cfg(fuzzing)]
pub mod request;
pub mod strict;

/// What a target says that was built without libFuzzer.
pub fn explain() {
    eprintln!("this program was built without libFuzzer: run `cargo e2e fuzz`");
}
