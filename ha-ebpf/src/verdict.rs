//! From a verdict to what the driver is told.

use ha_common::reason::{Reason, Verdict};

/// What each reason ends as, two bits each, in two words: a few instructions where a match over all of them
/// would be a chain of comparisons.
const ACTIONS: (u64, u64) = {
    let mut actions = (0, 0);
    let mut rest = Reason::ALL;
    while let [reason, others @ ..] = rest {
        let action: u64 = match reason.verdict() {
            Verdict::Drop => 0,
            Verdict::Pass => 1,
            Verdict::Transmit => 2,
            Verdict::Redirect => 3,
        };
        let reason = *reason as u32;
        if reason < PER_WORD {
            actions.0 |= action << (2 * reason);
        } else {
            actions.1 |= action << (2 * (reason - PER_WORD));
        }
        rest = others;
    }
    actions
};
/// Reasons in a word of them.
const PER_WORD: u32 = 32;
/// `XDP_PASS`.
const PASS: u32 = 2;

/// Whether the kernel gets the packet.
#[inline(always)]
pub const fn passes(reason: Reason) -> bool {
    action(reason) == PASS
}

/// The number of an XDP action. Source: `enum xdp_action` in Linux `include/uapi/linux/bpf.h`.
#[inline(always)]
pub const fn action(reason: Reason) -> u32 {
    let reason = reason as u32;
    let (word, reason) = if reason < PER_WORD {
        (ACTIONS.0, reason)
    } else {
        (ACTIONS.1, reason - PER_WORD)
    };
    // DROP is 1, PASS 2, TX 3, REDIRECT 4.
    1 + (word >> (2 * reason) & 3) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_ends_as_its_verdict_says() {
        for reason in Reason::ALL {
            let wanted = match reason.verdict() {
                Verdict::Drop => 1,
                Verdict::Pass => 2,
                Verdict::Transmit => 3,
                Verdict::Redirect => 4,
            };
            assert_eq!(action(*reason), wanted, "{reason:?}");
            assert_eq!(passes(*reason), wanted == 2, "{reason:?}");
        }
    }
}
