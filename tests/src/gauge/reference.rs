//! Figures of katran's balancer, to stand beside ours: measured elsewhere, with the same method.
//!
//! Commit 19f08fec, unmodified, on a KVM guest with two CPUs of an Intel Xeon of the Emerald Rapids class;
//! IPIP, 4 addresses, 16 real servers, one LRU of a million entries.

use crate::bench::{Promise, Report, Row};

const WHO: &str = "katran, reference, measured elsewhere";

const FIGURES: &[(&str, f64)] = &[
    ("established, hot", 66.0),
    ("established, 64k random", 180.0),
    ("established, 500k random", 375.0),
    ("not ours", 26.0),
    ("SYN, new flow", 687.0),
    ("flood path", 110.0),
    ("CARP exit", 6.6),
    ("IPv6 established, hot", 59.0),
    ("one lookup, hot", 18.0),
];

/// Adds them all.
pub(super) fn add(report: &mut Report) {
    for (case, ns) in FIGURES {
        let row = Row {
            case,
            who: WHO,
            what: "net",
            unit: "ns",
            promise: Promise::Nothing,
        };
        report.add(&row, *ns, 0.0);
    }
}
