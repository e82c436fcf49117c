//! Holds the node to its interfaces: carrier, an XDP program that somebody took off, and interfaces that
//! are deleted and made anew under the same name.
//!
//! An interface that is not as it should be counts as one without carrier, so the election moves the
//! active role if the partner is better off. Once it is whole again (it exists, has the node's own
//! address, and the program is attached), everything that knew the old one by its index is told.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::agent::{Shared, lock};
use super::alarms::Kind;
use super::netlink::LinkInfo;
use super::parts::{self, Bound};
use super::{addresses, election, sysctl, virtual_mac};
use crate::services::ApplyError;

/// How long the kernel may take to remove addresses before the role is given up all the same.
const WITHDRAWN_WITHIN: Duration = Duration::from_millis(200);

/// Watches the interfaces of a running node.
pub(super) struct Interfaces {
    shared: Arc<Shared>,
}

impl Interfaces {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The kernel told of a change. Returns whether the interface was taken into use anew.
    pub(super) async fn changed(&self, link: &LinkInfo) -> bool {
        let known = self.find(|bound| bound.interface.device == link.device);
        match known {
            // Bad news at once; good news only if all else is well, too.
            Some((index, bound)) if bound.link.ifindex == link.ifindex && !link.carrier => {
                self.set_carrier(index, &bound, false);
                false
            }
            Some((index, bound)) => self.inspect(index, &bound).await,
            None => false,
        }
    }

    /// The kernel told that an interface is gone.
    pub(super) fn gone(&self, ifindex: u32) {
        if let Some((index, bound)) = self.find(|bound| bound.link.ifindex == ifindex) {
            self.missing(index, &bound, "the device is gone");
        }
    }

    /// Looks at all interfaces. Returns whether one was taken into use anew.
    pub(super) async fn look(&self) -> bool {
        let all = lock(&self.shared.bound).clone();
        let mut rebound = false;
        for (index, bound) in all.iter().enumerate() {
            rebound |= self.inspect(index, bound).await;
        }
        rebound
    }

    async fn inspect(&self, index: usize, bound: &Bound) -> bool {
        let netlink = &self.shared.netlink;
        let link = match netlink.link(&bound.interface.device).await {
            Ok(Some(link)) => link,
            Ok(None) => {
                self.missing(index, bound, "there is no such device");
                return false;
            }
            Err(error) => {
                warn!(interface = bound.interface.name, %error, "interface not looked at");
                return false;
            }
        };
        if link.ifindex != bound.link.ifindex || link.mac != bound.link.mac {
            return self.rebind(index, bound, link).await;
        }
        let program = |link: &LinkInfo| link.xdp.map(|xdp| xdp.program);
        if !bound.interface.is_unnumbered() && program(&link) != program(&bound.link) {
            return self.attach_again(index, bound, link).await;
        }
        if link.mtu != bound.link.mtu {
            self.set_mtu(index, link.mtu);
        }
        self.set_carrier(index, bound, link.carrier);
        self.shared
            .board
            .clear(Kind::InterfaceGone, &bound.interface.name);
        false
    }

    /// Longer or shorter packets than before fit through an interface.
    fn set_mtu(&self, index: usize, mtu: u32) {
        let all = {
            let mut all = lock(&self.shared.bound);
            if let Some(slot) = all.get_mut(index) {
                slot.link.mtu = mtu;
            }
            all.clone()
        };
        if let Err(error) = self.shared.tell_addresses(&all) {
            warn!(%error, "new MTU not stored; trying again");
        }
        if let Some(replication) = &self.shared.replication {
            replication.resized();
        }
    }

    /// The interface is another one under the same name.
    async fn rebind(&self, index: usize, bound: &Bound, link: LinkInfo) -> bool {
        let shared = &self.shared;
        if !bound.interface.is_unnumbered() {
            let found = shared.netlink.addresses(link.ifindex).await;
            let found = found.unwrap_or_default();
            if let Some(own) = parts::missing_address(&bound.interface, &found) {
                self.missing(index, bound, &format!("the device does not have {own}"));
                return false;
            }
            if let Err(error) = sysctl::prepare(std::iter::once(&link.device)) {
                self.missing(index, bound, &error.to_string());
                return false;
            }
        }
        let Some(link) = self.attach(index, bound, link).await else {
            return false;
        };
        let fresh = Bound {
            link,
            ..bound.clone()
        };
        let config = shared.config();
        let (all, replication) = {
            let mut all = lock(&shared.bound);
            if let Some(slot) = all.get_mut(index) {
                *slot = fresh.clone();
            }
            let channel = parts::channel(&config, &all)
                .filter(|channel| channel.ifindex == fresh.link.ifindex);
            (all.clone(), channel)
        };
        virtual_mac::register(&shared.netlink, &config, &fresh).await;
        virtual_mac::readdress(&config, &all);
        let told = {
            let mut pair = lock(&shared.pair);
            pair.rebind(index, fresh.link.ifindex, fresh.link.mac);
            shared.datapath.set_pair(&pair)
        };
        let told = told
            .map_err(ApplyError::from)
            .and_then(|()| shared.tell_addresses(&all));
        if let Err(error) = told {
            self.missing(index, bound, &error.to_string());
            return false;
        }
        let timing = (config.ha.advertisement_interval, config.ha.timeout);
        match election::Port::open(parts::link(&config, &fresh), timing) {
            Ok(port) => {
                let port = Box::new(port);
                shared
                    .election
                    .send(election::Command::Rebound { index, port });
            }
            Err(error) => {
                self.missing(index, bound, &error.to_string());
                return false;
            }
        }
        if let (Some(handle), Some(channel)) = (&shared.replication, replication) {
            match channel.open() {
                Ok(socket) => {
                    handle.rebound(channel, socket);
                }
                Err(error) => warn!(%error, "replication socket not opened anew"),
            }
        }
        shared
            .shared_on
            .send_replace(parts::shared_on(&config, &all));
        self.tell_carrier(index, &fresh);
        info!(
            interface = fresh.interface.name,
            ifindex = fresh.link.ifindex,
            "interface taken into use anew"
        );
        shared
            .board
            .clear(Kind::InterfaceGone, &fresh.interface.name);
        true
    }

