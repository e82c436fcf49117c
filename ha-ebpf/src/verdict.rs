//! From a verdict to what the driver is told.

use ha_common::reason::{Reason, Verdict};

/// The number of an XDP action. Source: `enum xdp_action` in Linux `include/uapi/linux/bpf.h`.
#[inline(always)]
pub const fn action(reason: Reason) -> u32 {
    match reason.verdict() {
        Verdict::Drop => 1,
        Verdict::Pass => 2,
        Verdict::Transmit => 3,
        Verdict::Redirect => 4,
    }
}
