use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::control::Count;
use crate::events::Numbers;
use crate::proto::carp::trailer::WireRole;
use crate::proto::carp::{
    Counters as ElectionCounters, LinkSnapshot, PartnerSnapshot, Role, Snapshot,
};
use crate::proto::confsync::ContentHash;
use crate::proto::records;
use crate::proto::sync::{
    ByClass, Counters as SyncCounters, SyncRole, SyncSnapshot, TransferProgress,
};
use crate::proto::time::Instant;
use crate::services::expiry::Census;
use crate::shell::alarms::Kind;
use crate::shell::election::{self, Lateness};
use crate::shell::hooks::Outcomes;
use crate::shell::records::DeskSnapshot;
use crate::shell::replication;
use crate::shell::tallies::Tallied;
use crate::status::configuration::{ChannelStatus, Configuration, Progress, VersionStatus};
use crate::status::model::{
    Counters, RealServerState, RealServerStatus, Records, SCHEMA_VERSION, ServiceStatus, Services,
    Status, TrafficStatus,
};
use crate::status::render::tests::sample;

/// A node of which everything is known.
pub(super) struct Scene {
    status: Status,
    election: election::Published,
    replication: replication::Published,
    counters: Counters,
    services: Services,
    tallied: Tallied,
    alarms: Vec<(Kind, usize)>,
    listeners: Vec<Listener>,
}

impl Scene {
    pub(super) fn new() -> Self {
        let space = records::NamespaceSnapshot {
            name: "sessions".to_owned(),
            records: 3,
            bytes: 99,
            quota: Some(records::Quota {
                records: 10,
                bytes: 1000,
            }),
            refused: 1,
        };
        let table = records::Snapshot {
            namespaces: vec![space],
            ..records::Snapshot::default()
        };
        let status = Status {
            records: Some(Records {
                table,
                clients: DeskSnapshot::default(),
            }),
            configuration: Some(configuration()),
            ..sample()
        };
        Self {
            status,
            election: account(),
            replication: replicated(),
            counters: Counters::from_values(&[1; 64]),
            services: Services {
                schema_version: SCHEMA_VERSION,
                services: vec![service("web"), service("")],
            },
            tallied: Tallied {
                role_changes: [(["standby", "active", "failover"].map(str::to_owned), 2)].into(),
                ..Tallied::default()
            },
            alarms: Kind::ALL.iter().map(|kind| (*kind, 0)).collect(),
            listeners: vec![Listener {
                name: "127.0.0.1:9573".to_owned(),
                connections: 7,
                displaced: 1,
                turned_away: 2,
            }],
        }
    }

    fn samples(&self) -> Samples {
        let census = Census::default();
        let sources = Sources {
            status: &self.status,
            election: &self.election,
            replication: Some(&self.replication),
            census: &census,
            entries_max: (10, 20),
            counters: &self.counters,
            services: &self.services,
            tallied: &self.tallied,
            alarms: &self.alarms,
            events: Numbers::default(),
            hooks: Some(Outcomes::default()),
            control: Count::default(),
            listeners: &self.listeners,
        };
        sources.samples()
    }

    pub(super) fn text(&self) -> String {
        self.samples().encode().unwrap()
    }
}

fn configuration() -> Configuration {
    let version = VersionStatus {
        generation: 7,
        hash: ContentHash::new([7; 32]),
    };
    Configuration {
        version,
        edited: false,
        partner: Some(version),
        in_sync: true,
        heard_seconds: Some(1.0),
        restart_needed: Vec::new(),
        problem: None,
        lost: Vec::new(),
        progress: Progress {
            exchanged: 1,
            failed: 0,
            asked: 0,
            applied: 0,
            not_applied: 0,
        },
        channel: ChannelStatus {
            sessions: 1,
            wrong_key: 0,
            too_many: 0,
            timed_out: 0,
            unproven: 1,
            operators: 1,
            operators_refused: 1,
            malformed: 0,
        },
    }
}

fn account() -> election::Published {
    let link = LinkSnapshot {
        name: "front".to_owned(),
        production: true,
        carrier: true,
        gateway: Some(true),
        heard: true,
        heard_by_partner: true,
        multicast_blocked: false,
        silent_for: Some(Duration::from_millis(3)),
    };
    let partner = PartnerSnapshot {
        heard: true,
        hears_us: true,
        role: WireRole::Standby,
        term: 3,
        ready: true,
        mode: "second",
        generation: 7,
        silent_for: Duration::from_millis(3),
    };
    election::Published {
        at: Instant::default(),
        election: Snapshot {
            role: Role::Active,
            since: Duration::from_secs(5),
            term: 3,
            gate_open: true,
            lease_left: Some(Duration::from_millis(250)),
            alone: false,
            ready: true,
            failover_refused: None,
            generation: 7,
            partner: Some(partner),
            foreign: None,
            links: vec![link],
            alarms: Vec::new(),
            counters: ElectionCounters::default().by_name(),
            transitions: Vec::new(),
        },
        lateness: Lateness::default(),
        send_errors: 0,
        events_lost: 0,
    }
}

