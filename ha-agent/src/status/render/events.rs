//! `ha-agent events`.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::unistd::{Uid, User};

use super::{Style, clean};
use crate::events::{Event, Kind};
use comfy_table::Color;

/// A line an event, oldest first; times of this machine's zone.
pub fn events(events: &[Event], style: Style) -> String {
    let zone = TimeZone::system();
    events
        .iter()
        .map(|event| line(event, &zone, style) + "\n")
        .collect()
}

fn line(event: &Event, zone: &TimeZone, style: Style) -> String {
    let time = time(event.time, zone);
    // By name as scripts know it, so that `--kind` can be typed from what is seen.
    let kind = format!("{:<16}", clean(&event.event));
    let mut line = format!(
        "{time}  {}  {}",
        style.paint(&kind, color(&event.event)),
        clean(&event.what)
    );
    if !event.why.is_empty() {
        line.push_str(": ");
        line.push_str(&clean(&event.why));
    }
    let who = who(&event.who);
    line.push_str("  [");
    line.push_str(&who);
    line.push(']');
    line
}

fn time(time: Timestamp, zone: &TimeZone) -> String {
    let zoned = time.to_zoned(zone.clone());
    zoned.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// Users by name as well, where this machine knows it.
fn who(who: &str) -> String {
    let uid = who.strip_prefix("uid ").and_then(|uid| uid.parse().ok());
    let user = uid.and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten());
    match user {
        Some(user) => format!("{} ({})", clean(who), clean(&user.name)),
        None => clean(who),
    }
}

fn color(event: &str) -> Color {
    let mut kinds = Kind::ALL.iter();
    let Some(kind) = kinds.find(|kind| kind.as_str() == event) else {
        return Color::Reset;
    };
    match kind {
        Kind::AlarmRaised | Kind::RealServerDown | Kind::PartnerLost | Kind::HistoryLost => {
            Color::Red
        }
        Kind::AlarmOver | Kind::RealServerUp | Kind::PartnerHeard => Color::Green,
        Kind::RoleChanged => Color::Blue,
        Kind::CommandRefused | Kind::NotReloaded => Color::Yellow,
        Kind::Started | Kind::Stopping | Kind::Command | Kind::Reloaded | Kind::Paired => {
            Color::Reset
        }
    }
}
