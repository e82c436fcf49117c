//! `cargo xtask bench report`: the page of benchmarks, from their JSON.

use std::process::ExitCode;

use clap::Parser as _;
use ha_tests::publish::{self, Options};

#[expect(clippy::print_stderr, reason = "a command-line program")]
fn main() -> ExitCode {
    match publish::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
