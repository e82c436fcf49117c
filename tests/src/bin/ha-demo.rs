//! `cargo xtask demo`: the pair, broken and watched.

use std::process::ExitCode;

use clap::Parser as _;
use ha_tests::demo::{self, Command, Options};
use ha_tests::rig;
use ha_tests::traffic::server;

#[expect(clippy::print_stderr, reason = "a command-line program")]
fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.command {
        None => demo::run(&options),
        Some(Command::Stop) => rig::remove_kept().map(|count| {
            eprintln!("{count} removed");
            true
        }),
        Some(Command::Serve { server, listen }) => server::serve(*server, listen).map(|()| true),
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
