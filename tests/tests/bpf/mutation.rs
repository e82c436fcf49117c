//! Templates with something spoiled: whatever it is, there is a verdict, and nothing is written that is
//! not the data plane's to write.

use anyhow::{Context as _, Result};
use ha_agent::proto::rng::Rng;
use ha_common::reason::Reason;

use super::lab::{CLIENT, Lab, NAMES, WEB, datagram};
use super::lengths::check;
use super::templates::templates;

/// Spoiled frames of each setting.
const FRAMES: usize = 3000;

/// Runs them.
pub(crate) fn sweep(lab: &mut Lab) -> Result<()> {
    lab.connect(CLIENT, WEB)?;
    lab.run(&datagram(CLIENT, NAMES), Reason::ForwardRedirect)?;
    let templates = templates(lab);
    let mut rng = Rng::new(0x5eed);
    for number in 0..FRAMES {
        let mut frame = templates[rng.below(templates.len() as u64) as usize].clone();
        spoil(&mut rng, &mut frame);
        check(lab, &frame).with_context(|| format!("frame {number}: {frame:02x?}"))?;
        lab.world.events()?;
        lab.world.adverts()?;
    }
    Ok(())
}

/// Changes a few bytes behind the Ethernet addresses, or the length.
fn spoil(rng: &mut Rng, frame: &mut Vec<u8>) {
    for _ in 0..=rng.below(3) {
        let len = frame.len() as u64;
        match rng.below(6) {
            0 => frame.truncate(14 + rng.below(len - 13) as usize),
            1 => frame.extend((0..rng.below(40)).map(|_| rng.below(256) as u8)),
            _ => {
                let at = 12 + rng.below(len - 12) as usize;
                if let Some(byte) = frame.get_mut(at) {
                    *byte = match rng.below(3) {
                        0 => *byte ^ 1 << rng.below(8),
                        1 => [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
                        _ => rng.below(256) as u8,
                    };
                }
            }
        }
    }
}
