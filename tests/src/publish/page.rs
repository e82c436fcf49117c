//! The page of benchmarks and the README's block of it.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Run;
use super::chart;
use super::document::{Document, Figure};
use crate::bench::AGENT;

/// What the README's block is between.
const BEGIN: &str = "<!-- made by `cargo xtask bench report` -->\n";
const END: &str = "<!-- to here -->\n";

/// What a benchmark is about.
fn title(bench: &str) -> &str {
    match bench {
        "failover" => "Failover: what clients notice",
        "replication" => "Replication: how soon the standby knows, and at what price",
        "datapath" => "Data plane: what a packet costs",
        "chaos" => "Chaos: faults by a seeded schedule",
        "fuzz" => "Fuzzing: what libFuzzer played to parsers and machines",
        other => other,
    }
}

/// The page. `drawn` says which pictures there are.
pub(super) fn whole(documents: &[(Run, Document)], drawn: impl Fn(&Path) -> bool) -> String {
    let mut text = String::from(
        "# Benchmarks

Made by `cargo xtask bench report` from the JSON in [benchmarks](benchmarks), which the commands below wrote; nothing here was
typed by hand, and a test compares. Rivals are Debian's packages, started in the same namespaces in the same run, in turn with the
agent. A point in a picture is a run, and no run is left out. *Stalls* are times in which a core of the machine ran nothing, not even a
real-time thread: how many runs had one, and the longest. How each figure is measured: [CONTRIBUTING](../CONTRIBUTING.md).
",
    );
    // Writing to a string cannot fail.
    let mut last = "";
    for (run, document) in documents {
        if run.bench != last {
            let _infallible = write!(text, "\n## {}\n", title(run.bench));
            last = run.bench;
        }
        let _infallible = write!(text, "\n### `{}.json`\n\n", run.name);
        origin(&mut text, document);
        for chart in chart::of(run.bench) {
            let path = chart.path(run);
            if drawn(&path) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let _infallible = write!(text, "\n![{}](benchmarks/{name})\n", chart.title);
            }
        }
        if run.bench == "fuzz" {
            single(&mut text, &document.figures);
        } else {
            distributions(&mut text, &document.figures);
        }
        for (case, why) in &document.failures {
            let _infallible = write!(text, "\nNot measured to the end: {case}: {why}\n");
        }
    }
    text
}

fn origin(text: &mut String, document: &Document) {
    let from = &document.origin;
    let packages: Vec<String> = from
        .packages
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let _infallible = writeln!(
        text,
        "`{}`, {}, at {}, {:.0} min: {} cores of {}, {} MiB, Linux {}; {}.",
        from.command,
        from.date.strftime("%Y-%m-%d"),
        from.commit.as_deref().unwrap_or("an unknown commit"),
        document.seconds / 60.0,
        from.cores,
        from.processor,
        from.memory_mib,
        from.kernel,
        packages.join(", ")
    );
}

/// A line for each figure.
fn distributions(text: &mut String, figures: &[Figure]) {
    text.push_str(
        "\n| case | who | what | unit | n | median | p95 | min | max | promise | | stalls |\n\
         |---|---|---|---|--:|--:|--:|--:|--:|---|---|---|\n",
    );
    for figure in figures {
        row(text, figure);
    }
}

/// A line for each case, of which all were measured once and for the same things.
fn single(text: &mut String, figures: &[Figure]) {
    let cases = || figures.chunk_by(|one, next| one.case == next.case);
    let Some(first) = cases().next() else {
        return;
    };
    text.push_str("\n| case |");
    for figure in first {
        let _infallible = match figure.unit.as_str() {
            "count" => write!(text, " {} |", figure.what),
            unit => write!(text, " {}, {unit} |", figure.what),
        };
    }
    let _infallible = writeln!(text, "\n|---|{}", "--:|".repeat(first.len()));
    for case in cases() {
        let name = case.first().map_or("", |figure| &figure.case);
        let _infallible = write!(text, "| {name} |");
        for summary in case.iter().filter_map(Figure::summary) {
            let mark = if summary.kept == Some(false) {
                "**"
            } else {
                ""
            };
            let _infallible = write!(text, " {mark}{}{mark} |", number(summary.median));
        }
        text.push('\n');
    }
}

