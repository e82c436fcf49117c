//! The node as programs see it that look on: where metrics and health come from, and who serves them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::agent::{Shared, lock};
use super::alarms::Kind;
use super::{clock, page, parts};
use crate::status::model::Counters;
use crate::web::listen::{self, Counted, Limits, Offer};
use crate::web::metrics::{Listener, Sources};
use crate::web::{self, Health, Watched};

/// What those who look on may take: a scrape every few seconds, and the probes of some balancers.
const LIMITS: Limits = Limits {
    clients: 32,
    life: Duration::from_mins(2),
};
/// How often an address is tried again at which nothing could be opened.
const RETRY: Duration = Duration::from_secs(5);

/// What was counted at each listener, by its name.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<Vec<(String, Arc<Counted>)>>);

impl Listeners {
    /// The counters of a listener; the same when it is opened again.
    fn add(&self, name: String) -> Arc<Counted> {
        let mut all = lock(&self.0);
        if let Some((_, counted)) = all.iter().find(|(known, _)| *known == name) {
            return Arc::clone(counted);
        }
        let counted = Arc::new(Counted::default());
        all.push((name, Arc::clone(&counted)));
        counted
    }

    fn read(&self) -> Vec<Listener> {
        let read = |(name, counted): &(String, Arc<Counted>)| {
            let [connections, displaced, turned_away] = counted.read();
            Listener {
                name: name.clone(),
                connections,
                displaced,
                turned_away,
            }
        };
        lock(&self.0).iter().map(read).collect()
    }
}

/// Those who serve; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Observers {
    _metrics: JoinSet<()>,
    _page: Option<page::Served>,
}

/// Serves metrics, health and the web page where the configuration says so.
pub(super) fn serve(shared: &Arc<Shared>) -> Observers {
    let mut metrics = JoinSet::new();
    let config = shared.config();
    for address in &config.node.metrics {
        let offer = Offer {
            router: web::router(shared),
            tls: None,
            limits: LIMITS,
            admits: listen::everywhere,
        };
        metrics.spawn(keep(Arc::clone(shared), *address, offer));
    }
    let page = config.node.web.is_some().then(|| page::serve(shared));
    Observers {
        _metrics: metrics,
        _page: page.flatten(),
    }
}

/// A node that nobody can look at is better than none, so what cannot be opened is tried again.
pub(super) async fn keep<A: Fn(IpAddr) -> bool + Clone>(
    shared: Arc<Shared>,
    address: SocketAddr,
    offer: Offer<A>,
) {
    let name = address.to_string();
    let counted = shared.listeners.add(name.clone());
    loop {
        match listen::bind(address) {
            Ok(listener) => {
                shared.board.clear(Kind::NotListening, &name);
                listen::serve(listener, offer.clone(), &counted).await;
            }
            Err(error) => {
                let evidence = format!("{name}: {error}");
                shared.board.raise(Kind::NotListening, &name, evidence);
            }
        }
        sleep(RETRY).await;
    }
}

impl Watched for Shared {
    fn health(&self) -> Health {
        Health::of(&self.election.published(), clock::now())
    }

    fn metrics(&self) -> Result<String, String> {
        let status = self.build_status();
        let services = self.service_list().map_err(|error| error.to_string())?;
        let values = self
            .datapath
            .counters()
            .map_err(|error| error.to_string())?;
        let replication = self.replication.as_ref();
        let replication = replication.map(super::replication::Handle::published);
        let alarms: Vec<(Kind, usize)> = Kind::ALL
            .iter()
            .map(|kind| (*kind, self.board.count(*kind)))
            .collect();
        let [max4, max6] = parts::connections(&self.config()).entries();
        let sources = Sources {
            status: &status,
            election: &self.election.published(),
            replication: replication.as_deref(),
            census: &self.keeper.census(),
            entries_max: (max4.1.into(), max6.1.into()),
            counters: &Counters::from_values(&values),
            services: &services,
            tallied: &self.tallies.read(),
            alarms: &alarms,
            events: self.events.numbers(),
            hooks: self.config().node.notify.map(|_| self.hooks.outcomes()),
            control: self.commanded.read(),
            listeners: &self.listeners.read(),
        };
        sources
            .samples()
            .encode()
            .map_err(|error| error.to_string())
    }
}
