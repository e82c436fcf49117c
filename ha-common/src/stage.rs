//! The programs that the data plane consists of, and how one goes on in another.
//!
//! `ha_xdp` is attached; it forwards what belongs to an established connection and lets pass what is not
//! ours. Everything else goes on in one of the others, by a tail call through `ha_stages`: each has a stack
//! of its own, and the verifier looks at each alone.

/// Name of the program that is attached.
pub const ENTRY: &str = "ha_xdp";
/// Name of the program that deletes idle connections; it is run by the agent.
pub const JANITOR: &str = "ha_janitor";
/// Name of the program that sends a fragment after the first of its packet; it is run by the agent.
pub const FOLLOW: &str = "ha_follow";
/// Bytes in front of the first key in what it is run on: a frame must be longer than an Ethernet header. The
/// last two are the family of the keys, 4 or 6, in the machine's byte order.
pub const JANITOR_HEADER: usize = 16;
/// Bytes of keys that it looks at in one run, at most.
pub const JANITOR_KEYS: usize = 512;

macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $name:ident = $program:literal;)+) => {
        /// A program that is not attached: index into `ha_stages`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Stage { $($(#[doc = $doc])+ $name,)+ }

        impl Stage {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The program's name.
            pub const fn program(self) -> &'static str {
                match self { $(Self::$name => $program,)+ }
            }
        }
    };
}

stages! {
    /// CARP advertisements.
    Carp = "ha_carp_in";
    /// ARP and neighbour discovery.
    Neighbour = "ha_neigh";
    /// TCP and UDP over IPv4, whatever the entry did not settle.
    Flow4 = "ha_flow4";
    /// The same over IPv6.
    Flow6 = "ha_flow6";
    /// Fragments, options, ICMP and whatever else is in IPv4.
    Odd4 = "ha_odd4";
    /// Fragments, extension headers, `ICMPv6` and whatever else is in IPv6.
    Odd6 = "ha_odd6";
}

/// Number of stages.
pub const STAGES: usize = Stage::ALL.len();
