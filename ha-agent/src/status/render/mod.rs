//! Snapshots for people: aligned tables, states in words and, on a terminal, in colour.

mod doctor;
mod events;
mod services;
mod trace;

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

pub use doctor::findings;
pub use events::events;
pub use services::services;
pub use trace::trace;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

use super::model::{
    ConnectionPage, Counters, InterfaceStatus, Mode, Partner, Records, Replication, Role, Square,
    Status, XdpMode,
};
use crate::proto::records::RESERVED;

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// With colours.
    pub color: bool,
    /// Fit lines to the terminal; else each row is one line, whatever its length.
    pub fit: bool,
}

impl Style {
    /// For a file or pipe.
    pub const PLAIN: Self = Self {
        color: false,
        fit: false,
    };

    /// What suits standard output. `NO_COLOR`: <https://no-color.org>.
    pub fn detect() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            color: terminal && !dumb && !set("NO_COLOR"),
            fit: terminal,
        }
    }

    fn paint(self, text: &str, color: Color) -> String {
        let code = match (self.color, color) {
            (true, Color::Green) => 32,
            (true, Color::Red) => 31,
            (true, Color::Yellow) => 33,
            (true, Color::Blue) => 34,
            _ => return text.to_owned(),
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    fn table(self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(if self.fit {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        });
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(
            header
                .iter()
                .map(|name| Cell::new(name).add_attribute(Attribute::Bold)),
        );
        table
    }
}

/// A table as lines that begin at the margin and have no trailing blanks.
fn lines(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// Text from elsewhere, without anything that could move the cursor.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn word(text: &str, good: bool) -> Cell {
    Cell::new(text).fg(if good { Color::Green } else { Color::Red })
}

/// `ha-agent status`.
pub fn status(status: &Status, style: Style) -> String {
    let mut out = String::new();
    let own = Half {
        name: &status.node.name,
        mode: status.node.mode,
        role: Some(status.role),
        square: status.square,
        note: format!(
            "for {}, term {}, configuration {}, version {}",
            duration(status.since_seconds),
            status.term,
            status.config_generation,
            clean(&status.version)
        ),
    };
    let mut halves = vec![own];
    if let Some(partner) = &status.partner {
        halves.push(partner_half(partner, status.node.mode));
        if status.node.mode == Mode::Second {
            // As everywhere: the first node on the left, the second on the right.
            halves.reverse();
        }
    }
    out += &halves_table(&halves, style);
    out.push('\n');
    out += &interfaces(status, style);
    out.push('\n');
    let replication = &status.replication;
    let ready = if replication.ready {
        style.paint("ready", Color::Green)
    } else {
        style.paint("not ready", Color::Yellow)
    };
    let lag = replication
        .lag_us_p99
        .map_or_else(String::new, |us| format!(", lag p99 {us} us"));
    let mut line = |name: &str, text: String| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(out, "{name:<13}{text}");
    };
    if status.partner.is_some() {
        line(
            "Replication",
            format!(
                "{ready}{lag}, {} sent, {} applied, {} repaired, {} dropped{}",
                replication.sent,
                replication.applied,
                replication.repaired,
                replication.dropped,
                under_way(replication)
            ),
        );
    }
    if let Some(records) = status.records.as_ref().and_then(records) {
        line("Records", records);
    }
    let table = &status.connections;
    line(
        "Connections",
        format!(
            "{} of at most {}, {} half-open",
            table.established, table.max, table.embryonic
        ),
    );
    if status.alarms.is_empty() {
        line("Alarms", "none".to_owned());
    }
    for alarm in &status.alarms {
        let text = format!("{}: {}", clean(&alarm.name), clean(&alarm.evidence));
        line("Alarm", style.paint(&text, Color::Red));
        line("", clean(&alarm.remedy));
    }
    out
}

/// What replication still has to do.
fn under_way(replication: &Replication) -> String {
    let waiting = replication.unique.waiting + replication.recomputable.waiting;
    let transfer = replication.transfer.map(|transfer| {
        let (done, total) = (transfer.done, transfer.total);
        format!(", {done} of {total} transferred")
    });
    let repair = replication
        .repair_buckets
        .map(|buckets| format!(", {buckets} buckets to repair"));
    let waiting = (waiting > 0).then(|| format!(", {waiting} waiting"));
    [transfer, repair, waiting].into_iter().flatten().collect()
}

/// Records by namespace; nothing if there are none and nobody may write any.
fn records(records: &Records) -> Option<String> {
    let spaces = records.table.namespaces.iter();
    let shown = spaces.filter(|space| space.records > 0 || !RESERVED.contains(&&*space.name));
    let mut parts: Vec<String> = shown
        .map(|space| match space.quota {
            Some(quota) => format!(
                "{} {} of {}",
                clean(&space.name),
                space.records,
                quota.records
            ),
            None => format!("{} {}", clean(&space.name), space.records),
        })
        .collect();
    let counters = &records.table.counters;
    let refused = counters.refused_quota + counters.refused_bad + counters.refused_not_active;
    if refused > 0 {
        parts.push(format!("{refused} refused"));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// One node of the pair.
struct Half<'a> {
    name: &'a str,
    mode: Mode,
    role: Option<Role>,
    square: Square,
    note: String,
}

fn partner_half(partner: &Partner, own: Mode) -> Half<'_> {
    let names = |heard: bool| {
        let names: Vec<String> = partner
            .heard
            .iter()
            .filter(|(_, is)| **is == heard)
            .map(|(name, _)| clean(name))
            .collect();
        names.join(", ")
    };
    let mut notes = Vec::new();
    for (heard, text) in [(true, "heard on"), (false, "not heard on")] {
        let names = names(heard);
        if !names.is_empty() {
            notes.push(format!("{text} {names}"));
        }
    }
    // Of a partner that was never heard nothing more can be said.
    if partner.role.is_some() {
        notes.push(if partner.config_in_sync {
            "same configuration".to_owned()
        } else {
            "another configuration".to_owned()
        });
    }
    Half {
        name: partner.name.as_deref().unwrap_or("(partner)"),
        mode: match own {
            Mode::First => Mode::Second,
            Mode::Second => Mode::First,
            Mode::Off => Mode::Off,
        },
        role: partner.role,
        square: partner.square,
        note: notes.join("; "),
    }
}

