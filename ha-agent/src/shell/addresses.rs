//! Keeps the shared addresses where the role wants them.
//!
//! While the node is active every shared address is in the kernel with a lifetime a little longer than the
//! timeout, renewed in time; if the agent dies or freezes the kernel takes them away by itself. The
//! gate is opened before and closed before, by the election thread, which waits for none of this.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::election::Addresses;
use super::netlink::Netlink;
use crate::config::model::{Cidr, Config, Mode};

/// How much longer than the timeout (in whole seconds) an address outlives its last renewal.
const GRACE: Duration = Duration::from_secs(1);
/// How soon a failed operation is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The shared addresses of one interface.
#[derive(Clone, Debug)]
pub struct SharedOn {
    /// Kernel index.
    pub ifindex: u32,
    /// Its addresses.
    pub addresses: Vec<Cidr>,
}

/// Life of an address without renewal: the timeout rounded up to whole seconds, and the grace.
fn outlives(timeout: Duration) -> Duration {
    Duration::from_secs(timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)) + GRACE
}

/// The same for this configuration; none if no other node could take them.
pub fn lifetime(config: &Config) -> Option<Duration> {
    (config.node.mode != Mode::Off).then(|| outlives(config.ha.timeout))
}

/// Removes shared addresses that a previous agent left behind, and returns them.
pub async fn remove_stale(netlink: &Netlink, shared: &[SharedOn]) -> std::io::Result<Vec<IpAddr>> {
    let mut removed = Vec::new();
    for on in shared {
        for found in netlink.addresses(on.ifindex).await? {
            if on
                .addresses
                .iter()
                .any(|wanted| wanted.address == found.address)
            {
                netlink.remove_address(on.ifindex, found.address).await?;
                removed.push(found.address);
            }
        }
    }
    Ok(removed)
}

/// Takes the addresses off an interface whatever the election wishes, and waits for that no longer than `patience`.
/// They come back when they are due for renewal, or when the interfaces are told of anew.
pub async fn withdraw(netlink: &Netlink, shared: &[SharedOn], patience: Duration) {
    let removed = async {
        for on in shared {
            for address in &on.addresses {
                // A standby does not have them.
                if let Err(error) = netlink.remove_address(on.ifindex, address.address).await {
                    debug!(%address, %error, "shared address not withdrawn");
                }
            }
        }
    };
    if timeout(patience, removed).await.is_err() {
        warn!(?patience, "shared addresses not withdrawn in time");
    }
}

/// Follows the election's wishes until the election is gone, then removes the addresses. The interfaces
/// may be others from time to time: those that were made anew. Without a lifetime the addresses stay until
/// they are removed.
pub async fn keep(
    netlink: Netlink,
    mut interfaces: watch::Receiver<Vec<SharedOn>>,
    mut lifetimes: watch::Receiver<Option<Duration>>,
    mut wishes: watch::Receiver<Addresses>,
) {
    let mut held = false;
    loop {
        let lifetime = *lifetimes.borrow_and_update();
        // Three renewals fit into one lifetime, so that two may fail.
        let renewal = lifetime.map_or(Duration::from_mins(1), |lifetime| lifetime / 4);
        let wanted = wishes.borrow_and_update().held;
        let shared = interfaces.borrow_and_update().clone();
        let done = if wanted {
            add(&netlink, &shared, lifetime).await
        } else if held {
            remove(&netlink, &shared).await
        } else {
            true
        };
        held = wanted || (held && !done);
        let next = if !done {
            RETRY
        } else if wanted {
            renewal
        } else {
            Duration::from_hours(1)
        };
        tokio::select! {
            changed = wishes.changed() => if changed.is_err() { break },
            Ok(()) = interfaces.changed() => {}
            Ok(()) = lifetimes.changed() => {}
            () = sleep(next) => {}
        }
    }
    if held {
        let shared = interfaces.borrow().clone();
        remove(&netlink, &shared).await;
    }
}

async fn add(netlink: &Netlink, shared: &[SharedOn], lifetime: Option<Duration>) -> bool {
    let mut all = true;
    for on in shared {
        for address in &on.addresses {
            if let Err(error) = netlink.set_address(on.ifindex, *address, lifetime).await {
                warn!(%address, %error, "shared address not set; trying again");
                all = false;
            }
        }
    }
    all
}

async fn remove(netlink: &Netlink, shared: &[SharedOn]) -> bool {
    let mut all = true;
    for on in shared {
        for address in &on.addresses {
            if let Err(error) = netlink.remove_address(on.ifindex, address.address).await {
                warn!(%address, %error, "shared address not removed; trying again");
                all = false;
            } else {
                debug!(%address, "shared address removed");
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_outlives_the_timeout_by_less_than_two_seconds() {
        for (timeout_ms, seconds) in [(12, 2), (300, 2), (1_000, 2), (1_001, 3), (9_000, 10)] {
            let life = outlives(Duration::from_millis(timeout_ms));
            assert_eq!(life, Duration::from_secs(seconds));
        }
    }
}
