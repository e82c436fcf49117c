//! What commands act on, and how they are carried out.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::addresses::SharedOn;
use super::capture::Capture;
use super::conflicts::Picture;
use super::confsync::{self, Replica};
use super::factory::Doomed;
use super::guard::Guard;
use super::history::HistoryFile;
use super::hooks::Hooks;
use super::names::Names;
use super::netlink::Netlink;
use super::observe::Listeners;
use super::parts::{self, Bound};
use super::records::api;
use super::reexec::Program;
use super::tallies::Tallies;
use super::{alarms, clock, election, frame, happened, replication};
use crate::config::Loaded;
use crate::config::model::{Config, Mode};
use crate::control::{
    CaptureRequest, ConfigShown, Counted, Done, Handler, Heirloom, Peer, RecordsReply,
    RecordsRequest, Refusal, Reloaded, Reply, WebRequest,
};
use crate::datapath::attach::{self, Attacher, Attachment};
use crate::datapath::inspect::Inspect;
use crate::datapath::pair::PairTables;
use crate::datapath::{Cursor, Datapath, DatapathError, Settings};
use crate::events::{EventPage, EventQuery, Recorder};
use crate::health::verdicts::Verdicts;
use crate::health::{self, HealthChecks};
use crate::pairing::{PairReply, PairRequest};
use crate::proto::carp::trailer::WireRole;
use crate::proto::carp::{self, Command, ElectionKeys, Role};
use crate::services::expiry::Keeper;
use crate::services::{ApplyError, RealKey, ServiceTable};
use crate::status::capture::Captured;
use crate::status::model;
use crate::status::model::{
    Connection, ConnectionPage, ConnectionQuery, Counters, InterfaceStatus, NodeIdentity, Partner,
    Replaced, Replication, SCHEMA_VERSION, ServiceStatus, Services, Square, Status, TableSize,
    XdpMode,
};
use crate::trace::model::{Trace, TraceRequest};
use crate::web::page::Door;

/// Entries read at a time for a page of connections.
const PIECE: usize = 8192;

/// Everything commands need; shared by the control socket and the main loop.
pub struct Shared {
    /// The configuration in force.
    pub loaded: Mutex<Loaded>,
    /// Interfaces as the kernel describes them.
    pub bound: Mutex<Vec<Bound>>,
    /// Where the data plane is attached.
    pub attachments: Mutex<Vec<Attachment>>,
    /// Attaches it again.
    pub attacher: Attacher,
    /// Tells the keeper of the shared addresses where they belong.
    pub shared_on: watch::Sender<Vec<SharedOn>>,
    /// Tells it how long the addresses last without renewal.
    pub lifetime: watch::Sender<Option<Duration>>,
    /// The kernel.
    pub netlink: Netlink,
    /// The maps.
    pub datapath: Arc<dyn Datapath>,
    /// The same, element by element.
    pub inspect: Arc<dyn Inspect + Send + Sync>,
    /// The data plane's settings.
    pub settings: Arc<Settings>,
    /// The capture of what the data plane sends.
    pub capture: Arc<Capture>,
    /// What the data plane was told of the pair.
    pub pair: Mutex<PairTables>,
    /// Virtual services.
    pub services: Arc<Mutex<ServiceTable>>,
    /// Walks the connection table.
    pub keeper: Arc<Keeper>,
    /// The election thread.
    pub election: election::Handle,
    /// The replication thread, if connections are replicated.
    pub replication: Option<replication::Handle>,
    /// Health checks.
    pub health: Mutex<HealthChecks>,
    /// Which real servers are up.
    pub verdicts: Arc<Verdicts>,
    /// The configuration's version and its replication.
    pub replica: Arc<Replica>,
    /// What is wrong.
    pub board: alarms::Board,
    /// What has happened.
    pub events: Recorder,
    /// Who is told of changes of the role.
    pub hooks: Hooks,
    /// What the main loop has counted.
    pub tallies: Tallies,
    /// Whether the web page is on.
    pub web: watch::Sender<bool>,
    /// Who may look at it.
    pub door: Arc<Door>,
    /// What was counted where programs look on.
    pub listeners: Listeners,
    /// Who else has the shared addresses.
    pub conflicts: watch::Sender<Picture>,
    /// What the control socket has counted.
    pub commanded: Counted,
    /// What is known of this node's starts.
    pub history: Arc<HistoryFile>,
    /// The configuration file.
    pub path: PathBuf,
    /// The program, for its replacement.
    pub program: Program,
    /// What a program that continues this one is left.
    pub control: Heirloom,
    /// What this program continues.
    pub replaced: Option<Replaced>,
    /// What goes with the agent when it ends, after a reset.
    pub doomed: Doomed,
}

