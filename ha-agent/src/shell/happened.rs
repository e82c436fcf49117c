//! What goes into the event history, in words; and who notices what nobody reports.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::agent::{Shared, lock};
use super::start::StartError;
use crate::control::{Peer, Refusal, Reloaded, Reply};
use crate::events::{Entry, Kind};
use crate::health::Report;
use crate::proto::carp::{Role, RoleReason};
use crate::proto::pacify::Start;
use crate::services::RealKey;

/// How often the partner is looked for: the election's account is as old as that at most.
const LOOK: Duration = Duration::from_millis(100);
/// How many looks are between two at the alarms, which otherwise are brought up to date when somebody asks.
const ALARMS_EVERY: u32 = 10;

/// Takes note of what the election's account and the alarms show, until the future is dropped.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = false;
    for round in 0_u32.. {
        look.tick().await;
        let published = shared.election.published();
        let partner = published.election.partner.as_ref();
        let hears = partner.is_some_and(|partner| partner.heard);
        if hears != heard {
            heard = hears;
            let silent = partner.map(|partner| partner.silent_for);
            shared.events.record(partner_changed(hears, silent));
        }
        if round % ALARMS_EVERY == 0 {
            shared.alarms(&published);
        }
    }
}

fn partner_changed(heard: bool, silent: Option<Duration>) -> Entry {
    if heard {
        return Entry::new(Kind::PartnerHeard, "election", "the partner is heard");
    }
    let lost = Entry::new(
        Kind::PartnerLost,
        "election",
        "the partner is not heard any more",
    );
    match silent {
        Some(silent) => lost.because(format!("silent for {:.3} s", silent.as_secs_f64())),
        None => lost,
    }
}

/// An agent starts; `kind` is none if it continues another one.
pub(super) fn started(kind: Option<Start>) -> Entry {
    let version = env!("CARGO_PKG_VERSION");
    let (why, kind) = match kind {
        None => ("it continues one that was replaced in place", "replaced"),
        Some(Start::First) => ("the first start of all", "first"),
        Some(Start::Planned) => ("the one before had ended in order", "planned"),
        Some(Start::Booted) => ("the machine was booted", "booted"),
        Some(Start::Crashed) => ("the one before had not ended in order", "crashed"),
    };
    let what = format!("the agent starts, version {version}");
    let entry = Entry::new(Kind::Started, "agent", what).because(why);
    entry.with("start", kind).with("version", version)
}

pub(super) fn not_started(error: &StartError) -> Entry {
    Entry::new(Kind::Stopping, "agent", "the agent did not start").because(error.to_string())
}

/// The names of what a role was, is, and why.
pub(super) fn words(from: Role, to: Role, reason: RoleReason) -> [String; 3] {
    [word(&from), word(&to), word(&reason)]
}

pub(super) fn role_changed(from: &str, to: &str, reason: &str, term: u64) -> Entry {
    let what = if from == to {
        format!("still {to}, in term {term}")
    } else {
        format!("{from} to {to}, term {term}")
    };
    let entry = Entry::new(Kind::RoleChanged, "election", what);
    let entry = entry.because(reason.replace('_', " "));
    let entry = entry
        .with("from", from)
        .with("to", to)
        .with("term", term.to_string());
    entry.with("reason", reason)
}

/// The name that a value has in JSON.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_no_word) => String::new(),
    }
}

/// This node's checks have judged a real server anew.
pub(super) fn judged(shared: &Shared, report: &Report) -> Entry {
    let loaded = lock(&shared.loaded);
    let mut services = loaded.config.virtual_services.iter();
    let service = services.find(|service| {
        let mut servers = service.all_servers();
        servers.any(|server| RealKey::new(service, server) == report.key)
    });
    let service = service.map_or("", |service| service.name.as_str());
    let server = if report.address.port() == 0 {
        report.address.ip().to_string()
    } else {
        report.address.to_string()
    };
    let (kind, state) = if report.up {
        (Kind::RealServerUp, "up")
    } else {
        (Kind::RealServerDown, "down")
    };
    let entry = Entry::new(
        kind,
        "health checks",
        format!("{service}: {server} is {state}"),
    );
    let entry = entry.because(report.failure.clone().unwrap_or_default());
    entry.with("service", service).with("real_server", server)
}

pub(super) fn reloaded(who: &str, reply: &Reply<Reloaded>) -> Entry {
    match reply {
        Ok(reloaded) if reloaded.changes.is_empty() => {
            Entry::new(Kind::Reloaded, who, "reloaded: nothing changed")
        }
        Ok(reloaded) => {
            let changes = reloaded.changes.join("; ");
            Entry::new(Kind::Reloaded, who, format!("reloaded: {changes}"))
                .with("changes", reloaded.changes.len().to_string())
        }
        Err(refusal) => {
            let entry = Entry::new(Kind::NotReloaded, who, "not reloaded");
            let problems = refusal.problems.iter().map(ToString::to_string);
            let why: Vec<String> = std::iter::once(refusal.what.clone())
                .chain(problems)
                .collect();
            entry.because(why.join("; "))
        }
    }
}

/// What became of the partner's configuration.
pub(super) fn taken_over(generation: u64, taken: &Result<Vec<String>, String>) -> Entry {
    let entry = match taken {
        Ok(changes) => {
            let what = format!("version {generation} taken over: {}", changes.join("; "));
            Entry::new(Kind::Reloaded, "partner", what)
        }
        Err(why) => {
            let what = format!("version {generation} not taken over");
            Entry::new(Kind::NotReloaded, "partner", what).because(&**why)
        }
    };
    entry.with("generation", generation.to_string())
}

/// Somebody at the control socket wanted something.
pub(super) fn asked_for(who: &Peer, deed: &str, refused: Option<&Refusal>) -> Entry {
    let kind = match refused {
        None => Kind::Command,
        Some(_) => Kind::CommandRefused,
    };
    let entry = Entry::new(kind, who.to_string(), deed);
    let entry = entry.because(
        refused
            .map(|refusal| refusal.what.clone())
            .unwrap_or_default(),
    );
    let entry = entry.with("command", deed);
    let entry = match who.uid {
        Some(uid) => entry.with("uid", uid.to_string()),
        None => entry,
    };
    match who.pid {
        Some(pid) => entry.with("pid", pid.to_string()),
        None => entry,
    }
}
