//! Persistent clients as both nodes see them: by addresses and ports, never by numbers.
//!
//! ```text
//! tcp 10.0.0.100:80 192.0.2.0/24   is at   10.1.0.21:8080
//! ```
//!
//! The service is named by its first port (0 = any), the real server by the port that is configured for it
//! (0 = the one that a packet was sent to).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ha_common::conn::Persist;
use ha_common::proto;

use super::entry::Entry;
use super::{ServerKey, ServiceTable};
use crate::config::model::Cidr;
use crate::datapath::family::{ClientKey, ListenKey};

/// Turns what the data plane remembers of clients into words, as long as the services stay as they are.
pub struct ClientWords {
    services: BTreeMap<u16, ServiceWords>,
    reals: BTreeMap<(u16, u16), (u16, SocketAddr)>,
}

struct ServiceWords {
    listen: String,
    prefix: u8,
    timeout: Duration,
}

/// A client in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInWords {
    /// Which client of which service.
    pub client: String,
    /// Where it goes.
    pub real: String,
    /// For how long after its last new connection.
    pub timeout: Duration,
}

impl ClientWords {
    /// Whether no service is persistent.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// A client in words; none if its service is not persistent (any more) or its real server has left.
    pub fn say(&self, key: &ClientKey, held: &Persist) -> Option<ClientInWords> {
        let client = self.name(key)?;
        let (service, real) = self.reals.get(&(held.real, held.real_generation))?;
        let timeout = self.services.get(service)?.timeout;
        (*service == key.service).then(|| ClientInWords {
            client,
            real: real.to_string(),
            timeout,
        })
    }

    /// Which client of which service.
    pub fn name(&self, key: &ClientKey) -> Option<String> {
        let service = self.services.get(&key.service)?;
        Some(format!(
            "{} {}/{}",
            service.listen, key.client, service.prefix
        ))
    }
}

impl ServiceTable {
    /// What it takes to put persistent clients into words.
    pub fn client_words(&self) -> ClientWords {
        let mut words = ClientWords {
            services: BTreeMap::new(),
            reals: BTreeMap::new(),
        };
        for (key, entry) in &self.services {
            let Some(persistence) = entry.persistence.filter(|_| entry.configured) else {
                continue;
            };
            words.services.insert(
                entry.id,
                ServiceWords {
                    listen: listen(key),
                    prefix: persistence.prefix,
                    timeout: persistence.timeout,
                },
            );
            for (server, held) in entry.reals.iter().filter(|(_, held)| !held.leaving) {
                let at = SocketAddr::new(server.addr, u16::from_be(server.port));
                let id = (held.id.id, held.id.generation);
                words.reals.insert(id, (entry.id, at));
            }
        }
        words
    }

    /// Which client of this node's data plane the words mean; none if it has no such service.
    pub fn client(&self, client: &str) -> Option<ClientKey> {
        self.client_of(client).map(|(_, key)| key)
    }

    fn client_of(&self, client: &str) -> Option<(&Entry, ClientKey)> {
        let mut words = client.split(' ');
        let (protocol, at, network) = (words.next()?, words.next()?, words.next()?);
        let service = listen_key(protocol, at.parse().ok()?)?;
        let entry = self
            .services
            .get(&service)
            .filter(|entry| entry.configured)?;
        let (address, prefix) = network.split_once('/')?;
        let network = Cidr {
            address: address.parse().ok()?,
            prefix: prefix.parse().ok()?,
        };
        let alike = entry.persistence?.prefix == network.prefix
            && network.address.is_ipv4() == service.addr.is_ipv4()
            && words.next().is_none();
        let key = ClientKey {
            client: network.address,
            service: entry.id,
            pad: 0,
        };
        alike.then_some((entry, key))
    }

    /// What this node's data plane is to remember of a client; none if it has no such service or real
    /// server.
    pub fn client_entry(
        &self,
        client: &str,
        real: &str,
        last_seen_ns: u64,
    ) -> Option<(ClientKey, Persist)> {
        let (entry, key) = self.client_of(client)?;
        let real: SocketAddr = real.parse().ok()?;
        let server = ServerKey {
            addr: real.ip(),
            port: real.port().to_be(),
            forwarding: entry.forwarding,
        };
        let held = entry.reals.get(&server).filter(|held| !held.leaving)?;
        let value = Persist {
            real: held.id.id,
            real_generation: held.id.generation,
            pad: 0,
            last_seen_ns,
        };
        Some((key, value))
    }
}

/// A service, by its first port.
pub(super) fn listen(key: &ListenKey) -> String {
    let protocol = if key.proto == u16::from(proto::UDP) {
        "udp"
    } else {
        "tcp"
    };
    let at = SocketAddr::new(key.addr, u16::from_be(key.port));
    format!("{protocol} {at}")
}

fn listen_key(protocol: &str, at: SocketAddr) -> Option<ListenKey> {
    let proto = match protocol {
        "tcp" => proto::TCP,
        "udp" => proto::UDP,
        _ => return None,
    };
    Some(ListenKey {
        addr: at.ip(),
        port: at.port().to_be(),
        proto: u16::from(proto),
    })
}
