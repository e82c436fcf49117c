//! Headers: where their fields are, and what the data plane needs from them.

pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
pub mod transport;
