//! What the home page says, in words: pure, so that every word is tested without a browser.

use std::net::{IpAddr, SocketAddr};

use crate::events::Event;
use crate::status::model::{Mode, Role, Square, Status};

/// What the page shows besides the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The machine's id: the appliance's serial number.
    pub machine: String,
    /// When it was booted, in words.
    pub booted: String,
    /// Where the partner's own page is.
    pub partner: Option<SocketAddr>,
}

/// A status square, with words beside its colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose.
    pub name: String,
    /// Class of its colour.
    pub colour: &'static str,
    /// `A` on an active node.
    pub letter: &'static str,
    /// What the colour means.
    pub words: String,
    /// That node's own page; empty on it.
    pub href: String,
}

/// An alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Its name.
    pub name: String,
    /// What shows it.
    pub evidence: String,
    /// For how long.
    pub since: String,
    /// What to do.
    pub remedy: String,
}

/// Shared addresses of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Logical name.
    pub interface: String,
    /// The addresses.
    pub addresses: String,
    /// Whether it works.
    pub link: &'static str,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// For programs.
    pub time: String,
    /// For people.
    pub shown: String,
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
    /// Who.
    pub who: String,
}

/// The home page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// This node's name.
    pub node: String,
    /// First node left, second right; none if high availability is off.
    pub squares: Vec<Mark>,
    /// The pair in one line.
    pub headline: String,
    /// What is wrong.
    pub alarms: Vec<Alarm>,
    /// This node.
    pub facts: Vec<(&'static str, String)>,
    /// Who has the shared addresses.
    pub holder: String,
    /// Which there are.
    pub shared: Vec<Shared>,
    /// Replication.
    pub replication: Vec<(&'static str, String)>,
    /// Connections.
    pub connections: Vec<(&'static str, String)>,
    /// What happened last, newest first.
    pub events: Vec<Happened>,
}

impl View {
    /// Of a node.
    pub fn of(status: &Status, place: &Place, events: &[Event]) -> Self {
        Self {
            node: status.node.name.clone(),
            squares: squares(status, place),
            headline: headline(status),
            alarms: alarms(status),
            facts: facts(status, place),
            holder: holder(status),
            shared: shared(status),
            replication: replication(status),
            connections: connections(status),
            events: events.iter().rev().map(happened).collect(),
        }
    }
}

fn squares(status: &Status, place: &Place) -> Vec<Mark> {
    let own = mark(
        &status.node.name,
        status.square,
        Some(status.role),
        String::new(),
    );
    let Some(partner) = &status.partner else {
        return Vec::new();
    };
    let name = partner.name.as_deref().unwrap_or("partner");
    let href = place
        .partner
        .map_or_else(String::new, |at| format!("https://{at}/"));
    let other = mark(name, partner.square, partner.role, href);
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

fn happened(event: &Event) -> Happened {
    Happened {
        time: event.time.to_string(),
        shown: event.time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        what: event.what.clone(),
        why: event.why.clone(),
        who: event.who.clone(),
    }
}

/// A number with its thousands apart.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A time in its two largest units.
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Where the partner's page is: at its address on the same network, and the same port.
pub fn partner_page(partners: &[IpAddr], port: u16) -> Option<SocketAddr> {
    let first = partners.iter().find(|address| address.is_ipv4());
    let first = first.or_else(|| partners.first())?;
    Some(SocketAddr::new(*first, port))
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
        let squares = View::of(status, &place, &[]).squares;
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
                square,
                role,
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
        let view = View::of(&sample(), &Place::default(), &[]);
        assert_eq!(view.headline, "lb1 is active");
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
        let partners = ["fd00::2", "10.0.0.12"].map(|at| at.parse().unwrap());
        assert_eq!(partner_page(&partners, 8443), "10.0.0.12:8443".parse().ok());
        assert_eq!(partner_page(&[], 8443), None);
    }
}
