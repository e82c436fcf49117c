//! The agent with places at which it dies (`HA_FAULT_POINT`): for tests of what a crash leaves.

use std::process::ExitCode;

fn main() -> ExitCode {
    ha_agent::cli::main()
}
