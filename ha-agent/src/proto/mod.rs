//! The sans-IO core: election, replication and what they share.
//!
//! Nothing in here opens a socket or a file, reads a clock, sleeps, spawns or draws a random number.
//! Time and seeds are arguments, packets are byte slices, effects are returned as actions. The
//! deterministic simulator and the real agent run exactly this code.
#![forbid(unsafe_code)]

pub mod carp;
pub mod confsync;
pub mod hex;
pub mod pacify;
pub mod records;
pub mod rng;
pub mod sync;
pub mod time;