    /// Somebody took the program off: the addresses go first, since nobody else keeps the kernel from answering for
    /// them while the partner does already; then the role.
    async fn attach_again(&self, index: usize, bound: &Bound, link: LinkInfo) -> bool {
        let shared = parts::shared_on(&self.shared.config(), std::slice::from_ref(bound));
        addresses::withdraw(&self.shared.netlink, &shared, WITHDRAWN_WITHIN).await;
        self.set_carrier(index, bound, false);
        let name = &bound.interface.name;
        let there = link.xdp.map_or_else(
            || "no program is attached".to_owned(),
            |xdp| format!("program {} is attached instead", xdp.program),
        );
        let evidence = format!("{name} ({}): {there}", link.device);
        self.shared
            .board
            .raise(Kind::XdpDetached, name, evidence.as_str());
        let Some(link) = self.attach(index, bound, link).await else {
            return false;
        };
        let fresh = Bound {
            link,
            ..bound.clone()
        };
        if let Some(slot) = lock(&self.shared.bound).get_mut(index) {
            *slot = fresh.clone();
        }
        self.tell_carrier(index, &fresh);
        let all = lock(&self.shared.bound).clone();
        self.shared
            .shared_on
            .send_replace(parts::shared_on(&self.shared.config(), &all));
        self.shared.board.report(
            Kind::XdpDetached,
            name,
            format!("{evidence}; attached again"),
        );
        true
    }

    /// Attaches the program; the interface as it then is.
    async fn attach(&self, index: usize, bound: &Bound, link: LinkInfo) -> Option<LinkInfo> {
        if bound.interface.is_unnumbered() {
            return Some(link);
        }
        let shared = &self.shared;
        let name = &bound.interface.name;
        let device = parts::device(&Bound {
            link: link.clone(),
            ..bound.clone()
        });
        match shared.attacher.attach(&device) {
            Ok(attachment) => {
                let mut attachments = lock(&shared.attachments);
                attachments.retain(|known| known.device != attachment.device);
                attachments.push(attachment);
            }
            Err(error) => {
                shared
                    .board
                    .raise(Kind::XdpDetached, name, format!("{name}: {error}"));
                self.set_carrier(index, bound, false);
                return None;
            }
        }
        let link = shared.netlink.link(&bound.interface.device).await;
        link.ok().flatten()
    }

    fn missing(&self, index: usize, bound: &Bound, what: &str) {
        let Bound { interface, .. } = bound;
        self.set_carrier(index, bound, false);
        self.shared.board.raise(
            Kind::InterfaceGone,
            &interface.name,
            format!("{} ({}): {what}", interface.name, interface.device),
        );
    }

    fn set_carrier(&self, index: usize, bound: &Bound, carrier: bool) {
        {
            let mut all = lock(&self.shared.bound);
            let Some(slot) = all.get_mut(index) else {
                return;
            };
            if slot.link.carrier == carrier {
                return;
            }
            slot.link.carrier = carrier;
        }
        // A log line may have to wait; a node that lost its link should not.
        if bound.interface.ha_checks {
            self.shared.election.send(election::Command::Carrier {
                link: index,
                up: carrier,
            });
        }
        warn!(interface = bound.interface.name, carrier, "carrier changed");
    }

    /// Tells the election of the carrier of an interface that is whole again.
    fn tell_carrier(&self, index: usize, bound: &Bound) {
        if bound.interface.ha_checks {
            self.shared.election.send(election::Command::Carrier {
                link: index,
                up: bound.link.carrier,
            });
        }
    }

    fn find(&self, wanted: impl Fn(&Bound) -> bool) -> Option<(usize, Bound)> {
        let all = lock(&self.shared.bound);
        let found = all.iter().enumerate().find(|(_, bound)| wanted(bound));
        found.map(|(index, bound)| (index, bound.clone()))
    }
}
