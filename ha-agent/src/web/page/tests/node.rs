//! A node that is not there: it remembers what it was asked to do.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use super::super::*;
use crate::config::model::Config;
use crate::config::tests::GOOD;
use crate::control::edits::{Applied, Apply, Draft, Preview, Wanted, fingerprint};
use crate::control::{
    CaptureRequest, ConfigShown, Counted, Done, Handler, Peer, RecordsReply, RecordsRequest,
    Reloaded, Reply, WebRequest,
};
use crate::doctor::{Finding, Verdict};
use crate::events::{Entry, Event, EventPage, EventQuery};
use crate::pairing::{PairReply, PairRequest};
use crate::proto::confsync::ContentHash;
use crate::status::capture::Captured;
use crate::status::model::{
    Alarm, Connection, ConnectionPage, ConnectionQuery, Counters, RealServerState,
    RealServerStatus, Role, SCHEMA_VERSION, ServiceStatus, Services, Status, TrafficStatus,
};
use crate::status::render::tests::sample;
use crate::trace::model::{Trace, TraceRequest};

/// A node.
pub(super) struct Node {
    door: Door,
    counted: Counted,
    /// What it took note of.
    pub(super) recorded: Mutex<Vec<Entry>>,
    /// What it was asked to do.
    pub(super) asked: Mutex<Vec<String>>,
    /// Its configuration file, and what is in force.
    pub(super) file: Mutex<String>,
    /// What its address is for.
    pub(super) reach: Mutex<Option<Reach>>,
    /// Whether it may change the pair's part of the configuration, and hand over.
    pub(super) active: AtomicBool,
    /// Whether its partner can take over.
    pub(super) ready: AtomicBool,
}

impl Node {
    pub(super) fn new(state_dir: &Path) -> Self {
        let web = "  mode: first\n  web: { listen: \"[::]:8443\" }\n";
        Self {
            door: Door::new(state_dir),
            counted: Counted::default(),
            recorded: Mutex::default(),
            asked: Mutex::default(),
            file: Mutex::new(GOOD.replace("  mode: first\n", web)),
            reach: Mutex::new(Some(Reach::Pair)),
            active: AtomicBool::new(true),
            ready: AtomicBool::new(true),
        }
    }

    fn did(&self, what: impl Into<String>) -> Reply<Done> {
        let what = what.into();
        self.asked.lock().unwrap().push(what.clone());
        if self.hands_over() {
            return Ok(Done::new(what));
        }
        Err(Refusal::new("the partner is not ready", "wait"))
    }

    fn hands_over(&self) -> bool {
        self.active.load(Ordering::Relaxed) && self.ready.load(Ordering::Relaxed)
    }

    fn draft(&self, wanted: &Wanted) -> Reply<Draft> {
        let old = self.file.lock().unwrap().clone();
        let running = Config::parse(Path::new("f"), old.clone().into_bytes()).unwrap();
        Draft::of(Path::new("f"), old, wanted, &running.config)
    }
}

impl Handler for Node {
    async fn pair(self: Arc<Self>, _request: PairRequest) -> Reply<PairReply> {
        Ok(PairReply::Telling)
    }

    fn counted(&self) -> &Counted {
        &self.counted
    }

    async fn status(&self) -> Reply<Status> {
        let mut status = sample();
        if !self.active.load(Ordering::Relaxed) {
            status.role = Role::Standby;
        }
        status.node.name = "lb1<script>alert(1)</script>".to_owned();
        status.alarms = vec![Alarm {
            name: "address_in_use".to_owned(),
            since_seconds: 61.0,
            evidence: "02:00:00:00:00:01 <b>has</b> 10.0.0.100".to_owned(),
            remedy: "find that host".to_owned(),
        }];
        Ok(status)
    }

