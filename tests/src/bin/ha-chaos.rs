//! `cargo xtask chaos`: the pair, broken again and again and watched from outside.

use std::process::ExitCode;

use clap::Parser as _;
use ha_tests::chaos::{self, Command, Options};
use ha_tests::rig::squeeze;

#[expect(clippy::print_stderr, reason = "a command-line program")]
fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.command {
        None => chaos::run(&options),
        Some(Command::Ballast { file }) => squeeze::ballast(file).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
