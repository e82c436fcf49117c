//! Headers: where their fields are, and what the data plane needs from them.
//!
//! Offsets of IPv4 and of what follows it are relative to the IPv4 header. Packets with IP options
//! are never parsed further, so TCP and UDP always start at offset 20.

pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
pub mod transport;
