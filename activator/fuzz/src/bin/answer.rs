//! What pods answer.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::answer::run(input));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::explain();
}
