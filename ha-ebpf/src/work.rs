//! What a stage works on.
//!
//! A BPF program has 512 bytes of stack for all functions that call each other, and the structures of IPv6
//! alone would fill it. So what is more than a word or two is kept in an element of a per-CPU map, one for
//! each family: a program is never interrupted by another of its kind on the same CPU.

use ha_common::conn::{Conn, ConnKey, Embryo, EmbryoKey};

use crate::conntrack::client::Plan;
use crate::icmp::{Ends, Error};
use crate::packet::Hop;
use crate::parse::transport::Flow;
use crate::rewrite::{Direction, Translation};
use crate::schedule::Target;

/// The workplace of a stage. Nothing in it outlives the packet; what a stage does not write first, it does
/// not read, but for [`Work::unknown`], which is taken back when it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work<A> {
    /// Whether the entry looked for the packet's connection in vain: it goes on here, and need not look
    /// again.
    pub unknown: bool,
    /// The packet.
    pub flow: Flow<A>,
    /// Key of the forward entry that is being made.
    pub key: ConnKey<A>,
    /// What the packet needs if it has no entry.
    pub plan: Plan,
    /// Its real server.
    pub target: Target<A>,
    /// The forward entry; for a fragment or an ICMP error, a copy of the one it follows.
    pub forward: Conn<A>,
    /// Key of the reverse entry.
    pub reverse_key: ConnKey<A>,
    /// The reverse entry.
    pub reverse: Conn<A>,
    /// Key of the half-open connection that is being made.
    pub embryo_key: EmbryoKey<A>,
    /// The half-open connection.
    pub embryo: Embryo<A>,
    /// Which way the packet goes.
    pub direction: Direction,
    /// Id of the real server that it goes to, or comes from.
    pub real: u16,
    /// What its way takes, if the packet is longer than that.
    pub mtu: u32,
    /// What is written into the packet.
    pub translation: Translation<A>,
    /// The next station; unknown if the kernel is to find it.
    pub hop: Hop,
    /// The shared address, in whose name a sender is told why its packet is not forwarded.
    pub vip: A,
    /// An ICMP error.
    pub error: Error<A>,
    /// What its ends, and those of the packet it is about, are to be.
    pub ends: Ends<A>,
}