    async fn connections(&self, query: ConnectionQuery) -> Reply<ConnectionPage> {
        let mut page = query.page();
        let one = Connection {
            service: Some("web".to_owned()),
            protocol: "tcp".to_owned(),
            client: "192.0.2.1:4000".parse().unwrap(),
            shared: "10.0.0.100:80".parse().unwrap(),
            real: "10.1.0.21:8080".parse().unwrap(),
            seen_as: None,
            state: "established".to_owned(),
            age_seconds: 1.0,
            idle_seconds: 0.0,
            replicated: true,
            reconstructed: false,
        };
        // A table of a million, in pieces of 8192.
        let mut looked_at = 0;
        for piece in query.from.unwrap_or_default()..123 {
            query.add(&mut page, std::iter::repeat_n(one.clone(), 8192));
            looked_at += 8192;
            if query.is_full(&page, looked_at) {
                page.next = Some(piece + 1).filter(|piece| *piece < 123);
                break;
            }
        }
        page.connections.truncate(query.limit);
        self.asked
            .lock()
            .unwrap()
            .push(format!("connections {looked_at}"));
        Ok(page)
    }

    async fn counters(&self) -> Reply<Counters> {
        Ok(Counters::from_values(&[]))
    }

    async fn services(&self) -> Reply<Services> {
        let real = |address: &str, state, reason: Option<&str>| RealServerStatus {
            address: address.to_owned(),
            weight: 1,
            last_resort: false,
            state,
            reason: reason.map(str::to_owned),
            own_check: None,
            connections: 7,
            connections_max: None,
            traffic: TrafficStatus::default(),
        };
        let service = ServiceStatus {
            name: "web".to_owned(),
            listen: "10.0.0.100:80".to_owned(),
            protocol: "tcp".to_owned(),
            forwarding: "nat".to_owned(),
            scheduler: "mh".to_owned(),
            persistence: None,
            connections: 14,
            traffic: TrafficStatus::default(),
            real_servers: vec![
                real("10.1.0.21:8080", RealServerState::Up, None),
                real(
                    "10.1.0.22:8080",
                    RealServerState::Down,
                    Some("connection <refused>"),
                ),
            ],
        };
        Ok(Services {
            schema_version: SCHEMA_VERSION,
            services: vec![service],
        })
    }

    async fn failover(&self) -> Reply<Done> {
        self.did("failover")
    }

    async fn maintenance(&self, on: bool, force: bool) -> Reply<Done> {
        self.did(format!("maintenance {on} {force}"))
    }

    async fn resume(&self) -> Reply<Done> {
        self.did("resume")
    }

    async fn reload(self: Arc<Self>, _who: Peer) -> Reply<Reloaded> {
        Err(Refusal::new("nobody asks for that here", ""))
    }

    async fn push(self: Arc<Self>) -> Reply<Done> {
        self.did("push")
    }

    async fn show_config(&self) -> Reply<ConfigShown> {
        Ok(ConfigShown {
            schema_version: SCHEMA_VERSION,
            generation: 7,
            hash: ContentHash::new([7; 32]),
            text: self.file.lock().unwrap().clone(),
        })
    }

    async fn stop(&self) -> Reply<Done> {
        self.did("stop")
    }

    async fn record(&self, _path: PathBuf, _seconds: u32) -> Reply<Done> {
        self.did("record")
    }

    async fn capture(&self, _request: CaptureRequest) -> Reply<Captured> {
        Err(Refusal::new("nobody asks for that here", ""))
    }

    async fn trace(&self, _request: TraceRequest) -> Reply<Trace> {
        Err(Refusal::new("nobody asks for that here", ""))
    }

    async fn records(&self, _request: RecordsRequest) -> Reply<RecordsReply> {
        Err(Refusal::new("nobody asks for that here", ""))
    }

    async fn web(&self, _request: WebRequest) -> Reply<Done> {
        self.did("web")
    }

    async fn events(&self, query: EventQuery) -> Reply<EventPage> {
        let mut events = self.recent(usize::MAX);
        events.retain(|event| query.kind.as_ref().is_none_or(|kind| *kind == event.event));
        Ok(EventPage {
            schema_version: SCHEMA_VERSION,
            events,
            next: 2,
            unreadable: 0,
        })
    }

    fn audit(&self, _who: &Peer, _deed: &str, _refused: Option<&Refusal>) {}

    async fn reexec(&self) -> Reply<Done> {
        self.did("reexec")
    }
}

impl Shown for Node {
    fn door(&self) -> &Door {
        &self.door
    }

