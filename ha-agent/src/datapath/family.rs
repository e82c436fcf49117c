//! Both families in one type, and the way from there to the kernel's maps.
//!
//! The maps have keys and values for each family, no larger than it needs. The agent has one of each kind,
//! over [`IpAddr`]: it handles far fewer of them, and everything it does with them is the same in both
//! families. Only the kernel backend knows the difference. Ports stay in network byte order, as in the
//! maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ha_common::conn::{Conn, ConnKey, PersistKey};
use ha_common::event::ConnEvent;
use ha_common::service::{Addr6, Address, ReturnPath, ServiceKey};

use super::sys;

/// A 5-tuple.
pub type FlowKey = ConnKey<IpAddr>;
/// One direction of a connection.
pub type FlowEntry = Conn<IpAddr>;
/// A change of a connection.
pub type FlowEvent = ConnEvent<IpAddr>;
/// Where a virtual service listens, or a real server answers from.
pub type ListenKey = ServiceKey<IpAddr>;
/// Where packets of a real server that belong to no known connection go.
pub type ReturnRoute = ReturnPath<IpAddr>;
/// A client of a service with persistence.
pub type ClientKey = PersistKey<IpAddr>;

/// No address, in the family of this one.
pub const fn none_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// An entry that rewrites to this address, with nothing else filled in.
pub const fn entry_to(to_addr: IpAddr) -> FlowEntry {
    FlowEntry {
        to_addr,
        from_addr: none_like(to_addr),
        to_port: 0,
        from_port: 0,
        l4_delta: 0,
        l3_delta: 0,
        real: 0,
        real_generation: 0,
        flags: 0,
        state: 0,
        service: 0,
        version: 0,
        pad: 0,
        hop_ifindex: 0,
        hop_mac: [0; 6],
        hop_src: [0; 6],
        pad2: 0,
        last_seen_ns: 0,
        created_ns: 0,
    }
}

/// The address in a field for either family.
pub fn wide(address: IpAddr) -> Addr6 {
    match address {
        IpAddr::V4(_) => u32::from_ip(address).wide(),
        IpAddr::V6(_) => Addr6::from_ip(address),
    }
}

/// The address in such a field, of the family of `like`.
pub fn narrow(field: Addr6, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => u32::narrow(field).ip(),
        IpAddr::V6(_) => field.ip(),
    }
}

/// The address's bit in the filter of those that concern the data plane ([`ha_common::filter`]).
pub fn filter_bit(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => u32::from_ip(address).filter_bit(),
        IpAddr::V6(_) => Addr6::from_ip(address).filter_bit(),
    }
}

/// What replacing one address by another adds to a one's-complement sum. Both are of one family.
pub fn delta(old: IpAddr, new: IpAddr) -> u32 {
    match old {
        IpAddr::V4(_) => u32::from_ip(old).delta(u32::from_ip(new)),
        IpAddr::V6(_) => Addr6::from_ip(old).delta(Addr6::from_ip(new)),
    }
}

/// Reads a record of `ha_events`, whose length tells its family.
pub fn read_event(record: &[u8]) -> Option<FlowEvent> {
    if record.len() == size_of::<ConnEvent<u32>>() {
        sys::read_pod::<ConnEvent<u32>>(record).map(|event| map_event(&event, Kernel::ip))
    } else if record.len() == size_of::<ConnEvent<Addr6>>() {
        sys::read_pod::<ConnEvent<Addr6>>(record).map(|event| map_event(&event, Kernel::ip))
    } else {
        None
    }
}

/// An address as it stands in the maps of its family.
pub(crate) trait Kernel: Address {
    /// The family's number, as people write it.
    const NUMBER: u16;

    /// The address; one of the other family counts as none.
    fn from_ip(address: IpAddr) -> Self;
    /// The address.
    fn ip(self) -> IpAddr;

    /// Whether an address is of this family.
    fn is_family(address: IpAddr) -> bool {
        address.is_ipv6() == (Self::NUMBER == 6)
    }
}

impl Kernel for u32 {
    const NUMBER: u16 = 4;

    fn from_ip(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from_ne_bytes(v4.octets()),
            IpAddr::V6(_) => 0,
        }
    }

    fn ip(self) -> IpAddr {
        self.to_ne_bytes().into()
    }
}

impl Kernel for Addr6 {
    const NUMBER: u16 = 6;

    fn from_ip(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::default(),
            IpAddr::V6(v6) => Self::new(v6.octets()),
        }
    }

    fn ip(self) -> IpAddr {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(self.words) {
            *bytes = word.to_ne_bytes();
        }
        octets.into()
    }
}

pub(super) fn map_key<A: Copy, B>(from: &ConnKey<A>, map: impl Fn(A) -> B) -> ConnKey<B> {
    ConnKey {
        src: map(from.src),
        dst: map(from.dst),
        sport: from.sport,
        dport: from.dport,
        proto: from.proto,
    }
}

