//! Why a packet got its verdict. Every outcome of the data plane is one [`Reason`]; every reason has
//! a per-CPU counter, a meaning and a verdict.

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours, or the kernel's part: the stack gets it.
    Pass,
    /// It ends here.
    Drop,
    /// It leaves through the interface it came in on.
    Transmit,
    /// It leaves through another interface.
    Redirect,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal => $verdict:ident;)+) => {
        /// The outcome of one packet. Dense from 0: it indexes `ha_reasons`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The counter's name: stable, for scripts.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What the counter means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+),)+ }
            }

            /// What becomes of such a packet.
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict,)+ }
            }
        }
    };
}

reasons! {
    /// Not IP, not ARP for a shared address: the kernel's.
    NotIp = "not_ip" => Pass;
    /// Neither a shared address nor a known connection: the kernel's.
    NotOurs = "not_ours" => Pass;
    /// More than two VLAN tags: the kernel's.
    TooManyTags = "too_many_tags" => Pass;
    /// The frame ends inside a header of a packet for a shared address.
    Truncated = "truncated" => Drop;
    /// IPv4 header length or total length contradicts the frame.
    BadIpHeader = "bad_ip_header" => Drop;
    /// A fragment for a shared address that belongs to nothing known, gate open: the kernel's.
    Fragment = "fragment" => Pass;
    /// A fragment that came before the first of its packet: the agent sends it after that, or a moment later
    /// to the kernel, and it is counted once more as what becomes of it.
    FragmentHeld = "fragment_held" => Drop;
    /// To a shared address but to no virtual service, gate open: the kernel's.
    SharedAddressLocal = "shared_address_local" => Pass;
    /// To or from a shared address while the gate is closed.
    GateClosed = "gate_closed" => Drop;
    /// ARP for a shared address while the gate is closed.
    ArpGateClosed = "arp_gate_closed" => Drop;
    /// Neighbour discovery for a shared address while the gate is closed.
    NdGateClosed = "nd_gate_closed" => Drop;
    /// Who has a shared address: answered with the virtual MAC.
    ArpAnswered = "arp_answered" => Transmit;
    /// The same in IPv6.
    NdAnswered = "nd_answered" => Transmit;
    /// Ours, but its time to live is used up, and nobody is told (any more).
    TtlExpired = "ttl_expired" => Drop;
    /// The same; the sender is told by ICMP.
    TtlAnswered = "ttl_answered" => Transmit;
    /// Ours, but longer than its way takes, and nobody is told (any more).
    TooBig = "too_big" => Drop;
    /// The same; the sender is told by ICMP.
    TooBigAnswered = "too_big_answered" => Transmit;
    /// A program of the data plane is missing.
    StageMissing = "stage_missing" => Drop;

    /// Established connection, client to real server, sent on.
    ForwardRedirect = "forward_redirect" => Redirect;
    /// The same, back out of the interface it came in on.
    ForwardTransmit = "forward_transmit" => Transmit;
    /// Established connection, rewritten; the kernel finds the neighbour.
    ForwardKernel = "forward_kernel" => Pass;
    /// Established connection, real server to client, sent on.
    ReverseRedirect = "reverse_redirect" => Redirect;
    /// The same, back out of the interface it came in on.
    ReverseTransmit = "reverse_transmit" => Transmit;
    /// Established connection towards the client, rewritten; the kernel finds the neighbour.
    ReverseKernel = "reverse_kernel" => Pass;

    /// A virtual service has no real server that may take the packet.
    NoRealServer = "no_real_server" => Drop;
    /// Every real server that might take a new connection has as many as it may have.
    RealServersFull = "real_servers_full" => Drop;
    /// The way to a real server that must be a neighbour (DSR) is not known.
    RealServerUnreachable = "real_server_unreachable" => Drop;
    /// The connection's real server is down and its service ends such connections, or it was removed.
    RealServerDown = "real_server_down" => Drop;
    /// The same; the client is told by a reset.
    ResetAnswered = "reset_answered" => Transmit;
    /// A new flow for which there is no room, or of too many at once, whose service needs an entry (full NAT).
    TableFull = "table_full" => Drop;
    /// No room in front of the packet for the header of a tunnel.
    NoHeadroom = "no_headroom" => Drop;
    /// A mid-flow packet of an unknown connection, and re-steering by hash is off.
    UnknownConnection = "unknown_connection" => Drop;
    /// From a real server and port that several services share, with no entry to tell which.
    AmbiguousReturn = "ambiguous_return" => Drop;
    /// Every candidate real server already has a connection from this client address and port, or full
    /// NAT found no free port.
    PortClash = "port_clash" => Drop;

    /// Advertisement for our virtual host id, handed to the election.
    CarpDelivered = "carp_delivered" => Drop;
    /// Protocol 112 of another group or of VRRP: the kernel's.
    CarpForeign = "carp_foreign" => Pass;
    /// Advertisement for our id that is too short.
    CarpTruncated = "carp_truncated" => Drop;
    /// CARP of another version, or VRRP, with our id.
    CarpBadVersion = "carp_bad_version" => Drop;
    /// Advertisement for our id that has crossed a router.
    CarpBadTtl = "carp_bad_ttl" => Drop;
    /// Advertisement for our id with a wrong checksum.
    CarpBadChecksum = "carp_bad_checksum" => Drop;
    /// Advertisement for our id on an interface, or in a family, where none is expected.
    CarpNotExpected = "carp_not_expected" => Drop;
    /// This node's own advertisement, come back.
    CarpReflected = "carp_reflected" => Drop;
    /// Advertisement with a trailer from an address that is not the partner's.
    CarpWrongSource = "carp_wrong_source" => Drop;
    /// Advertisement with a trailer of a version this node does not know.
    CarpTrailerVersion = "carp_trailer_version" => Drop;
    /// Advertisement signed with a key this node does not have.
    CarpUnknownKey = "carp_unknown_key" => Drop;
    /// Advertisement of the partner that is not newer than the last one: a replay, or late.
    CarpReplayed = "carp_replayed" => Drop;
    /// Advertisement with a wrong tag: forged.
    CarpBadTag = "carp_bad_tag" => Drop;
    /// Advertisement with a good tag of an epoch not known, beyond what user space is asked about.
    CarpStrangerLimited = "carp_stranger_limited" => Drop;
    /// Advertisement without trailer where the trailer is demanded.
    CarpNoTrailer = "carp_no_trailer" => Drop;
    /// Advertisement without trailer, beyond what is checked.
    CarpTrailerlessLimited = "carp_trailerless_limited" => Drop;
    /// Advertisement without trailer whose digest is wrong.
    CarpBadDigest = "carp_bad_digest" => Drop;
    /// Advertisement for our id that found the ring to the election full.
    CarpRingFull = "carp_ring_full" => Drop;
}

