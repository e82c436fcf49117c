//! Health checks of real servers.
//!
//! Each checked server has a task that asks it now and then ([`check`]); [`machine`] judges the results and
//! changes of the judgement are reported over a channel. Checks leave from the node's own address on
//! the interface that leads to the server, never from a shared one, so that they work on a standby
//! and the answers are told apart from clients' connections.

mod check;
pub mod machine;
pub mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{self, MissedTickBehavior};

use crate::config::model;
use crate::echo::Source;
use crate::proto::rng::Rng;
use crate::services::RealKey;
use crate::telemetry::EVENT;
use machine::Judge;

/// Checks under way at the same time.
const CONCURRENT: usize = 64;
/// First checks are spread over at most this time.
const SPREAD_MAX: Duration = Duration::from_secs(1);

/// A server to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which real server of which service.
    pub key: RealKey,
    /// Address and port of the real server; port 0 if it has several.
    pub address: SocketAddr,
    /// Where to ask from; none = as the kernel routes.
    pub source: Option<Source>,
    /// How often and how strictly.
    pub health: model::Health,
}

/// A judgement that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which real server of which service.
    pub key: RealKey,
    /// Its address and port.
    pub address: SocketAddr,
    /// Whether it is up.
    pub up: bool,
    /// What the last check that failed said; none if it is up.
    pub failure: Option<String>,
}

/// The checks of all servers.
pub struct HealthChecks {
    reports: mpsc::Sender<Report>,
    permits: Arc<Semaphore>,
    rng: Rng,
    /// Servers that were down when a program before this one was replaced.
    down: BTreeSet<SocketAddr>,
    running: BTreeMap<RealKey, Running>,
}

struct Running {
    target: Target,
    up: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Target {
    /// Where it is asked.
    fn asked(&self) -> SocketAddr {
        let port = self.health.port.unwrap_or_else(|| self.address.port());
        SocketAddr::new(self.address.ip(), port)
    }
}

/// Everything a configuration wants checked.
pub fn targets(config: &model::Config) -> Vec<Target> {
    let mut targets = Vec::new();
    for service in &config.virtual_services {
        let Some(health) = &service.health else {
            continue;
        };
        for server in service.all_servers() {
            let port = service.port_of(server).unwrap_or(0);
            targets.push(Target {
                key: RealKey::new(service, server),
                address: SocketAddr::new(server.address, port),
                source: source(&config.node.interfaces, server.address),
                health: health.clone(),
            });
        }
    }
    targets
}

fn source(interfaces: &[model::Interface], server: IpAddr) -> Option<Source> {
    interfaces.iter().find_map(|interface| {
        let mut own = interface.addresses.iter();
        let own = own.find(|own| own.contains(server))?;
        Some(Source {
            address: own.address,
            device: interface.device.clone(),
        })
    })
}

impl HealthChecks {
    /// No checks yet; changed judgements go to `reports`. `rng` spreads the first checks.
    pub fn new(reports: mpsc::Sender<Report>, rng: Rng) -> Self {
        Self {
            reports,
            permits: Arc::new(Semaphore::new(CONCURRENT)),
            rng,
            down: BTreeSet::new(),
            running: BTreeMap::new(),
        }
    }

    /// The same, but these servers count as down until their checks say otherwise.
    #[must_use]
    pub fn knowing(mut self, down: BTreeSet<SocketAddr>) -> Self {
        self.down = down;
        self
    }

    /// Checks these servers from now on, within a tokio runtime. Servers whose checks are unchanged
    /// are left alone; a server whose checks have changed keeps its judgement; a new one counts as up.
    pub fn configure(&mut self, targets: Vec<Target>) {
        let mut before = std::mem::take(&mut self.running);
        for target in targets {
            let running = match before.remove(&target.key) {
                Some(same) if same.target == target => same,
                Some(other) => {
                    other.task.abort();
                    self.start(target, Arc::clone(&other.up))
                }
                None => {
                    let up = !self.down.remove(&target.address);
                    self.start(target, Arc::new(AtomicBool::new(up)))
                }
            };
            self.running.insert(running.target.key, running);
        }
        for gone in before.into_values() {
            gone.task.abort();
        }
    }

    fn start(&mut self, target: Target, up: Arc<AtomicBool>) -> Running {
        let spread = target.health.interval.min(SPREAD_MAX).as_nanos();
        let delay = Duration::from_nanos(self.rng.below(u64::try_from(spread).unwrap_or(u64::MAX)));
        let task = tokio::spawn(keep_checking(
            target.clone(),
            delay,
            Arc::clone(&up),
            Arc::clone(&self.permits),
            self.reports.clone(),
            Rng::new(self.rng.next_u64()),
        ));
        Running { target, up, task }
    }
}

impl Drop for HealthChecks {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.task.abort();
        }
    }
}

