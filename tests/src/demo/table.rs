//! The result for people.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Color, Table};

use super::Outcome;
use crate::traffic::report::{Age, Class, Quantiles};

/// Renders an outcome, with colours if it goes to a terminal.
pub(super) fn render(outcome: &Outcome, colours: bool) -> String {
    let colours = colours && std::env::var_os("NO_COLOR").is_none();
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(out, "{text}");
    };
    line(format!(
        "\nfault     {}\nactive    {} before, {} after\nsettings  interval {} ms, timeout {} ms, scheduler {}, replication {}{}",
        outcome.fault.as_str(),
        outcome.active_before,
        if outcome.active_after.is_empty() {
            "none".to_owned()
        } else {
            outcome.active_after.join(" and ")
        },
        outcome.interval_ms,
        outcome.timeout_ms,
        outcome.scheduler,
        if outcome.replication { "on" } else { "off" },
        if outcome.servers_changed {
            ", real servers changed before the fault"
        } else {
            ""
        },
    ));
    line(format!(
        "load      {:.0} new connections a second until the fault",
        outcome.new_connections_per_second
    ));
    line(stalls(&outcome.stalls_ms));

    let mut gaps = table(&["gap seen by clients, ms", "p50", "p99", "max"]);
    let udp = format!("UDP, longest silence of {} flows", outcome.udp.flows);
    gaps.add_row(quantiles(udp, outcome.udp.gap_ms));
    gaps.add_row(quantiles(
        format!(
            "TCP, fault to next checked byte (a request each {} ms)",
            outcome.request_every_ms
        ),
        outcome.tcp.gap_ms,
    ));
    line(format!("\n{}", finish(gaps, colours)));

    let mut ages = table(&[
        "age at the fault",
        "connections",
        "survived",
        "reset",
        "corrupted",
        "lost",
    ]);
    for class in outcome.tcp.classes.iter().rev() {
        if class.age != Age::Opening || class.connections > 0 {
            ages.add_row(row(class.age.as_str(), class));
        }
    }
    let tcp = &outcome.tcp;
    let sum = Class {
        age: Age::Older,
        connections: tcp.connections,
        survived: tcp.survived,
        reset: tcp.reset,
        corrupted: tcp.corrupted,
        lost: tcp.lost,
    };
    ages.add_row(row("all established", &sum));
    line(format!("{}", finish(ages, colours)));

    let (mark, colour) = if outcome.passed {
        ("every connection survived with correct bytes", "32")
    } else {
        ("NOT everything survived:", "31")
    };
    line(if colours {
        format!("\x1b[1;{colour}m{mark}\x1b[0m")
    } else {
        mark.to_owned()
    });
    for reason in &outcome.reasons {
        line(format!("  - {reason}"));
    }
    out
}

fn stalls(stalls_ms: &[f64]) -> String {
    stalls_ms.first().map_or_else(
        || "machine   no stall of 10 ms or more from the fault on".to_owned(),
        |longest| {
            format!(
                "machine   stalled by itself {} times from the fault on, {longest:.0} ms at most",
                stalls_ms.len()
            )
        },
    )
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}

fn finish(mut table: Table, colours: bool) -> Table {
    if colours {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn quantiles(label: String, values: Option<Quantiles>) -> Vec<Cell> {
    let figure = |pick: fn(&Quantiles) -> f64| {
        Cell::new(values.map_or_else(|| "-".to_owned(), |values| format!("{:.1}", pick(&values))))
    };
    vec![
        Cell::new(label),
        figure(|q| q.p50),
        figure(|q| q.p99),
        figure(|q| q.max),
    ]
}

fn row(label: &str, class: &Class) -> Vec<Cell> {
    let bad = |count: usize| {
        let cell = Cell::new(count);
        if count > 0 { cell.fg(Color::Red) } else { cell }
    };
    let survived = Cell::new(class.survived);
    vec![
        Cell::new(label),
        Cell::new(class.connections),
        if class.survived == class.connections {
            survived.fg(Color::Green)
        } else {
            survived
        },
        bad(class.reset),
        bad(class.corrupted),
        bad(class.lost),
    ]
}
