//! What the programs cost the verifier, and what stack they use: recorded, so that growth is noticed.
//!
//! The record is `tests/fixtures/bpf/budget.txt`; `HA_BLESS=1` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use ha_common::stage::{ENTRY, FOLLOW, JANITOR, Stage};
use ha_tests::rig::bpf::{DataPlane, Sizes};
use ha_tests::rig::locate;

use super::stack;

/// Growth that fails, in percent.
const GROWTH: u64 = 10;
/// All the stack there is (`MAX_BPF_STACK`).
const STACK: u64 = 512;

/// What a program needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget {
    /// Instructions that the verifier looked at, again and again for every way that leads there.
    verified: u64,
    /// Bytes of stack, of the deepest chain of calls.
    stack: u64,
}

/// Compares the programs with the record, or writes it.
pub(crate) fn check() -> Result<()> {
    let found = measure()?;
    for (program, Budget { stack, .. }) in &found {
        ensure!(*stack <= STACK, "{program}: {stack} bytes of stack");
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/bpf/budget.txt");
    if std::env::var_os("HA_BLESS").is_some() {
        fs::create_dir_all(path.parent().context("a folder")?)?;
        return Ok(fs::write(&path, text(&found)?)?);
    }
    let record = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; HA_BLESS=1 makes it", path.display()))?;
    let recorded = parse(&record)?;
    let mut grown = String::new();
    for (program, budget) in &found {
        let Some(before) = recorded.get(program) else {
            writeln!(grown, "{program} is not in the record")?;
            continue;
        };
        for (what, now, then) in [
            ("instructions verified", budget.verified, before.verified),
            ("bytes of stack", budget.stack, before.stack),
        ] {
            if now * 100 > then * (100 + GROWTH) {
                writeln!(grown, "{program}: {now} {what}, recorded were {then}")?;
            }
        }
    }
    ensure!(
        grown.is_empty(),
        "more than {GROWTH} % beyond {}:\n{grown}HA_BLESS=1 records it, if it has to be so",
        path.display()
    );
    Ok(())
}

fn measure() -> Result<BTreeMap<String, Budget>> {
    let object = locate::bpf_object("ha_xdp")?;
    let plane = DataPlane::load(&object, Sizes::default())?;
    let stacks = stack::of_programs(&object)?;
    let stages = Stage::ALL.iter().map(|stage| stage.program());
    let mut found = BTreeMap::new();
    for name in [ENTRY, JANITOR, FOLLOW].into_iter().chain(stages) {
        let verified = plane.info(name)?.verified_instruction_count();
        let budget = Budget {
            verified: verified.context("the kernel does not tell")?.into(),
            stack: *stacks.get(name).context("a program without code")? as u64,
        };
        found.insert(name.to_owned(), budget);
    }
    Ok(found)
}

fn text(found: &BTreeMap<String, Budget>) -> Result<String> {
    let mut text = String::from("# program  instructions-verified  bytes-of-stack\n");
    for (program, budget) in found {
        writeln!(text, "{program} {} {}", budget.verified, budget.stack)?;
    }
    Ok(text)
}

fn parse(text: &str) -> Result<BTreeMap<String, Budget>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [program, verified, stack] = fields.as_slice() else {
                anyhow::bail!("not a line of the record: {line}");
            };
            let budget = Budget {
                verified: verified.parse()?,
                stack: stack.parse()?,
            };
            Ok(((*program).to_owned(), budget))
        })
        .collect()
}
