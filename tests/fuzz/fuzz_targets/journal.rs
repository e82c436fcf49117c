#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ha_tests::fuzz::journal::play(input));