pub(super) fn map_entry<A: Copy, B>(from: &Conn<A>, map: impl Fn(A) -> B) -> Conn<B> {
    Conn {
        to_addr: map(from.to_addr),
        from_addr: map(from.from_addr),
        to_port: from.to_port,
        from_port: from.from_port,
        l4_delta: from.l4_delta,
        l3_delta: from.l3_delta,
        real: from.real,
        real_generation: from.real_generation,
        flags: from.flags,
        state: from.state,
        service: from.service,
        version: from.version,
        pad: 0,
        hop_ifindex: from.hop_ifindex,
        hop_mac: from.hop_mac,
        hop_src: from.hop_src,
        pad2: 0,
        last_seen_ns: from.last_seen_ns,
        created_ns: from.created_ns,
    }
}

fn map_event<A: Copy, B>(from: &ConnEvent<A>, map: impl Fn(A) -> B) -> ConnEvent<B> {
    ConnEvent {
        at_ns: from.at_ns,
        key: map_key(&from.key, &map),
        real_addr: map(from.real_addr),
        from_addr: map(from.from_addr),
        real_port: from.real_port,
        from_port: from.from_port,
        version: from.version,
        kind: from.kind,
        state: from.state,
        flags: from.flags,
        pad: 0,
        service: from.service,
        real: from.real,
        pad2: 0,
    }
}

pub(super) fn map_listen<A: Copy, B>(from: &ServiceKey<A>, map: impl Fn(A) -> B) -> ServiceKey<B> {
    ServiceKey {
        addr: map(from.addr),
        port: from.port,
        proto: from.proto,
    }
}

pub(super) fn map_return<A: Copy, B>(from: &ReturnPath<A>, map: impl Fn(A) -> B) -> ReturnPath<B> {
    ReturnPath {
        vip: map(from.vip),
        vport: from.vport,
        real: from.real,
        real_generation: from.real_generation,
        service: from.service,
        ambiguous: from.ambiguous,
    }
}

pub(super) fn map_client<A: Copy, B>(from: &PersistKey<A>, map: impl Fn(A) -> B) -> PersistKey<B> {
    PersistKey {
        client: map(from.client),
        service: from.service,
        pad: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::conn::{ConnKey4, flags};

    fn addresses() -> [IpAddr; 2] {
        ["192.0.2.1", "2001:db8::102:304"].map(|text| text.parse().unwrap())
    }

    #[test]
    fn addresses_survive_the_kernel() {
        let [v4, v6] = addresses();
        assert_eq!(u32::from_ip(v4).ip(), v4);
        assert_eq!(Addr6::from_ip(v6).ip(), v6);
        assert_eq!(u32::from_ip(v6).ip(), none_like(v4));
        assert_eq!(Addr6::from_ip(v4).ip(), none_like(v6));
        for address in [v4, v6] {
            assert_eq!(narrow(wide(address), address), address);
        }
        assert!(u32::is_family(v4) && !u32::is_family(v6) && Addr6::is_family(v6));
    }

    #[test]
    fn keys_and_entries_survive_the_kernel() {
        for address in addresses() {
            let key = FlowKey {
                src: address,
                dst: address,
                sport: 1,
                dport: 2,
                proto: 6,
            };
            let mut entry = entry_to(address);
            entry.flags = flags::BOTH_ENDS;
            (entry.from_addr, entry.hop_mac) = (address, [1; 6]);
            if address.is_ipv4() {
                assert_eq!(map_key(&map_key(&key, u32::from_ip), Kernel::ip), key);
                assert_eq!(
                    map_entry(&map_entry(&entry, u32::from_ip), Kernel::ip),
                    entry
                );
            } else {
                assert_eq!(map_key(&map_key(&key, Addr6::from_ip), Kernel::ip), key);
                assert_eq!(
                    map_entry(&map_entry(&entry, Addr6::from_ip), Kernel::ip),
                    entry
                );
            }
        }
    }

    #[test]
    fn events_tell_their_family_by_their_length() {
        let v4 = ConnEvent::<u32> {
            key: ConnKey4 {
                src: 7,
                ..ConnKey4::default()
            },
            ..ConnEvent::default()
        };
        let read = read_event(sys::bytes_of(&[v4])).unwrap();
        assert_eq!(read.key.src, 7u32.ip());
        let v6 = ConnEvent::<Addr6>::default();
        let read = read_event(sys::bytes_of(&[v6])).unwrap();
        assert!(read.key.src.is_ipv6());
        for len in [0, 1, 47, 49, 95, 97] {
            assert_eq!(read_event(&vec![0; len]), None, "{len} bytes");
        }
    }
}
