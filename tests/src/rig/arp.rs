//! Who holds an address: all that answer an ARP request for it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ha_agent::shell::frame::{self, Mac};
use ha_agent::shell::packet_socket::{PacketSocket, Receive};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;

use super::netns::Netns;
use crate::clock::{now_ns, sleep_until, until};

/// How long answers may take.
const PATIENCE: Duration = Duration::from_millis(60);

/// The Ethernet addresses that answer for `target` on the network of `device`.
pub fn holders(
    netns: &Netns,
    device: &str,
    own: Ipv4Addr,
    target: Ipv4Addr,
) -> Result<BTreeSet<Mac>> {
    netns.run(|| {
        let socket = PacketSocket::open(if_nametoindex(device)?, Receive::ArpReplies)?;
        match socket.send(&frame::arp_request(mac_of(device)?, own, target)) {
            // A queue that is full loses the question, and nobody answers.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            sent => sent.context("cannot ask by ARP")?,
        }
        let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
        let mut found = BTreeSet::new();
        let mut buffer = [0u8; 128];
        loop {
            // What came while this thread slept too long counts.
            let last = now_ns() >= end;
            while let Some(reply) = socket.receive(&mut buffer)? {
                found.extend(
                    frame::arp_reply(reply)
                        .filter(|(sender, _)| *sender == target)
                        .map(|(_, mac)| mac),
                );
            }
            if last {
                return Ok(found);
            }
            sleep_until(now_ns() + 1_000_000);
        }
    })
}

/// The same of an address that somebody has: asked for until there is an answer, since a machine that stalls loses a
/// request now and then.
pub fn all_holders(
    netns: &Netns,
    device: &str,
    own: Ipv4Addr,
    target: Ipv4Addr,
) -> Result<BTreeSet<Mac>> {
    let mut found = BTreeSet::new();
    until("somebody has the address", || {
        found = holders(netns, device, own, target)?;
        Ok(!found.is_empty())
    })?;
    Ok(found)
}

/// The Ethernet address of one who has an IPv4 address, asked for until somebody answers.
pub fn holder(netns: &Netns, device: &str, own: Ipv4Addr, target: Ipv4Addr) -> Result<Mac> {
    let all = all_holders(netns, device, own, target)?;
    all.first()
        .copied()
        .with_context(|| format!("nobody has {target}"))
}

/// The Ethernet address of an interface in the namespace of the calling thread.
pub fn mac_of(device: &str) -> Result<Mac> {
    getifaddrs()?
        .filter(|found| found.interface_name == device)
        .find_map(|found| found.address?.as_link_addr()?.addr())
        .with_context(|| format!("{device} has no Ethernet address"))
}
