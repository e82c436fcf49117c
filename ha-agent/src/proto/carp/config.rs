//! What the election is told once, and the durations that follow from it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::model::{CarpAuth, Mode, Preferred};

/// The election's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElectionConfig {
    /// Place in the pair.
    pub mode: Mode,
    /// Virtual host id.
    pub vhid: u8,
    /// Time between advertisements.
    pub interval: Duration,
    /// How long the partner must be silent; at least three intervals.
    pub timeout: Duration,
    /// Wait after start before this node may become active unheard.
    pub initial_wait: Duration,
    /// How long a link of a standby must have worked again, or the preferred node must have been fit,
    /// before it counts.
    pub hold_down: Duration,
    /// Which node should be active when both can.
    pub preferred: Preferred,
    /// What is demanded of advertisements.
    pub auth: CarpAuth,
    /// Generation of the replicated part of the configuration: equal on both nodes if and only if that
    /// part is.
    pub generation: u64,
    /// Begin pacified: take no part until [`super::Command::Resume`].
    pub start_pacified: bool,
    /// Begin in maintenance.
    pub start_maintenance: bool,
    /// The links, at most 16.
    pub links: Vec<LinkConfig>,
}

/// An interface that takes part in the HA checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Logical name, the same on both nodes.
    pub name: String,
    /// Own addresses; none on an unnumbered heartbeat link. The first of a family is the source of
    /// advertisements of that family.
    pub addresses: Vec<IpAddr>,
    /// Partner's addresses; packets from other sources are dropped, but for 0.0.0.0 where there are none.
    pub partners: Vec<IpAddr>,
    /// Shared addresses on it; none on a heartbeat link.
    pub shared: Vec<IpAddr>,
    /// Whether [`super::Input::Gateway`] reports on it.
    pub has_gateway: bool,
}

impl LinkConfig {
    /// Source address of HELLOs on this link, as the tag covers it: one HELLO serves both families.
    pub(super) fn hello_source(&self) -> IpAddr {
        let mut families = [false, true].into_iter();
        families
            .find_map(|v6| self.own(v6))
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Sources of this link's advertisements: one for each family that has shared addresses.
    pub(super) fn advert_sources(&self) -> impl Iterator<Item = IpAddr> {
        let shares = |v6| self.shared.iter().any(|shared| shared.is_ipv6() == v6);
        let own_or_none = |v6| {
            self.own(v6).unwrap_or(if v6 {
                IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            } else {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            })
        };
        [false, true]
            .into_iter()
            .filter(move |v6| shares(*v6))
            .map(own_or_none)
    }

    /// The first own address of a family.
    pub(super) fn own(&self, v6: bool) -> Option<IpAddr> {
        let mut own = self.addresses.iter().copied();
        own.find(|address| address.is_ipv6() == v6)
    }

    /// Whether its failure may move the active role.
    pub(super) fn is_production(&self) -> bool {
        !self.shared.is_empty()
    }
}

/// The election's secrets.
#[derive(Clone)]
pub struct ElectionKeys {
    /// Passphrase of the 36 bytes' HMAC-SHA1.
    pub carp_passphrase: Vec<u8>,
    /// Trailer keys by id; the first signs, all are accepted.
    pub trailer: Vec<(u8, [u8; 16])>,
}

impl fmt::Debug for ElectionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ElectionKeys").finish_non_exhaustive()
    }
}

/// What a running machine may be told anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// [`ElectionConfig::interval`].
    pub interval: Duration,
    /// [`ElectionConfig::timeout`].
    pub timeout: Duration,
    /// [`ElectionConfig::hold_down`].
    pub hold_down: Duration,
    /// [`ElectionConfig::auth`].
    pub auth: CarpAuth,
}

/// The interval as CARP counts it: in 1/256 s, rounded up; the second node is one step slower, so that
/// there is never a tie.
pub(super) fn carp_ticks(config: &ElectionConfig) -> u16 {
    let ticks = (config.interval.as_nanos() * 256).div_ceil(1_000_000_000);
    let ticks = u16::try_from(ticks).unwrap_or(u16::MAX).clamp(1, 0xff00);
    ticks + u16::from(config.mode == Mode::Second)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::proto::carp) fn config(mode: Mode, interval: Duration) -> ElectionConfig {
        ElectionConfig {
            mode,
            vhid: 1,
            interval,
            timeout: interval * 3,
            initial_wait: Duration::ZERO,
            hold_down: interval * 9,
            preferred: Preferred::None,
            auth: CarpAuth::Enforce,
            generation: 1,
            start_pacified: false,
            start_maintenance: false,
            links: Vec::new(),
        }
    }

    #[test]
    fn interval_is_mapped_to_advbase_and_advskew() {
        for (interval, first, second) in [
            (Duration::from_millis(4), (0, 2), (0, 3)),
            (Duration::from_millis(100), (0, 26), (0, 27)),
            (Duration::from_secs(1), (1, 0), (1, 1)),
            (Duration::from_millis(1500), (1, 128), (1, 129)),
            (Duration::from_secs(255), (255, 0), (255, 1)),
        ] {
            for (mode, (base, skew)) in [(Mode::First, first), (Mode::Second, second)] {
                let ticks = carp_ticks(&config(mode, interval));
                assert_eq!(ticks.to_be_bytes(), [base, skew], "{interval:?} {mode:?}");
            }
        }
    }
}
