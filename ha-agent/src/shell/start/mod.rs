//! Bringing a node up: from a configuration to running threads, in an order in which a failure at any
//! step leaves nothing behind that acts.

mod error;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ha_common::control::Config as Steering;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::config::model::{Config, Mode, Pacify};
use crate::config::{Loaded, Secrets};
use crate::control::{Counted, Heirloom};
use crate::datapath::load::{self, Options, Pins};
use crate::datapath::{self, Cursor, Datapath, DatapathError, Settings};
use crate::events::Recorder;
use crate::health::verdicts::{Verdict, Verdicts};
use crate::health::{self, HealthChecks, Report};
use crate::proto::carp::{Election, ElectionConfig, Role};
use crate::proto::pacify::Start;
use crate::proto::rng::Rng;
use crate::proto::sync::{Input, Record, Sync};
use crate::services::ServiceTable;
use crate::services::expiry::Keeper;
use crate::shell::addresses;
use crate::shell::agent::{Shared, lock};
use crate::shell::capture::Capture;
use crate::shell::confsync::{Replica, Store};
use crate::shell::history::HistoryFile;
use crate::shell::hooks::Hooks;
use crate::shell::netlink::{Changes, Netlink};
use crate::shell::observe::Listeners;
use crate::shell::parts::{self, Bound};
use crate::shell::records::{self, DeskParts, clients};
use crate::shell::reexec::{Estate, Program};
use crate::shell::tallies::Tallies;
use crate::shell::terms::TermStore;
use crate::shell::{
    alarms, clock, conflicts, election, happened, page, replication, sysctl, virtual_mac,
};
use crate::status::model::Replaced;
use crate::web::page::Door;
pub use error::StartError;

/// Events of the election that may wait to be logged.
const EVENTS: usize = 256;
/// Entries read at a time when looking at what a previous agent left.
const PIECE: usize = 4096;

/// How long a start that failed waits for the disk to take its event.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// A running node.
pub struct Started {
    /// What commands act on.
    pub shared: Arc<Shared>,
    /// What the election says.
    pub events: mpsc::Receiver<election::Event>,
    /// What the kernel says.
    pub changes: Changes,
    /// What the health checks say.
    pub reports: mpsc::Receiver<Report>,
    /// The reservation of terms.
    pub terms: TermStore,
    /// The keeper of the shared addresses; ends after the election.
    pub addresses: tokio::task::JoinHandle<()>,
    /// The threads, to be waited for.
    pub threads: Vec<JoinHandle<()>>,
    /// Readable when fragments are held.
    pub held: OwnedFd,
    /// What a clean stop removes from the kernel.
    pub pins: Pins,
}

/// How a node starts.
pub struct Beginning {
    /// The configuration file.
    pub path: PathBuf,
    /// What is in it.
    pub loaded: Loaded,
    /// What it names.
    pub secrets: Secrets,
    /// This is no start, but the replacement of a running agent.
    pub replaces: bool,
    /// What it left, if that can be used.
    pub estate: Option<Estate>,
    /// What a program that continues this one is left.
    pub control: Heirloom,
}

/// Starts everything; the gate stays closed until the election opens it, or as an agent left it
/// that this one continues.
pub async fn start(beginning: Beginning) -> Result<Started, StartError> {
    let config = &beginning.loaded.config;
    let history = HistoryFile::open(&config.node.state_dir).map_err(state_error(config))?;
    let history = Arc::new(history);
    let limit = if config.node.mode == Mode::Off {
        Pacify {
            restarts: 0,
            ..config.ha.pacify
        }
    } else {
        config.ha.pacify
    };
    let kind = (!beginning.replaces).then(|| history.start(limit));
    let events = Recorder::start(&config.node.state_dir).map_err(state_error(config))?;
    events.record(happened::started(kind));
    let started = Box::pin(start_with(beginning, &history, kind, events.clone())).await;
    if let Err(error) = &started {
        // It ends in order, however often.
        history.stop();
        events.record(happened::not_started(error));
        events.finish(FINISH_MAX);
    }
    started
}

fn state_error(config: &Config) -> impl Fn(io::Error) -> StartError {
    let path = config.node.state_dir.display().to_string();
    move |source| StartError::State {
        path: path.clone(),
        source,
    }
}

