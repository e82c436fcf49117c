//! The next hop that the kernel's routes name, where an entry knows none.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use ha_common::conn::flags;
use ha_common::reason::Reason;
use ha_common::service::Forwarding;
use ha_tests::packet::{Mac, flag};

use super::family::Family;
use super::lab::{Lab, NODE_BACK_MAC, ONE, Setting, USUAL, WEB, from_server};
use super::world::Place;

/// A client behind [`super::lab::BACK`]; the kernel knows its MAC.
pub(crate) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// The same, and the kernel does not.
pub(crate) const SILENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const NEIGHBOUR_MAC: Mac = [0x02, 0xc1, 0, 0, 0, 0x77];

/// A packet whose way the kernel knows does not pass through the kernel.
pub(crate) fn hit(place: &Place) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        for (client, known) in [(NEIGHBOUR, true), (SILENT, false)] {
            let mut lab = Lab::new(
                place,
                Setting {
                    family,
                    method: Forwarding::Nat,
                    sizes: USUAL,
                },
            )?;
            let client = SocketAddrV4::new(client, 4000);
            lab.connect(client, WEB)?;
            let [_, (key, mut reverse)] = lab.pair()?;
            reverse.flags &= !flags::HOP_KNOWN;
            lab.world.set_conn(key, reverse)?;
            let answer = from_server(ONE, client, flag::ACK);
            let translated = answer.clone().from(WEB);
            if known {
                let wanted = translated.ttl(63).macs(NODE_BACK_MAC, NEIGHBOUR_MAC);
                lab.becomes(&answer, Reason::ReverseRedirect, &wanted)?;
            } else {
                lab.becomes(&answer, Reason::ReverseKernel, &translated)?;
            }
        }
    }
    Ok(())
}
