//! Where a replicated connection belongs on this node.

use ha_common::conn::flags;
use ha_common::service::Forwarding;

use super::entry::{Entry, Server};
use super::pair::{self, Halves};
use super::{RealKey, ServerKey, ServiceTable, Target};
use crate::datapath::family::ListenKey;
use crate::proto::sync::Record;

impl ServiceTable {
    /// The entries of a replicated connection on this node; `None` if its service is not configured here,
    /// forwards in another way, or no more real servers can be numbered.
    ///
    /// If the real server was unknown, [`Self::apply`] has to follow.
    pub fn entries(&mut self, record: &Record, now_ns: u64) -> Option<Halves> {
        let target = self.find(record).or_else(|| self.welcome(record));
        if target.is_none() {
            self.refused += 1;
        }
        Some(pair::entries(record, target?, now_ns))
    }

    /// Notes to which service each port belongs. What is configured goes before what drains.
    pub(super) fn index(&mut self) {
        self.listeners.clear();
        for configured in [true, false] {
            let services = self.services.iter();
            for (first, entry) in services.filter(|(_, entry)| entry.configured == configured) {
                for key in entry.keys(*first) {
                    self.listeners.entry(key).or_insert(*first);
                }
            }
        }
    }

    /// The service that has this port of an address, to itself or among all that are left.
    fn service_of(&self, record: &Record) -> Option<ListenKey> {
        let exact = ListenKey {
            addr: record.key.dst,
            port: record.key.dport,
            proto: record.key.proto as u16,
        };
        let any = ListenKey { port: 0, ..exact };
        let found = self
            .listeners
            .get(&exact)
            .or_else(|| self.listeners.get(&any));
        found.copied()
    }

    /// Where the entries of a connection point to on this node, if its real server has a number; nothing
    /// changes.
    pub fn target(&self, record: &Record) -> Option<Target> {
        self.find(record)
    }

    /// The real server of a connection, if it is known. One that drains in a service that has given its
    /// port to another is found under the other service only if that one has it as well.
    fn find(&self, record: &Record) -> Option<Target> {
        let service = self.service_of(record)?;
        let entry = self.services.get(&service)?;
        let keys = ports(record).flat_map(|port| {
            ways(record).iter().map(move |forwarding| ServerKey {
                addr: record.real_addr,
                port,
                forwarding: *forwarding,
            })
        });
        let mut known = keys.filter_map(|key| entry.reals.get(&key));
        let first = known.clone().next();
        let server = known.find(|server| !server.leaving).or(first)?;
        Some(Target {
            service: entry.id,
            real: server.id,
        })
    }

    /// Numbers a real server that only the partner knows.
    fn welcome(&mut self, record: &Record) -> Option<Target> {
        let service = self.service_of(record)?;
        let entry = self.services.get_mut(&service)?;
        if !entry.configured {
            return None;
        }
        let server = stranger(record, entry)?;
        let real = self.real_ids.assign(RealKey { service, server })?;
        entry.reals.insert(server, Server::draining(real));
        self.dirty = true;
        Some(Target {
            service: entry.id,
            real,
        })
    }
}

/// The ports under which the real server of a connection may be known.
fn ports(record: &Record) -> impl Iterator<Item = u16> + Clone + use<> {
    // Its packets keep the port they were sent to.
    let kept = (record.real_port == record.key.dport).then_some(0);
    [record.real_port].into_iter().chain(kept)
}

/// The ways in which the packets of a connection may go.
const fn ways(record: &Record) -> &'static [Forwarding] {
    if record.flags & flags::ONE_WAY != 0 {
        &[Forwarding::Dsr, Forwarding::Tunnel]
    } else if record.flags & flags::BOTH_ENDS != 0 {
        &[Forwarding::FullNat]
    } else {
        &[Forwarding::Nat]
    }
}

/// How a real server that is not configured here is to be known.
fn stranger(record: &Record, entry: &Entry) -> Option<ServerKey> {
    if !ways(record).contains(&entry.forwarding) {
        return None;
    }
    let many = entry.ports.numbers().len() > 1 || *entry.ports.numbers().start() == 0;
    let port = if many && record.real_port == record.key.dport {
        0
    } else {
        record.real_port
    };
    Some(ServerKey {
        addr: record.real_addr,
        port,
        forwarding: entry.forwarding,
    })
}