/// Locks a mutex; a panic elsewhere while it was held does not make the data unreadable.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The configuration in force.
    pub fn config(&self) -> Config {
        lock(&self.loaded).config.clone()
    }

    pub(super) fn build_status(&self) -> Status {
        let config = self.config();
        let published = self.election.published();
        let snapshot = &published.election;
        let alarms = self.alarms(&published);
        let role = role(snapshot.role);
        let configuration = self.replica.status();
        let same = self.replica.in_sync(confsync::has_channel(self));
        let partner = (config.node.mode != Mode::Off).then(|| Partner {
            name: self
                .replication
                .as_ref()
                .and_then(|replication| replication.published().sync.partner_name.clone()),
            ..partner(&config, snapshot, same)
        });
        Status {
            schema_version: SCHEMA_VERSION,
            node: NodeIdentity {
                name: config.node.name.clone(),
                mode: config.node.mode.into(),
            },
            role,
            since_seconds: snapshot.since.as_secs_f64(),
            square: own_square(snapshot),
            term: snapshot.term,
            config_generation: configuration.version.generation,
            configuration: Some(configuration),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            replaced: self.replaced.clone(),
            partner,
            interfaces: self.interfaces(&config, snapshot),
            replication: self.replication_status(),
            records: self.replication.as_ref().map(|replication| {
                let published = replication.published();
                model::Records {
                    table: published.sync.records.clone(),
                    clients: published.desk,
                }
            }),
            connections: self.table_size(&config),
            alarms,
        }
    }

    /// Brings the alarms up to date; those that stand.
    pub(super) fn alarms(&self, published: &election::Published) -> Vec<model::Alarm> {
        let replication = self.replication.as_ref();
        alarms::current(&self.board, published, replication, &self.events)
    }

    fn interfaces(&self, config: &Config, snapshot: &carp::Snapshot) -> Vec<InterfaceStatus> {
        let order: Vec<&str> = config
            .node
            .interfaces
            .iter()
            .map(|interface| interface.name.as_str())
            .collect();
        let attachments = lock(&self.attachments).clone();
        let mut interfaces: Vec<InterfaceStatus> = lock(&self.bound)
            .iter()
            .map(|bound| InterfaceStatus {
                name: bound.interface.name.clone(),
                device: bound.interface.device.clone(),
                carrier: bound.link.carrier,
                xdp_mode: attachments
                    .iter()
                    .find(|attachment| attachment.ifindex == bound.link.ifindex)
                    .map_or(XdpMode::None, |attachment| match attachment.mode {
                        attach::XdpMode::Native | attach::XdpMode::Offloaded => XdpMode::Native,
                        attach::XdpMode::Generic => XdpMode::Generic,
                    }),
                shared: bound.shared.iter().map(ToString::to_string).collect(),
                virtual_mac: parts::virtual_mac(config, bound).map(frame::mac_text),
                gateway_reachable: snapshot
                    .links
                    .iter()
                    .find(|link| link.name == bound.interface.name)
                    .and_then(|link| link.gateway),
            })
            .collect();
        interfaces.sort_by_key(|found| order.iter().position(|name| **name == *found.name));
        interfaces
    }

    fn replication_status(&self) -> Replication {
        let Some(replication) = &self.replication else {
            return Replication::default();
        };
        let published = replication.published();
        Replication::of(&published.sync, published.apply_errors)
    }

    fn table_size(&self, config: &Config) -> TableSize {
        let census = self.keeper.census();
        let connections = parts::connections(config);
        TableSize {
            established: census.connections,
            embryonic: census.half_open,
            max: u64::from(connections.v4) + u64::from(connections.v6),
        }
    }

    fn page(&self, query: &ConnectionQuery) -> Result<ConnectionPage, DatapathError> {
        let names = Names::new(&self.config());
        let now = clock::now().as_nanos();
        let mut page = query.page();
        let mut cursor = Some(Cursor(query.from.unwrap_or_default()));
        let mut looked_at = 0;
        while let Some(from) = cursor {
            let scan = self.datapath.scan_conns(from, PIECE)?;
            let connections = scan.entries.iter().filter_map(|(key, conn)| {
                Connection::from_entry(key, conn, names.of(key).map(str::to_owned), now)
            });
            query.add(&mut page, connections);
            looked_at += scan.entries.len();
            cursor = scan.next;
            if query.is_full(&page, looked_at) {
                page.next = cursor.map(|cursor| cursor.0);
                break;
            }
        }
        Ok(page)
    }

    pub(super) fn service_list(&self) -> Result<Services, DatapathError> {
        let order: Vec<String> = self
            .config()
            .virtual_services
            .into_iter()
            .map(|service| service.name)
            .collect();
        let traffic = self.datapath.traffic()?;
        let judged = |key: &RealKey| self.verdicts.judge(key);
        let services = lock(&self.services).status(&traffic);
        let services = services.into_iter();
        let mut services: Vec<ServiceStatus> = services
            .map(|service| ServiceStatus::new(service, judged))
            .collect();
        services.sort_by_key(|found| {
            order
                .iter()
                .position(|name| *name == found.name)
                .unwrap_or(usize::MAX)
        });
        Ok(Services {
            schema_version: SCHEMA_VERSION,
            services,
        })
    }

    /// As [`Self::reload`], and tells the history who wanted it.
    pub(super) fn reload_for(&self, who: &str) -> Reply<Reloaded> {
        let reply = self.reload();
        self.tallies.reloaded(reply.is_ok());
        self.events.record(happened::reloaded(who, &reply));
        reply
    }

    /// Tells the data plane of the addresses of interfaces that were made anew.
    pub(super) fn tell_addresses(&self, bound: &[Bound]) -> Result<(), ApplyError> {
        let local = parts::local_addresses(&self.config(), bound);
        let mut services = lock(&self.services);
        services.set_addresses(local);
        services.set_mtu(parts::smallest_mtu(bound));
        services.apply(&*self.datapath)
    }

    /// Tells the data plane of the pair's keys, if they are other ones.
    pub(super) fn tell_pair(
        &self,
        config: &Config,
        keys: &ElectionKeys,
    ) -> Result<(), DatapathError> {
        // Held until all is done: an interface that is made anew meanwhile is told afterwards.
        let mut known = lock(&self.pair);
        let epoch = known.pair.own_epoch;
        let pair = parts::pair_tables(config, keys, epoch, &lock(&self.bound));
        if pair != *known {
            self.datapath.set_pair(&pair)?;
            *known = pair;
        }
        Ok(())
    }

    /// (Re)starts the health checks of these services.
    pub fn check_health(&self, config: &Config) {
        lock(&self.health).configure(health::targets(config));
    }

    /// Puts the nftables table in place for this configuration.
    pub fn guard(&self, config: &Config) {
        match Guard::new(config).install() {
            Ok(()) => self.board.clear(alarms::Kind::GuardMissing, "nftables"),
            Err(error) => {
                self.board
                    .raise(alarms::Kind::GuardMissing, "nftables", error.to_string());
            }
        }
    }

    pub(super) async fn request(&self, command: Command) -> Reply<()> {
        let (answer, answered) = oneshot::channel();
        let gone = || Refusal::new("the election does not answer", "look at the agent's log");
        if !self
            .election
            .send(election::Command::Operator(command, answer))
        {
            return Err(gone());
        }
        match answered.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(alarms::refused(refusal)),
            Err(_gone) => Err(gone()),
        }
    }
}

