//! What the parts of a node are told, made from its configuration and from what the kernel says of its
//! interfaces. No effects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ha_common::control::Config as Steering;
use ha_common::maps;
use ha_common::pair::{auth, link_flags};
use ha_common::service::{LocalAddr, addr_kind};
use ha_common::siphash;

use super::addresses::SharedOn;
use super::netlink::LinkInfo;
use super::{election, frame, replication, sysctl};
use crate::config::Secrets;
use crate::config::model::{CarpAuth, Cidr, Config, Interface, Mode};
use crate::datapath::attach::Device;
use crate::datapath::load::Connections;
use crate::datapath::pair::{self, PairLink, PairTables};
use crate::proto::carp::{ElectionConfig, ElectionKeys, LinkConfig, REEXEC_LEASE, Settings};
use crate::proto::pacify::{History, Start};
use crate::proto::records::{CONFIGURED_MAX, HEALTH, HELD_MAX, KEY_VALUE_MAX, PERSISTENCE, Quota};
use crate::proto::sync::SyncConfig;

/// The loopback device has this index in every network namespace (`LOOPBACK_IFINDEX` in Linux
/// `include/net/flow.h`).
const LOOPBACK: u32 = 1;

/// An interface of the configuration and what the kernel says of it.
#[derive(Clone, Debug)]
pub struct Bound {
    /// As configured.
    pub interface: Interface,
    /// As found.
    pub link: LinkInfo,
    /// Shared addresses on it.
    pub shared: Vec<Cidr>,
}

pub(super) fn device(bound: &Bound) -> Device {
    Device {
        name: bound.link.device.clone(),
        ifindex: bound.link.ifindex,
        attached: bound.link.xdp,
    }
}

/// Where the kernel is to have the shared addresses.
///
/// With a virtual MAC they are on the loopback device: the kernel takes packets for them, but neither
/// answers who has them nor uses one when it asks for a neighbour, all of which would be done with the
/// MAC of the interface. Link-local ones mean nothing there.
pub(super) fn shared_on(config: &Config, bound: &[Bound]) -> Vec<SharedOn> {
    let mut found = Vec::new();
    for bound in bound {
        let hidden = |cidr: &Cidr| virtual_mac(config, bound).is_some() && !is_link_local(cidr);
        let (hidden, shown): (Vec<_>, Vec<_>) = bound.shared.iter().copied().partition(hidden);
        let alone = |cidr: Cidr| Cidr {
            prefix: if cidr.address.is_ipv6() { 128 } else { 32 },
            ..cidr
        };
        for (ifindex, addresses) in [
            (LOOPBACK, hidden.into_iter().map(alone).collect()),
            (bound.link.ifindex, shown),
        ] {
            if !addresses.is_empty() {
                found.push(SharedOn { ifindex, addresses });
            }
        }
    }
    found
}

