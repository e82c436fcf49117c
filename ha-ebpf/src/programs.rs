//! The programs one after the other, as the kernel's tail calls chain them: for the host.

use ha_common::reason::Reason;
use ha_common::service::Addr6;
use ha_common::stage::Stage;

use crate::outcome::Outcome;
use crate::packet::Packet;
use crate::tables::Flows;
use crate::{entry, stage};

/// Judges a frame from the entry to the end; `entered` is told of every stage it goes on in.
pub fn judge<P: Packet, T: Flows<u32> + Flows<Addr6>>(
    packet: &mut P,
    tables: T,
    mut entered: impl FnMut(Stage),
) -> Reason {
    let mut outcome = entry(packet, tables);
    loop {
        let next = match outcome {
            Outcome::Done(reason) => return reason,
            Outcome::Next(next) => next,
        };
        entered(next);
        outcome = match next {
            Stage::Carp => Outcome::Done(stage::carp(packet, tables)),
            Stage::Neighbour => Outcome::Done(stage::neighbour(packet, tables)),
            Stage::Flow4 => Outcome::Done(stage::flow::<u32, _, _>(packet, tables)),
            Stage::Flow6 => Outcome::Done(stage::flow::<Addr6, _, _>(packet, tables)),
            Stage::Odd4 => Outcome::Done(stage::odd4(packet, tables)),
            Stage::Odd6 => stage::odd6(packet, tables),
        };
    }
}
