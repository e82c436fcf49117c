//! A deterministic simulation of a pair: two real election machines and two real replication machines,
//! a network that loses, delays, repeats and cuts, and nodes that die, freeze and drift.
//!
//! Everything follows from one seed: the same seed gives the same run, event by event. [`World`] is the
//! universe with its true time; a [`Host`](host::Host) is one node, of which the kernel part (gate,
//! addresses, connection table) outlives the agent; [`faults`] decides what goes wrong when;
//! [`watch`] holds what must never be violated. A violation panics with the seed, the step, and the last
//! events.
//!
//! Deliberately absent: forwarding. A gate that is open counts as a node that forwards.

mod act;
mod check;
pub mod clock;
pub mod faults;
pub mod host;
pub mod journal;
pub mod network;
pub mod params;
mod strike;
pub mod summary;
pub mod sweep;
pub mod traffic;
pub mod watch;
pub mod world;

pub use params::{Params, Sabotage};
pub use summary::Summary;
pub use sweep::{Violation, sweep, sweep_all};
pub use world::World;
