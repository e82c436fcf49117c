//! Who has which address: IPv6 and its neighbour discovery at the gate, and duplicate addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use ha_common::control::Gate;
use ha_common::event::EvidenceKind;
use ha_common::reason::Reason;
use ha_tests::packet::{Frame, Mac, arp_request};

use super::lab::{CLIENT, Case, Lab, NODE_MAC, OWN, USUAL, VHID, VIP};
use super::partner::{EPOCH, OWN6, PARTNER_MAC, PARTNER4, PARTNER6, VIP6, advert, packet6};

pub(crate) const CASES: &[Case] = &[
    ("ipv6_to_a_shared_address_needs_the_gate", USUAL, v6_gate),
    ("neighbour_discovery_needs_the_gate", USUAL, discovery),
    ("hellos_pass", USUAL, hellos),
    ("a_duplicate_address_is_shown", USUAL, duplicates),
];

const STRANGER: Mac = [0x02, 0x66, 0, 0, 0, 0x66];

pub(super) fn elsewhere() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)
}

fn v6_gate(lab: &mut Lab) -> Result<()> {
    for next in [6, 17, 58, 0, 44] {
        // No header follows where one could.
        let mut payload = [0; 40];
        payload[0] = 59;
        let shared = packet6(elsewhere(), VIP6, next, 64, &payload);
        let own = packet6(elsewhere(), OWN6, next, 64, &payload);
        let passing = packet6(OWN6, elsewhere(), next, 64, &payload);
        for (until, wanted) in [
            (Gate::ALWAYS, Reason::SharedAddressLocal),
            (Gate::CLOSED, Reason::GateClosed),
        ] {
            lab.world.set_gate(until)?;
            lab.untouched(&shared, wanted)?;
            lab.untouched(&own, Reason::NotOurs)?;
            lab.untouched(&passing, Reason::NotOurs)?;
        }
        // Shorter than it says; and too short to tell.
        lab.untouched(&shared[..60], Reason::BadIpHeader)?;
        lab.untouched(&shared[..53], Reason::NotIp)?;
    }
    Ok(())
}

/// Neighbour solicitation (135) or advertisement (136) for a target.
pub(super) fn nd(kind: u8, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1, 2, 0, 0, 0, 0, 1]);
    packet6(
        source,
        "ff02::1".parse().expect("an address"),
        58,
        255,
        &message,
    )
}

fn discovery(lab: &mut Lab) -> Result<()> {
    for kind in [135, 136] {
        for (until, wanted) in [
            (Gate::ALWAYS, Reason::SharedAddressLocal),
            (Gate::CLOSED, Reason::NdGateClosed),
        ] {
            lab.world.set_gate(until)?;
            lab.untouched(&nd(kind, PARTNER6, VIP6), wanted)?;
            lab.untouched(&nd(kind, PARTNER6, OWN6), Reason::NotOurs)?;
            lab.untouched(&nd(kind, PARTNER6, elsewhere()), Reason::NotOurs)?;
        }
        let other = nd(133, PARTNER6, VIP6);
        lab.untouched(&other, Reason::NotOurs)?;
    }
    Ok(())
}

fn hellos(lab: &mut Lab) -> Result<()> {
    for until in [Gate::ALWAYS, Gate::CLOSED] {
        lab.world.set_gate(until)?;
        for to in ["224.0.0.18:6975", "10.0.0.11:6975", "10.1.0.11:6975"] {
            let hello = Frame::udp(
                "10.0.0.12:6975".parse::<SocketAddrV4>()?,
                to.parse::<SocketAddrV4>()?,
            )
            .ttl(255)
            .payload(&[0x48; 92]);
            lab.untouched(&hello.build(), Reason::NotOurs)?;
        }
        let mut udp = vec![0x1b, 0x3f, 0x1b, 0x3f, 0, 100, 0, 0];
        udp.extend([0x48; 92]);
        for to in ["ff02::12".parse()?, OWN6] {
            lab.untouched(&packet6(PARTNER6, to, 17, 255, &udp), Reason::NotOurs)?;
        }
    }
    Ok(())
}

fn duplicates(lab: &mut Lab) -> Result<()> {
    lab.know(EPOCH)?;
    // The partner's Ethernet address is learnt from what it signs.
    lab.untouched(&advert(1).frame(), Reason::CarpDelivered)?;
    let arp = |sender, mac: Mac| {
        let mut frame = arp_request(sender, *CLIENT.ip());
        frame[22..28].copy_from_slice(&mac);
        frame
    };
    let claim6 = |target, mac: Mac| {
        let mut frame = nd(136, target, target);
        frame[6..12].copy_from_slice(&mac);
        frame
    };
    let virtual_mac = [0, 0, 0x5e, 0, 1, VHID];
    for ours in [NODE_MAC, PARTNER_MAC, virtual_mac] {
        lab.untouched(&arp(VIP, ours), Reason::NotIp)?;
        lab.untouched(&claim6(VIP6, ours), Reason::SharedAddressLocal)?;
    }
    lab.untouched(&arp(PARTNER4, STRANGER), Reason::NotIp)?;
    lab.untouched(&claim6(PARTNER6, STRANGER), Reason::NotOurs)?;
    lab.untouched(&nd(135, VIP6, OWN6), Reason::NotOurs)?;
    ensure!(lab.world.evidence()?.is_empty(), "evidence against friends");
    for (frame, reason, address, shared) in [
        (arp(VIP, STRANGER), Reason::NotIp, IpAddr::from(VIP), 1),
        (arp(OWN, STRANGER), Reason::NotIp, OWN.into(), 0),
        (
            claim6(VIP6, STRANGER),
            Reason::SharedAddressLocal,
            VIP6.into(),
            1,
        ),
        (claim6(OWN6, STRANGER), Reason::NotOurs, OWN6.into(), 0),
    ] {
        lab.untouched(&frame, reason)?;
        let shown = lab.shown(EvidenceKind::DuplicateAddress)?;
        let wanted = match address {
            IpAddr::V4(v4) => v4.to_ipv6_compatible().octets()[12..].to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        ensure!(shown.address.starts_with(&wanted), "{shown:?}");
        ensure!(
            shown.source_mac == STRANGER && shown.detail == shared,
            "{shown:?}"
        );
    }
    Ok(())
}
