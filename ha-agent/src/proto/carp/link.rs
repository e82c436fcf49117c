//! A link of the pair: what works on it, who is heard there, and what is to be sent.

use std::net::IpAddr;
use std::time::Duration;

use ha_common::siphash::TAG_LEN;
use serde::{Deserialize, Serialize};

use super::alarms::Hearing;
use super::condition::Condition;
use super::config::LinkConfig;
use super::machine::QUICK_HELLOS;
use super::trailer::{Body, name_hash};
use super::wire::Group;
use crate::proto::time::Instant;

/// A link and what is to be sent on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) config: LinkConfig,
    /// Place of this link in the trailer's bitmaps: names in ascending order, equal on both nodes.
    pub(super) bit: u32,
    pub(super) name: [u8; TAG_LEN],
    #[serde(skip)]
    pub(super) group: Group,
    pub(super) carrier: Condition,
    pub(super) gateway: Condition,
    /// When an advertisement over IPv4 was last accepted on it, and one over IPv6.
    pub(super) families: [Instant; 2],
    /// Who hears whom, and since when.
    pub(super) hearing: (Hearing, Instant),
    pub(super) hello_due: Instant,
    pub(super) hello_sent: Option<Instant>,
    pub(super) quick_hellos: u8,
    /// Epoch and sequence to challenge, and when.
    pub(super) challenge: Option<(u64, u64)>,
    pub(super) challenge_due: Instant,
    /// Whether the partner's multicast is heard on it, and since when it is so.
    pub(super) multicast: (bool, Instant),
    /// The partner says that it does not hear this node's multicast.
    pub(super) partner_lacks: bool,
}

/// What a node says of a link: what works, and whether it has worked for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Soundness {
    pub(super) carrier: bool,
    pub(super) gateway: bool,
    /// It works, but failed within the hold-down.
    pub(super) recent: bool,
}

impl Soundness {
    /// What the partner says of the link with this place in the bitmaps.
    pub(super) fn told(body: &Body, bit: u32) -> Self {
        Self {
            carrier: body.health >> (2 * bit) & 1 != 0,
            gateway: body.health >> (2 * bit + 1) & 1 != 0,
            recent: body.recent >> bit & 1 != 0,
        }
    }

    /// Whether the link counts as failed for this node. A gateway that nobody reaches is no node's fault.
    pub(super) const fn failed(self, other: Self) -> bool {
        !self.carrier || !self.gateway && other.gateway
    }
}

impl Link {
    /// A link that works, as long as nobody says otherwise.
    pub(super) fn new(config: LinkConfig, bit: u32, group: Group, now: Instant) -> Self {
        Self {
            name: name_hash(&config.name),
            config,
            bit,
            group,
            carrier: Condition::default(),
            gateway: Condition::default(),
            families: [Instant::default(); 2],
            hearing: (Hearing::default(), now),
            hello_due: now,
            hello_sent: None,
            quick_hellos: QUICK_HELLOS,
            challenge: None,
            challenge_due: now,
            multicast: (true, now),
            partner_lacks: false,
        }
    }

    /// What this node says of it. What an active node uses at this moment is good enough: for it,
    /// `hold` is nothing.
    pub(super) fn soundness(&self, now: Instant, hold: Duration) -> Soundness {
        let (carrier, gateway) = (self.carrier.works(), self.gateway.works());
        let sound = |condition: &Condition| !condition.works() || condition.is_sound(now, hold);
        Soundness {
            carrier,
            gateway,
            recent: !(sound(&self.carrier) && sound(&self.gateway)),
        }
    }

    /// Sends a HELLO as soon as the distance from the last one allows.
    pub(super) fn hello_soon(&mut self, now: Instant, gap: Duration) {
        let earliest = self.hello_sent.map_or(now, |sent| now.max(sent + gap));
        self.hello_due = self.hello_due.min(earliest);
    }

    /// An advertisement from this source was accepted. With the first one after a silence both
    /// families begin to be waited for.
    pub(super) fn advert_heard(&mut self, source: IpAddr, at: Instant, timeout: Duration) {
        let [v4, v6] = &mut self.families;
        if at >= (*v4).max(*v6) + timeout {
            (*v4, *v6) = (at, at);
        }
        let heard = if source.is_ipv6() { v6 } else { v4 };
        *heard = (*heard).max(at);
    }

    /// The family in which the partner's advertisements do not arrive here, though those of the other
    /// one do.
    pub(super) fn silent_family(&self, now: Instant, timeout: Duration) -> Option<&'static str> {
        let [v4, v6] = self.families;
        let both = [false, true].iter().all(|v6| {
            let mut shared = self.config.shared.iter();
            shared.any(|address| address.is_ipv6() == *v6)
        });
        if !both || now >= v4.max(v6) + timeout {
            None
        } else if v4 >= v6 + timeout * 2 {
            Some("IPv6")
        } else if v6 >= v4 + timeout * 2 {
            Some("IPv4")
        } else {
            None
        }
    }
}
