//! What the parts of a node are told, made from its configuration and from what the kernel says of its
//! interfaces. No effects.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ha_common::siphash;

use super::addresses::SharedOn;
use super::netlink::LinkInfo;
use super::{election, frame, replication};
use crate::config::model::{Cidr4, Config, Interface, Mode};
use crate::datapath::attach::Device;
use crate::proto::carp::{ElectionConfig, LinkConfig};
use crate::proto::sync::SyncConfig;

/// An interface of the configuration and what the kernel says of it.
#[derive(Clone, Debug)]
pub struct Bound {
    /// As configured.
    pub interface: Interface,
    /// As found.
    pub link: LinkInfo,
    /// Shared addresses on it.
    pub shared: Vec<Cidr4>,
}

pub(super) fn device(bound: &Bound) -> Device {
    Device {
        name: bound.link.device.clone(),
        ifindex: bound.link.ifindex,
        attached: bound.link.xdp,
    }
}

pub(super) fn shared_on(bound: &[Bound]) -> Vec<SharedOn> {
    bound
        .iter()
        .filter(|bound| !bound.shared.is_empty())
        .map(|bound| SharedOn {
            ifindex: bound.link.ifindex,
            addresses: bound.shared.clone(),
        })
        .collect()
}

pub(super) fn links(bound: &[Bound]) -> Vec<election::Link> {
    bound.iter().map(link).collect()
}

pub(super) fn link(bound: &Bound) -> election::Link {
    election::Link {
        name: bound.interface.name.clone(),
        ifindex: bound.link.ifindex,
        mac: bound.link.mac,
        address: bound.interface.address.map(|address| address.address),
        shared: bound.shared.iter().map(|shared| shared.address).collect(),
        checked: bound.interface.ha_checks,
        gateway: bound.interface.gateway,
    }
}

pub(super) fn election_config(config: &Config, bound: &[Bound]) -> ElectionConfig {
    ElectionConfig {
        mode: config.node.mode,
        vhid: config.ha.virtual_id,
        interval: config.ha.advertisement_interval,
        timeout: config.ha.timeout,
        initial_wait: config.ha.initial_wait,
        hold_down: config.ha.hold_down,
        preferred: config.ha.preferred,
        auth: config.ha.carp_auth,
        generation: generation(config),
        start_pacified: false,
        start_maintenance: false,
        links: bound
            .iter()
            .filter(|bound| bound.interface.ha_checks)
            .map(|bound| LinkConfig {
                name: bound.interface.name.clone(),
                addresses: bound
                    .interface
                    .address
                    .iter()
                    .map(|address| address.address.into())
                    .collect(),
                partners: bound
                    .interface
                    .partner
                    .iter()
                    .map(|p| (*p).into())
                    .collect(),
                shared: bound
                    .shared
                    .iter()
                    .map(|shared| shared.address.into())
                    .collect(),
                has_gateway: bound.interface.gateway.is_some(),
            })
            .collect(),
    }
}

/// A number for the part of the configuration that both nodes must have alike: equal if and only if
/// that part is. 48 bits, so that JSON readers keep it exact.
pub fn generation(config: &Config) -> u64 {
    let text = format!(
        "{:?}",
        (
            &config.ha,
            &config.shared_addresses,
            &config.virtual_services
        )
    );
    let tag = siphash::tag(&[0; 16], text.as_bytes());
    u64::from_be_bytes([0, 0, tag[0], tag[1], tag[2], tag[3], tag[4], tag[5]])
}

pub(super) fn sync_config(config: &Config) -> SyncConfig {
    let node = if config.node.mode == Mode::Second {
        2
    } else {
        1
    };
    let mut sync = SyncConfig::new(node, u16::from(config.ha.virtual_id));
    sync.max_entries = usize::try_from(config.limits.connections).unwrap_or(usize::MAX);
    sync
}

pub(super) fn channel(config: &Config, bound: &[Bound]) -> Option<replication::Channel> {
    let bound = bound
        .iter()
        .find(|bound| bound.interface.name == config.ha.multicast_interface)?;
    Some(replication::Channel {
        own: bound.interface.address?.address,
        partner: bound.interface.partner?,
        group: config.ha.multicast_group,
        port: config.ha.multicast_port,
        ifindex: bound.link.ifindex,
        device: bound.link.device.clone(),
    })
}

/// Own MAC on each interface with the data plane, by index.
pub fn own_macs(bound: &Mutex<Vec<Bound>>) -> BTreeMap<u32, frame::Mac> {
    let bound = bound.lock().unwrap_or_else(PoisonError::into_inner);
    bound
        .iter()
        .map(|bound| (bound.link.ifindex, bound.link.mac))
        .collect()
}