impl Handler for Shared {
    async fn status(&self) -> Reply<Status> {
        Ok(self.build_status())
    }

    async fn connections(&self, query: ConnectionQuery) -> Reply<ConnectionPage> {
        self.page(&query).map_err(|error| map_refusal(&error))
    }

    async fn counters(&self) -> Reply<Counters> {
        let values = self
            .datapath
            .counters()
            .map_err(|error| map_refusal(&error))?;
        Ok(Counters::from_values(&values))
    }

    async fn services(&self) -> Reply<Services> {
        self.service_list().map_err(|error| map_refusal(&error))
    }

    async fn failover(&self) -> Reply<Done> {
        Self::failover(self).await
    }

    async fn maintenance(&self, on: bool, force: bool) -> Reply<Done> {
        Self::maintenance(self, on, force).await
    }

    async fn resume(&self) -> Reply<Done> {
        Self::resume(self).await
    }

    async fn reload(self: Arc<Self>, who: Peer) -> Reply<Reloaded> {
        off_the_runtime(move || self.reload_for(&who.to_string())).await
    }

    async fn push(self: Arc<Self>) -> Reply<Done> {
        Self::push(&self).await
    }

    async fn show_config(&self) -> Reply<ConfigShown> {
        Ok(self.shown())
    }

    async fn stop(&self) -> Reply<Done> {
        self.request(Command::Stop).await?;
        Ok(Done::new("handing over and ending"))
    }