async fn start_with(
    beginning: Beginning,
    history: &Arc<HistoryFile>,
    kind: Option<Start>,
    events: Recorder,
) -> Result<Started, StartError> {
    let Beginning {
        path,
        loaded,
        secrets,
        replaces: _,
        estate,
        control,
    } = beginning;
    let config = loaded.config.clone();
    let (netlink, changes) = Netlink::connect().map_err(StartError::Netlink)?;
    let bound = bind(&netlink, &config).await?;
    sysctl::prepare(
        bound
            .iter()
            .filter(|b| !b.interface.is_unnumbered())
            .map(|b| b.interface.device.as_str()),
    )?;
    let state = state_error(&config);
    let terms = TermStore::open(&config.node.state_dir).map_err(&state)?;
    let versions = Store::open(&config.node.state_dir).map_err(&state)?;
    let replica = Replica::new(&loaded, &secrets.keys, versions);
    let first_term = terms.load().map_err(&state)?;

    let (machine, estate) = election_machine(
        parts::election_config(&config, &bound, &history.known(), kind),
        &secrets,
        first_term,
        estate,
    )?;
    let plane = load::load(&Options {
        bpf_dir: config.node.bpf_dir.clone(),
        connections: parts::connections(&config),
        devices: bound
            .iter()
            .filter(|b| !b.interface.is_unnumbered())
            .map(parts::device)
            .collect(),
        continued: estate.is_some(),
    })?;
    let pins = plane.pins.clone();
    let taken_over = plane
        .attachments
        .iter()
        .any(|attachment| attachment.taken_over);
    let brought_up = bring_up(
        path,
        loaded,
        &secrets,
        plane,
        netlink,
        changes,
        bound,
        terms,
        replica,
        machine,
        estate,
        control,
        Arc::clone(history),
        events,
    )
    .await;
    if brought_up.is_err() && !taken_over {
        // What this start made goes with it; what an earlier agent left is the next start's.
        if let Err(error) = pins.remove() {
            warn!(%error, "pins not removed");
        }
    }
    brought_up
}

/// The election, new or continued; with it what else a replaced agent left, if the election continues.
fn election_machine(
    settings: ElectionConfig,
    secrets: &Secrets,
    first_term: u64,
    estate: Option<Estate>,
) -> Result<(Election, Option<Estate>), StartError> {
    let keys = parts::election_keys(secrets);
    if let Some(estate) = estate {
        let parked = estate.election.clone();
        let now = clock::now();
        match Election::resume(
            settings.clone(),
            keys.clone(),
            rng()?,
            first_term,
            parked,
            now,
        ) {
            Ok(machine) => return Ok((machine, Some(estate))),
            Err(error) => {
                warn!(%error, "not continued where the replaced agent was; starting afresh");
            }
        }
    }
    let machine = Election::new(settings, keys, rng()?, first_term, clock::now());
    Ok((machine, None))
}

