//! A look at what leaves: one packet in so many is shown to whoever captures, as the data plane left it,
//! since XDP sends behind the back of every packet socket.

use ha_common::event::SAMPLE_BYTES;
use ha_common::reason::{Reason, Tally};

use crate::packet::Packet;
use crate::tables::{Tables, tally};

/// Shows the packet if it is its turn.
#[inline(always)]
pub fn show<P: Packet, T: Tables>(packet: &P, tables: T, reason: Reason) {
    let Some(config) = tables.config() else {
        return;
    };
    let every = config.get().sample_every;
    if every != 0 && tables.chosen(every) {
        capture(packet, tables, reason as u32);
    }
}

#[inline(never)]
fn capture<P: Packet, T: Tables>(packet: &P, tables: T, reason: u32) -> bool {
    let len = packet.frame_len();
    let kept = len.min(SAMPLE_BYTES);
    let shown = tables.sample(|sample| {
        sample.at_ns = tables.precise_ns();
        sample.ifindex = packet.ingress();
        sample.reason = reason;
        sample.len = len as u32;
        sample.kept = kept as u32;
        packet.copy_out(0, kept, &mut sample.frame)
    });
    if !shown {
        tally(tables, Tally::SampleLost);
    }
    shown
}
