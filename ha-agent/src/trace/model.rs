//! A packet whose way is asked for, and the answer, as both cross the control socket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::proto::hex;

/// Longest frame that is traced: it fits a request, and a jumbo frame fits it.
pub const FRAME_MAX: usize = 16 << 10;

/// A packet, and where it would come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The frame, from its Ethernet header on.
    #[serde(with = "hex")]
    pub frame: Vec<u8>,
    /// The interface it comes in on: its name or its device's. If it is not told, it follows from the
    /// frame's destination, else from the kernel's route to its source.
    pub interface: Option<String>,
    /// Whether the agent is to fill in the Ethernet addresses that the frame would have.
    #[serde(default)]
    pub address: bool,
}

/// What the data plane would do with a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Device it comes in on.
    pub device: String,
    /// The programs it goes through.
    pub programs: Vec<String>,
    /// What they asked and found, in order.
    pub steps: Vec<Step>,
    /// What they come to.
    pub outcome: Outcome,
}

/// One thing that was asked and found, or that would be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The program that asked.
    pub program: String,
    /// What it was about.
    pub topic: Topic,
    /// Of what: an address, a key, an interface; empty where there is only one.
    pub about: String,
    /// What was found.
    pub answer: String,
    /// Fields of what was found, where it has more than one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

macro_rules! topics {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        /// What a step is about. Names are stable: scripts rely on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Topic { $($(#[doc = $doc])+ $name,)+ }

        impl Topic {
            /// The words for people.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

topics! {
    /// Whether an address concerns the data plane at all.
    Filter = "filter";
    /// What an address is to this node.
    Address = "address";
    /// Whether this node may act for the shared addresses.
    Gate = "gate";
    /// An entry of the connection table.
    Connection = "connection";
    /// A half-open connection.
    HalfOpen = "half-open";
    /// The first fragment of a packet.
    Fragment = "fragment";
    /// A virtual service.
    Service = "service";
    /// The service to which a real server's packets belong.
    ReturnPath = "return path";
    /// A client of a service with persistence.
    Persistence = "persistence";
    /// Whose turn it is.
    Turn = "turn";
    /// An element of a Maglev table or member list.
    Slot = "slot";
    /// A real server.
    RealServer = "real server";
    /// Connections of a real server.
    Load = "load";
    /// A real server that was a candidate and is not taken.
    Refused = "refused";
    /// Whether there is room for new connections.
    Room = "room";
    /// How many flows begin.
    Pace = "pace";
    /// A token of a bucket.
    Token = "token";
    /// What is known of a link and the partner there.
    Link = "link";
    /// The kernel's route.
    Route = "route";
    /// What an interface takes.
    Mtu = "MTU";
    /// An entry that would be made.
    Add = "add";
    /// An entry that would change.
    Change = "change";
    /// An entry that would be removed.
    Remove = "remove";
    /// What the agent would be told.
    Tell = "tell";
}

/// The entry by which a packet is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// None.
    None,
    /// A connection.
    Connection,
    /// A connection that this packet would begin, or have rebuilt.
    NewConnection,
    /// A half-open connection.
    HalfOpen,
    /// A half-open connection that this packet would begin.
    NewHalfOpen,
    /// That of the first fragment.
    Fragment,
}

impl Entry {
    /// The words for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Connection => "connection",
            Self::NewConnection => "connection, made by this packet",
            Self::HalfOpen => "half-open connection",
            Self::NewHalfOpen => "half-open connection, made by this packet",
            Self::Fragment => "that of the first fragment",
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The reason: the name of the counter that would count it.
    pub reason: String,
    /// What that means.
    pub meaning: String,
    /// `pass` (to the kernel), `drop`, `transmit` (back out of the interface it came in on) or `redirect`.
    pub verdict: String,
    /// Device it leaves through, if the data plane sends it.
    pub leaves_through: Option<String>,
    /// Name, or else address, of the virtual service.
    pub service: Option<String>,
    /// By which entry it is handled.
    pub entry: Entry,
    /// Address and port of the real server that it goes to or comes from.
    pub real_server: Option<String>,
    /// What is other in the frame afterwards.
    pub rewrite: Vec<Rewritten>,
    /// The frame as it comes in.
    #[serde(with = "hex")]
    pub before: Vec<u8>,
    /// The frame as the data plane leaves it.
    #[serde(with = "hex")]
    pub after: Vec<u8>,
}

/// A field of the frame that is other afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewritten {
    /// Its name.
    pub field: String,
    /// As it comes in; none if the frame has no such field then.
    pub before: Option<String>,
    /// As it leaves; none if the frame has no such field any more.
    pub after: Option<String>,
}
