//! Bytes of a client's connection, through the whole activator to a pod that reads strictly.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::request::run(input));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::explain();
}
