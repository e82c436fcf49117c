//! `cargo xtask fuzz`: one target after the other under libFuzzer, and a table of what came of it.
//!
//! The compiler is the workspace's own: it has the sanitizers, and is told to take unstable options. What a fuzzer finds
//! is gathered in `target/fuzz`; what is kept of that is for `--keep` to say. What it came to is for
//! `cargo xtask bench report` in `target/bench/fuzz.json`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::build;
use crate::workspace::{cargo, root, run, say, target};

/// Version of `cargo-fuzz` that the targets are built with.
const CARGO_FUZZ: &str = "0.13.2";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Longest that one input may take, in seconds.
const PATIENCE: u32 = 60;
/// Found inputs that are kept of a target, the shortest first, and their longest.
const KEPT_MAX: usize = 48;
const KEPT_LENGTH: u64 = 2 << 10;
/// libFuzzer names what it finds by SHA-1.
const FOUND_NAME: usize = 40;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only these targets; see `tests/fuzz/fuzz_targets`.
    targets: Vec<String>,
    /// How long each of them runs.
    #[arg(long, default_value_t = 5.0, value_name = "N")]
    minutes: f64,
    /// Put the few inputs that reach most of what was reached beside those that are kept, in place of those found before.
    #[arg(long)]
    keep: bool,
}

impl FuzzArgs {
    /// The options as they are typed, but for those that change nothing of the figures.
    fn typed(&self) -> String {
        let targets: String = self.targets.iter().flat_map(|name| [" ", name]).collect();
        format!("{targets} --minutes {}", self.minutes)
    }
}

/// What a target came to.
#[derive(Debug, Default)]
struct Account {
    executions: u64,
    /// Edges of the program's flow that were taken, and how often in steps: libFuzzer's `cov` and `ft`.
    edges: u64,
    features: u64,
    inputs: u64,
    /// What broke it.
    crash: Option<PathBuf>,
}

/// Builds and runs the targets.
pub(crate) fn fuzz(args: &FuzzArgs) -> Result<()> {
    let names = names(&args.targets)?;
    build(&names)?;
    let seconds = (args.minutes * 60.0).round().max(1.0);
    let mut table = vec![format!(
        "  {:<18} {:>12} {:>9} {:>8} {:>9} {:>7}",
        "target", "executions", "a second", "edges", "features", "inputs"
    )];
    let mut accounts = vec![format!("cargo xtask fuzz{}", args.typed())];
    let mut crashes = Vec::new();
    for name in &names {
        say(&format!("{name}: {seconds} s"));
        let account = play(name, seconds)?;
        if args.keep && account.crash.is_none() {
            keep(name)?;
        }
        table.push(format!(
            "  {name:<18} {:>12} {:>9.0} {:>8} {:>9} {:>7}",
            account.executions,
            account.executions as f64 / seconds,
            account.edges,
            account.features,
            account.inputs
        ));
        accounts.push(format!("{name} {}", account.columns(seconds)));
        if let Some(crash) = account.crash {
            crashes.push(format!("{name}: {}", crash.display()));
        }
    }
    say(&table.join("\n"));
    let file = target().join("fuzz/accounts");
    fs::write(&file, accounts.join("\n") + "\n")?;
    let report = ["--fuzz".to_owned(), file.display().to_string()];
    let written = build::rig("ha-report", &report);
    ensure!(
        crashes.is_empty(),
        "inputs that break something; mend that, and put them into tests/fuzz/corpus as `crash-…`:\n  {}",
        crashes.join("\n  ")
    );
    ensure!(
        written? == ExitCode::SUCCESS,
        "the accounts in {} were not understood",
        file.display()
    );
    Ok(())
}

fn fuzz_dir() -> PathBuf {
    root().join("tests/fuzz")
}

fn kept(name: &str) -> PathBuf {
    fuzz_dir().join("corpus").join(name)
}

fn found(name: &str) -> PathBuf {
    target().join("fuzz/corpus").join(name)
}

/// All targets, or those that are asked for.
fn names(asked: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(fuzz_dir().join("fuzz_targets"))? {
        let path = entry?.path();
        let name = path.file_stem().context("a file without a name")?;
        all.push(name.to_string_lossy().into_owned());
    }
    all.sort();
    if let Some(unknown) = asked.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}: {}", all.join(", "));
    }
    if !asked.is_empty() {
        all.retain(|name| asked.contains(name));
    }
    Ok(all)
}

