//! The replication thread's end: carries out requests, and brings the partner's word where it counts.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ha_common::conn::Persist;
use serde::{Deserialize, Serialize};

use super::{Log, Request, Write};
use crate::datapath::family::ClientKey;
use crate::datapath::{Datapath, DatapathError};
use crate::health::verdicts::Verdicts;
use crate::proto::records::{Event, EventKind, HEALTH, PERSISTENCE};
use crate::proto::sync::{Action, Sync};
use crate::proto::time::Instant;
use crate::services::ServiceTable;

/// Requests carried out before packets get their turn.
const BURST: usize = 256;

/// What a desk works with.
pub struct DeskParts {
    /// The live maps.
    pub datapath: Arc<dyn Datapath>,
    /// Turns words about clients into what this node's data plane remembers.
    pub services: Arc<Mutex<ServiceTable>>,
    /// What is held of real servers.
    pub verdicts: Arc<Verdicts>,
    /// Whether persistent clients are taken over.
    pub persistence: bool,
}

/// What became of the partner's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeskSnapshot {
    /// Clients taken over from the partner.
    pub clients_stored: u64,
    /// Clients of services or real servers that this node does not have.
    pub clients_unknown: u64,
    /// Clients that the data plane did not take.
    pub clients_failed: u64,
}

/// The thread's end.
pub struct Desk {
    requests: Receiver<Request>,
    log: Arc<Log>,
    parts: DeskParts,
    /// Words about clients, in their order.
    clients: Vec<Event>,
    counted: DeskSnapshot,
    logged: bool,
}

impl Desk {
    pub(super) const fn new(requests: Receiver<Request>, log: Arc<Log>, parts: DeskParts) -> Self {
        Self {
            requests,
            log,
            parts,
            clients: Vec::new(),
            counted: DeskSnapshot {
                clients_stored: 0,
                clients_unknown: 0,
                clients_failed: 0,
            },
            logged: false,
        }
    }

    /// Carries out what was asked for. Who does not wait any more misses nothing.
    pub fn serve(&mut self, now: Instant, sync: &mut Sync, out: &mut Vec<Action>) {
        for _ in 0..BURST {
            let Ok(request) = self.requests.try_recv() else {
                return;
            };
            let _nobody_waits = match request {
                Request::Get(namespace, key, answer) => answer
                    .send(sync.records().get(now, &namespace, &key))
                    .is_err(),
                Request::Put(put, answer) => answer.send(sync.put_record(now, put, out)).is_err(),
                Request::Delete(namespace, key, answer) => answer
                    .send(sync.delete_record(now, &namespace, &key, out))
                    .is_err(),
                Request::List(wanted, answer) => {
                    let after = wanted.after.as_deref();
                    let records = sync.records();
                    let page = records.list(now, &wanted.namespace, after, wanted.limit);
                    answer.send(page).is_err()
                }
                Request::Write(writes) => {
                    for write in writes {
                        carry_out(now, write, sync, out);
                    }
                    false
                }
            };
        }
    }

    /// A record has changed.
    pub fn event(&mut self, event: Event) {
        self.log.push(&event);
        self.logged = true;
        match &*event.namespace {
            // Whoever wrote it: a node that was active and is no more goes on with what it told.
            HEALTH => self.parts.verdicts.heard(&event),
            // What is said here comes from the map.
            PERSISTENCE if self.parts.persistence && event.from_partner => self.clients.push(event),
            _ => {}
        }
    }

    /// Brings what was heard to the live maps, and wakes those who watch.
    pub fn flush(&mut self, now: Instant) {
        if std::mem::take(&mut self.logged) {
            self.log.tell();
        }
        if self.clients.is_empty() {
            return;
        }
        if let Err(error) = self.store(now) {
            self.counted.clients_failed += 1;
            tracing::debug!(%error, "clients told by the partner not stored");
        }
    }

    fn store(&mut self, now: Instant) -> Result<(), DatapathError> {
        let events = std::mem::take(&mut self.clients);
        let mut stored: Vec<(ClientKey, Persist)> = Vec::new();
        let mut gone: Vec<ClientKey> = Vec::new();
        let services = self.parts.services.lock();
        let services = services.unwrap_or_else(PoisonError::into_inner);
        for event in &events {
            let Ok(client) = std::str::from_utf8(&event.key) else {
                self.counted.clients_unknown += 1;
                continue;
            };
            match &event.kind {
                EventKind::Put { value, ttl, until } => {
                    let real = std::str::from_utf8(value).unwrap_or_default();
                    let seen = last_seen(now, *ttl, *until);
                    match services.client_entry(client, real, seen) {
                        Some(entry) => stored.push(entry),
                        None => self.counted.clients_unknown += 1,
                    }
                }
                EventKind::Deleted | EventKind::Expired => {
                    if let Some(key) = services.client(client) {
                        stored.retain(|(stored, _)| *stored != key);
                        gone.push(key);
                    }
                }
            }
        }
        drop(services);
        // Of what was told twice the later word counts, and of a deletion and a put the put, if it came later:
        // otherwise it was taken out above.
        if !gone.is_empty() {
            self.parts.datapath.remove_clients(&gone)?;
        }
        self.counted.clients_stored += stored.len() as u64;
        if !stored.is_empty() {
            self.parts.datapath.put_clients(&stored)?;
        }
        Ok(())
    }

