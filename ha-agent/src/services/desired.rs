//! What the maps should hold of the services as they are now.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ha_common::service::{Forwarding, Real, Timeouts, addr_kind};

use super::entry::{Entry, Server};
use super::plan::{Choice, Desired};
use super::{ServerKey, ServiceTable, maglev};
use crate::config::model::Ports;
use crate::datapath::family::{ListenKey, ReturnRoute};

impl ServiceTable {
    pub(super) fn desired(&mut self) -> Desired {
        let mut desired = Desired {
            addrs: self.addrs.clone(),
            choices: self.choices(),
            ..Desired::default()
        };
        self.forget_free_numbers(&mut desired);
        let mut returns = Returns::default();
        for (first, entry) in &self.services {
            desired.timeouts.insert(entry.id, entry.timeouts);
            for (key, server) in &entry.reals {
                let hop = self.hops.get(&key.addr);
                let id = server.id.id;
                desired
                    .reals
                    .insert(id, server.value(key, entry, hop, self.mtu));
                desired.weights.insert(id, u64::from(server.weight));
                desired.filter.insert(key.addr);
                if key.forwarding == Forwarding::Nat {
                    returns.add(first, entry, key, server);
                }
            }
            if entry.configured {
                let value = entry.value(self.hash_seed);
                desired
                    .services
                    .extend(entry.keys(*first).map(|key| (key, value)));
            }
        }
        desired.return_paths = returns.paths();
        for (address, local) in &self.addrs {
            if local.kind == addr_kind::SHARED {
                desired.filter.insert(*address);
            }
        }
        desired
    }

    /// Among whom each service chooses, by service id.
    fn choices(&mut self) -> BTreeMap<u16, Choice> {
        let seed = self.hash_seed;
        let configured = self.services.values_mut().filter(|entry| entry.configured);
        let mut entries: Vec<&mut Entry> = configured.collect();
        let pools: Vec<usize> = entries.iter().map(|entry| entry.pool()).collect();
        let sizes = maglev::sizes(&pools);
        let sized = entries.iter_mut().zip(sizes);
        sized
            .map(|(entry, size)| {
                let choice = entry.choice(size);
                (entry.id, Choice { seed, ..choice })
            })
            .collect()
    }

    /// Numbers that are free now: whatever still names them is not to be followed.
    fn forget_free_numbers(&self, desired: &mut Desired) {
        for (id, real) in self.applied.reals() {
            if *real != Real::default() {
                let generation = self.real_ids.generation(id);
                let free = Real {
                    generation,
                    ..Real::default()
                };
                desired.reals.insert(id, free);
            }
        }
        for (id, timeouts) in self.applied.timeouts() {
            if *timeouts != Timeouts::default() {
                desired.timeouts.insert(id, Timeouts::default());
            }
        }
    }
}

/// Which service a packet from a real server belongs to, if no entry says so.
#[derive(Default)]
struct Returns {
    paths: BTreeMap<ListenKey, ReturnRoute>,
    /// Ports that real servers with any port may answer from.
    ranges: BTreeMap<(IpAddr, u16), Vec<Ports>>,
}

impl Returns {
    fn add(&mut self, first: &ListenKey, entry: &Entry, key: &ServerKey, server: &Server) {
        let from = ListenKey {
            addr: key.addr,
            port: key.port,
            proto: first.proto,
        };
        let one = matches!(entry.ports, Ports::One(_));
        let path = ReturnRoute {
            vip: first.addr,
            vport: if one { first.port } else { 0 },
            real: server.id.id,
            real_generation: server.id.generation,
            service: entry.id,
            ambiguous: 0,
        };
        let paths = self.paths.entry(from);
        paths.and_modify(|path| path.ambiguous = 1).or_insert(path);
        if key.port == 0 {
            let ranges = self.ranges.entry((key.addr, first.proto)).or_default();
            ranges.push(entry.ports);
        }
    }

    /// A port of its own tells a service unless another one may be answered from it, too.
    fn paths(mut self) -> BTreeMap<ListenKey, ReturnRoute> {
        for (from, path) in &mut self.paths {
            let ranges = self.ranges.get(&(from.addr, from.proto));
            let mut ranges = ranges.into_iter().flatten();
            let port = u16::from_be(from.port);
            if port != 0 && ranges.any(|ports| ports.contains(port)) {
                path.ambiguous = 1;
            }
        }
        self.paths
    }
}
