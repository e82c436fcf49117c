//! What the home page says, in words: pure, so that every word is tested without a browser.

use std::net::SocketAddr;
use std::time::Duration;

use super::chart;
use super::rates::{Rate, Rates};
use super::shown::Place;
use crate::events::{Event, Kind};
use crate::status::model::{Mode, Role, Square, Status};

/// Events on the page.
const EVENTS: usize = 8;

/// A status square, with words beside its colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Whose.
    pub(super) name: String,
    /// Class of its colour.
    pub(super) colour: &'static str,
    /// `A` on an active node.
    pub(super) letter: &'static str,
    /// What the colour means.
    pub(super) words: String,
    /// That node's own page; empty if it has none.
    pub(super) href: String,
}

/// How fast something goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Speed {
    /// What.
    pub(super) what: &'static str,
    /// For programs.
    pub(super) id: &'static str,
    /// Now, a second.
    pub(super) now: String,
    /// At most in the last hour.
    pub(super) most: String,
    /// The last hour, as SVG.
    pub(super) line: String,
}

/// An alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alarm {
    /// Its name.
    pub(super) name: String,
    /// What shows it.
    pub(super) evidence: String,
    /// For how long.
    pub(super) since: String,
    /// What to do.
    pub(super) remedy: String,
}

/// Shared addresses of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    /// Logical name.
    pub(super) interface: String,
    /// The addresses.
    pub(super) addresses: String,
    /// Whether it works.
    pub(super) link: &'static str,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Happened {
    /// For programs.
    pub(super) time: String,
    /// For people.
    pub(super) shown: String,
    /// What.
    pub(super) what: String,
    /// Why.
    pub(super) why: String,
    /// Who.
    pub(super) who: String,
}