fn replicated() -> replication::Published {
    replication::Published {
        sync: SyncSnapshot {
            role: SyncRole::Active,
            ready: true,
            partner_heard: true,
            term: 3,
            partner_name: None,
            partner_generation: None,
            entries: 5,
            lag_us_p50: Some(100),
            lag_us_p99: Some(240),
            outstanding: 0,
            transfer: Some(TransferProgress { done: 1, total: 2 }),
            repair_buckets: Some(0),
            waiting: ByClass::default(),
            oldest_waiting_us: None,
            sent: 0,
            applied: 0,
            repaired: 0,
            dropped: 0,
            sweep: crate::proto::sync::Sweeps::default(),
            records: records::Snapshot::default(),
            counters: SyncCounters::default(),
        },
        apply_errors: 0,
        send_errors: 0,
        too_long: 0,
        bad_events: 0,
        desk: DeskSnapshot::default(),
        stopped: false,
    }
}

fn service(name: &str) -> ServiceStatus {
    let real = RealServerStatus {
        address: "10.1.0.21:8080".to_owned(),
        weight: 1,
        last_resort: false,
        state: RealServerState::Up,
        reason: None,
        own_check: None,
        connections: 5,
        connections_max: Some(100),
        traffic: TrafficStatus {
            packets_in: 11,
            bytes_out: 12,
            ..TrafficStatus::default()
        },
    };
    ServiceStatus {
        name: name.to_owned(),
        listen: "10.0.0.100:80".to_owned(),
        protocol: "tcp".to_owned(),
        forwarding: "nat".to_owned(),
        scheduler: "mh".to_owned(),
        persistence: None,
        connections: 5,
        traffic: TrafficStatus::default(),
        real_servers: vec![real],
    }
}

fn full_name(family: Family) -> String {
    let suffix = match family.form() {
        Form::Counter => "_total",
        Form::Gauge => "",
    };
    format!("{PREFIX}_{}{suffix}", family.stem())
}

/// The table of the manual, as it must be.
fn table() -> String {
    let mut table = String::from("| name | type | labels | meaning |\n|---|---|---|---|\n");
    for family in Family::ALL {
        let form = match family.form() {
            Form::Counter => "counter",
            Form::Gauge => "gauge",
        };
        let labels: Vec<String> = family
            .labels()
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let (name, labels, help) = (full_name(*family), labels.join(", "), family.help());
        writeln!(table, "| `{name}` | {form} | {labels} | {help} |").unwrap();
    }
    table
}

fn manual() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")
}

#[test]
fn the_manual_has_every_metric_and_no_other() {
    let text = fs::read_to_string(manual()).unwrap();
    let begin = text.find("| name | type |").expect("a table");
    let end = begin
        + text[begin..]
            .find("\n\n")
            .map_or(text.len() - begin, |end| end + 1);
    if std::env::var_os("HA_BLESS").is_some() {
        let blessed = format!("{}{}{}", &text[..begin], table(), &text[end..]);
        fs::write(manual(), blessed).unwrap();
        return;
    }
    let blessing = "HA_BLESS=1 cargo test -p ha-agent --lib web::metrics rewrites docs/metrics.md";
    assert_eq!(&text[begin..end], table(), "{blessing}");
}