/// The rest of [`start`], with the data plane in the kernel.
#[expect(
    clippy::too_many_arguments,
    reason = "one caller, one step of one sequence"
)]
async fn bring_up(
    path: PathBuf,
    loaded: Loaded,
    secrets: &Secrets,
    plane: load::Loaded,
    netlink: Netlink,
    changes: Changes,
    mut bound: Vec<Bound>,
    terms: TermStore,
    replica: Replica,
    machine: Election,
    mut estate: Option<Estate>,
    control: Heirloom,
    history: Arc<HistoryFile>,
    happened: Recorder,
) -> Result<Started, StartError> {
    let config = loaded.config.clone();
    for attachment in &plane.attachments {
        if attachment.mode == datapath::attach::XdpMode::Generic {
            warn!(
                device = attachment.device,
                "no native XDP in this driver: generic mode, slow"
            );
        }
        info!(
            device = attachment.device,
            mode = attachment.mode.as_str(),
            taken_over = attachment.taken_over,
            "data plane attached"
        );
    }

    // As they are with the program attached: another program later means that somebody changed it.
    for bound in &mut bound {
        let link = netlink.link(&bound.interface.device).await;
        if let Some(link) = link.map_err(StartError::Netlink)? {
            bound.link = link;
        }
    }

    let on = parts::shared_on(&config, &bound);
    for bound in &bound {
        virtual_mac::register(&netlink, &config, bound).await;
    }
    let holds = estate
        .as_ref()
        .is_some_and(|estate| estate.election.gate().is_some());
    if !holds {
        let stale = addresses::remove_stale(&netlink, &parts::shared_anywhere(&bound))
            .await
            .map_err(StartError::Netlink)?;
        for address in stale {
            info!(%address, "shared address left by a previous agent removed");
        }
    }

    let plane_maps = Arc::new(plane.datapath);
    let inspect = Arc::clone(&plane_maps);
    let map: Arc<dyn Datapath> = plane_maps;
    let replicated = config.ha.l4_connection_updates && config.node.mode != Mode::Off;
    let steering = Steering {
        emit_events: u32::from(replicated),
        ..parts::steering(&config)
    };
    let settings = Arc::new(Settings::new(Arc::clone(&map), steering)?);
    let mut services = ServiceTable::adopt(secrets.keys.hash_seed(), &*map)?;
    services.configure(&config.virtual_services)?;
    let local = parts::local_addresses(&config, &bound);
    services.set_addresses(local);
    services.set_mtu(parts::smallest_mtu(&bound));
    let failures = estate
        .as_ref()
        .map(|estate| estate.failures.clone())
        .unwrap_or_default();
    let mut found = Vec::new();
    for target in health::targets(&config) {
        if let Some(failure) = failures.get(&target.address) {
            services.set_health(&target.key, false);
            let failure = Some(failure.clone());
            found.push((target.key, Verdict { failure }));
        }
    }
    let verdicts = Arc::new(Verdicts::knowing(found));
    services.apply(&*map)?;
    sysctl::forward4()?;
    if config.virtual_services.iter().any(|s| s.address.is_ipv6()) {
        sysctl::forward6()?;
    }
    let services = Arc::new(Mutex::new(services));

    let mut threads = Vec::new();
    let (left, ago) = estate.as_mut().map_or_else(Default::default, |estate| {
        let ago = clock::now().since(estate.at);
        (std::mem::take(&mut estate.records), ago)
    });

    // The replication thread needs the election's handle to report readiness, and the election needs
    // the replication's to report roles: the cell is filled once both are there.
    let ready_cell: Arc<std::sync::OnceLock<election::Handle>> = Arc::default();
    let (replication, watcher) = if replicated {
        let channel = parts::channel(&config, &bound);
        let failed = |source| StartError::Replication {
            interface: config.ha.multicast_interface.clone(),
            source,
        };
        let channel = channel.ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
        let mut sync = Sync::new(
            parts::sync_config(&config),
            secrets.keys.clone(),
            random().ok_or(StartError::Random)?,
            rng()?,
            clock::now(),
        );
        let mut actions = Vec::new();
        sync.handle_input(clock::now(), Input::Load(leftovers(&*map)?), &mut actions);
        sync.set_quotas(parts::quotas(&config));
        for (namespace, records) in left {
            for (put, stamp) in records::api::inherit(&namespace, records, ago) {
                sync.load_record(clock::now(), put, stamp);
            }
        }
        let cell = Arc::clone(&ready_cell);
        let desk = DeskParts {
            datapath: Arc::clone(&map),
            services: Arc::clone(&services),
            verdicts: Arc::clone(&verdicts),
            persistence: config.ha.persistence_updates,
        };
        let parts = replication::Parts {
            sync,
            socket: channel.open().map_err(failed)?,
            channel,
            ring: plane.events,
            datapath: Arc::clone(&map),
            services: Arc::clone(&services),
            ready: Box::new(move |ready| {
                cell.get()
                    .is_some_and(|election| election.send(election::Command::Ready(ready)))
            }),
        };
        let (handle, watcher, thread) = replication::spawn(parts, desk).map_err(failed)?;
        threads.push(thread);
        if config.ha.persistence_updates {
            let walk = clients::Parts {
                datapath: Arc::clone(&map),
                services: Arc::clone(&services),
                records: handle.records().clone(),
                standing: handle.standing(),
            };
            threads.push(clients::spawn(walk).map_err(failed)?);
        }
        (Some(handle), Some(watcher))
    } else {
        (None, None)
    };
    let keeper = Keeper::spawn(
        Arc::clone(&settings),
        Arc::clone(&services),
        parts::connections(&config),
        watcher,
    )
    .map_err(StartError::Election)?;

    let (reports_out, reports) = mpsc::channel(EVENTS);
    let (events_out, events) = mpsc::channel(EVENTS);
    let (wishes, wished) = watch::channel(election::Addresses::default());
    let keys = parts::election_keys(secrets);
    let pair = parts::pair_tables(&config, &keys, machine.epoch(), &bound);
    map.set_pair(&pair)?;
    let keeper = Arc::new(keeper);
    // Before the node may first be active. Nobody waits for answers: a service at an address that another
    // host has, too, is better than none, and the alarm tells.
    conflicts::probe(&bound);
    let (roles_to, roles_keeper) = (replication.clone(), Arc::clone(&keeper));
    let (election, thread) = election::spawn(election::Parts {
        election: machine,
        keys,
        links: parts::links(&config, &bound),
        timing: (config.ha.advertisement_interval, config.ha.timeout),
        gate: plane.gate,
        ring: plane.carp,
        events: events_out,
        addresses: wishes,
        roles: Box::new(move |role| {
            roles_keeper.set_active(role.active.then(clock::now));
            roles_to
                .as_ref()
                .is_none_or(|replication| replication.role(role))
        }),
    })
    .map_err(StartError::Election)?;
    threads.push(thread);
    // Set once, just made: it cannot be taken.
    let _first = ready_cell.set(election.clone());
    if !replicated {
        // Nothing to wait for: the table is as complete as it will be.
        election.send(election::Command::Ready(true));
    }
    for (index, bound) in bound
        .iter()
        .filter(|bound| bound.interface.ha_checks)
        .enumerate()
    {
        election.send(election::Command::Carrier {
            link: index,
            up: bound.link.carrier,
        });
    }

    let (lifetime, lifetimes) = watch::channel(addresses::lifetime(&config));
    let (shared_on, interfaces) = watch::channel(on);
    let addresses = tokio::spawn(addresses::keep(
        netlink.clone(),
        interfaces,
        lifetimes,
        wished,
    ));
    let replaced = estate.map(|estate| Replaced {
        version: estate.version,
        pause_ms: clock::now().since(estate.at).as_secs_f64() * 1e3,
    });
    if let Some(replaced) = &replaced {
        info!(
            version = replaced.version,
            pause_ms = replaced.pause_ms,
            "continued where the replaced agent was"
        );
    }
    let shared = Arc::new(Shared {
        loaded: Mutex::new(loaded),
        bound: Mutex::new(bound),
        attachments: Mutex::new(plane.attachments),
        attacher: plane.attacher,
        shared_on,
        lifetime,
        netlink,
        datapath: map,
        inspect,
        capture: Capture::new(Arc::clone(&settings)),
        settings,
        pair: Mutex::new(pair),
        services,
        keeper,
        election,
        replication,
        health: Mutex::new(
            HealthChecks::new(reports_out, rng()?).knowing(failures.keys().copied().collect()),
        ),
        verdicts,
        replica: Arc::new(replica),
        board: alarms::Board::new(happened.clone()),
        events: happened,
        hooks: Hooks::start(&config.node),
        web: watch::Sender::new(page::is_on(&config.node.state_dir)),
        door: Arc::new(Door::new(&config.node.state_dir)),
        tallies: Tallies::start(),
        listeners: Listeners::default(),
        conflicts: watch::Sender::default(),
        commanded: Counted::default(),
        history,
        path,
        program: Program::own().map_err(StartError::Program)?,
        control,
        replaced,
        doomed: watch::Sender::default(),
    });
    shared.guard(&config);
    virtual_mac::readdress(&config, &lock(&shared.bound));
    shared.history.tell(&shared.board);
    let role = shared.election.published().election.role;
    shared
        .replica
        .set_active(matches!(role, Role::Active | Role::Off));
    Ok(Started {
        shared,
        events,
        changes,
        reports,
        terms,
        addresses,
        threads,
        held: plane.held,
        pins: plane.pins,
    })
}

