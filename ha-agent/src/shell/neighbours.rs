//! Keeps the data plane's next hops to the real servers as the kernel knows them.
//!
//! Interface and MAC of a real server are local to the node and live in `ha_reals`. They follow the
//! kernel's routes and neighbour table: at once when the kernel tells of a change, and by a full look
//! now and then in case it could not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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
    /// The source of what is forwarded on each interface that has the data plane.
    own: BTreeMap<u32, Mac>,
    routes: BTreeMap<IpAddr, Route>,
}

impl Neighbours {
    /// For the real servers of this table, over these interfaces (index to source MAC).
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

    /// Interfaces with the data plane were made anew.
    pub fn rebound(&mut self, own: BTreeMap<u32, Mac>) {
        self.own = own;
    }

    /// Looks everything up anew, and has the kernel resolve what it does not know and confirm what
    /// it has not heard of lately: packets that XDP forwards keep no neighbour entry fresh, so a
    /// server that changed its MAC would go unnoticed.
    pub async fn refresh(&mut self) {
        let addresses: BTreeSet<IpAddr> = {
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
        let mut routes = BTreeMap::new();
        for &address in &addresses {
            match self.netlink.route(address).await {
                Ok(Some(route)) => {
                    routes.insert(address, route);
                }
                Ok(None) => debug!(%address, "no route to real server"),
                Err(error) => {
                    warn!(%address, %error, "route to real server not found out");
                    routes.extend(self.routes.get(&address).map(|route| (address, *route)));
                }
            }
        }
        self.routes = routes;
        for address in addresses {
            let route = self.routes.get(&address).copied();
            let neighbour = route.and_then(|route| {
                let leads = |found: &&Neighbour| route.leads_to(found);
                known.iter().find(leads).copied()
            });
            self.set(address, neighbour);
            if let Some(route) = route
                && !neighbour.is_some_and(|found| found.confirmed)
            {
                self.resolve(route).await;
            }
        }
        self.apply();
    }

    /// Takes a change in that the kernel told of.
    pub fn changed(&self, neighbour: Neighbour) {
        for (address, route) in &self.routes {
            if route.leads_to(&neighbour) {
                self.set(*address, Some(neighbour));
            }
        }
        self.apply();
    }

    async fn resolve(&self, route: Route) {
        if let Err(error) = self.netlink.resolve(route.ifindex, route.next_hop).await {
            debug!(address = %route.next_hop, %error, "resolution not started");
        }
    }

    fn set(&self, address: IpAddr, neighbour: Option<Neighbour>) {
        let hop = neighbour.and_then(|neighbour| {
            Some(Hop {
                ifindex: neighbour.ifindex,
                mac: neighbour.mac?,
                src_mac: *self.own.get(&neighbour.ifindex)?,
            })
        });
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.set_hop(address, hop);
    }

    fn apply(&self) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = services.apply(&*self.datapath) {
            warn!(%error, "next hops not stored");
        }
    }
}