fn is_link_local(cidr: &Cidr) -> bool {
    match cidr.address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Where a previous agent may have left shared addresses, whatever its configuration was.
pub(super) fn shared_anywhere(bound: &[Bound]) -> Vec<SharedOn> {
    let on = |bound: &Bound| {
        [bound.link.ifindex, LOOPBACK].map(|ifindex| SharedOn {
            ifindex,
            addresses: bound.shared.clone(),
        })
    };
    bound.iter().flat_map(on).collect()
}

/// The MAC that the shared addresses of an interface have, if it is not the interface's own.
///
/// The same in both families, as in the CARP of OpenBSD and FreeBSD; VRRP has another for IPv6 (RFC 9568
/// section 7.3).
pub(super) fn virtual_mac(config: &Config, bound: &Bound) -> Option<frame::Mac> {
    let wanted = config.ha.virtual_mac && !bound.shared.is_empty();
    wanted.then_some([0, 0, 0x5e, 0, 1, config.ha.virtual_id])
}

pub(super) fn links(config: &Config, bound: &[Bound]) -> Vec<election::Link> {
    bound.iter().map(|bound| link(config, bound)).collect()
}

pub(super) fn link(config: &Config, bound: &Bound) -> election::Link {
    election::Link {
        name: bound.interface.name.clone(),
        ifindex: bound.link.ifindex,
        mac: bound.link.mac,
        virtual_mac: virtual_mac(config, bound),
        addresses: addresses(&bound.interface.addresses),
        shared: addresses(&bound.shared),
        checked: bound.interface.ha_checks,
        transport: config.ha.transport,
        partners: bound.interface.partners.clone(),
        gateways: bound.interface.gateways.clone(),
        router: sysctl::forwards6(&bound.link.device),
    }
}

/// The first own address of an interface that is not among those found on its device.
pub(super) fn missing_address(interface: &Interface, found: &[Cidr]) -> Option<Cidr> {
    let mut own = interface.addresses.iter().copied();
    own.find(|own| found.iter().all(|found| found.address != own.address))
}

fn addresses(cidrs: &[Cidr]) -> Vec<IpAddr> {
    cidrs.iter().map(|cidr| cidr.address).collect()
}

pub(super) fn election_config(
    config: &Config,
    bound: &[Bound],
    history: &History,
    start: Option<Start>,
) -> ElectionConfig {
    // A crashed run may have promised the partner to wait that long.
    let promised = match start {
        Some(Start::Crashed) => REEXEC_LEASE,
        Some(Start::First | Start::Planned | Start::Booted) | None => Duration::ZERO,
    };
    ElectionConfig {
        mode: config.node.mode,
        vhid: config.ha.virtual_id,
        interval: config.ha.advertisement_interval,
        timeout: config.ha.timeout,
        initial_wait: config.ha.initial_wait.max(promised),
        hold_down: config.ha.hold_down,
        preferred: config.ha.preferred,
        auth: config.ha.carp_auth,
        generation: digest(config),
        start_pacified: history.is_pacified(),
        start_maintenance: history.in_maintenance(),
        links: checked(bound).collect(),
    }
}

/// What a running election may be told anew.
pub(super) const fn settings(config: &Config) -> Settings {
    Settings {
        interval: config.ha.advertisement_interval,
        timeout: config.ha.timeout,
        hold_down: config.ha.hold_down,
        auth: config.ha.carp_auth,
    }
}

/// The interfaces on which advertisements are expected, as the election knows them.
fn checked(bound: &[Bound]) -> impl Iterator<Item = LinkConfig> {
    let checked = bound.iter().filter(|bound| bound.interface.ha_checks);
    checked.map(|bound| LinkConfig {
        name: bound.interface.name.clone(),
        addresses: addresses(&bound.interface.addresses),
        partners: bound.interface.partners.clone(),
        shared: addresses(&bound.shared),
        has_gateway: !bound.interface.gateways.is_empty(),
    })
}

/// What the data plane is told of the pair, for an agent that started with this epoch.
pub(super) fn pair_tables(
    config: &Config,
    keys: &ElectionKeys,
    epoch: u64,
    bound: &[Bound],
) -> PairTables {
    let secrets = pair::Secrets {
        vhid: config.ha.virtual_id,
        auth: match config.ha.carp_auth {
            CarpAuth::Enforce => auth::ENFORCE,
            CarpAuth::Permissive => auth::PERMISSIVE,
            CarpAuth::Off => auth::OFF,
        },
        own_epoch: epoch,
        keys: &keys.trailer,
        passphrase: &keys.carp_passphrase,
    };
    let checked: Vec<LinkConfig> = checked(bound).collect();
    let links: Vec<PairLink<'_>> = bound
        .iter()
        .map(|bound| {
            let mut checked = checked.iter();
            let checked = checked.find(|link| link.name == bound.interface.name);
            PairLink {
                ifindex: bound.link.ifindex,
                mac: bound.link.mac,
                flags: flags(config, bound),
                checked: checked.is_some(),
                own: checked.map_or(&[], |link| &link.addresses),
                partners: checked.map_or(&[], |link| &link.partners),
                shared: checked.map_or(&[], |link| &link.shared),
            }
        })
        .collect();
    pair::tables(&secrets, &links)
}

/// What the data plane is told of an interface's virtual MAC.
fn flags(config: &Config, bound: &Bound) -> u32 {
    let router = sysctl::forwards6(&bound.link.device);
    virtual_mac(config, bound).map_or(0, |_| {
        link_flags::VIRTUAL_MAC | if router { link_flags::ROUTER } else { 0 }
    })
}

/// Addresses of this node, own and shared, as the data plane knows them.
pub(super) fn local_addresses(config: &Config, bound: &[Bound]) -> Vec<(IpAddr, LocalAddr)> {
    let mut found = Vec::new();
    for bound in bound {
        let own = LocalAddr {
            kind: addr_kind::OWN,
            ifindex: 0,
        };
        let shared = LocalAddr {
            kind: addr_kind::SHARED,
            ifindex: virtual_mac(config, bound).map_or(0, |_| bound.link.ifindex),
        };
        for (addresses, local) in [(&bound.interface.addresses, own), (&bound.shared, shared)] {
            found.extend(addresses.iter().map(|cidr| (cidr.address, local)));
        }
    }
    found
}

/// Longest IP packet that fits through each of the pair's interfaces. A device that does not say how long
/// its packets may be does not count; longer than an IPv4 packet can be is as long as that.
pub(super) fn smallest_mtu(bound: &[Bound]) -> u16 {
    let mtus = bound.iter().map(|bound| bound.link.mtu);
    let smallest = mtus.filter(|mtu| *mtu > 0).min();
    smallest.map_or(u16::MAX, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// What the connection tables hold.
pub(super) const fn connections(config: &Config) -> Connections {
    Connections {
        v4: config.limits.connections,
        v6: config.limits.connections_ipv6,
    }
}

/// What the data plane is told besides services, at the start of a node without replication.
pub(super) fn steering(config: &Config) -> Steering {
    Steering {
        vhid: u32::from(config.ha.virtual_id),
        node_bit: u32::from(config.node.mode == Mode::Second),
        new_flows_max: config.limits.new_flows,
        ..Steering::default()
    }
}

/// What the election and the data plane check and sign with.
pub(super) fn election_keys(secrets: &Secrets) -> ElectionKeys {
    let keys = secrets.keys.iter();
    ElectionKeys {
        carp_passphrase: secrets.carp_passphrase.to_vec(),
        trailer: keys.map(|key| (key.id, key.trailer_key())).collect(),
    }
}

/// A number for the part of the configuration in force that both nodes must have alike to be ready for each
/// other: equal if and only if that part is. Advertisements carry it.
pub fn digest(config: &Config) -> u64 {
    let text = format!(
        "{:?}",
        (
            &config.ha,
            &config.shared_addresses,
            &config.virtual_services,
            &config.records.namespaces
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
    sync.name.clone_from(&config.node.name);
    let Connections { v4, v6 } = connections(config);
    sync.max_entries = v4.saturating_add(v6) as usize;
    sync
}

const _: () = assert!(
    (maps::PERSIST_ENTRIES + maps::REALS_ENTRIES + CONFIGURED_MAX) as usize <= HELD_MAX / 2
);

/// How much writers may put into which namespace.
pub(super) fn quotas(config: &Config) -> impl Iterator<Item = (String, Quota)> {
    /// The agent's own: as many clients as the data plane remembers, each a line, and all real servers.
    const OWN: [(&str, u32); 2] = [
        (PERSISTENCE, maps::PERSIST_ENTRIES),
        (HEALTH, maps::REALS_ENTRIES),
    ];
    let own = OWN.map(|(name, records)| {
        let bytes = u64::from(records) * KEY_VALUE_MAX as u64;
        (name.to_owned(), Quota { records, bytes })
    });
    let others = config.records.namespaces.iter();
    own.into_iter()
        .chain(others.map(|namespace| (namespace.name.clone(), namespace.quota)))
}

pub(super) fn channel(config: &Config, bound: &[Bound]) -> Option<replication::Channel> {
    let bound = bound
        .iter()
        .find(|bound| bound.interface.name == config.ha.multicast_interface)?;
    let v6 = config.ha.multicast_group.is_ipv6();
    Some(replication::Channel {
        own: bound.interface.own(v6)?.address,
        partner: bound.interface.partner(v6)?,
        group: config.ha.multicast_group,
        transport: config.ha.transport,
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

/// The source of what an active node forwards on each interface with the data plane, by index.
pub fn sources(config: &Config, bound: &Mutex<Vec<Bound>>) -> BTreeMap<u32, frame::Mac> {
    let bound = bound.lock().unwrap_or_else(PoisonError::into_inner);
    let source = |bound: &Bound| virtual_mac(config, bound).unwrap_or(bound.link.mac);
    bound
        .iter()
        .map(|bound| (bound.link.ifindex, source(bound)))
        .collect()
}
