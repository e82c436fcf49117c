//! `docs/counters.md`, made from the reasons themselves.

use std::fs;

use anyhow::{Context as _, Result, bail};
use ha_common::reason::{Reason, Tally, Verdict};

use crate::workspace::{root, say};

/// Compares the document with the code, or rewrites it.
pub(crate) fn check(fix: bool) -> Result<()> {
    let path = root().join("docs/counters.md");
    let wanted = document();
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found == wanted {
        return Ok(());
    }
    if !fix {
        bail!("docs/counters.md is not what the code says: run `cargo xtask tidy --fix`");
    }
    fs::write(&path, wanted).context("docs/counters.md")?;
    say("docs/counters.md written");
    Ok(())
}

fn document() -> String {
    let mut text = String::from(
        "# Counters of the data plane\n\n\
         Made from `ha-common/src/reason.rs` by `cargo xtask tidy --fix`. `ha-agent counters --all` shows the values,\n\
         added up over all CPUs; `bpftool map dump pinned <bpf_dir>/ha_reasons` shows them raw, by these numbers.\n\n\
         Every packet ends in exactly one of these:\n\n\
         | number | name | the packet is | meaning |\n|---|---|---|---|\n",
    );
    for (number, reason) in Reason::ALL.iter().enumerate() {
        let verdict = match reason.verdict() {
            Verdict::Pass => "passed to the kernel",
            Verdict::Drop => "dropped",
            Verdict::Transmit => "sent back out",
            Verdict::Redirect => "sent on",
        };
        row(
            &mut text,
            &[
                &number.to_string(),
                reason.as_str(),
                verdict,
                reason.meaning(),
            ],
        );
    }
    text.push_str("\nBesides packets:\n\n| number | name | meaning |\n|---|---|---|\n");
    for tally in Tally::ALL {
        row(
            &mut text,
            &[&tally.index().to_string(), tally.as_str(), tally.meaning()],
        );
    }
    text.push_str(
        "\nWhat replication counts, and what its sweeps repair, stands in `ha-agent status --json`; \
         [protocol.md](protocol.md) says what it means.\n",
    );
    text
}

fn row(text: &mut String, cells: &[&str]) {
    for cell in cells {
        text.push_str("| ");
        text.push_str(&cell.split_whitespace().collect::<Vec<_>>().join(" "));
        text.push(' ');
    }
    text.push_str("|\n");
}