/// Checks one server until nobody listens any more.
async fn keep_checking(
    target: Target,
    delay: Duration,
    up: Arc<AtomicBool>,
    permits: Arc<Semaphore>,
    reports: mpsc::Sender<Report>,
    mut nonces: Rng,
) {
    let health = &target.health;
    let asked = target.asked();
    let mut judge = Judge::new(health.rise, health.fall, up.load(Ordering::Relaxed));
    let mut ticks = time::interval_at(time::Instant::now() + delay, health.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = {
            let Ok(_permit) = permits.acquire().await else {
                return;
            };
            let once = check::check(
                &health.check,
                asked,
                target.source.as_ref(),
                nonces.next_u64(),
            );
            time::timeout(health.timeout, once).await
        };
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_elapsed) => Some("no answer in time".to_owned()),
        };
        tracing::trace!(server = %target.address, failure, "health check");
        let Some(now_up) = judge.result(failure.is_none()) else {
            continue;
        };
        up.store(now_up, Ordering::Relaxed);
        if let Some(failure) = &failure {
            tracing::warn!(target: EVENT, server = %target.address, failure, "real server is down");
        } else {
            tracing::info!(target: EVENT, server = %target.address, "real server is up");
        }
        let report = Report {
            key: target.key,
            address: target.address,
            up: now_up,
            failure,
        };
        if reports.send(report).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::tests::service;
    use tokio::net::TcpListener;

    fn target(address: SocketAddr) -> Target {
        let mut service = service(80, &[(1, 1)]);
        service.address = address.ip();
        service.real_servers[0].address = address.ip();
        service.real_servers[0].port = Some(address.port());
        Target {
            key: RealKey::new(&service, &service.real_servers[0]),
            address,
            source: None,
            health: model::Health {
                check: model::Check::Tcp,
                port: None,
                interval: Duration::from_millis(20),
                timeout: Duration::from_secs(2),
                rise: 2,
                fall: 2,
            },
        }
    }

    async fn next(reports: &mut mpsc::Receiver<Report>) -> Report {
        time::timeout(Duration::from_secs(20), reports.recv())
            .await
            .expect("a report")
            .expect("the checks run")
    }

    #[tokio::test]
    async fn follows_a_server_down_and_up() {
        follows("127.0.0.1:0").await;
    }

    #[tokio::test]
    async fn follows_an_ipv6_server_down_and_up() {
        follows("[::1]:0").await;
    }

    async fn follows(listen: &str) {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut reports) = mpsc::channel(8);
        let mut checks = HealthChecks::new(sender, Rng::new(1));
        checks.configure(vec![target(address)]);
        let quiet = time::timeout(Duration::from_millis(200), reports.recv()).await;
        assert!(quiet.is_err(), "a new server counts as up");

        drop(listener);
        let key = target(address).key;
        let report = next(&mut reports).await;
        assert_eq!((report.key, report.up), (key, false));
        assert!(report.failure.is_some_and(|failure| !failure.is_empty()));
        // Changed checks keep the judgement: the only news is that the server comes back.
        let mut stricter = target(address);
        stricter.health.rise = 3;
        checks.configure(vec![stricter]);
        let _listener = TcpListener::bind(address).await.unwrap();
        let report = next(&mut reports).await;
        assert_eq!((report.key, report.up, report.failure), (key, true, None));

        checks.configure(Vec::new());
        let quiet = time::timeout(Duration::from_millis(100), reports.recv()).await;
        assert!(quiet.is_err(), "nobody is checked any more");
    }

    #[test]
    fn checks_leave_from_the_own_address_next_to_the_server() {
        let interface = |name: &str, own: [&str; 2]| model::Interface {
            name: name.to_owned(),
            device: format!("dev-{name}"),
            addresses: own
                .map(|own| model::Cidr {
                    address: own.parse().unwrap(),
                    prefix: if own.contains(':') { 64 } else { 24 },
                })
                .to_vec(),
            partners: Vec::new(),
            ha_checks: true,
            gateways: Vec::new(),
        };
        let interfaces = [
            interface("front", ["10.0.0.11", "2001:db8::11"]),
            interface("back", ["10.1.0.11", "fd00:1::11"]),
        ];
        for (server, own) in [
            ("10.1.0.21", Some("10.1.0.11")),
            ("fd00:1::21", Some("fd00:1::11")),
            ("10.9.0.21", None),
            ("fd00:9::21", None),
        ] {
            let found = source(&interfaces, server.parse().unwrap());
            let wanted = own.map(|own| Source {
                address: own.parse().unwrap(),
                device: "dev-back".to_owned(),
            });
            assert_eq!(found, wanted, "{server}");
        }
    }

    #[test]
    fn the_last_resort_is_checked_and_services_with_many_ports_at_the_given_one() {
        let mut config = model::Config::parse(
            std::path::Path::new("f"),
            b"version: 1
node: { name: lb, mode: off, interfaces: [{ name: front, device: eth0, address: 10.0.0.11/24 }] }
shared_addresses: [{ interface: front, address: 10.0.0.100/24 }]
"
            .to_vec(),
        )
        .unwrap()
        .config;
        let mut many = service(80, &[(21, 1)]);
        many.ports = model::Ports::Range {
            first: 8000,
            last: 8010,
        };
        many.real_servers[0].port = None;
        if let Some(health) = &mut many.health {
            health.port = Some(8005);
        }
        many.last_resort = Some(model::RealServer {
            address: "10.1.0.99".parse().unwrap(),
            ..many.real_servers[0]
        });
        config.virtual_services = vec![many];
        let targets = targets(&config);
        let addresses: Vec<String> = targets.iter().map(|t| t.address.to_string()).collect();
        assert_eq!(addresses, ["10.1.0.21:0", "10.1.0.99:0"]);
        let ports = targets.iter().map(|target| target.asked().port());
        assert_eq!(ports.collect::<Vec<_>>(), [8005, 8005]);
    }
}