    /// What became of the partner's word.
    pub const fn snapshot(&self) -> DeskSnapshot {
        self.counted
    }
}

/// A write of the agent itself, which nobody waits for.
fn carry_out(now: Instant, write: Write, sync: &mut Sync, out: &mut Vec<Action>) {
    let refused = match write {
        Write::Put(put) => sync.put_record(now, put, out).err(),
        Write::Delete { namespace, key } => sync.delete_record(now, namespace, &key, out).err(),
    };
    if let Some(refusal) = refused {
        tracing::debug!(%refusal, "a record of the agent itself was not written");
    }
}

/// When a client whose record ends then began its last connection, in nanoseconds of the monotonic clock.
fn last_seen(now: Instant, ttl: Option<Duration>, until: Option<Instant>) -> u64 {
    match (ttl, until) {
        (Some(ttl), Some(until)) => (until - ttl).min(now).as_nanos(),
        (Some(_) | None, None) | (None, Some(_)) => now.as_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::config::model::Persistence;
    use crate::datapath::fake::Fake;
    use crate::proto::records::Stamp;
    use crate::services::tests::service;

    const NOW: Instant = Instant::from_nanos(100_000_000_000);
    const CLIENT: &str = "tcp 10.0.0.100:80 192.0.2.7/32";

    fn desk_that(persistence: bool) -> (Desk, Arc<Fake>) {
        let mut service = service(80, &[(21, 1), (22, 1)]);
        service.persistence = Some(Persistence {
            timeout: Duration::from_mins(5),
            prefix: 32,
        });
        let fake = Arc::new(Fake::new(100));
        let mut services = ServiceTable::new(1);
        services.configure(&[service]).unwrap();
        services.apply(&*fake).unwrap();
        let (_, requests) = sync_channel(1);
        let parts = DeskParts {
            datapath: Arc::<Fake>::clone(&fake),
            services: Arc::new(Mutex::new(services)),
            verdicts: Arc::default(),
            persistence,
        };
        (Desk::new(requests, Arc::default(), parts), fake)
    }

    fn event(key: &str, value: Option<&str>, from_partner: bool) -> Event {
        let life = Duration::from_mins(5);
        Event {
            namespace: PERSISTENCE.into(),
            key: key.as_bytes().into(),
            stamp: Stamp::default(),
            from_partner,
            kind: value.map_or(EventKind::Deleted, |value| EventKind::Put {
                value: value.as_bytes().into(),
                ttl: Some(life),
                until: Some(NOW + life - Duration::from_secs(7)),
            }),
        }
    }

    #[test]
    fn what_the_partner_says_of_clients_reaches_the_data_plane() {
        let (mut desk, fake) = desk_that(true);
        desk.event(event(CLIENT, Some("10.1.0.21:8080"), true));
        desk.event(event(CLIENT, Some("10.1.0.22:8080"), true));
        desk.event(event(CLIENT, Some("10.1.0.99:8080"), true));
        desk.event(event("nonsense", Some("10.1.0.21:8080"), true));
        desk.flush(NOW);
        {
            let state = fake.state();
            let [(key, held)] = &state.clients[..] else {
                panic!("{:?}", state.clients);
            };
            let second = state.reals[usize::from(held.real)].addr;
            assert_eq!(
                second,
                crate::datapath::family::wide("10.1.0.22".parse().unwrap())
            );
            assert_eq!(key.client, "192.0.2.7".parse::<std::net::IpAddr>().unwrap());
            assert_eq!(held.last_seen_ns, 93_000_000_000);
        }
        desk.event(event(CLIENT, Some("10.1.0.21:8080"), true));
        desk.event(event(CLIENT, None, true));
        desk.flush(NOW);
        assert_eq!(fake.state().clients, []);
        desk.event(event(CLIENT, None, true));
        desk.event(event(CLIENT, Some("10.1.0.21:8080"), true));
        desk.flush(NOW);
        assert_eq!(fake.state().clients.len(), 1);
        let counted = desk.snapshot();
        assert_eq!((counted.clients_stored, counted.clients_unknown), (3, 2));
    }

    #[test]
    fn what_is_said_here_or_not_wanted_stays_where_it_is() {
        let (mut desk, fake) = desk_that(true);
        desk.event(event(CLIENT, Some("10.1.0.21:8080"), false));
        desk.flush(NOW);
        assert_eq!(fake.state().clients, []);
        let (mut other, fake) = desk_that(false);
        other.event(event(CLIENT, Some("10.1.0.21:8080"), true));
        other.flush(NOW);
        assert_eq!(fake.state().clients, []);
    }

    #[test]
    fn the_records_of_health_count_whoever_wrote_them() {
        let (mut desk, _) = desk_that(true);
        let service = service(80, &[(21, 1)]);
        let key = crate::services::RealKey::new(&service, &service.real_servers[0]);
        for from_partner in [false, true] {
            for (words, up) in [("down: refused", false), ("up", true)] {
                let mut told = event(&key.words(), Some(words), from_partner);
                told.namespace = HEALTH.into();
                desk.event(told);
                assert_eq!(desk.parts.verdicts.judge(&key).counts.is_up(), up);
            }
        }
    }
}
