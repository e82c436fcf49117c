//! What the data plane is expected to do, packet by packet, wherever it runs.

pub(crate) mod agreement;
pub(crate) mod lab;
pub(crate) mod lengths;
pub(crate) mod partner;
pub(crate) mod world;

mod authentic;
mod carp;
mod connection;
mod handshake;
mod janitor;
mod limits;
mod neighbour;
mod plain;
mod rebuild;
mod virtual_mac;

use lab::Case;

/// All cases.
pub(crate) fn cases() -> impl Iterator<Item = &'static Case> {
    [
        plain::CASES,
        carp::CASES,
        authentic::CASES,
        neighbour::CASES,
        handshake::CASES,
        connection::CASES,
        rebuild::CASES,
        limits::CASES,
        janitor::CASES,
        virtual_mac::CASES,
    ]
    .into_iter()
    .flatten()
}
