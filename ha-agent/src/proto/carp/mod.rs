//! The election: who is active, and until when.
//!
//! A sans-IO machine that speaks CARP version 2 with an authenticated [`trailer`], and HELLOs with the
//! same body. It alone opens and closes the gate.
//!
//! ```text
//! Init ──partner heard──► Standby ◄──released, lost, unfit── Active
//!   └──────silent────────────┴──silent, released, better──────►┘
//! Maintenance: by request from any of them, back to Standby. Off: high availability off, or stopped.
//! ```
//!
//! # Why there are never two open gates
//!
//! T is the timeout. Becoming active opens nothing; the gate opens for one of four reasons:
//!
//! 1. **Echo.** A partner that is not active echoed a packet this node sent *as active, in this term*, at
//!    time t. It received that packet after t and began to wait T anew, so it will not open before t + T;
//!    the lease ends a margin earlier. That holds whatever the network does: a late echo only grants less.
//! 2. **Release.** The partner closed its gate and then said so, echoing a packet sent at t in this node's
//!    present role. It waits T from then on, so again nothing opens before t + T.
//! 3. **Silence.** Nothing was heard for T: each echo ever sent to an active partner has run out. A node
//!    that has just started, or was frozen, waits before silence counts, because a partner that found
//!    itself alone meanwhile holds a lease of T/2 and must hear this node first.
//! 4. **A passive partner** (in maintenance, pacified, leaving) is heard: it stays closed for T after it
//!    changes its mind, so T/2 from the last packet is safe. It stays so because for that long it does not
//!    rely on this reason itself.
//!
//! An active node that hears nothing for about 2/3 T is *alone* and renews a lease of T/2 by itself. If the
//! partner lives and hears it, the partner stays standby. If neither hears the other there are two active
//! nodes; nothing in the pair can prevent that. A stranger with the pair's key that does not answer is
//! taken for a restarted partner on a one-way link and ends being alone.
//!
//! What is deliberately absent: sockets, clocks, randomness, the data plane, and any memory of an earlier
//! start except the terms it reserved.

mod alarms;
mod api;
mod body;
mod condition;
mod config;
mod counters;
mod decide;
mod foreign;
mod input;
mod lease;
mod link;
mod machine;
mod order;
mod park;
mod peer;
mod receive;
mod send;
mod snapshot;
mod timing;
pub mod trailer;
pub mod wire;

#[cfg(test)]
mod tests;

pub use api::{Action, Alarm, Command, Evidence, Input, Refusal, Role, RoleReason};
pub use config::{ElectionConfig, ElectionKeys, LinkConfig, Settings};
pub use counters::{Counter, Counters};
pub use machine::Election;
pub use park::{LEASE as REEXEC_LEASE, Parked, ResumeError};
pub use snapshot::{
    AlarmSnapshot, ForeignSnapshot, LinkSnapshot, PartnerSnapshot, Snapshot, Transition,
};
pub use wire::digest_prefix;
