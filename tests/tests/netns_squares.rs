//! The two squares of the web page in a real browser: every colour by what it stands for, and how soon it is there.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::events::EventPage;
use ha_agent::status::model::Role;
use ha_tests::clock::{PATIENCE, now_ns, until};
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::desk::{Desk, own, url};
use ha_tests::rig::pair::Node;
use ha_tests::rig::switch::Cut;
use nix::sys::signal::Signal;

/// How long after a change it may be seen; on an idle machine it is a tenth of this.
const LATEST: Duration = Duration::from_secs(5);
/// Timing of the pair that is split: an active node that the other one does not hear has so long until it gives in.
const INTERVAL: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(9);

fn main() -> ExitCode {
    common::run(
        &["ip", "nft", "chromium", "chromedriver"],
        &["ha-agent"],
        &[
            ("squares_follow_what_happens", squares),
            ("two_active_nodes_are_grey", split),
            ("without_high_availability_there_are_none", off),
        ],
    )
}

#[expect(clippy::print_stdout, reason = "a figure for whoever runs the test")]
fn tell(what: &str, after: Duration) {
    println!("{what} after {after:?}");
}

/// The page is open at the second node's own address all the time, and nobody reloads it.
fn squares() -> Result<()> {
    let mut desk = Desk::at(PairConfig {
        timeout: Duration::from_millis(500),
        pacify: 1,
        ..PairConfig::default()
    })?;
    // Whichever was quicker to start.
    desk.activate(0)?;
    desk.log_in(own(1), 1)?;
    desk.squares(["green A", "green"])?;
    desk.browser.until("#squares", |text| {
        text.contains("lb1") && text.contains("active") && text.contains("standby")
    })?;

    desk.watch()?;
    desk.pair.nodes[0].failover()?;
    desk.squares(["green", "green A"])?;
    seen(&desk, "active", |square| square == "green A")?;
    desk.pair.wait_whole()?;
    desk.watch()?;
    desk.pair.nodes[1].failover()?;
    desk.squares(["green A", "green"])?;
    seen(&desk, "standby", |square| square != "green A")?;

    // A node that is off.
    desk.pair.nodes[0].cut(Cut::Both);
    desk.pair.nodes[0].kill()?;
    let at = now_ns();
    desk.pair.nodes[1].wait_role(Role::Active, PATIENCE)?;
    // The way to the page went with no port: it is the other node's.
    desk.squares(["red", "green A"])?;
    tell("a dead node was red", Duration::from_nanos(now_ns() - at));
    desk.browser
        .until("#unguarded", |text| text.contains("lb1 is not heard"))?;
    desk.pair.nodes[0].cut(Cut::Nothing);
    desk.pair.nodes[0].start()?;
    desk.squares(["green", "green A"])?;

    // Put aside by a person.
    desk.pair.nodes[0].command(&["maintenance", "on"])?;
    desk.squares(["blue", "green A"])?;
    desk.pair.nodes[0].command(&["resume"])?;
    desk.squares(["green", "green A"])?;

    // Or by itself, since it crashed more than once.
    let node = &mut desk.pair.nodes[0];
    for role in [Role::Standby, Role::Pacified] {
        node.kill()?;
        node.start()?;
        node.wait_role(role, PATIENCE)?;
    }
    desk.squares(["blue", "green A"])?;
    desk.browser
        .until("#squares", |text| text.contains("pacified"))?;
    Ok(())
}

/// How soon the page of the second node showed that this node had become so.
fn seen(desk: &Desk, role: &str, shows: impl Fn(&str) -> bool) -> Result<()> {
    let sights = desk.sights()?;
    let begin = sights.first().context("nobody watches")?.at;
    let mut changed = None;
    until("the history has it", || {
        changed = role_changed(&desk.pair.nodes[1], role)?.filter(|at| *at >= begin);
        Ok(changed.is_some())
    })?;
    let shown = sights.iter().find(|sight| {
        let own = sight.squares.split(", ").nth(1);
        own.is_some_and(&shows)
    });
    let shown = shown.with_context(|| format!("{sights:?}"))?.at;
    let late = shown - changed.context("no change")?;
    let late = Duration::from_millis(u64::try_from(late).unwrap_or_default());
    tell(&format!("{role} was on the page"), late);
    ensure!(late < LATEST, "{late:?}: {sights:?}");
    Ok(())
}

