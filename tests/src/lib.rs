//! Rig, simulator and demonstration.

pub mod bench;
pub mod chaos;
pub mod clock;
pub mod demo;
pub mod fuzz;
pub mod gauge;
pub mod link;
pub mod packet;
pub mod publish;
pub mod replica;
pub mod rig;
pub mod sim;
pub mod traffic;

pub mod pcap;
