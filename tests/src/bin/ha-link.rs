//! `cargo xtask bench link`: throughput and latency of a device at the end of a wire.

use std::process::ExitCode;

use clap::Parser as _;
use ha_tests::link::{self, Options};

#[expect(clippy::print_stderr, reason = "a command-line program")]
fn main() -> ExitCode {
    match link::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
