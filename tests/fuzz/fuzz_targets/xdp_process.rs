//! `cargo +nightly fuzz run xdp_process`, in the folder above this one.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ha_fuzz::scene::play(input));
