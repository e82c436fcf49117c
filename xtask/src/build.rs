//! Building the BPF objects and the agent, and running the rig's programs.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::toolchain::{self, Compiler};
use crate::workspace::{bpf, cargo, root, run, say, target};
use crate::{setup, stamp};

/// BPF programs, each a binary of `ha-ebpf`.
const OBJECTS: &[&str] = &["ha_xdp", "ha_rig", "ha_gauge", "ha_line"];
const BPF_TARGET: &str = "bpfel-unknown-none";

/// Builds the BPF objects into `target/bpf` unless they are those of the sources already.
pub(crate) fn build_ebpf() -> Result<()> {
    let wanted = stamp::stamp(&root()).context("cannot read the sources of the BPF objects")?;
    let stamp_file = bpf().join(stamp::STAMP_FILE);
    if fs::read_to_string(&stamp_file).is_ok_and(|found| found == wanted)
        && OBJECTS.iter().all(|object| bpf().join(object).is_file())
    {
        return Ok(());
    }
    let found = Compiler::find().ok().and_then(|compiler| {
        let linker = toolchain::find_linker(compiler.llvm)?;
        Some((compiler, linker))
    });
    let (compiler, linker) = if let Some(found) = found {
        found
    } else {
        // Installs what is missing or says what to type.
        setup::setup()?;
        let compiler = Compiler::find()?;
        let linker = toolchain::find_linker(compiler.llvm)
            .context("bpf-linker is missing although setup went through")?;
        (compiler, linker)
    };
    say("building the BPF objects");
    let flags = [
        r#"--cfg=bpf_target_arch="x86_64""#,
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ];
    let build = target().join("bpf-build");
    run(compiler
        .cargo(&linker)
        .current_dir(root())
        .env("CARGO_TARGET_DIR", &build)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .args([
            "build",
            "--locked",
            "--quiet",
            "--profile",
            "bpf",
            "-Z",
            "build-std=core",
        ])
        .args(["--target", BPF_TARGET, "--package", "ha-ebpf", "--bins"]))?;
    fs::create_dir_all(bpf())?;
    for object in OBJECTS {
        let made = build.join(BPF_TARGET).join("bpf").join(object);
        // Rename, so that a reader never sees half an object.
        let fresh = bpf().join(format!(".{object}.new"));
        fs::copy(&made, &fresh).with_context(|| format!("no object {}", made.display()))?;
        fs::rename(&fresh, bpf().join(object))?;
    }
    fs::write(stamp_file, wanted)?;
    Ok(())
}

/// How the agent and the rig are built.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    /// With overflow checks and debug assertions, and without a second build of every dependency
    /// beside the tests' own: what the tests run.
    Dev,
    /// What is installed, shown and measured.
    Release,
}

impl Profile {
    /// Where the programs end up.
    pub(crate) fn programs(self) -> PathBuf {
        target().join(match self {
            Self::Dev => "debug",
            Self::Release => "release",
        })
    }
}

/// Builds the BPF objects, the agent and the rig.
pub(crate) fn build(profile: Profile) -> Result<()> {
    packages(profile, &["ha-agent", "ha-tests"])
}

/// Builds the BPF objects and the agent.
pub(crate) fn build_agent(profile: Profile) -> Result<()> {
    packages(profile, &["ha-agent"])
}

fn packages(profile: Profile, packages: &[&str]) -> Result<()> {
    build_ebpf()?;
    say("building the agent");
    let mut command = cargo();
    command.args(["build", "--locked"]);
    for package in packages {
        command.args(["--package", package]);
    }
    if matches!(profile, Profile::Release) {
        command.arg("--release");
    }
    run(&mut command)
}

/// Builds the agent that dies where a test says, beside the other one.
pub(crate) fn build_faulty() -> Result<()> {
    run(cargo()
        .args(["build", "--locked", "--package", "ha-tests"])
        .args(["--features", "fault-points", "--bin", "ha-faulty"]))
}

/// Builds what it needs and runs a program of the rig with the given options.
pub(crate) fn rig(program: &str, args: &[String]) -> Result<ExitCode> {
    if !args.iter().any(|arg| arg == "--help" || arg == "-h") {
        setup::setup()?;
    }
    build(Profile::Release)?;
    let program = Profile::Release.programs().join(program);
    let status = std::process::Command::new(&program)
        .args(args)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}
