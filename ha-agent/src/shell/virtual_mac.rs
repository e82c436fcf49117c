//! The virtual MAC outside the data plane: network cards that take frames for it, and the kernel.
//!
//! The packet sockets of the election have the card let those frames through for as long as they are
//! open. A second registration outlives the agent: while it is replaced, or after it was killed, the
//! data plane goes on until the lease ends.

use tracing::{debug, warn};

use super::agent::{Shared, lock};
use super::guard::readdressed;
use super::netlink::Netlink;
use super::parts::{self, Bound};
use crate::config::model::Config;

/// Registers the virtual MAC of an interface, if it has one.
pub(super) async fn register(netlink: &Netlink, config: &Config, bound: &Bound) {
    if let Some(mac) = parts::virtual_mac(config, bound)
        && let Err(error) = netlink.add_station(bound.link.ifindex, mac).await
    {
        // Without it the card forgets the address together with the agent, no sooner.
        debug!(device = bound.link.device, %error, "virtual MAC not registered for good");
    }
}

/// Has the kernel take frames that the data plane readdressed.
pub(super) fn readdress(config: &Config, bound: &[Bound]) {
    let with = bound
        .iter()
        .filter(|bound| parts::virtual_mac(config, bound).is_some());
    let stations: Vec<_> = with
        .map(|bound| (bound.link.device.clone(), bound.link.mac))
        .collect();
    if !stations.is_empty()
        && let Err(error) = readdressed::install(&stations)
    {
        warn!(%error, "no table `netdev ha_agent`: on veth the kernel ignores frames to the virtual MAC");
    }
}

/// Takes everything back.
pub(super) async fn forget(shared: &Shared) {
    let config = shared.config();
    let all = lock(&shared.bound).clone();
    if config.ha.virtual_mac
        && let Err(error) = readdressed::remove()
    {
        warn!(%error, "nftables table not removed");
    }
    for bound in &all {
        if let Some(mac) = parts::virtual_mac(&config, bound)
            && let Err(error) = shared.netlink.remove_station(bound.link.ifindex, mac).await
        {
            debug!(device = bound.link.device, %error, "virtual MAC was not registered");
        }
    }
}
