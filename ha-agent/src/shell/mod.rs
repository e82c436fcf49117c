//! The thin shell around the core: performs what the machines ask for.

pub mod announce;
pub mod clock;
pub mod frame;
pub mod gateway;
pub mod netlink;
pub mod packet_socket;
pub mod realtime;
pub mod terms;
pub mod wake;
