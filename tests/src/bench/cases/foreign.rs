//! Taking over from a stock ucarp, which advertises each second and knows no trailer.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::Role;

use super::Bench;
use crate::bench::figure::{Promise, Row};
use crate::bench::subject::{PASSPHRASE, available, ucarp};
use crate::rig::capture::Frame;
use crate::rig::config::{PairConfig, SHARED_FRONT, file_with_foreign_partner, front};
use crate::rig::pair::Pair;
use crate::traffic::load::random_below;

/// IP protocol of CARP.
const CARP: u8 = 112;
/// It reads packets in batches of up to a second.
const PREEMPTS: Duration = Duration::from_secs(10);
/// Its interval.
const INTERVAL: Duration = Duration::from_secs(1);
const TAKEOVER: Row = Row {
    case: "ucarp-peer",
    who: "ha-agent 1/3 s",
    what: "ucarp's last packet to our first",
    unit: "ms",
    promise: Promise::MedianAtMost(3100.0),
};

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    ensure!(
        available("ucarp"),
        "ucarp is not installed: run `cargo xtask setup`"
    );
    let mut pair = Pair::build(PairConfig::default())?;
    let [_, ours] = &mut pair.nodes;
    let passphrase = ours.dir().join("carp.passphrase");
    fs::write(&passphrase, PASSPHRASE)?;
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600))?;
    let text = file_with_foreign_partner(ours.number, ours.dir());
    fs::write(ours.config_file(), text)?;
    ours.start()?;
    ours.wait_role(Role::Active, PREEMPTS)?;
    for run in 0..bench.options.runs() {
        let [theirs, ours] = &pair.nodes;
        let mut peer = ucarp(theirs, true)?;
        ours.wait_role(Role::Standby, PREEMPTS)?;
        std::thread::sleep(INTERVAL * 3 / 2 + random_below(INTERVAL));
        let capture = pair.capture()?;
        // So that its last packet is seen.
        std::thread::sleep(INTERVAL * 11 / 10 + random_below(INTERVAL));
        peer.kill()?;
        ours.wait_role(Role::Active, PREEMPTS)?;
        let frames = capture.finish()?;
        let sent_by = |number| {
            let source = front(number);
            let from = move |frame: &&Frame| {
                frame.from_node
                    && frame
                        .flow()
                        .is_some_and(|flow| flow.protocol == CARP && flow.source == source)
            };
            frames.iter().filter(from)
        };
        let last = sent_by(theirs.number).next_back();
        let last = last.context("ucarp sent nothing")?.at_ns;
        let first = sent_by(ours.number).find(|frame| frame.at_ns > last);
        let first = first.context("the agent sent nothing")?.at_ns;
        let took_ms = (first - last) as f64 / 1e6;
        let stall_ms = bench.stalls.longest_ms(&(last..first));
        bench.progress(run, TAKEOVER.who, &format!("{took_ms:.1} ms"));
        bench.report.add(&TAKEOVER, took_ms, stall_ms);
        // What a killed one leaves.
        if theirs.has_address(SHARED_FRONT)? {
            let address = format!("addr del {SHARED_FRONT}/24 dev front");
            theirs.netns.ip(&address)?;
        }
    }
    Ok(())
}