#[test]
fn every_metric_is_exported_under_its_name_with_help_and_type() {
    let text = Scene::new().text();
    for family in Family::ALL {
        let name = full_name(*family);
        let stem = format!("{PREFIX}_{}", family.stem());
        let help = format!("# HELP {stem} {}\n", family.help());
        assert_eq!(text.matches(&help).count(), 1, "{help}");
        let value = text.lines().any(|line| {
            let rest = line.strip_prefix(&name).unwrap_or("");
            rest.starts_with(' ') || rest.starts_with('{')
        });
        assert!(value, "{name}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

/// Name, labels and value of every line.
fn parsed(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let labels = labels
            .split("\",")
            .filter(|label| !label.is_empty())
            .map(|label| {
                let (name, value) = label.split_once("=\"").unwrap();
                (name.to_owned(), value.trim_end_matches('"').to_owned())
            });
        (name.to_owned(), labels.collect(), value.parse().unwrap())
    };
    lines.map(parse).collect()
}

#[test]
fn no_series_occurs_twice() {
    let mut seen = BTreeSet::new();
    for (name, labels, _) in parsed(&Scene::new().text()) {
        assert!(
            seen.insert((name.clone(), labels.clone())),
            "{name} {labels:?}"
        );
    }
}

/// Sums of the values of a metric, by one of its labels.
fn by(text: &str, name: &str, label: &str) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for (found, mut labels, value) in parsed(text) {
        if found == name {
            *sums.entry(labels.remove(label).unwrap()).or_default() += value as i64;
        }
    }
    sums
}

#[test]
fn every_counter_is_exported() {
    let scene = Scene::new();
    let text = scene.text();
    let names = |name: &str, label: &str| -> BTreeSet<String> {
        by(&text, name, label).into_keys().collect()
    };
    let reasons = names("ha_agent_datapath_packets_total", "reason");
    let tallies = names("ha_agent_datapath_events_total", "event");
    let counters = scene.counters.counters.iter();
    for counter in counters {
        let set = if counter.verdict.is_some() {
            &reasons
        } else {
            &tallies
        };
        assert!(set.contains(&counter.name), "{}", counter.name);
    }
    let mut election = 0;
    for (name, label) in [
        ("ha_agent_election_packets_sent_total", "packet"),
        ("ha_agent_election_packets_accepted_total", "packet"),
        ("ha_agent_election_packets_dropped_total", "reason"),
        ("ha_agent_election_incidents_total", "incident"),
    ] {
        election += names(name, label).len();
    }
    assert_eq!(election, scene.election.election.counters.len());
    let serde_json::Value::Object(sync) = serde_json::to_value(SyncCounters::default()).unwrap()
    else {
        panic!("a structure");
    };
    let events = names("ha_agent_replication_events_total", "event");
    let bytes = names("ha_agent_replication_bytes_total", "event");
    let classes = names("ha_agent_replication_connection_events_total", "event");
    for name in sync.keys() {
        let found = events.contains(name)
            || classes.contains(name)
            || name
                .strip_suffix("_bytes")
                .is_some_and(|event| bytes.contains(event));
        assert!(found, "{name}");
    }
    assert_eq!(events.len() + bytes.len() + classes.len(), sync.len());
    let alarms = names("ha_agent_alarms", "alarm");
    assert_eq!(alarms.len(), Kind::ALL.len());
}

#[test]
fn values() {
    let text = Scene::new().text();
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    has("ha_agent_role{role=\"active\"} 1");
    has("ha_agent_role{role=\"standby\"} 0");
    has("ha_agent_partner_role{role=\"standby\"} 1");
    has("ha_agent_square{node=\"own\",square=\"green\"} 1");
    has("ha_agent_node_info{name=\"lb1\",mode=\"first\",partner=\"lb2\"} 1");
    has("ha_agent_role_changes_total{from=\"standby\",to=\"active\",reason=\"failover\"} 2");
    has("ha_agent_lease_seconds 0.25");
    has("ha_agent_connections{state=\"established\"} 5");
    has(
        "ha_agent_real_server_packets_total{service=\"web\",real_server=\"10.1.0.21:8080\",direction=\"in\"} 11",
    );
    has(
        "ha_agent_real_server_bytes_total{service=\"10.0.0.100:80\",real_server=\"10.1.0.21:8080\",direction=\"out\"} 12",
    );
    has("ha_agent_replication_lag_seconds{quantile=\"0.99\"} 0.00024");
    has("ha_agent_records{namespace=\"sessions\"} 3");
    has("ha_agent_http_connections_total{listener=\"127.0.0.1:9573\"} 7");
    // One state, role or square holds.
    for (name, label) in [("ha_agent_role", "role"), ("ha_agent_partner_role", "role")] {
        assert_eq!(by(&text, name, label).values().sum::<i64>(), 1, "{name}");
    }
    assert_eq!(
        by(&text, "ha_agent_square", "node"),
        [("own".to_owned(), 1), ("partner".to_owned(), 1)].into()
    );
}

#[test]
fn names_from_elsewhere_end_no_line() {
    let mut scene = Scene::new();
    let hostile = "a\"b\\c\nd{}";
    if let Some(partner) = &mut scene.status.partner {
        partner.name = Some(hostile.to_owned());
    }
    let text = scene.text();
    assert!(text.contains("partner=\"a\\\"b\\\\c\\nd{}\""), "{text}");
}

#[test]
fn a_node_alone_exports_what_it_has() {
    let mut scene = Scene::new();
    scene.status.partner = None;
    scene.status.records = None;
    scene.election.election.partner = None;
    let text = scene.text();
    assert!(!text.contains("ha_agent_partner"), "{text}");
    assert!(text.contains("ha_agent_node_info{name=\"lb1\",mode=\"first\",partner=\"\"} 1"));
}