fn build(names: &[String]) -> Result<()> {
    let tools = target().join("tools/cargo-fuzz");
    let program = tools.join("bin/cargo-fuzz");
    if !program.is_file() {
        say(&format!("building cargo-fuzz {CARGO_FUZZ} (once)"));
        run(cargo()
            .env("CARGO_TARGET_DIR", target().join("tools/build"))
            .args(["install", "--quiet", "--locked", "cargo-fuzz"])
            .args(["--version", CARGO_FUZZ, "--root"])
            .arg(&tools))?;
        fs::remove_dir_all(target().join("tools/build"))?;
    }
    // The workspace's versions of everything both have; cargo adds the rest.
    let (versions, own) = (root().join("Cargo.lock"), fuzz_dir().join("Cargo.lock"));
    let changed = |path: &Path| fs::metadata(path).and_then(|found| found.modified());
    if changed(&own).map_or(true, |own| {
        changed(&versions).is_ok_and(|versions| own < versions)
    }) {
        fs::copy(versions, own)?;
    }
    for name in names {
        run(Command::new(&program)
            .current_dir(root().join("tests"))
            .env("RUSTC_BOOTSTRAP", "1")
            // Nothing here loads programs into the kernel.
            .env("HA_NO_BPF", "1")
            .args(["fuzz", "build", "--fuzz-dir", "fuzz", "--target-dir"])
            .arg(target().join("fuzz/build"))
            .arg(name))?;
    }
    Ok(())
}

/// The target's program, which takes libFuzzer's options.
fn program(name: &str) -> Result<Command> {
    let folders = [found(name), target().join("fuzz/artifacts").join(name)];
    for folder in &folders {
        fs::create_dir_all(folder)?;
    }
    let path = target().join("fuzz/build").join(TRIPLE).join("release");
    let mut command = Command::new(path.join(name));
    command
        .arg(format!("-artifact_prefix={}/", folders[1].display()))
        .arg(format!("-timeout={PATIENCE}"));
    Ok(command)
}

/// Runs a target, and shows what it says of its progress.
fn play(name: &str, seconds: f64) -> Result<Account> {
    let mut child = program(name)?
        .arg(format!("-max_total_time={seconds:.0}"))
        .arg("-print_final_stats=1")
        .args([found(name), kept(name)])
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let mut log = File::create(target().join("fuzz").join(format!("{name}.log")))?;
    let mut account = Account::default();
    let said = child.stderr.take().context("no standard error")?;
    for line in BufReader::new(said).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(log, "{line}")?;
        account.hear(&line);
    }
    if !child.wait()?.success() && account.crash.is_none() {
        bail!("{name} failed; see target/fuzz/{name}.log");
    }
    Ok(account)
}

impl Account {
    /// As `cargo xtask bench report --fuzz` reads them.
    fn columns(&self, seconds: f64) -> String {
        let Self {
            executions,
            edges,
            inputs,
            crash,
            ..
        } = self;
        let broken = u8::from(crash.is_some());
        format!("{seconds} {executions} {edges} {inputs} {broken}")
    }

    /// Takes note of a line of libFuzzer's, `#123 NEW cov: 45 ft: 67 corp: 8/9b …` among them.
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let behind = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            let value = words.get(at + 1)?.split('/').next()?;
            value.parse::<u64>().ok()
        };
        if line.starts_with('#') {
            self.edges = behind("cov:").unwrap_or(self.edges);
            self.features = behind("ft:").unwrap_or(self.features);
            self.inputs = behind("corp:").unwrap_or(self.inputs);
        }
        if let Some(executions) = behind("stat::number_of_executed_units:") {
            self.executions = executions;
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.crash = Some(PathBuf::from(path.trim()));
        }
    }
}

/// Puts what reaches most of what was reached with the fewest inputs beside what is kept.
fn keep(name: &str) -> Result<()> {
    let merged = target().join("fuzz/merged").join(name);
    if merged.exists() {
        fs::remove_dir_all(&merged)?;
    }
    fs::create_dir_all(&merged)?;
    run(program(name)?
        .arg("-set_cover_merge=1")
        .args([&merged, &kept(name), &found(name)])
        .stderr(Stdio::null()))?;
    for old in inputs(&kept(name))? {
        if is_found(&old) {
            fs::remove_file(old)?;
        }
    }
    let mut fresh = Vec::new();
    for path in inputs(&merged)? {
        let length = fs::metadata(&path)?.len();
        if is_found(&path) && length <= KEPT_LENGTH {
            fresh.push((length, path));
        }
    }
    fresh.sort();
    for (_, path) in fresh.iter().take(KEPT_MAX) {
        let file = path.file_name().context("a file without a name")?;
        fs::copy(path, kept(name).join(file))?;
    }
    Ok(())
}

fn inputs(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

/// Whether a fuzzer found it, and no person put it there.
fn is_found(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.len() == FOUND_NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_understood() {
        let mut account = Account::default();
        for line in [
            "INFO: seed corpus: files: 3 min: 1b max: 9b total: 20b rss: 40Mb",
            "#3\tINITED cov: 10 ft: 11 corp: 3/20b exec/s: 0 rss: 41Mb",
            "#4096\tNEW    cov: 15 ft: 27 corp: 5/2913Kb lim: 4096 exec/s: 99 rss: 45Mb L: 4/9 MS: 1 CopyPart-",
            "stat::number_of_executed_units: 5000",
        ] {
            account.hear(line);
        }
        assert_eq!((account.executions, account.inputs), (5000, 5));
        assert_eq!((account.edges, account.features), (15, 27));
        assert_eq!(account.crash, None);
        account.hear("artifact_prefix='a/'; Test unit written to a/crash-0123");
        assert_eq!(account.crash, Some(PathBuf::from("a/crash-0123")));
    }
}
