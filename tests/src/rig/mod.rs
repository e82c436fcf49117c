//! The rig: hosts in network namespaces, a switch whose ports can be cut, real agents in between.
//!
//! Everything a [`Run`] makes is removed when it is dropped, on a panic and on Ctrl-C, and what a
//! killed one left is removed by the next.

pub mod arp;
pub mod bpf;
pub mod browser;
pub mod capture;
pub mod checksum;
pub mod config;
pub mod conns;
pub mod desk;
pub mod fuzzer;
pub mod generator;
pub mod http;
pub mod link;
pub mod locate;
pub mod netns;
pub(crate) mod object;
pub mod outage;
pub mod pair;
pub mod process;
pub mod real;
mod renew;
pub mod squeeze;
pub mod stalls;
pub mod switch;
pub mod systemctl;
pub mod wall;

mod run;

pub use run::{Run, remove_kept};
