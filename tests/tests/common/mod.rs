//! Runner of the tests in network namespaces.

use std::process::ExitCode;

use ha_tests::rig::{locate, process};
use libtest_mimic::{Arguments, Failed, Trial};

/// A test and its name.
pub(crate) type Test = (&'static str, fn() -> anyhow::Result<()>);

/// Names of tests that only `cargo xtask test --all` runs begin so.
const LONG: &str = "long_";

/// Runs the tests one at a time (two rigs would fight for the cores and spoil each other's times).
/// If something they need is missing they are counted as ignored, with the reason; in CI that is a
/// failure, since there nothing may be skipped.
///
/// `programs` must be installed, `binaries` built from the workspace.
pub(crate) fn run(programs: &[&str], binaries: &[&str], tests: &[Test]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let obstacle = obstacle(programs, binaries);
    let forbidden = std::env::var_os("CI").is_some();
    let all = std::env::var_os("HA_TEST_ALL").is_some_and(|value| value == "1");
    let trials = tests
        .iter()
        .map(|(name, test)| {
            let obstacle = obstacle.clone();
            let skipped = obstacle.is_some() && !forbidden || name.starts_with(LONG) && !all;
            let name = obstacle.as_ref().map_or_else(
                || (*name).to_owned(),
                |reason| format!("{name} (cannot run: {reason})"),
            );
            let test = *test;
            Trial::test(name, move || match obstacle {
                Some(reason) => Err(Failed::from(reason)),
                None => test().map_err(|error| Failed::from(format!("{error:#}"))),
            })
            .with_ignored_flag(skipped)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Why tests in namespaces cannot run here; `None` if they can.
fn obstacle(programs: &[&str], binaries: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !process::installed(program))
        .copied()
        .collect();
    if !missing.is_empty() {
        return Some(format!("not installed: {}", missing.join(", ")));
    }
    let built = locate::bpf_object("ha_rig").and_then(|_object| {
        for binary in binaries {
            locate::program(binary)?;
        }
        Ok(())
    });
    built.err().map(|error| error.to_string())
}
