//! What differs between address families: where the headers are, and what is rewritten in them.
//!
//! Everything else is written once, generic over the address. IPv4 is the only family that is forwarded so
//! far.

use ha_common::service::Address;

use crate::packet::{Hop, Packet};
use crate::parse::transport::{self, Flow};
use crate::rewrite::{self, Direction, Translation};
use crate::tables::Tables;

/// An address family, named by its address.
pub trait Family: Address {
    /// Reads a TCP or UDP packet that can be forwarded; `None` for every other.
    fn parse<P: Packet>(packet: &mut P, l3: usize) -> Option<Flow<Self>>;

    /// Rewrites address, port, checksums, and the time to live by `hops`. `false` if the frame is too
    /// short.
    fn translate<P: Packet>(
        packet: &mut P,
        flow: &Flow<Self>,
        direction: Direction,
        translation: &Translation<Self>,
        hops: u8,
    ) -> bool;

    /// The hop from `source` to `self`, if the kernel knows route and neighbour.
    fn route<P: Packet>(self, packet: &mut P, source: Self) -> Hop;

    /// Which of [`ha_common::service::addr_kind`] the address is.
    fn kind<T: Tables>(self, tables: T) -> u32;
}

impl Family for u32 {
    #[inline(always)]
    fn parse<P: Packet>(packet: &mut P, l3: usize) -> Option<Flow<Self>> {
        transport::parse4(packet, l3)
    }

    #[inline(always)]
    fn translate<P: Packet>(
        packet: &mut P,
        flow: &Flow<Self>,
        direction: Direction,
        translation: &Translation<Self>,
        hops: u8,
    ) -> bool {
        rewrite::translate4(packet, flow, direction, translation, hops)
    }

    #[inline(always)]
    fn route<P: Packet>(self, packet: &mut P, source: Self) -> Hop {
        packet.route(source, self)
    }

    #[inline(always)]
    fn kind<T: Tables>(self, tables: T) -> u32 {
        tables.addr_kind(self)
    }
}
