//! Keeps the data plane's next hops to the real servers as the kernel knows them.
//!
//! Interface and MAC of a real server are local to the node and live in `ha_reals`. They follow the
//! kernel's routes and neighbour table: at once when the kernel tells of a change, and by a full look
//! now and then in case it could not.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{debug, warn};

use super::frame::Mac;
use super::netlink::{Neighbour, Netlink, Route};
use crate::datapath::Datapath;
use crate::services::{Hop, ServiceTable};

/// Next hops of all real servers.
pub struct Neighbours {
    netlink: Netlink,
    services: Arc<Mutex<ServiceTable>>,
    datapath: Arc<dyn Datapath>,
    /// This node's MAC on each interface that has the data plane.
    own: BTreeMap<u32, Mac>,
    routes: BTreeMap<Ipv4Addr, Route>,
}

impl Neighbours {
    /// For the real servers of this table, over these interfaces (index to own MAC).
    pub fn new(
        netlink: Netlink,
        services: Arc<Mutex<ServiceTable>>,
        datapath: Arc<dyn Datapath>,
        own: BTreeMap<u32, Mac>,
    ) -> Self {
        Self {
            netlink,
            services,
            datapath,
            own,
            routes: BTreeMap::new(),
        }
    }

    /// Looks everything up anew, and has the kernel resolve what it does not know.
    pub async fn refresh(&mut self) {
        let addresses: Vec<Ipv4Addr> = {
            let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
            services.addresses().collect()
        };
        let known = match self.netlink.neighbours().await {
            Ok(known) => known,
            Err(error) => {
                warn!(%error, "neighbour table not read; next hops stay as they are");
                return;
            }
        };
        self.routes.clear();
        for address in addresses {
            match self.netlink.route(address).await {
                Ok(Some(route)) => {
                    self.routes.insert(address, route);
                    self.resolve(&known, route).await;
                }
                Ok(None) => debug!(%address, "no route to real server"),
                Err(error) => warn!(%address, %error, "route to real server not found out"),
            }
        }
        for neighbour in known {
            self.set(neighbour);
        }
        self.apply();
    }

    /// Takes a change in that the kernel told of.
    pub fn changed(&self, neighbour: Neighbour) {
        self.set(neighbour);
        self.apply();
    }

    async fn resolve(&self, known: &[Neighbour], route: Route) {
        let resolved = known.iter().any(|neighbour| {
            neighbour.ifindex == route.ifindex
                && neighbour.address == route.next_hop
                && neighbour.mac.is_some()
        });
        if resolved {
            return;
        }
        if let Err(error) = self.netlink.resolve(route.ifindex, route.next_hop).await {
            debug!(address = %route.next_hop, %error, "resolution not started");
        }
    }

    fn set(&self, neighbour: Neighbour) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        for (address, route) in &self.routes {
            if route.ifindex != neighbour.ifindex || route.next_hop != neighbour.address {
                continue;
            }
            let hop = neighbour
                .mac
                .zip(self.own.get(&route.ifindex))
                .map(|(mac, src_mac)| Hop {
                    ifindex: route.ifindex,
                    mac,
                    src_mac: *src_mac,
                });
            services.set_hop(*address, hop);
        }
    }

    fn apply(&self) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = services.apply(&*self.datapath) {
            warn!(%error, "next hops not stored");
        }
    }
}
