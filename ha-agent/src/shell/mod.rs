//! The thin shell around the core: performs what the machines ask for.

mod announce;
mod clock;
mod frame;
mod gateway;
mod packet_socket;