fn row(text: &mut String, figure: &Figure) {
    let Some(summary) = figure.summary() else {
        return;
    };
    let stalled = figure.stalls_ms.iter().filter(|ms| **ms > 0.0).count();
    let longest = figure.stalls_ms.iter().copied().fold(0.0, f64::max);
    let stalls = if stalled == 0 {
        String::new()
    } else {
        format!("{stalled}, {longest:.0} ms")
    };
    let kept = match summary.kept {
        None => "",
        Some(true) => "kept",
        Some(false) => "**broken**",
    };
    let promise = figure.promise.shown();
    let _infallible = writeln!(
        text,
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {promise} | {kept} | {stalls} |",
        figure.case,
        figure.who,
        figure.what,
        figure.unit,
        summary.n,
        number(summary.median),
        number(summary.p95),
        number(summary.min),
        number(summary.max),
    );
}

/// With three digits that count.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        small if small < 0.1 => 4,
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A line of the README's block: a figure in words, with the rival's beside it.
struct Headline {
    bench: &'static str,
    words: &'static str,
    case: &'static str,
    what: &'static str,
    ours: &'static str,
    rival: Option<&'static str>,
}

const fn line(
    bench: &'static str,
    words: &'static str,
    case: &'static str,
    what: &'static str,
    ours: &'static str,
    rival: Option<&'static str>,
) -> Headline {
    Headline {
        bench,
        words,
        case,
        what,
        ours,
        rival,
    }
}

const KEEPALIVED: Option<&str> = Some("keepalived 10 ms");
const CONNTRACKD: Option<&str> = Some("conntrackd FTFW + nftables");

const HEADLINES: &[Headline] = &[
    line(
        "failover",
        "power-off: silence",
        "power-off",
        "gap",
        "ha-agent 10/30 ms",
        KEEPALIVED,
    ),
    line(
        "failover",
        "power-off: silence",
        "power-off",
        "gap",
        "ha-agent 4/12 ms",
        None,
    ),
    line(
        "failover",
        "hung host: silence",
        "hang",
        "gap",
        "ha-agent 10/30 ms",
        KEEPALIVED,
    ),
    line(
        "failover",
        "planned: silence",
        "planned",
        "gap",
        "ha-agent 10/30 ms",
        KEEPALIVED,
    ),
    line(
        "failover",
        "planned: connections lost of 500",
        "planned",
        "connections lost in all runs",
        "ha-agent 10/30 ms",
        None,
    ),
    line(
        "failover",
        "agent killed: silence",
        "agent-kill",
        "gap",
        "ha-agent 10/30 ms",
        KEEPALIVED,
    ),
    line(
        "failover",
        "agent killed: nodes that answer for the shared address",
        "agent-kill",
        "nodes that answer ARP at the end",
        "ha-agent 10/30 ms",
        KEEPALIVED,
    ),
    line(
        "failover",
        "only the back link fails: silence",
        "back-link",
        "gap",
        "ha-agent 1/9 s",
        Some("keepalived 50 ms"),
    ),
    line(
        "failover",
        "agent replaced by a new program under 1000 connections: silence",
        "reexec",
        "gap",
        "ha-agent 10/30 ms",
        None,
    ),
    line(
        "failover",
        "standby killed or a link cut: probes lost",
        "standby",
        "probes lost",
        "ha-agent 10/30 ms",
        None,
    ),
    line(
        "failover",
        "forged advertisements, none believed",
        "flood",
        "forged advertisements sent",
        "ha-agent 100/300 ms",
        None,
    ),
    line(
        "replication",
        "end of a handshake to the standby's kernel, p50",
        "5000 connections/s",
        "delay p50",
        AGENT,
        None,
    ),
    line(
        "replication",
        "end of a handshake to the standby's kernel, p99",
        "5000 connections/s",
        "delay p99",
        AGENT,
        None,
    ),
    line(
        "replication",
        "replication of a connection",
        "8000 connections/s",
        "bytes of a connection",
        AGENT,
        CONNTRACKD,
    ),
    line(
        "replication",
        "active node's processor, 10,000 connections",
        "8000 connections/s",
        "CPU of 10,000, active",
        AGENT,
        CONNTRACKD,
    ),
    line(
        "replication",
        "standby's processor, 10,000 connections",
        "8000 connections/s",
        "CPU of 10,000, standby",
        AGENT,
        CONNTRACKD,
    ),
    line(
        "replication",
        "connections judged in random kills, `rr`, real servers come and go",
        "kills: rr, real servers come and go",
        "connections judged, older than 5 ms",
        AGENT,
        None,
    ),
    line(
        "replication",
        "of these survived",
        "kills: rr, real servers come and go",
        "of these survived",
        AGENT,
        None,
    ),
    line(
        "replication",
        "a million connections to an empty standby",
        "a million to an empty standby",
        "from the agent's answer until ready",
        AGENT,
        None,
    ),
    line(
        "datapath",
        "packet of an established connection",
        "established, hot",
        "net",
        AGENT,
        None,
    ),
    line(
        "datapath",
        "the same beside one hash lookup",
        "established, hot",
        "beside one lookup",
        AGENT,
        None,
    ),
    line(
        "datapath",
        "balancer beside nftables' DNAT, on one CPU",
        "veth share",
        "share beside nftables",
        AGENT,
        None,
    ),
    line(
        "chaos",
        "faults in a run of chaos",
        "all faults",
        "faults",
        AGENT,
        None,
    ),
    line(
        "chaos",
        "in it: instants with two nodes that claim the addresses",
        "all faults",
        "instants with two nodes that claim the addresses",
        AGENT,
        None,
    ),
    line(
        "chaos",
        "in it: wrong bytes",
        "all faults",
        "wrong bytes",
        AGENT,
        None,
    ),
];

