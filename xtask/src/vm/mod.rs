//! `cargo xtask test-vm`: the data plane's fixtures and a short failover on kernels other than this one, in an
//! emulated machine that boots nothing but a file system made here.
//!
//! Nothing is installed and no disk is needed: kernels are Debian's packages, unpacked; the file system is an
//! archive with a static shell, the tests, and the libraries they name. The emulator runs in a network namespace
//! of its own, where a client and a real server wait behind the guest's network card.

mod image;
mod kernel;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::image::Image;
use self::kernel::Kernel;
use crate::build::{self, Profile};
use crate::setup;
use crate::workspace::{bpf, cargo, output, run, say, target};

/// Options of `cargo xtask test-vm`.
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    /// Only the kernel of this Debian release; may be given several times.
    #[arg(long, value_name = "RELEASE")]
    release: Vec<String>,
    /// Only this part of the tests: fixtures, failover, native; may be given several times.
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Of the fixtures only those whose names contain this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    case: String,
    /// Give the machine so many seconds.
    #[arg(long, default_value_t = 3000, value_name = "N")]
    seconds: u64,
}

impl VmArgs {
    fn asks_for(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == part)
    }
}

/// A Debian release, and what its kernel is good for.
struct Row {
    release: &'static str,
    /// Whether the agent runs on it; else it must say why not.
    supported: bool,
}

const MATRIX: [Row; 3] = [
    Row {
        release: "bullseye",
        supported: false,
    },
    Row {
        release: "bookworm",
        supported: true,
    },
    Row {
        release: "trixie",
        supported: true,
    },
];

/// What a supported kernel is asked to do.
const PARTS: [&str; 3] = ["fixtures", "failover", "native"];
/// What any other is.
const REFUSAL: &str = "refusal";

/// Of the guest's console: a part has ended, with this code.
const ENDED: &str = "VM-END ";
/// The guest's addresses are a client's and a real server's to this side.
const HOST_SIDE: &str = include_str!("host.sh");
const INIT: &str = include_str!("init.sh");

/// Runs the matrix and shows what each kernel said.
pub(crate) fn test_vm(args: &VmArgs) -> Result<()> {
    setup::setup_emulator()?;
    build::build(Profile::Release)?;
    let programs = programs(args.asks_for("fixtures"))?;
    let mut failed = Vec::new();
    let mut table = Vec::new();
    for row in &MATRIX {
        if !args.release.is_empty() && !args.release.iter().any(|name| name == row.release) {
            continue;
        }
        let kernel = Kernel::of(row.release)?;
        let wanted: Vec<&str> = if row.supported {
            PARTS
                .into_iter()
                .filter(|part| args.asks_for(part))
                .collect()
        } else {
            vec![REFUSAL]
        };
        let ended = boot(&kernel, &programs, &wanted, args)?;
        for part in wanted {
            let code = ended.iter().find(|(name, _)| name == part).map(|(_, c)| *c);
            let verdict = match code {
                Some(0) => "passed".to_owned(),
                Some(code) => format!("FAILED ({code})"),
                None => "DID NOT END".to_owned(),
            };
            if code != Some(0) {
                failed.push(format!("{part} on {}", kernel.version));
            }
            table.push(format!("  {:<28} {part:<10} {verdict}", kernel.version));
        }
    }
    say(&table.join("\n"));
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{}; see the logs in target/vm", failed.join(", "))
}

/// What runs inside: name and file, without what only a debugger reads. Optimised, since every instruction is
/// emulated.
fn programs(fixtures: bool) -> Result<Vec<(&'static str, PathBuf)>> {
    let built = Profile::Release.programs();
    let dir = target().join("vm/programs");
    fs::create_dir_all(&dir)?;
    let mut programs = Vec::new();
    if fixtures {
        programs.push(("bpf_fixtures", test_binary("bpf_fixtures")?));
    }
    for name in ["ha-agent", "ha-demo", "ha-chaos"] {
        programs.push((name, built.join(name)));
    }
    for (name, path) in &mut programs {
        let stripped = dir.join(*name);
        run(Command::new("strip").arg("-o").args([&stripped, path]))?;
        *path = stripped;
    }
    Ok(programs)
}