    async fn events(&self, query: EventQuery) -> Reply<EventPage> {
        let events = self.events.clone();
        let found = tokio::task::spawn_blocking(move || events.query(&query)).await;
        let problem = match found {
            Ok(Ok(page)) => return Ok(page),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(Refusal::new(
            format!("the event history cannot be read: {problem}"),
            "check the disk of node.state_dir",
        ))
    }

    async fn web(&self, request: WebRequest) -> Reply<Done> {
        match request {
            WebRequest::On => self.switch_web(true).await,
            WebRequest::Off => self.switch_web(false).await,
            request @ (WebRequest::AddUser { .. }
            | WebRequest::RemoveUser { .. }
            | WebRequest::AddToken { .. }
            | WebRequest::RemoveToken { .. }) => self.change_door(request).await,
        }
    }

    async fn pair(self: Arc<Self>, request: PairRequest) -> Reply<PairReply> {
        off_the_runtime(move || Self::pair(&self, &request)).await
    }

    fn counted(&self) -> &Counted {
        &self.commanded
    }

    fn audit(&self, who: &Peer, deed: &str, refused: Option<&Refusal>) {
        self.events.record(happened::asked_for(who, deed, refused));
    }

    async fn record(&self, path: PathBuf, seconds: u32) -> Reply<Done> {
        Self::record(self, &path, seconds).await
    }

    async fn capture(&self, request: CaptureRequest) -> Reply<Captured> {
        let devices = lock(&self.bound)
            .iter()
            .map(|bound| (bound.link.ifindex, bound.link.device.clone()))
            .collect();
        self.capture.request(request, &devices)
    }

    async fn trace(&self, request: TraceRequest) -> Reply<Trace> {
        Self::trace(self, request).await
    }

    async fn records(&self, request: RecordsRequest) -> Reply<RecordsReply> {
        let replication = self.replication.as_ref().ok_or_else(|| {
            Refusal::new(
                "this node replicates nothing, so it keeps no records",
                "set `node.mode` to first or second and `ha.l4_connection_updates` to true",
            )
        })?;
        let done = api::carry_out(replication.records(), request).await;
        done.map_err(|denied| Refusal::new(denied.to_string(), denied.remedy()))
    }

    async fn reexec(&self) -> Reply<Done> {
        Err(Self::reexec(self).await)
    }
}

/// Does what may wait for a disk where nobody else waits for it.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Reply<T> + Send + 'static,
) -> Reply<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Refusal::new(panic.to_string(), "look at the agent's log")))
}

pub(super) fn map_refusal(error: &DatapathError) -> Refusal {
    Refusal::new(
        error.to_string(),
        "see whether the pins under node.bpf_dir are still there",
    )
}

const fn role(role: Role) -> model::Role {
    match role {
        Role::Off => model::Role::Off,
        Role::Init => model::Role::Init,
        Role::Standby => model::Role::Standby,
        Role::Active => model::Role::Active,
        Role::Pacified => model::Role::Pacified,
        Role::Maintenance => model::Role::Maintenance,
    }
}

const fn wire_role(role: WireRole) -> model::Role {
    match role {
        WireRole::Init => model::Role::Init,
        WireRole::Standby => model::Role::Standby,
        WireRole::Active => model::Role::Active,
        WireRole::Pacified => model::Role::Pacified,
        WireRole::Maintenance => model::Role::Maintenance,
    }
}

fn partner(config: &Config, snapshot: &carp::Snapshot, same: bool) -> Partner {
    let found = snapshot.partner.as_ref();
    Partner {
        name: None,
        role: found.map(|partner| wire_role(partner.role)),
        square: partner_square(snapshot),
        heard: snapshot
            .links
            .iter()
            .map(|link| (link.name.clone(), link.heard))
            .collect(),
        config_in_sync: same
            && found.is_some_and(|partner| partner.generation == parts::digest(config)),
    }
}

fn own_square(snapshot: &carp::Snapshot) -> Square {
    match snapshot.role {
        Role::Off => Square::None,
        Role::Pacified | Role::Maintenance => Square::Blue,
        Role::Active if both_active(snapshot) => Square::Grey,
        Role::Active | Role::Standby => Square::Green,
        Role::Init => Square::Yellow,
    }
}

fn partner_square(snapshot: &carp::Snapshot) -> Square {
    let heard = snapshot.links.iter().any(|link| link.heard);
    match &snapshot.partner {
        Some(partner) if heard => match wire_role(partner.role) {
            model::Role::Pacified | model::Role::Maintenance => Square::Blue,
            model::Role::Active if both_active(snapshot) => Square::Grey,
            model::Role::Active => Square::Green,
            model::Role::Standby if partner.ready => Square::Green,
            model::Role::Standby | model::Role::Init | model::Role::Off => Square::Yellow,
        },
        Some(_) | None => Square::Red,
    }
}

fn both_active(snapshot: &carp::Snapshot) -> bool {
    let mut alarms = snapshot.alarms.iter();
    alarms.any(|alarm| alarm.alarm == carp::Alarm::BothActive)
}
