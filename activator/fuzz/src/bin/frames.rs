//! The control stream's frames.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::frames::run(input));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::explain();
}
