//! Which Function a request is for, and what its pod is told of that.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::host::run(input));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::explain();
}
