//! Tells the partner where persistent clients go.
//!
//! The data plane is not asked to report them: what a new connection would cost there, every new
//! connection would pay, also of services whose clients come a thousand times a second. Instead a thread
//! walks the map about once a second, 1024 clients a system call, and tells what differs from the walk before. That
//! finds everything whatever was lost on the way, also what an agent that was restarted found in the map;
//! and it costs nothing that the partner knows a client up to a second later than a connection, since the
//! clients that matter are those that come back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ha_common::conn::Persist;

use super::{Handle, Write};
use crate::datapath::Datapath;
use crate::datapath::family::ClientKey;
use crate::proto::records::{PERSISTENCE, Put};
use crate::proto::time::Instant;
use crate::services::{ClientWords, ServiceTable};
use crate::shell::clock;

/// Shortest time between the beginnings of two walks.
const PAUSE: Duration = Duration::from_secs(1);
/// Walks may take one in so many parts of the time.
const SHARE: u32 = 32;
/// How long the thread sleeps without looking whether it is to end.
const NAP: Duration = Duration::from_millis(100);
/// Writes handed in at once.
const PORTION: usize = 256;

/// What the walk works with.
pub struct Parts {
    /// The live maps.
    pub datapath: Arc<dyn Datapath>,
    /// Turns numbers into words.
    pub services: Arc<Mutex<ServiceTable>>,
    /// Where they are written.
    pub records: Handle,
    /// What this node is to the replication.
    pub standing: Box<dyn Fn() -> Standing + Send>,
}

/// What a node is to the replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing any more: the thread is to end.
    Ended,
    /// It listens.
    Standby,
    /// It speaks, in this term.
    Active(u64),
}

/// Starts the thread.
pub fn spawn(parts: Parts) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("clients".to_owned())
        .spawn(move || run(&parts))
}

fn run(parts: &Parts) {
    let mut known = Known::default();
    loop {
        let began = clock::now();
        match (parts.standing)() {
            Standing::Ended => return,
            Standing::Standby => known = Known::default(),
            Standing::Active(term) => {
                if known.term != term {
                    known = Known {
                        term,
                        ..Known::default()
                    };
                }
                walk(parts, &mut known);
            }
        }
        let pause = PAUSE.max(clock::now().since(began) * SHARE);
        while clock::now().since(began) < pause {
            thread::sleep(NAP);
            if (parts.standing)() == Standing::Ended {
                return;
            }
        }
    }
}

fn walk(parts: &Parts, known: &mut Known) {
    let services = parts.services.lock();
    let words = services
        .unwrap_or_else(PoisonError::into_inner)
        .client_words();
    if words.is_empty() && known.told.is_empty() {
        return;
    }
    let found = match parts.datapath.clients() {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(%error, "persistent clients not read; trying again");
            return;
        }
    };
    let mut writes = known.compare(clock::now(), &words, found).into_iter();
    loop {
        let portion: Vec<Write> = writes.by_ref().take(PORTION).collect();
        if portion.is_empty() {
            return;
        }
        // The thread that takes them is at work; it has room soon.
        let mut portion = Some(portion);
        while let Some(writes) = portion.take() {
            if let Err(back) = parts.records.offer(writes) {
                match (parts.standing)() {
                    Standing::Active(term) if term == known.term => {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Standing::Active(_) | Standing::Standby | Standing::Ended => return,
                }
                portion = Some(back);
            }
        }
    }
}

/// What was told of clients.
#[derive(Default)]
struct Known {
    /// The term in which it was told.
    term: u64,
    told: HashMap<ClientKey, Told>,
    /// Number of the walk.
    walk: u64,
}

struct Told {
    held: Persist,
    /// In words: the services may have changed when it goes.
    client: String,
    walk: u64,
}

