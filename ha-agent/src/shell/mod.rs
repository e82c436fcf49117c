//! The thin shell around the core: performs what the machines ask for.
//!
//! ```text
//! election thread ── events ──▶ main loop (tokio): log, terms on disk, signals, control socket
//!      │  ▲ commands   wishes ▶ keeper of the shared addresses (netlink)
//!      │  └───────────────────── carrier, readiness, operator
//!      └─ roles ─▶ replication thread ── live map
//! ```

pub mod addresses;
pub mod agent;
pub mod alarms;
pub mod announce;
pub(crate) mod atomic;
pub mod capture;
mod channel;
pub mod clock;
pub mod conflicts;
pub mod confsync;
pub mod election;
pub mod ethtool;
pub mod factory;
mod fragments;
pub mod frame;
pub mod gateway;
pub mod guard;
mod happened;
pub mod history;
pub mod hooks;
mod ifreq;
mod interfaces;
mod names;
pub mod neighbours;
pub mod netlink;
pub mod observe;
mod operator;
pub mod packet_socket;
mod page;
pub mod parts;
mod pending;
pub mod realtime;
pub mod records;
pub mod reexec;
pub mod replication;
mod serve;
pub mod start;
mod sweep;
pub mod sysctl;
mod systemd;
pub mod tallies;
pub mod terms;
mod trace;
mod verdicts;
mod virtual_mac;
pub mod wake;

pub use serve::{RunError, run};