/// The README with the block made anew.
pub(super) fn readme(readme: &str, documents: &[(Run, Document)]) -> Result<String> {
    let around = readme
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = around.context("README.md has no block of benchmarks")?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", block(documents)))
}

fn block(documents: &[(Run, Document)]) -> String {
    let mut text = String::from("\n| median of all runs | ha-agent | rival |\n|---|--:|--:|\n");
    for line in HEADLINES {
        // The newest run that has it.
        let figure = |who: &str| {
            let runs = documents.iter().filter(|(run, _)| run.bench == line.bench);
            let found = runs.filter_map(|(_, document)| {
                let figure = document.figure(line.case, who, line.what)?;
                Some((document.origin.date, figure))
            });
            let (_, figure) = found.max_by_key(|(date, _)| *date)?;
            let unit = match figure.unit.as_str() {
                "count" | "times" | "nodes" => "",
                unit => unit,
            };
            let value = number(figure.summary()?.median);
            Some(format!("{value} {unit}").trim_end().to_owned())
        };
        let Some(ours) = figure(line.ours) else {
            continue;
        };
        let with = |value: String, who: &str| {
            if who == AGENT {
                value
            } else {
                format!("{value} ({})", who.trim_start_matches("ha-agent "))
            }
        };
        let rival = line.rival.and_then(|who| Some(with(figure(who)?, who)));
        let _infallible = writeln!(
            text,
            "| {} | {} | {} |",
            line.words,
            with(ours, line.ours),
            rival.unwrap_or_default()
        );
    }
    text.push_str("\nDistributions, machine, commands and all other figures: [docs/benchmarks.md](docs/benchmarks.md).\n");
    text
}

/// A block with nothing in it.
#[cfg(test)]
pub(super) fn empty_block() -> String {
    format!("{BEGIN}{END}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let cases = [
            (0.0, "0"),
            (0.0451, "0.0451"),
            (0.2, "0.2"),
            (1.554, "1.55"),
            (24.46, "24.5"),
            (512_165.4, "512165"),
            (-3.0, "-3"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_readme_without_a_block_is_refused() {
        assert!(readme("# Title\n", &[]).is_err());
        let text = format!("a\n{BEGIN}old\n{END}b\n");
        let made = readme(&text, &[]).unwrap();
        assert!(made.starts_with("a\n") && made.ends_with("b\n") && !made.contains("old"));
        assert_eq!(readme(&made, &[]).unwrap(), made);
    }
}