fn halves_table(halves: &[Half<'_>], style: Style) -> String {
    let mut table = style.table(&["SQUARE", "NODE", "PLACE", "ROLE", ""]);
    for half in halves {
        // The role of a node that is not heard is what it last said.
        let letter = if half.role == Some(Role::Active) && half.square != Square::Red {
            "A"
        } else {
            " "
        };
        let color = match half.square {
            Square::Green => Color::Green,
            Square::Red => Color::Red,
            Square::Yellow => Color::Yellow,
            Square::Blue => Color::Blue,
            Square::Grey | Square::None => Color::Reset,
        };
        table.add_row([
            Cell::new(format!("[{letter}] {}", half.square.as_str())).fg(color),
            Cell::new(clean(half.name)),
            Cell::new(match half.mode {
                Mode::Off => "single",
                Mode::First => "first",
                Mode::Second => "second",
            }),
            Cell::new(half.role.map_or("unknown", Role::as_str)),
            Cell::new(&half.note),
        ]);
    }
    lines(table)
}

fn interfaces(status: &Status, style: Style) -> String {
    let mut table = style.table(&[
        "INTERFACE",
        "DEVICE",
        "CARRIER",
        "XDP",
        "GATEWAY",
        "SHARED ADDRESSES",
    ]);
    for interface in &status.interfaces {
        table.add_row(interface_row(interface));
    }
    lines(table)
}

fn interface_row(interface: &InterfaceStatus) -> [Cell; 6] {
    [
        Cell::new(clean(&interface.name)),
        Cell::new(clean(&interface.device)),
        word(
            if interface.carrier { "up" } else { "down" },
            interface.carrier,
        ),
        Cell::new(interface.xdp_mode.as_str()).fg(match interface.xdp_mode {
            XdpMode::Native => Color::Green,
            XdpMode::Generic => Color::Yellow,
            XdpMode::None => Color::Red,
        }),
        match interface.gateway_reachable {
            None => Cell::new("-"),
            Some(true) => word("reachable", true),
            Some(false) => word("unreachable", false),
        },
        Cell::new(
            match (interface.shared.is_empty(), &interface.virtual_mac) {
                (true, _) => "-".to_owned(),
                (false, None) => clean(&interface.shared.join(", ")),
                (false, Some(mac)) => clean(&format!("{} at {mac}", interface.shared.join(", "))),
            },
        ),
    ]
}

/// `ha-agent connections`.
pub fn connections(page: &ConnectionPage, style: Style) -> String {
    let mut out = String::new();
    if !page.connections.is_empty() {
        let mut table = style.table(&[
            "SERVICE",
            "PROTO",
            "CLIENT",
            "SHARED",
            "REAL SERVER",
            "STATE",
            "AGE",
            "IDLE",
            "FROM",
        ]);
        for connection in &page.connections {
            table.add_row([
                clean(connection.service.as_deref().unwrap_or("-")),
                clean(&connection.protocol),
                connection.client.to_string(),
                connection.shared.to_string(),
                connection.real.to_string(),
                clean(&connection.state),
                duration(connection.age_seconds),
                duration(connection.idle_seconds),
                match (connection.replicated, connection.reconstructed) {
                    (true, _) => "partner",
                    (false, true) => "mid-flow",
                    (false, false) => "handshake",
                }
                .to_owned(),
            ]);
        }
        out += &lines(table);
        out.push('\n');
    }
    let shown = page.connections.len() as u64;
    let first = page.offset as u64 + 1;
    let range = match shown {
        0 => "none shown".to_owned(),
        _ => format!("{first} to {} shown", page.offset as u64 + shown),
    };
    let more = if page.offset as u64 + shown < page.matching && shown > 0 {
        format!("; more with --offset {}", page.offset as u64 + shown)
    } else {
        String::new()
    };
    // Writing to a string cannot fail.
    let _infallible = writeln!(
        out,
        "{} established, {} match, {range}{more}",
        page.total, page.matching
    );
    out
}

/// `ha-agent counters`; zeros only if `all`.
pub fn counters(counters: &Counters, all: bool, style: Style) -> String {
    let mut table = style.table(&["COUNTER", "COUNT", "VERDICT", "MEANING"]);
    let mut hidden = 0;
    for counter in &counters.counters {
        if counter.value == 0 && !all {
            hidden += 1;
            continue;
        }
        table.add_row([
            Cell::new(clean(&counter.name)),
            Cell::new(counter.value).set_alignment(comfy_table::CellAlignment::Right),
            Cell::new(
                counter
                    .verdict
                    .as_deref()
                    .map_or_else(|| "-".to_owned(), clean),
            ),
            Cell::new(clean(&counter.meaning)),
        ]);
    }
    let mut out = lines(table);
    if hidden > 0 {
        // Writing to a string cannot fail.
        let _infallible = writeln!(out, "\n{hidden} more are zero (--all shows them)");
    }
    out
}

/// A duration in at most two units.
pub(crate) fn duration(seconds: f64) -> String {
    let Ok(exact) = Duration::try_from_secs_f64(seconds) else {
        return "?".to_owned();
    };
    let whole = exact.as_secs();
    if whole < 10 {
        return format!("{seconds:.1}s");
    }
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m{}s", whole % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
