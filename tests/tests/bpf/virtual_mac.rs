//! The virtual MAC: who answers for it, what leaves with it, and what is taken for it.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use ha_common::control::Gate;
use ha_common::pair::link_flags;
use ha_common::reason::Reason;
use ha_common::service::{Addr6, LocalAddr, addr_kind};
use ha_tests::clock::now_ns;
use ha_tests::packet::{Frame, Mac, arp_request, checksum, flag};
use ha_tests::rig::bpf::INGRESS;

use super::lab::{
    BACK, CLIENT, CLIENT_MAC, Case, Lab, NODE_BACK_MAC, NODE_MAC, ONE, ONE_MAC, OTHER_VIP, USUAL,
    VHID, VIP, WEB, at_client, at_server, from_client, from_server, id, net,
};
use super::neighbour::{elsewhere, nd};
use super::partner::{self, PARTNER_MAC, PARTNER6, VIP6};

pub(crate) const CASES: &[Case] = &[
    ("arp_is_answered_with_the_virtual_mac", USUAL, arp),
    ("nd_is_answered_with_the_virtual_mac", USUAL, discovery),
    ("frames_to_the_virtual_mac_need_the_gate", USUAL, accepted),
    ("the_virtual_mac_is_no_source_in_a_hand_over", USUAL, source),
];

/// A real server's own traffic.
const OUTBOUND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 21), 40000);
const VIRTUAL: Mac = [0, 0, 0x5e, 0, 1, VHID];

/// The shared addresses have the virtual MAC, but for one, which is at home elsewhere.
fn prepare(lab: &mut Lab, flags: u32) -> Result<()> {
    let mut tables = partner::enforcing();
    tables.pair.ifindexes[1] = BACK;
    for (index, peer) in tables.peers.iter_mut().take(4).enumerate() {
        peer.flags = flags;
        peer.own_mac = if index < 2 { NODE_MAC } else { NODE_BACK_MAC };
    }
    lab.world.set_pair(&tables)?;
    let local = |ifindex| LocalAddr {
        kind: addr_kind::SHARED,
        ifindex,
    };
    lab.world.put_addr(net(VIP), local(INGRESS))?;
    lab.world.put_addr(net(OTHER_VIP), local(BACK))?;
    let vip6 = Addr6::new(VIP6.octets());
    lab.world.put_addr6(vip6, local(INGRESS))
}

fn arp(lab: &mut Lab) -> Result<()> {
    prepare(lab, link_flags::VIRTUAL_MAC)?;
    let client = *CLIENT.ip();
    let question = arp_request(client, VIP);
    let asker = question[6..12].to_vec();
    for sender in [client, Ipv4Addr::UNSPECIFIED] {
        let mut wanted = asker.clone();
        wanted.extend(VIRTUAL);
        wanted.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]);
        wanted.extend(VIRTUAL);
        wanted.extend(VIP.octets());
        wanted.extend(&asker);
        wanted.extend(sender.octets());
        let answer = lab.run(&arp_request(sender, VIP), Reason::ArpAnswered)?;
        ensure!(answer == wanted, "{answer:02x?}");
    }
    // At home on another interface; an announcement; an answer; nobody's question.
    lab.untouched(&arp_request(client, OTHER_VIP), Reason::SharedAddressLocal)?;
    lab.untouched(&arp_request(VIP, VIP), Reason::SharedAddressLocal)?;
    let mut reply = question.clone();
    reply[21] = 2;
    lab.untouched(&reply, Reason::SharedAddressLocal)?;
    let mut nobody = question.clone();
    nobody[22] |= 1;
    lab.untouched(&nobody, Reason::SharedAddressLocal)?;
    lab.world.set_gate(Gate::CLOSED)?;
    lab.untouched(&question, Reason::ArpGateClosed)
}

/// The checksum over message and pseudo-header.
fn is_sound(frame: &[u8]) -> bool {
    let length = u16::from_be_bytes([frame[18], frame[19]]);
    let mut bytes = frame[22..54].to_vec();
    bytes.extend([0, 0, frame[18], frame[19], 0, 0, 0, 58]);
    bytes.extend(&frame[54..54 + usize::from(length)]);
    checksum(&bytes) == 0
}

