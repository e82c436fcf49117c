//! Wires between the nodes: one for each link and direction.

use std::net::IpAddr;
use std::rc::Rc;

use ha_agent::proto::rng::Rng;

use super::params::Weather;

/// What kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CARP.
    Advert,
    /// HELLO.
    Hello,
    /// Replication.
    Sync,
}

/// A packet on its way or recorded.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Sender.
    pub from: usize,
    /// Link.
    pub link: usize,
    /// Source address; of no meaning for replication.
    pub source: IpAddr,
    /// Kind.
    pub kind: Kind,
    /// When it was sent, in true time.
    pub sent: u64,
    /// To the group, not to the partner's own address.
    pub group: bool,
    /// Brought by an attacker, not by the network.
    pub forged: bool,
    /// Payload.
    pub payload: Rc<[u8]>,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// Nothing passes.
    pub cut: bool,
    /// Nothing passes that is sent to the group.
    pub blocked: bool,
}

impl Wire {
    /// When the copies of a packet sent now arrive; none if it is lost.
    pub fn carry(
        self,
        group: bool,
        now: u64,
        timeout: u64,
        weather: &Weather,
        rng: &mut Rng,
    ) -> Vec<u64> {
        let mut arrivals = Vec::new();
        if self.cut || self.blocked && group || rng.below(1_000_000) < weather.loss {
            return arrivals;
        }
        arrivals.push(now + weather.delay + rng.below(weather.jitter + 1));
        if rng.below(1_000_000) < weather.repeated {
            arrivals.push(now + weather.delay + rng.below(2 * timeout));
        }
        arrivals
    }
}