/// When a node last became so: milliseconds since 1970, as its history has it.
fn role_changed(node: &Node, to: &str) -> Result<Option<i64>> {
    let words = [
        "events",
        "--json",
        "--kind",
        "role_changed",
        "--limit",
        "20",
    ];
    let page: EventPage = serde_json::from_str(&node.command(&words)?)?;
    let mut events = page.events.iter().rev();
    let found = events.find(|event| event.fields.get("to").is_some_and(|role| role == to));
    Ok(found.map(|event| event.time.as_millisecond()))
}

/// Both nodes are reached by everybody but each other, so both are active. When the one that has to stay active hears
/// the other one again, and is not heard by it yet, it knows of two; until it gives in, its page says so.
#[expect(
    clippy::indexing_slicing,
    reason = "a pair has two nodes; another index fails the test"
)]
fn split() -> Result<()> {
    let mut desk = Desk::at(PairConfig {
        interval: INTERVAL,
        timeout: TIMEOUT,
        ..PairConfig::default()
    })?;
    for node in [0, 1] {
        desk.log_in(own(node), node)?;
    }
    for late in [1, 0] {
        let early = 1 - late;
        desk.activate(early)?;
        apart(&desk, &[(0, 1), (1, 0)])?;
        desk.pair.nodes[late].wait_role(Role::Active, PATIENCE)?;
        ensure!(desk.pair.nodes[early].role() == Some(Role::Active));
        // Deaf to each other, each knows of itself alone.
        for node in [early, late] {
            desk.browser.goto(&url(own(node), "/"))?;
            desk.squares(match node {
                0 => ["green A", "red"],
                _ => ["red", "green A"],
            })?;
        }
        desk.watch()?;
        apart(&desk, &[(late, early)])?;
        desk.pair.nodes[late].wait_role(Role::Standby, PATIENCE)?;
        let mut sights = Vec::new();
        until("both were grey", || {
            sights = desk.sights()?;
            Ok(sights.iter().any(|sight| sight.squares == "grey A, grey A"))
        })
        .with_context(|| format!("lb{}: {sights:?}", late + 1))?;
        apart(&desk, &[])?;
        desk.squares(match early {
            0 => ["green A", "green"],
            _ => ["green", "green A"],
        })?;
    }
    Ok(())
}

/// Has the switch pass nothing from these nodes to those, on any network; everything else passes.
fn apart(desk: &Desk, ways: &[(usize, usize)]) -> Result<()> {
    let ways = ways.iter().map(|(from, to)| (from + 1, to + 1));
    let rules = ways.flat_map(|(from, to)| {
        ["front", "back"].map(|net| format!("iifname {net}-lb{from} oifname {net}-lb{to} drop"))
    });
    let rules = rules.collect::<Vec<_>>().join("\n");
    let table = "table bridge apart";
    desk.pair.switch.netns().nft(&format!(
        "{table}
        delete {table}
        {table} {{
            chain pass {{
                type filter hook forward priority 0; policy accept;
                {rules}
            }}
        }}\n"
    ))
}

/// A node is taken out of its pair on its own page, and works alone after a restart.
fn off() -> Result<()> {
    let mut desk = Desk::set_up()?;
    desk.activate(1)?;
    desk.log_in(own(0), 0)?;
    desk.browser.goto(&url(own(0), "/ha"))?;
    desk.browser.click("#f-mode option[value='off']")?;
    desk.browser.click("#ha-preview")?;
    desk.browser.until("#restart", |_text| true)?;
    desk.browser.click("#restart-agreed")?;
    desk.browser.click("#apply")?;
    desk.browser
        .until("#notice", |text| text.contains("after a restart"))?;
    let [alone, partner] = &mut desk.pair.nodes;
    // Not both with the shared addresses.
    for node in [partner, &mut *alone] {
        node.signal(Signal::SIGTERM)?;
        let agent = node.agent.as_mut().context("no agent")?;
        ensure!(agent.wait(PATIENCE)?.success());
    }
    alone.start()?;
    alone.wait_role(Role::Off, PATIENCE)?;
    desk.log_in(own(0), 0)?;
    desk.browser
        .until("#squares", |text| text.contains("high availability is off"))?;
    ensure!(desk.look()?.is_empty(), "there are squares");
    // All of the configuration is this node's own now.
    desk.browser.until("#nav-services", |_text| true)?;
    Ok(())
}
