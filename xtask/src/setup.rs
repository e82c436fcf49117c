//! `cargo xtask setup`: what the build and the tests need, found or installed.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

use crate::toolchain::{self, Compiler};
use crate::workspace::{find, output, run, say, target};

/// A program the tests call, and the Debian package that has it.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("bpftool", "bpftool"),
    ("ucarp", "ucarp"),
    // Its service does not start without a configuration.
    ("keepalived", "keepalived"),
    // Its service, as it is installed, keeps statistics and talks to nobody.
    ("conntrackd", "conntrackd"),
    ("cc", "gcc"),
    ("ssh", "openssh-client"),
    ("systemd-analyze", "systemd"),
    // Looks at the web page where its cost is measured.
    ("curl", "curl"),
];

/// What the Debian package is made with, and tested.
const PACKAGING: &[(&str, &str)] = &[
    ("dpkg-buildpackage", "dpkg-dev"),
    ("dh", "debhelper"),
    // Manual pages from Markdown, and their reader.
    ("lowdown", "lowdown"),
    ("man", "man-db"),
    ("lintian", "lintian"),
    // Makes the clean root it is installed in.
    ("mmdebstrap", "mmdebstrap"),
];

/// What other kernels are booted with.
const EMULATOR: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    // A static shell, and everything a system needs.
    ("busybox", "busybox-static"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
];

/// Finds or installs what booting other kernels needs.
pub(crate) fn setup_emulator() -> Result<()> {
    install(&missing(EMULATOR))?;
    setup()
}

/// What drives the web page in the tests.
const BROWSER: &[(&str, &str)] = &[
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    // Brings the accessibility rules.
    ("npm", "npm"),
];

/// The accessibility rules that the web page is held to: the npm package, and its script's SHA-256.
const AXE: &str = "axe-core@4.11.0";
const AXE_SUM: &str = "e9e5863c33a874f09bc01acd9234b7e3c871479f5eef8802fa582544465e6d01";

/// What sends the web page's API requests that are made of its description: packages of Python, with their versions.
const FUZZER: &str = include_str!("schemathesis.txt");

/// Finds or installs everything, what packaging and the tests of the web page need included.
pub(crate) fn setup_all() -> Result<()> {
    let mut packages = missing(PACKAGING);
    packages.extend(missing(BROWSER));
    if !makes_environments() {
        packages.extend(["python3", "python3-venv"].map(str::to_owned));
    }
    install(&packages)?;
    axe()?;
    fuzzer()?;
    setup()
}

/// Whether there is a Python that can put packages into an environment: Debian has that apart from Python itself.
fn makes_environments() -> bool {
    let mut python = Command::new("python3");
    output(python.args(["-c", "import ensurepip, venv"])).is_ok()
}

/// Brings the fuzzer of the API.
fn fuzzer() -> Result<()> {
    let place = target().join("tools").join("schemathesis");
    let versions = place.join("versions.txt");
    if fs::read_to_string(&versions).is_ok_and(|found| found == FUZZER) {
        return Ok(());
    }
    say("setup: fetching schemathesis");
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&place))?;
    let wanted = place.join("wanted.txt");
    fs::write(&wanted, FUZZER)?;
    run(Command::new(place.join("bin").join("pip"))
        .args(["--quiet", "--no-input", "--disable-pip-version-check"])
        .args(["install", "--requirement"])
        .arg(&wanted)
        .stdout(std::io::stderr()))?;
    // Last: what was cut short is begun anew.
    fs::rename(wanted, versions)?;
    Ok(())
}

/// Brings the accessibility rules.
fn axe() -> Result<()> {
    let place = target().join("tools").join("axe.min.js");
    if place.is_file() {
        return Ok(());
    }
    say(&format!("setup: fetching {AXE}"));
    let fresh = target().join("tools").join("axe");
    fs::create_dir_all(&fresh)?;
    let archive = output(
        Command::new("npm")
            .args(["pack", "--silent", AXE])
            .current_dir(&fresh),
    )?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--file", archive.trim()])
        .arg("package/axe.min.js")
        .current_dir(&fresh);
    run(&mut tar)?;
    let script = fresh.join("package/axe.min.js");
    let sum = output(Command::new("sha256sum").arg(&script))?;
    if !sum.starts_with(AXE_SUM) {
        bail!("{AXE}: its script has another SHA-256 than {AXE_SUM}: {sum}");
    }
    fs::rename(&script, &place)?;
    fs::remove_dir_all(&fresh)?;
    Ok(())
}

/// Finds or installs what building and running needs. Idempotent; quick when nothing is missing.
pub(crate) fn setup() -> Result<()> {
    let mut packages = missing(TOOLS);
    if Compiler::find().is_err() {
        packages.extend(["rustc-web", "cargo-web", "rust-web-src"].map(str::to_owned));
    }
    install(&packages)?;

    // The LLVM that matches is known only once the compiler is there.
    let compiler = Compiler::find()?;
    if toolchain::find_linker(compiler.llvm).is_none() {
        let development = format!("llvm-{}-dev", compiler.llvm);
        if !fs::exists(format!("/usr/lib/llvm-{}/include/llvm-c", compiler.llvm))? {
            install(&[development])?;
        }
        toolchain::install_linker(compiler.llvm)?;
    }
    say("setup: everything is there");
    Ok(())
}

fn missing(tools: &[(&str, &str)]) -> Vec<String> {
    tools
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| (*package).to_owned())
        .collect()
}

fn install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends -y {list}");
    if find("apt-get").is_none() {
        bail!(
            "missing: {list} (these are Debian's package names); install them and run this again"
        );
    }
    if output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("missing: {list}; as root run\n  {by_hand}");
    }
    say(&format!("setup: installing {list}"));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    run(apt().arg("update"))?;
    run(apt()
        .args(["install", "--no-install-recommends", "-y"])
        .args(packages)
        .stdout(std::io::stderr()))
}