    fn recent(&self, _count: usize) -> Vec<Event> {
        let event = |number, kind: &str, what: &str, why: &str| Event {
            number,
            time: Timestamp::from_second(1_800_000_000).unwrap(),
            event: kind.to_owned(),
            who: "election".to_owned(),
            what: what.to_owned(),
            why: why.to_owned(),
            fields: std::collections::BTreeMap::new(),
        };
        vec![
            event(
                1,
                "role_changed",
                "standby to active, term 3",
                "partner silent",
            ),
            event(2, "partner_heard", "the partner is heard", ""),
        ]
    }

    fn place(&self) -> Place {
        Place {
            machine: "0123456789abcdef".to_owned(),
            booted: "2026-11-29 08:00 UTC".to_owned(),
            own: "10.0.0.11:8443".parse().ok(),
            partner: "10.0.0.12:8443".parse().ok(),
            pair: "10.0.0.100:8443".parse().ok(),
        }
    }

    async fn may_hand_over(&self) -> Reply<()> {
        if self.hands_over() {
            return Ok(());
        }
        Err(Refusal::new("the partner is not ready", "wait"))
    }

    fn reach(&self, _address: IpAddr) -> Option<Reach> {
        *self.reach.lock().unwrap()
    }

    fn note(&self, entry: Entry) {
        self.recorded.lock().unwrap().push(entry);
    }

    fn hardware(&self) -> Vec<(String, Hardware)> {
        let hardware = Hardware {
            speed: Some(10_000),
            duplex: Some("full"),
            mtu: Some(1500),
        };
        vec![("front".to_owned(), hardware)]
    }

    fn written(&self) -> Reply<(String, String)> {
        let text = self.file.lock().unwrap().clone();
        let base = fingerprint(&text);
        Ok((text, base))
    }

    fn backup(&self) -> Reply<String> {
        let text = self.file.lock().unwrap().clone();
        let loaded = Config::parse(Path::new("f"), text.into_bytes()).unwrap();
        Ok(crate::config::backup::make(&loaded, Timestamp::now()))
    }

    fn preview(&self, wanted: &Wanted) -> Reply<Preview> {
        let standby = Refusal::new("this node is not active", "change it on lb2");
        let active = self.active.load(Ordering::Relaxed);
        Ok(self.draft(wanted)?.preview((!active).then_some(standby)))
    }

    fn apply(&self, who: &str, order: &Apply) -> Reply<Applied> {
        let draft = self.draft(&order.wanted)?;
        if fingerprint(&draft.old) != order.base {
            return Err(Refusal::new("the file was changed since", "look again"));
        }
        if !draft.difference.restart.is_empty() && !order.restart {
            return Err(Refusal::new("this change needs a restart", "agree to it"));
        }
        *self.file.lock().unwrap() = draft.fresh.text().to_owned();
        self.asked.lock().unwrap().push(format!("change by {who}"));
        let changes = draft.difference.changes.iter();
        Ok(Applied {
            generation: 8,
            changes: changes.map(ToString::to_string).collect(),
            restart: draft.difference.restart,
            warnings: Vec::new(),
        })
    }

    async fn examine(&self) -> Vec<Finding> {
        let finding = |check, verdict, evidence: &str| Finding {
            check,
            verdict,
            evidence: evidence.to_owned(),
            remedy: (verdict == Verdict::Fail).then(|| "mend it".to_owned()),
        };
        vec![
            finding("kernel", Verdict::Pass, "Linux 6.18"),
            finding("gateway", Verdict::Fail, "front: no answer"),
        ]
    }

    async fn ping(&self, host: IpAddr, interface: Option<&str>) -> Reply<Pinged> {
        self.asked
            .lock()
            .unwrap()
            .push(format!("ping {host} {interface:?}"));
        Ok(Pinged {
            schema_version: SCHEMA_VERSION,
            host,
            times_ms: vec![Some(0.25), None],
        })
    }

    fn power(&self, how: Power) -> Reply<()> {
        self.asked.lock().unwrap().push(format!("{how:?}"));
        Ok(())
    }

    fn belongings(&self) -> Reply<Vec<PathBuf>> {
        Ok(["/etc/ha-agent/ha-agent.yaml", "/var/lib/<ha>"]
            .map(PathBuf::from)
            .into())
    }

    fn reset(&self) -> Reply<()> {
        self.asked.lock().unwrap().push("reset".to_owned());
        Ok(())
    }
}
