//! The address families. Cases are written in IPv4; in IPv6 every address is another
//! ([`ha_tests::packet::mapped`]) and everything else is the same.

use std::net::Ipv4Addr;

use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey, FragmentKey, PersistKey};
use ha_common::event::ConnEvent;
use ha_common::proto;
use ha_common::service::{Addr6, Address as _, Real, ReturnPath, Service, ServiceKey};
use ha_tests::packet::mapped;

/// What the packets of a case are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Length of an IP header.
    pub(crate) const fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// The family's ICMP.
    pub(crate) const fn icmp(self) -> u8 {
        match self {
            Self::V4 => proto::ICMP,
            Self::V6 => proto::ICMPV6,
        }
    }
}

/// What is called otherwise in IPv6. Unset addresses stay unset.
pub(crate) trait Both: Copy {
    type Six: Copy;
    fn six(self) -> Self::Six;
    fn four(six: Self::Six) -> Self;
}

impl Both for u32 {
    type Six = Addr6;

    fn six(self) -> Addr6 {
        match self {
            0 => Addr6::default(),
            _ => Addr6::new(mapped(Ipv4Addr::from(self.to_ne_bytes())).octets()),
        }
    }

    fn four(six: Addr6) -> Self {
        let [a, b, c, last] = six.words;
        if six == last.six() || six == Addr6::default() {
            return last;
        }
        // Of a packet that was spoiled: any name does that is not that of another.
        a.rotate_left(8) ^ b.rotate_left(16) ^ c.rotate_left(24) ^ last
    }
}

macro_rules! both {
    ($($name:ident $fields:tt)+) => {$(
        impl Both for $name<u32> {
            type Six = $name<Addr6>;

            fn six(self) -> $name<Addr6> {
                both!(@ self, Both::six, $name $fields)
            }

            fn four(six: $name<Addr6>) -> Self {
                both!(@ six, Both::four, $name $fields)
            }
        }
    )+};
    (@ $value:expr, $turn:expr, $name:ident { $($address:ident),+; $($same:ident),* }) => {{
        let value = $value;
        $name {
            $($address: $turn(value.$address),)+
            $($same: value.$same,)*
        }
    }};
}

both! {
    ConnKey { src, dst; sport, dport, proto }
    EmbryoKey { client; port, pad }
    FragmentKey { src, dst; id, proto }
    PersistKey { client; service, pad }
    ServiceKey { addr; port, proto }
    ReturnPath { vip; vport, real, real_generation, service, ambiguous }
    Conn {
        to_addr, from_addr;
        to_port, from_port, l4_delta, l3_delta, real, real_generation, flags, state, service,
        version, pad, hop_ifindex, hop_mac, hop_src, pad2, last_seen_ns, created_ns
    }
    Embryo {
        vip, real_addr, from_addr;
        vport, real_port, from_port, real, real_generation, service, flags, answered, pad,
        server_isn, hop_ifindex, hop_mac, hop_src, last_seen_ns
    }
    ConnEvent {
        real_addr, from_addr, key;
        at_ns, real_port, from_port, version, kind, state, flags, pad, service, real, pad2
    }
}

/// A real server with its addresses in IPv6.
pub(crate) fn real6(real: Real) -> Real {
    Real {
        addr: real.addr::<u32>().six(),
        source: u32::narrow(real.source).six(),
        ..real
    }
}

/// A service whose prefix covers as much of an address in IPv6.
pub(crate) fn service6(service: Service) -> Service {
    Service {
        persist_prefix: service.persist_prefix + 96,
        ..service
    }
}