impl Known {
    /// What the partner has to be told after a walk.
    fn compare(
        &mut self,
        now: Instant,
        words: &ClientWords,
        found: Vec<(ClientKey, Persist)>,
    ) -> Vec<Write> {
        self.walk += 1;
        let walk = self.walk;
        let mut writes = Vec::new();
        for (key, held) in found {
            if let Some(told) = self.told.get_mut(&key).filter(|told| told.held == held) {
                told.walk = walk;
                continue;
            }
            let Some(said) = words.say(&key, &held) else {
                continue;
            };
            let age = now.since(Instant::from_nanos(held.last_seen_ns));
            if age >= said.timeout {
                continue;
            }
            writes.push(Write::Put(Put {
                namespace: PERSISTENCE.to_owned(),
                key: said.client.clone().into_bytes(),
                value: said.real.into_bytes(),
                ttl: Some(said.timeout),
                age,
            }));
            let client = said.client;
            self.told.insert(key, Told { held, client, walk });
        }
        let gone = self.told.extract_if(|_, told| told.walk != walk);
        writes.extend(gone.map(|(_, told)| Write::Delete {
            namespace: PERSISTENCE,
            key: told.client.into_bytes(),
        }));
        writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Persistence;
    use crate::services::tests::service;

    const SECOND: u64 = 1_000_000_000;

    fn words() -> (ClientWords, Persist, ClientKey) {
        let mut service = service(80, &[(21, 1)]);
        service.persistence = Some(Persistence {
            timeout: Duration::from_secs(10),
            prefix: 32,
        });
        let mut table = ServiceTable::new(1);
        table.configure(std::slice::from_ref(&service)).unwrap();
        let real = crate::services::RealKey::new(&service, &service.real_servers[0]);
        let target = table.lookup(&real).unwrap();
        let held = Persist {
            real: target.real.id,
            real_generation: target.real.generation,
            pad: 0,
            last_seen_ns: 100 * SECOND,
        };
        let key = ClientKey {
            client: "192.0.2.7".parse().unwrap(),
            service: target.service,
            pad: 0,
        };
        (table.client_words(), held, key)
    }

    #[test]
    fn a_walk_tells_what_differs_from_the_one_before() {
        let (words, held, key) = words();
        let now = Instant::from_nanos(103 * SECOND);
        let mut known = Known::default();
        let writes = known.compare(now, &words, vec![(key, held)]);
        let [Write::Put(put)] = &writes[..] else {
            panic!("{writes:?}");
        };
        assert_eq!(put.key, b"tcp 10.0.0.100:80 192.0.2.7/32");
        assert_eq!(
            (put.ttl, put.age),
            (Some(Duration::from_secs(10)), Duration::from_secs(3))
        );
        assert!(known.compare(now, &words, vec![(key, held)]).is_empty());

        let came_back = Persist {
            last_seen_ns: held.last_seen_ns + SECOND,
            ..held
        };
        let writes = known.compare(now, &words, vec![(key, came_back)]);
        assert!(matches!(&writes[..], [Write::Put(put)] if put.age == Duration::from_secs(2)));

        let writes = known.compare(now, &words, Vec::new());
        let [Write::Delete { key: gone, .. }] = &writes[..] else {
            panic!("{writes:?}");
        };
        assert_eq!(gone, b"tcp 10.0.0.100:80 192.0.2.7/32");
        assert!(known.compare(now, &words, Vec::new()).is_empty());
    }

    #[test]
    fn what_is_over_or_nobodys_is_not_told() {
        let (words, held, key) = words();
        let mut known = Known::default();
        let late = Instant::from_nanos(110 * SECOND);
        assert!(known.compare(late, &words, vec![(key, held)]).is_empty());
        let now = Instant::from_nanos(100 * SECOND);
        let other = ClientKey {
            service: 999,
            ..key
        };
        let stale = Persist {
            real_generation: held.real_generation.wrapping_add(1),
            ..held
        };
        let found = vec![(other, held), (key, stale)];
        assert!(known.compare(now, &words, found).is_empty());
    }
}
