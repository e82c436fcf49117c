//! `cargo xtask bench failover`: faults measured, beside the rivals.

use std::process::ExitCode;

use clap::Parser as _;
use ha_tests::bench::{self, Options};

#[expect(clippy::print_stderr, reason = "a command-line program")]
fn main() -> ExitCode {
    match bench::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
