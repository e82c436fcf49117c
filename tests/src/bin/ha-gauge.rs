//! `cargo xtask bench datapath`: what a packet costs in the data plane.

use std::process::ExitCode;

use clap::Parser as _;
use ha_tests::gauge::{self, Options};

#[expect(clippy::print_stderr, reason = "a command-line program")]
fn main() -> ExitCode {
    match gauge::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
