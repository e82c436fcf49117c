//! The thin shell around the core: performs what the machines ask for.

mod announce;
mod clock;
mod frame;
mod gateway;
pub mod netlink;
mod packet_socket;
mod realtime;
mod terms;
mod wake;
