//! What is fuzzed, without a fuzzer: the inputs that are kept, and thousands made of them by chance.
//!
//! `HA_BLESS=1` writes anew what targets begin with; what a fuzzer found goes beside that.

#![expect(
    clippy::indexing_slicing,
    reason = "test code outside of test functions: what is not expected fails"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use ha_agent::proto::rng::Rng;
use ha_tests::fuzz::{TARGETS, Target};
use libtest_mimic::{Arguments, Failed, Trial};

/// Most inputs of a target, and their longest.
const INPUTS_MAX: usize = 200;
const LENGTH_MAX: u64 = 64 << 10;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    if std::env::var_os("HA_BLESS").is_some() {
        bless()?;
    }
    let mut trials = vec![trial("every_target_has_its_program".to_owned(), programs)];
    for target in TARGETS {
        let name = target.name;
        trials.push(trial(format!("{name}::seeds_are_kept"), || kept(target)));
        trials.push(trial(format!("{name}::corpus"), || replay(target)));
        trials.push(trial(format!("{name}::mutations"), || mutate(target)));
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

fn trial(name: String, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(target: &Target) -> PathBuf {
    fuzz().join("corpus").join(target.name)
}

fn bless() -> Result<()> {
    for target in TARGETS {
        fs::create_dir_all(corpus(target))?;
        for (name, input) in (target.seeds)() {
            fs::write(corpus(target).join(name), input)?;
        }
    }
    Ok(())
}

/// Names of what is in a folder, without an ending.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let name = |path: PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
    entries
        .map(|entry| name(entry?.path()).context("no name"))
        .collect()
}

fn programs() -> Result<()> {
    let wanted: BTreeSet<String> = TARGETS.iter().map(|it| it.name.to_owned()).collect();
    for folder in ["fuzz_targets", "corpus"] {
        let found = names(&fuzz().join(folder))?;
        ensure!(found == wanted, "{folder} has {found:?}");
    }
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml"))?;
    for name in wanted {
        let source = format!("fuzz_targets/{name}.rs");
        ensure!(manifest.contains(&format!("\"{source}\"")), "no {source}");
        let source = fs::read_to_string(fuzz().join(source))?;
        ensure!(source.contains(&format!("fuzz::{name}::play")), "{name}");
    }
    Ok(())
}

fn kept(target: &Target) -> Result<()> {
    for (name, input) in (target.seeds)() {
        let kept = fs::read(corpus(target).join(&name)).with_context(|| name.clone())?;
        ensure!(
            kept == input,
            "{name} is not what a target begins with now: HA_BLESS=1"
        );
    }
    Ok(())
}

fn inputs(target: &Target) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths = fs::read_dir(corpus(target))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    ensure!(paths.len() <= INPUTS_MAX, "{} inputs", paths.len());
    let read = |path: PathBuf| {
        let length = fs::metadata(&path)?.len();
        ensure!(length <= LENGTH_MAX, "{}: {length} bytes", path.display());
        let input = fs::read(&path)?;
        Ok((path, input))
    };
    paths.into_iter().map(read).collect()
}

fn replay(target: &Target) -> Result<()> {
    let inputs = inputs(target)?;
    ensure!(!inputs.is_empty(), "no inputs");
    for (_, input) in &inputs {
        (target.play)(input);
    }
    Ok(())
}

fn mutate(target: &Target) -> Result<()> {
    let mut rng = Rng::new(0xf0_2215);
    let inputs = inputs(target)?;
    for (_, input) in &inputs {
        for _ in 0..target.mutations {
            let mut input = input.clone();
            for _ in 0..=rng.below(8) {
                spoil(&mut rng, &mut input);
            }
            (target.play)(&input);
        }
    }
    Ok(())
}

/// Changes, inserts or removes some bytes.
fn spoil(rng: &mut Rng, input: &mut Vec<u8>) {
    let at = rng.below(input.len().max(1) as u64) as usize;
    match rng.below(8) {
        0 => input.truncate(at),
        1 => input.insert(at, rng.below(256) as u8),
        2 => {
            let end = (at + rng.below(8) as usize).min(input.len());
            input.drain(at..end);
        }
        3 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
        _ if at < input.len() => input[at] ^= 1 << rng.below(8),
        _ => {}
    }
}
