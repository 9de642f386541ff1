//! What pods are told of where a request comes from, and whom the activator believes.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::forwarded::run(input));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::explain();
}
