//! What is installed beside the program: the unit file, examples, manual pages, completions.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the test's"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ha_tests::rig::locate;

/// The most that `systemd-analyze security` may find exposed, in its tenths: 28 today. What is left is what the agent
/// does: BPF, packet and netlink sockets, real time, kernel settings below `net`, as root.
const EXPOSURE_MAX: u32 = 29;
/// The program's place, as the unit file names it.
const INSTALLED: &str = "/usr/sbin/ha-agent";

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

fn agent(args: &[&str]) -> Output {
    let mut command = Command::new(locate::program("ha-agent").unwrap());
    command.args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// The unit file, with the program where it was built.
fn unit(dir: &Path) -> PathBuf {
    let text = fs::read_to_string(deploy("ha-agent.service")).unwrap();
    let program = locate::program("ha-agent").unwrap();
    let file = dir.join("ha-agent.service");
    fs::write(&file, text.replace(INSTALLED, program.to_str().unwrap())).unwrap();
    file
}

#[test]
fn systemd_takes_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let verify = |text: Option<&str>| {
        let file = unit(dir.path());
        if let Some(more) = text {
            fs::write(&file, fs::read_to_string(&file).unwrap() + more).unwrap();
        }
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--recursive-errors=no"]);
        command.arg(file).output().unwrap()
    };
    let good = verify(None);
    assert!(good.status.success(), "{}", said(&good));
    assert_eq!(said(&good), "", "warnings");
    // It would tell.
    let bad = verify(Some("[Service]\nNoSuchKey=1\n"));
    assert!(said(&bad).contains("NoSuchKey"), "{}", said(&bad));
}

#[test]
fn the_unit_exposes_little() {
    let dir = tempfile::tempdir().unwrap();
    let within = |tenths: u32| {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager"]);
        command.arg(format!("--threshold={tenths}"));
        command.arg(unit(dir.path())).output().unwrap()
    };
    let found = within(EXPOSURE_MAX);
    assert!(found.status.success(), "{}", said(&found));
    assert!(!within(1).status.success());
}

#[test]
fn the_agent_does_what_the_unit_relies_on() {
    let unit = fs::read_to_string(deploy("ha-agent.service")).unwrap();
    for line in unit.lines() {
        let Some(command) = line
            .strip_prefix("ExecStart=")
            .or_else(|| line.strip_prefix("ExecReload="))
        else {
            continue;
        };
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(words.first(), Some(&INSTALLED));
        // With --help every word before it is parsed, and nothing is done.
        let words = words.get(1..).unwrap().iter().copied();
        let output = agent(&words.chain(["--help"]).collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {}", said(&output));
    }
    // 78 is what `run` and `check-config` end with, so that a bad file is not tried again and again.
    let bad = agent(&["run", "-f", "/nonexistent/ha-agent.yaml"]);
    assert_eq!(bad.status.code(), Some(78), "{}", said(&bad));
    assert!(unit.contains("RestartPreventExitStatus=78\n"));
}

#[test]
fn examples_are_as_the_kernel_and_the_agent_have_it() {
    let text = fs::read_to_string(deploy("90-ha-agent.conf")).unwrap();
    let mut settings = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.split_once(" = ") else {
            assert_eq!(line, "");
            continue;
        };
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        assert!(path.exists(), "{name}");
        assert!(value.parse::<u32>().is_ok(), "{line}");
        settings += 1;
    }
    assert!(settings >= 5);
}

#[test]
fn every_command_has_a_page_and_every_shell_a_script() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(&["manual", dir.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let help = said(&agent(&["--help"]));
    let verbs = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|verb| !verb.is_empty() && *verb != "help");
    let verbs: Vec<&str> = verbs.collect();
    assert!(
        verbs.contains(&"check-config") && verbs.len() > 20,
        "{help}"
    );
    assert!(!verbs.contains(&"manual"), "{help}");

    let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(page("ha-agent.8").contains("78 error in the configuration"));
    assert!(page("ha-agent-records-put.8").contains("ttl"));
    for verb in &verbs {
        let page = page(&format!("ha-agent-{verb}.8"));
        assert!(page.contains(&format!("ha\\-agent\\-{}", verb.replace('-', "\\-"))));
        assert!(page.contains(".TH ha-agent-"), "{page}");
    }

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = agent(&["completion", shell]);
        assert!(output.status.success());
        let script = said(&output);
        for verb in &verbs {
            assert!(
                script.contains(verb),
                "{verb} is not in the script for {shell}"
            );
        }
    }
    let script = dir.path().join("completion");
    fs::write(&script, agent(&["completion", "bash"]).stdout).unwrap();
    let completes = Command::new("bash")
        .arg("-c")
        .arg(
            "source \"$0\"; set -- $(complete -p ha-agent); while [ \"$1\" != -F ]; do shift; done; \
             COMP_WORDS=(ha-agent fail); COMP_CWORD=1; \"$2\" ha-agent fail ha-agent; \
             echo \"${COMPREPLY[@]}\"",
        )
        .arg(&script)
        .output()
        .unwrap();
    assert_eq!(said(&completes).trim(), "failover");
}
