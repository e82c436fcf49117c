//! `cargo xtask bench replication`: how soon the standby knows, and at what price.

use std::process::ExitCode;

use clap::Parser as _;
use ha_tests::replica::{self, Options};

#[expect(clippy::print_stderr, reason = "a command-line program")]
fn main() -> ExitCode {
    match replica::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
