//! The partner, and others who would like to be: advertisements as the agent signs them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_agent::datapath::pair::{self, PairLink, PairTables, Secrets};
use ha_agent::proto::carp::trailer::{Body, Signer, WireRole};
use ha_agent::proto::carp::wire::Group;
use ha_common::carp::{HEADER_LEN, TRAILER_LEN};
use ha_common::pair::auth;
use ha_tests::packet::{Frame, Mac, checksum};
use ha_tests::rig::bpf::INGRESS;

use super::lab::{NODE_MAC, OTHER_VIP, VHID, VIP};

pub(crate) const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
pub(crate) const PARTNER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);
pub(crate) const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x11);
pub(crate) const PARTNER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x12);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
pub(crate) const PARTNER_MAC: Mac = [0x02, 0x1c, 0, 0, 0, 0x01];

pub(crate) const OWN_EPOCH: u64 = 0x0123_4567_89ab_cdef;
pub(crate) const EPOCH: u64 = 0xfeed_0000_0000_0001;
pub(crate) const KEYS: [(u8, [u8; 16]); 2] = [(7, [0x5a; 16]), (8, [0xc3; 16])];
pub(crate) const PASSPHRASE: &[u8] = b"carp-passphrase";

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// What the cases' node knows of its pair, with the trailer demanded.
pub(crate) fn enforcing() -> PairTables {
    tables(auth::ENFORCE, &shared())
}

/// The shared addresses of the only link.
pub(crate) fn shared() -> Vec<IpAddr> {
    vec![VIP.into(), OTHER_VIP.into(), VIP6.into()]
}

pub(crate) fn tables(auth: u32, shared: &[IpAddr]) -> PairTables {
    let link = PairLink {
        ifindex: INGRESS,
        mac: NODE_MAC,
        flags: 0,
        checked: true,
        own: &[OWN4.into(), OWN6.into()],
        partners: &[PARTNER4.into(), PARTNER6.into()],
        shared,
    };
    let secrets = Secrets {
        vhid: VHID,
        auth,
        own_epoch: OWN_EPOCH,
        keys: &KEYS,
        passphrase: PASSPHRASE,
    };
    pair::tables(&secrets, &[link])
}

/// An advertisement to be.
#[derive(Clone)]
pub(crate) struct Advert {
    pub(crate) source: IpAddr,
    pub(crate) key: (u8, [u8; 16]),
    pub(crate) body: Body,
    /// Bytes behind the header are kept from this one on out.
    pub(crate) trailer_len: usize,
}

/// The partner's advertisement with this sequence.
pub(crate) fn advert(sequence: u64) -> Advert {
    Advert {
        source: PARTNER4.into(),
        key: KEYS[0],
        body: Body {
            flags: 0,
            epoch: EPOCH,
            sequence,
            term: 1,
            interval_us: 10_000,
            timeout_us: 30_000,
            mode: 2,
            role: WireRole::Active,
            ready: true,
            preferred: 0,
            health: 3,
            recent: 0,
            heard: 1,
            generation: 9,
            echo_epoch: OWN_EPOCH,
            echo_sequence: 4,
        },
        trailer_len: TRAILER_LEN,
    }
}

impl Advert {
    pub(crate) fn v6(mut self) -> Self {
        self.source = PARTNER6.into();
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// CARP header and trailer.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let group = Group::new(PASSPHRASE, VHID, &shared());
        let header = group.header(1, 0, 1000 + self.body.sequence).encode();
        let signer = Signer::new(VHID, vec![self.key]);
        let mut payload = signer.advert(self.source, &header, &self.body);
        payload.truncate(HEADER_LEN + self.trailer_len);
        payload
    }

    /// The frame, from the partner's Ethernet address.
    pub(crate) fn frame(&self) -> Vec<u8> {
        frame(self.source, &self.payload())
    }
}

/// A packet to the group with this payload.
pub(crate) fn frame(source: IpAddr, payload: &[u8]) -> Vec<u8> {
    match source {
        IpAddr::V4(v4) => packet4(v4, payload).build(),
        IpAddr::V6(v6) => packet6(v6, GROUP6, 112, 255, payload),
    }
}

pub(crate) fn packet4(source: Ipv4Addr, payload: &[u8]) -> Frame {
    Frame::raw(source, GROUP, 112)
        .macs(PARTNER_MAC, [0x01, 0, 0x5e, 0, 0, 0x12])
        .ttl(255)
        .payload(payload)
}

/// An IPv6 packet.
pub(crate) fn packet6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next: u8,
    hops: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 0x12];
    frame.extend(PARTNER_MAC);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next, hops]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(payload);
    frame
}

/// Makes a header's checksum right again after it was changed.
pub(crate) fn sum(payload: &mut [u8]) {
    payload[6..8].fill(0);
    let sum = checksum(&payload[..HEADER_LEN]).to_be_bytes();
    payload[6..8].copy_from_slice(&sum);
}