fn discovery(lab: &mut Lab) -> Result<()> {
    let all_nodes = "ff02::1".parse()?;
    for (flags, router) in [
        (link_flags::VIRTUAL_MAC, 0),
        (link_flags::VIRTUAL_MAC | link_flags::ROUTER, 0x80),
    ] {
        prepare(lab, flags)?;
        for (asker, to, mac, solicited) in [
            (PARTNER6, PARTNER6, PARTNER_MAC, 0x40),
            ("::".parse()?, all_nodes, [0x33, 0x33, 0, 0, 0, 1], 0),
        ] {
            let question = nd(135, asker, VIP6);
            let answer = lab.run(&question, Reason::NdAnswered)?;
            ensure!(answer[..6] == mac && answer[6..12] == VIRTUAL);
            ensure!(answer[18..22] == [0, 32, 58, 255], "{answer:02x?}");
            ensure!(answer[22..38] == VIP6.octets() && answer[38..54] == to.octets());
            ensure!(answer[54..56] == [136, 0]);
            ensure!(answer[58..62] == [0x20 | solicited | router, 0, 0, 0]);
            ensure!(answer[62..78] == VIP6.octets());
            ensure!(answer[78..80] == [2, 1] && answer[80..] == VIRTUAL);
            ensure!(is_sound(&answer), "checksum");
            // Without the option there is no room for one.
            let mut bare = question[..78].to_vec();
            bare[19] = 24;
            let answer = lab.run(&bare, Reason::NdAnswered)?;
            ensure!(answer.len() == 78 && answer[19] == 24 && is_sound(&answer));
        }
    }
    let question = nd(135, PARTNER6, VIP6);
    let mut routed = question.clone();
    routed[21] = 254;
    lab.untouched(&routed, Reason::SharedAddressLocal)?;
    let mut nobody = question.clone();
    nobody[6] |= 1;
    lab.untouched(&nobody, Reason::SharedAddressLocal)?;
    lab.untouched(&nd(136, PARTNER6, VIP6), Reason::SharedAddressLocal)?;
    lab.world.set_gate(Gate::CLOSED)?;
    lab.untouched(&question, Reason::NdGateClosed)?;
    // What the active node answers its standby.
    let mut answer = nd(136, VIP6, VIP6);
    answer[38..54].copy_from_slice(&elsewhere().octets());
    lab.untouched(&answer, Reason::NotOurs)
}

fn accepted(lab: &mut Lab) -> Result<()> {
    // To the node as a router: neither shared address nor service.
    let resolver: SocketAddrV4 = "203.0.113.9:53".parse()?;
    let passing = |to: Mac| Frame::udp(OUTBOUND, resolver).macs(ONE_MAC, to).build();
    lab.untouched(&passing(VIRTUAL), Reason::NotOurs)?;
    prepare(lab, link_flags::VIRTUAL_MAC)?;
    let taken = lab.run(&passing(VIRTUAL), Reason::NotOurs)?;
    ensure!(taken == passing(NODE_MAC), "{taken:02x?}");
    let mut other = VIRTUAL;
    other[5] += 1;
    lab.untouched(&passing(other), Reason::NotOurs)?;
    lab.untouched(&passing(PARTNER_MAC), Reason::NotOurs)?;
    lab.world.set_gate(Gate::CLOSED)?;
    lab.untouched(&passing(VIRTUAL), Reason::NotOurs)?;

    // What the kernel forwards.
    lab.world.set_gate(Gate::ALWAYS)?;
    lab.change_real(id::ONE, |real| real.hop_known = 0)?;
    let syn = from_client(CLIENT, WEB, flag::SYN).macs(CLIENT_MAC, VIRTUAL);
    let left = syn.clone().to(ONE).macs(CLIENT_MAC, NODE_MAC);
    lab.becomes(&syn, Reason::ForwardKernel, &left)
}

fn source(lab: &mut Lab) -> Result<()> {
    prepare(lab, link_flags::VIRTUAL_MAC)?;
    lab.change_real(id::ONE, |real| real.src_mac = VIRTUAL)?;
    lab.connect(CLIENT, WEB)?;
    let data = from_client(CLIENT, WEB, flag::ACK).macs(CLIENT_MAC, VIRTUAL);
    let answer = from_server(ONE, CLIENT, flag::ACK);
    let forward = at_server(&data, ONE);
    let back = at_client(&answer, WEB);
    let with_virtual = forward.clone().macs(VIRTUAL, ONE_MAC);
    lab.becomes(&data, Reason::ForwardRedirect, &with_virtual)?;
    let with_virtual = back.clone().macs(VIRTUAL, CLIENT_MAC);
    lab.becomes(&answer, Reason::ReverseTransmit, &with_virtual)?;

    // The partner speaks with it now.
    for _ in 0..100 {
        let until = now_ns() + Gate::HAND_OVER_NS - 1_000_000;
        lab.world.put_gate(Gate {
            established_until_ns: until,
            ..Gate::default()
        })?;
        let ran = [
            lab.world.run(&data.build())?.frame,
            lab.world.run(&answer.build())?.frame,
        ];
        if now_ns() < until {
            ensure!(ran == [forward.build(), back.build()], "{ran:02x?}");
            return Ok(());
        }
    }
    anyhow::bail!("never within the time of a hand-over")
}