/// Builds a test of the workspace; where it is.
fn test_binary(name: &str) -> Result<PathBuf> {
    let said = output(cargo().args([
        "test",
        "--locked",
        "--release",
        "--package",
        "ha-tests",
        "--test",
        name,
        "--no-run",
        "--message-format=json",
    ]))?;
    let marks = [
        format!("\"name\":\"{name}\""),
        "\"executable\":\"".to_owned(),
    ];
    let artefact = said
        .lines()
        .find(|line| marks.iter().all(|mark| line.contains(mark)))
        .with_context(|| format!("cargo did not say where {name} is"))?;
    let path = artefact.split(&marks[1]).nth(1).unwrap_or_default();
    let path = path.split('"').next().unwrap_or_default();
    Ok(PathBuf::from(path))
}

/// Runs parts on a kernel; which of them ended, and with what code.
fn boot(
    kernel: &Kernel,
    programs: &[(&'static str, PathBuf)],
    parts: &[&str],
    args: &VmArgs,
) -> Result<Vec<(String, i32)>> {
    say(&format!("{}: {}", kernel.version, parts.join(", ")));
    let dir = target().join("vm").join(kernel.release);
    let mut image = Image::default();
    image.text("/init", 0o755, INIT)?;
    image.text("/parts", 0o644, &parts.join("\n"))?;
    image.text("/case", 0o644, &args.case)?;
    image.program("/bin/busybox", &find("busybox")?)?;
    image.link("/bin/sh", "busybox")?;
    image.link("/sbin/modprobe", "/bin/busybox")?;
    for name in ["ip", "nft"] {
        image.program(&format!("/usr/sbin/{name}"), &find(name)?)?;
    }
    for (name, path) in programs {
        image.program(&format!("/ha/bin/{name}"), path)?;
    }
    for object in ["ha_xdp", "ha_rig", "ha_gauge"] {
        image.file(&format!("/ha/bpf/{object}"), 0o644, &bpf().join(object))?;
    }
    kernel.add_modules(&mut image)?;
    let archive = dir.join("initramfs");
    image.write(&archive)?;
    let console = emulate(kernel, &archive, args.seconds)?;
    let ended = console.lines().filter_map(|line| {
        let (name, code) = line.trim().strip_prefix(ENDED)?.split_once(' ')?;
        Some((name.to_owned(), code.parse().ok()?))
    });
    Ok(ended.collect())
}

fn find(program: &str) -> Result<PathBuf> {
    crate::workspace::find(program).with_context(|| format!("{program} is not installed"))
}

/// Boots it, and returns what the console said, which is shown and kept meanwhile.
fn emulate(kernel: &Kernel, archive: &Path, seconds: u64) -> Result<String> {
    let side = target().join("vm/host.sh");
    fs::write(&side, HOST_SIDE)?;
    let dir = target().join("vm").join(kernel.release);
    let mut log = File::create(dir.join("console.log"))?;
    let mut child = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child", "bash"])
        .arg(&side)
        .arg(seconds.to_string())
        .args([&kernel.image, archive])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(dir.join("host.log"))?)
        .spawn()
        .context("cannot run unshare")?;
    let mut console = String::new();
    let out = child.stdout.take().context("no console")?;
    for line in BufReader::new(out).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        // Thousands of passed cases say nothing each.
        if !line.ends_with("... ok") && !line.ends_with("... \u{1b}[32mok\u{1b}[0m") {
            say(&format!("  {}", line.escape_debug()));
        }
        writeln!(log, "{line}")?;
        console += &line;
        console.push('\n');
    }
    child.wait()?;
    Ok(console)
}
