//! Entry point of `ha-agent`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ha_agent::cli::main()
}