async fn bind(netlink: &Netlink, config: &Config) -> Result<Vec<Bound>, StartError> {
    let mut bound = Vec::new();
    for interface in &config.node.interfaces {
        let link = netlink
            .link(&interface.device)
            .await
            .map_err(StartError::Netlink)?
            .ok_or_else(|| StartError::NoDevice {
                name: interface.name.clone(),
                device: interface.device.clone(),
            })?;
        let found = netlink
            .addresses(link.ifindex)
            .await
            .map_err(StartError::Netlink)?;
        if let Some(address) = parts::missing_address(interface, &found) {
            return Err(StartError::NoAddress {
                name: interface.name.clone(),
                device: interface.device.clone(),
                address: address.to_string(),
            });
        }
        let shared = config
            .shared_addresses
            .iter()
            .filter(|shared| shared.interface == interface.name);
        let shared = shared.map(|shared| shared.address).collect();
        bound.push(Bound {
            interface: interface.clone(),
            link,
            shared,
        });
    }
    // The election numbers its links in this order.
    bound.sort_by_key(|bound| !bound.interface.ha_checks);
    Ok(bound)
}

/// Connections that a previous agent of this node left in the map.
fn leftovers(datapath: &dyn Datapath) -> Result<Vec<Record>, DatapathError> {
    let mut records = Vec::new();
    let mut cursor = Some(Cursor::default());
    while let Some(from) = cursor {
        let scan = datapath.scan_conns(from, PIECE)?;
        let forward = scan.entries.iter().filter(|(_, conn)| !conn.is_reverse());
        records.extend(forward.map(|(key, conn)| Record::from_entry(key, conn)));
        cursor = scan.next;
    }
    if !records.is_empty() {
        info!(
            connections = records.len(),
            "connections of a previous agent found"
        );
    }
    Ok(records)
}

fn rng() -> Result<Rng, StartError> {
    random()
        .map(u64::from_ne_bytes)
        .map(Rng::new)
        .ok_or(StartError::Random)
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes)
}