/// Things counted besides packets; they follow the reasons in `ha_reasons`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Connections that entered the table: handshakes completed, and UDP flows begun.
    Established,
    /// Connections rebuilt from a mid-flow packet.
    Reconstructed,
    /// Flows forwarded by hash without an entry because the table is (nearly) full.
    Stateless,
    /// Entries removed by the janitor.
    Expired,
    /// Connection events that found the ring full; the table no longer matches the partner's.
    EventLost,
    /// Half-open connections of the same client address and port replaced by a new one.
    EmbryoReplaced,
    /// Terms of the partner, higher than this node's, that closed its gate or keep it closed.
    Overtaken,
    /// Records of evidence that found the ring full.
    EvidenceLost,
    /// Flows forwarded by hash without an entry because too many begin.
    FlowsLimited,
    /// Packets to be shown that found the ring full.
    SampleLost,
    /// Fragments to be held that found the ring full.
    EarlyLost,
}

impl Tally {
    /// All tallies, in the order of their numbers.
    pub const ALL: &'static [Self] = &[
        Self::Established,
        Self::Reconstructed,
        Self::Stateless,
        Self::Expired,
        Self::EventLost,
        Self::EmbryoReplaced,
        Self::Overtaken,
        Self::EvidenceLost,
        Self::FlowsLimited,
        Self::SampleLost,
        Self::EarlyLost,
    ];

    /// Index in `ha_reasons`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        REASONS as u32 + self as u32
    }

    /// The counter's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Established => "connections_established",
            Self::Reconstructed => "connections_reconstructed",
            Self::Stateless => "packets_stateless",
            Self::Expired => "connections_expired",
            Self::EventLost => "events_lost",
            Self::EmbryoReplaced => "half_open_replaced",
            Self::Overtaken => "terms_overtaken",
            Self::EvidenceLost => "evidence_lost",
            Self::FlowsLimited => "flows_limited",
            Self::SampleLost => "samples_lost",
            Self::EarlyLost => "fragments_not_held",
        }
    }

    /// What the counter means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Established => {
                "Connections that entered the table: handshakes completed, and UDP flows begun."
            }
            Self::Reconstructed => "Connections rebuilt from a packet in mid-flow.",
            Self::Stateless => "Packets forwarded by hash because the table is nearly full.",
            Self::Expired => "Entries removed after their idle time.",
            Self::EventLost => "Connection events lost because the ring to the agent was full.",
            Self::EmbryoReplaced => {
                "Half-open connections replaced by a new one of the same client address and port."
            }
            Self::Overtaken => {
                "Terms of the active partner, higher than this node's, that closed its gate or keep it closed."
            }
            Self::EvidenceLost => {
                "Records of evidence lost because the ring to the agent was full."
            }
            Self::FlowsLimited => {
                "New flows forwarded by hash, without an entry, because too many began at once."
            }
            Self::SampleLost => {
                "Packets for a capture lost because the ring to the agent was full."
            }
            Self::EarlyLost => {
                "Fragments before the first of their packet that were left to the kernel because the ring to the agent was full."
            }
        }
    }
}

/// Number of reasons.
pub const REASONS: usize = Reason::ALL.len();
/// Elements of the counter array.
pub const COUNTERS: usize = REASONS + Tally::ALL.len();

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_are_dense_and_names_are_unique() {
        let mut names = BTreeSet::new();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(names.insert(reason.as_str()), "{}", reason.as_str());
            assert!(!reason.meaning().is_empty());
        }
        for tally in Tally::ALL {
            assert!(names.insert(tally.as_str()));
        }
    }
}