/// The home page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// This node's name.
    pub(super) node: String,
    /// First node left, second right; none if high availability is off.
    pub(super) squares: Vec<Mark>,
    /// The pair in one line.
    pub(super) headline: String,
    /// Why nobody would take over from this node; empty if somebody would.
    pub(super) unguarded: String,
    /// What is wrong.
    pub(super) alarms: Vec<Alarm>,
    /// This node.
    pub(super) facts: Vec<(&'static str, String)>,
    /// Who has the shared addresses.
    pub(super) holder: String,
    /// Which there are.
    pub(super) shared: Vec<Shared>,
    /// Replication.
    pub(super) replication: Vec<(&'static str, String)>,
    /// Connections.
    pub(super) connections: Vec<(&'static str, String)>,
    /// Rates.
    pub(super) speeds: Vec<Speed>,
    /// The last changes of role, newest first.
    pub(super) roles: Vec<Happened>,
    /// What else happened last, newest first.
    pub(super) events: Vec<Happened>,
}

impl View {
    /// Of a node.
    pub(super) fn of(status: &Status, place: &Place, events: &[Event], rates: &Rates) -> Self {
        let is_role = |event: &&Event| event.event == Kind::RoleChanged.as_str();
        let newest = |wanted: bool| {
            let some = events.iter().rev().filter(|event| is_role(event) == wanted);
            some.take(EVENTS).map(Happened::of).collect()
        };
        Self {
            node: status.node.name.clone(),
            squares: squares(status, place),
            headline: headline(status),
            unguarded: unguarded(status),
            alarms: alarms(status),
            facts: facts(status, place),
            holder: holder(status),
            shared: shared(status),
            replication: replication(status),
            connections: connections(status),
            speeds: speeds(rates),
            roles: newest(true),
            events: newest(false),
        }
    }
}

fn speeds(rates: &Rates) -> Vec<Speed> {
    let speed = |what, id, read: fn(&Rate) -> f64| {
        let hour: Vec<f64> = rates.hour.iter().map(read).collect();
        Speed {
            what,
            id,
            now: amount(read(&rates.all)),
            most: amount(hour.iter().copied().fold(0.0, f64::max)),
            line: chart::line(what, &hour),
        }
    };
    vec![
        speed("new connections", "rate-connections", |rate| {
            rate.connections
        }),
        speed("packets", "rate-packets", |rate| rate.packets),
    ]
}

/// A number for people who want to know how much it is about.
pub(super) fn amount(value: f64) -> String {
    match value {
        value if value >= 999.5e6 => format!("{:.1} G", value / 1e9),
        value if value >= 999.5e3 => format!("{:.1} M", value / 1e6),
        value if value >= 9_999.5 => format!("{:.0} k", value / 1e3),
        value if value >= 99.5 || value == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

fn squares(status: &Status, place: &Place) -> Vec<Mark> {
    let page = |at: Option<SocketAddr>| at.map_or_else(String::new, |at| format!("https://{at}/"));
    let (name, role) = (&status.node.name, Some(status.role));
    let own = mark(name, status.square, role, page(place.own));
    let Some(partner) = &status.partner else {
        return Vec::new();
    };
    let name = partner.name.as_deref().unwrap_or("partner");
    let other = mark(name, partner.square, partner.role, page(place.partner));
    match status.node.mode {
        Mode::Off => Vec::new(),
        Mode::First => vec![own, other],
        Mode::Second => vec![other, own],
    }
}

fn mark(name: &str, square: Square, role: Option<Role>, href: String) -> Mark {
    let active = role == Some(Role::Active);
    let words = match square {
        Square::Green if active => "active".to_owned(),
        Square::Green => "standby, paired".to_owned(),
        Square::Red => "not heard".to_owned(),
        Square::Yellow => "heard, could not take over".to_owned(),
        Square::Blue => role.map_or("put aside", Role::as_str).to_owned(),
        Square::Grey => "both nodes are active".to_owned(),
        Square::None => "high availability is off".to_owned(),
    };
    Mark {
        name: name.to_owned(),
        colour: square.as_str(),
        letter: if active && matches!(square, Square::Green | Square::Grey) {
            "A"
        } else {
            ""
        },
        words,
        href,
    }
}

fn headline(status: &Status) -> String {
    let name = &status.node.name;
    match status.role {
        Role::Off => format!("{name} works alone"),
        Role::Active => format!("{name} is active"),
        Role::Standby => format!("{name} is standby"),
        Role::Init => format!("{name} is starting"),
        Role::Pacified => format!("{name} is pacified: it takes no part"),
        Role::Maintenance => format!("{name} is in maintenance: it takes no part"),
    }
}

fn unguarded(status: &Status) -> String {
    let own = &status.node.name;
    let Some(partner) = status
        .partner
        .as_ref()
        .filter(|_| status.role == Role::Active)
    else {
        return String::new();
    };
    let name = partner.name.as_deref().unwrap_or("the partner");
    let why = match partner.square {
        Square::Red => "is not heard",
        Square::Yellow => "is heard, but could not take over",
        Square::Blue => "takes no part",
        Square::Green | Square::Grey | Square::None => return String::new(),
    };
    format!("{name} {why}: if {own} fails now, nobody takes over.")
}

fn alarms(status: &Status) -> Vec<Alarm> {
    let alarms = status.alarms.iter();
    let in_words = alarms.map(|alarm| Alarm {
        name: alarm.name.replace('_', " "),
        evidence: alarm.evidence.clone(),
        since: duration(alarm.since_seconds),
        remedy: alarm.remedy.clone(),
    });
    in_words.collect()
}

fn facts(status: &Status, place: &Place) -> Vec<(&'static str, String)> {
    let mode = match status.node.mode {
        Mode::Off => "alone",
        Mode::First => "first node",
        Mode::Second => "second node",
    };
    let mut facts = vec![
        ("Place", mode.to_owned()),
        ("Role", status.role.as_str().to_owned()),
        ("Since", duration(status.since_seconds)),
        ("Version", status.version.clone()),
        ("Machine id", place.machine.clone()),
        ("Booted", place.booted.clone()),
    ];
    if let Some(partner) = &status.partner {
        let same = if partner.config_in_sync {
            "equal on both nodes"
        } else {
            "differs from the partner's"
        };
        facts.push(("Configuration", same.to_owned()));
    }
    facts
}

fn holder(status: &Status) -> String {
    let partner = status.partner.as_ref();
    let name = partner.and_then(|partner| partner.name.as_deref());
    match (status.role, partner.and_then(|partner| partner.role)) {
        (Role::Active | Role::Off, _) => format!("{} has them", status.node.name),
        (_, Some(Role::Active)) => format!("{} has them", name.unwrap_or("the partner")),
        _ => "no node that is heard has them".to_owned(),
    }
}

fn shared(status: &Status) -> Vec<Shared> {
    let interfaces = status.interfaces.iter();
    interfaces
        .filter(|interface| !interface.shared.is_empty())
        .map(|interface| Shared {
            interface: interface.name.clone(),
            addresses: interface.shared.join(", "),
            link: match (interface.carrier, interface.gateway_reachable) {
                (false, _) => "no carrier",
                (true, Some(false)) => "gateway silent",
                (true, Some(true) | None) => "works",
            },
        })
        .collect()
}

fn replication(status: &Status) -> Vec<(&'static str, String)> {
    let replication = &status.replication;
    let ready = if replication.ready {
        "the standby holds everything"
    } else {
        "not complete yet"
    };
    let lag = replication.lag_us_p99.map_or_else(
        || "not measured".to_owned(),
        |lag| format!("{:.2} ms", lag as f64 / 1e3),
    );
    vec![
        ("State", ready.to_owned()),
        ("Delay (99th percentile)", lag),
        ("Repaired", number(replication.repaired)),
        ("Given up", number(replication.dropped)),
    ]
}

fn connections(status: &Status) -> Vec<(&'static str, String)> {
    let table = &status.connections;
    vec![
        ("Established", number(table.established)),
        ("Half open", number(table.embryonic)),
        ("Room for", number(table.max)),
    ]
}

impl Happened {
    /// An event in words.
    pub(super) fn of(event: &Event) -> Self {
        Self {
            time: event.time.to_string(),
            shown: event.time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            what: event.what.clone(),
            why: event.why.clone(),
            who: event.who.clone(),
        }
    }
}

/// A number with its thousands apart.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A time in its two largest units.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::model::Partner;
    use crate::status::render::tests::sample;

    fn shown(status: &Status) -> Vec<(String, &'static str, &'static str, String)> {
        let place = Place {
            partner: "10.0.0.12:8443".parse().ok(),
            ..Place::default()
        };
        let squares = View::of(status, &place, &[], &Rates::default()).squares;
        let row = |mark: Mark| (mark.name, mark.colour, mark.letter, mark.href);
        squares.into_iter().map(row).collect()
    }

    #[test]
    fn squares_mean_what_they_always_meant() {
        let mut status = sample();
        let own = |colour, letter| ("lb1".to_owned(), colour, letter, String::new());
        let other = |colour, letter| {
            (
                "lb2".to_owned(),
                colour,
                letter,
                "https://10.0.0.12:8443/".to_owned(),
            )
        };
        // Left the first node, right the second, on both of them.
        assert_eq!(shown(&status), [own("green", "A"), other("green", "")]);
        status.node.mode = Mode::Second;
        assert_eq!(shown(&status), [other("green", ""), own("green", "A")]);
        status.node.mode = Mode::First;
        status.role = Role::Standby;
        let partner = |square, role| {
            sample().partner.map(|partner| Partner {
                role,
                square,
                ..partner
            })
        };
        status.partner = partner(Square::Green, Some(Role::Active));
        assert_eq!(shown(&status), [own("green", ""), other("green", "A")]);
        status.partner = partner(Square::Red, Some(Role::Active));
        assert_eq!(shown(&status), [own("green", ""), other("red", "")]);
        status.partner = partner(Square::Yellow, Some(Role::Standby));
        assert_eq!(shown(&status)[1], other("yellow", ""));
        status.partner = partner(Square::Blue, Some(Role::Pacified));
        assert_eq!(shown(&status)[1], other("blue", ""));
        status.role = Role::Active;
        status.square = Square::Grey;
        status.partner = partner(Square::Grey, Some(Role::Active));
        assert_eq!(shown(&status), [own("grey", "A"), other("grey", "A")]);
        status.partner = None;
        status.node.mode = Mode::Off;
        assert_eq!(shown(&status), []);
    }

    #[test]
    fn words() {
        let view = View::of(&sample(), &Place::default(), &[], &Rates::default());
        assert_eq!(view.headline, "lb1 is active");
        assert_eq!(view.unguarded, "");
        assert_eq!(view.holder, "lb1 has them");
        assert_eq!(view.squares[0].words, "active");
        assert_eq!(view.squares[1].words, "standby, paired");
        assert_eq!(view.shared[0].link, "works");
        assert_eq!(number(0), "0");
        assert_eq!(number(1_048_576), "1\u{202f}048\u{202f}576");
        for (seconds, words) in [
            (0.4, "0 s"),
            (61.0, "1 min 1 s"),
            (3600.0, "1 h 0 min"),
            (200_000.0, "2 d 7 h"),
        ] {
            assert_eq!(duration(seconds), words);
        }
        for (value, words) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (12.34, "12.3"),
            (4711.0, "4711"),
            (27_600.0, "28 k"),
            (4_000_000.0, "4.0 M"),
            (2e9, "2.0 G"),
        ] {
            assert_eq!(amount(value), words);
        }
    }
}
