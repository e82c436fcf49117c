//! What others do to a node besides packets, and what happens to it: a clock that jumps, a control socket and a
//! configuration channel that are flooded or cut. The role does not move, and whoever has business there is served.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::events::{Event, EventPage};
use ha_agent::status::model::{Configuration, Role, Status};
use ha_tests::clock::{PATIENCE, now_ns, until, within};
use ha_tests::demo::SERVICE;
use ha_tests::rig::config::{self, PairConfig, RealServer};
use ha_tests::rig::http::{self, metric};
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::traffic::load::Load;

/// TCP port of the configuration channel.
const CHANNEL: u16 = 6973;
const METRICS: u16 = 9573;
/// A day.
const DAY: i64 = 86_400;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo", "ha-faulty"],
        &[
            ("a_clock_that_jumps_by_a_day_moves_nothing", clock),
            ("a_flooded_control_socket_serves_on", control),
            (
                "strangers_on_the_configuration_channel_cost_the_partner_nothing",
                strangers,
            ),
            ("a_channel_cut_in_silence_is_named", cut),
        ],
    )
}

fn build() -> Result<Pair> {
    Pair::build(PairConfig {
        timeout: Duration::from_secs(1),
        node: vec!["metrics: { listen: \"0.0.0.0:9573\" }"],
        ..PairConfig::default()
    })
}

fn whole() -> Result<Pair> {
    let mut pair = build()?;
    pair.start()?;
    pair.wait_in_sync()?;
    Ok(pair)
}

fn statuses(pair: &Pair) -> Result<[Status; 2]> {
    let [first, second] = &pair.nodes;
    Ok([first.status()?, second.status()?])
}

fn configuration(status: &Status) -> Result<&Configuration> {
    status.configuration.as_ref().context("no configuration")
}

fn scrape(pair: &Pair, node: &Node) -> Result<String> {
    let address = SocketAddr::new(config::front(node.number).into(), METRICS);
    let (code, text) = http::get(&pair.client, address, "/metrics")?;
    ensure!(code == 200, "{text}");
    Ok(text)
}

/// How often this was found of a node's election.
fn incidents(text: &str, incident: &str) -> u64 {
    let name = format!("ha_agent_election_incidents_total{{incident=\"{incident}\"");
    metric(text, &name)
}

/// Open descriptors of a node's agent.
fn descriptors(node: &Node) -> Result<usize> {
    let pid = node.agent.as_ref().context("no agent")?.pid()?;
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn events(node: &Node, since: &str) -> Result<Vec<Event>> {
    let words = ["events", "--json", "--limit", "1000", "--since", since];
    let page: EventPage = serde_json::from_str(&node.command(&words)?)?;
    ensure!(page.unreadable == 0, "{page:?}");
    Ok(page.events)
}

/// Roles, terms and processes are as they were, and no alarm stands.
fn unmoved(before: &[Status; 2], after: &[Status; 2]) -> Result<()> {
    for (before, after) in before.iter().zip(after) {
        assert_eq!(
            (before.role, before.term, before.process),
            (after.role, after.term, after.process)
        );
        ensure!(after.alarms.is_empty(), "{:#?}", after.alarms);
    }
    Ok(())
}

fn clock() -> Result<()> {
    let mut pair = build()?;
    let files: [PathBuf; 2] = pair.nodes.each_ref().map(|node| node.dir().join("clock"));
    for (node, file) in pair.nodes.iter_mut().zip(&files) {
        fs::write(file, "0")?;
        node.start_with_clock(file)?;
    }
    pair.wait_whole()?;
    pair.wait_in_sync()?;
    let load = Load::start(&pair.client, SERVICE, 100)?;
    let active = pair.active()?;
    let standby = 1 - active;
    let asked = now_ns();
    let before = statuses(&pair)?;
    let begin = now_ns();
    let begun = Duration::from_nanos(begin - asked).as_secs_f64();
    let known: Vec<u64> = pair
        .nodes
        .iter()
        .map(|node| {
            Ok(events(node, "2000-01-01")?
                .last()
                .map_or(0, |event| event.number))
        })
        .collect::<Result<_>>()?;

    let mut weight = 1;
    for wrong in [[DAY, 0], [0, 0], [-DAY, DAY], [DAY, -DAY], [0, 0]] {
        for (file, wrong) in files.iter().zip(wrong) {
            fs::write(file, wrong.to_string())?;
        }
        // Longer than any timeout of the pair's.
        sleep(Duration::from_millis(2500));
        until("both tables are complete", || {
            Ok(statuses(&pair)?
                .iter()
                .all(|status| status.replication.ready))
        })?;
        let asked = now_ns();
        let now = statuses(&pair)?;
        unmoved(&before, &now).with_context(|| format!("clocks wrong by {wrong:?} s"))?;
        let passed = Duration::from_nanos(asked - begin).as_secs_f64();
        // What the machine lets the asking last besides.
        let slack = Duration::from_nanos(now_ns() - asked).as_secs_f64() + begun;
        for (before, now) in before.iter().zip(&now) {
            // What has lasted is told by the clock that does not jump.
            let lasted = now.since_seconds - before.since_seconds;
            ensure!(
                (lasted - passed).abs() < 1.0 + slack,
                "{lasted} s instead of {passed} s"
            );
            let (before, now) = (configuration(before)?, configuration(now)?);
            ensure!(before.progress.failed == now.progress.failed, "{now:#?}");
            ensure!(
                now.heard_seconds.is_some_and(|heard| heard < 60.0),
                "{now:#?}"
            );
        }
        // An edit is live on the other node, whose clock is another one, at once.
        weight += 1;
        pair.config.servers = [(1, 1), (2, weight)]
            .map(|(number, weight)| RealServer { number, weight })
            .to_vec();
        pair.change_config()?;
        until("the edit's alarms are over", || {
            Ok(statuses(&pair)?
                .iter()
                .all(|status| status.alarms.is_empty()))
        })?;
    }

    // The history is in the order of what happened; its stamps are what the clock said. It is written a moment later.
    let gapless = |all: &[Event]| {
        all.windows(2)
            .all(|pair| matches!(pair, [one, next] if one.number + 1 == next.number))
    };
    for (index, (node, known)) in pair.nodes.iter().zip(&known).enumerate() {
        let mut all = Vec::new();
        until("the five edits are written", || {
            all = events(node, "2000-01-01")?;
            let reloads = all
                .iter()
                .filter(|event| event.number > *known && event.event == "reloaded");
            Ok(reloads.count() >= 5 && gapless(&all))
        })
        .with_context(|| format!("{all:#?}"))?;
        let new: Vec<&Event> = all.iter().filter(|event| event.number > *known).collect();
        let reloads: Vec<_> = new
            .iter()
            .filter(|event| event.event == "reloaded")
            .collect();
        ensure!(reloads.len() == 5, "{new:#?}");
        let wrong: Vec<i64> = reloads
            .windows(2)
            .map(|pair| match pair {
                [one, next] => next.time.as_second() - one.time.as_second(),
                _ => 0,
            })
            .collect();
        let steps = if index == 0 {
            [-DAY, -DAY, 2 * DAY, -DAY]
        } else {
            [0, DAY, -2 * DAY, DAY]
        };
        for (found, wanted) in wrong.iter().zip(steps) {
            ensure!(
                (found - wanted).abs() < 60,
                "{wrong:?} instead of {steps:?}"
            );
        }
        for event in &new {
            // An edit makes the versions differ for a moment.
            let expected = ["reloaded", "alarm_raised", "alarm_over"];
            ensure!(expected.contains(&event.event.as_str()), "{event:#?}");
        }
        // Also those of the last hour are found among those of other days.
        let recent = events(node, "1h")?;
        let last = reloads.last().context("reloads")?;
        ensure!(recent.iter().any(|event| event.number == last.number));
        let lost = all.iter().find(|event| event.event == "history_lost");
        ensure!(lost.is_none(), "{lost:?}");
    }
    let at = now_ns();
    load.fault_at(at);
    let node = pair.nodes.get(active).context("no such node")?;
    node.failover()?;
    let (tcp, _) = load.finish(at, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );

    // Nor does a crash count as one of another day: the history of starts has a clock of its own.
    let file = files.get(standby).context("no such file")?;
    let node = pair.nodes.get_mut(standby).context("no such node")?;
    fs::write(file, (-DAY).to_string())?;
    node.kill()?;
    node.start_with_clock(file)?;
    pair.wait_whole()?;
    let node = pair.nodes.get(standby).context("no such node")?;
    let all = events(node, "2000-01-01")?;
    let started = all.iter().rfind(|event| event.event == "started");
    let how = started.and_then(|event| event.fields.get("start"));
    ensure!(how.is_some_and(|how| how == "crashed"), "{started:?}");
    Ok(())
}

/// Does something again and again on threads of its own for as long as something else takes.
fn beside<T>(
    threads: &[&(dyn Fn() -> Result<()> + Sync)],
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for attack in threads {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Being turned away is what should happen.
                    let _refused = attack();
                }
            });
        }
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn control() -> Result<()> {
    let pair = whole()?;
    let active = pair.active()?;
    let node = pair.nodes.get(active).context("no such node")?;
    let socket = node.dir().join("run/ctl.sock");
    let before = statuses(&pair)?;
    let counted = scrape(&pair, node)?;
    let open = descriptors(node)?;
    let load = Load::start(&pair.client, SERVICE, 100)?;

    let connect = || -> Result<UnixStream> {
        let stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(stream)
    };
    let say = |line: &[u8]| -> Result<Vec<u8>> {
        let mut stream = connect()?;
        stream.write_all(line)?;
        let mut answer = Vec::new();
        (&mut stream).take(1 << 20).read_to_end(&mut answer)?;
        Ok(answer)
    };
    // Connections that only are there, and lines that never end; they are held.
    let idle = || {
        let held: Vec<_> = (0..64).map(|_| connect()).collect();
        for stream in held.iter().flatten() {
            let mut stream = stream;
            let _gone = stream.write_all(b"{\"command\":\"eve");
        }
        sleep(Duration::from_millis(50));
        Ok(())
    };
    let long = || say(&vec![b'x'; 1 << 20]).map(|_answer| ());
    let garbage = || {
        for line in [
            &b"\xff\xfe\x00\n"[..],
            b"{\"command\":\"show_config\",\"more\":1}\n",
            b"{\"command\":\"push\"\n",
            b"{\"command\":\"events\",\"limit\":18446744073709551616}\n",
            b"{\"command\":\"records\",\"op\":\"list\"}\n",
            b"{\"command\":\"reload\",\"command\":\"reload\"}\n",
            b"{\"command\":\"maintenance\",\"on\":\"yes\"}\n",
            b"{\"command\":\"pair_offer\",\"minutes\":-1}\n",
        ] {
            say(line)?;
        }
        say(format!("{}\n", "[".repeat(60_000)).as_bytes()).map(|_answer| ())
    };
    // What is a command, from those who do not read what comes.
    let unread = || {
        let held: Vec<_> = (0..4).map(|_| connect()).collect();
        for stream in held.iter().flatten() {
            let mut stream = stream;
            let _gone = stream.write_all(&b"{\"command\":\"status\"}\n".repeat(500));
        }
        sleep(Duration::from_millis(500));
        Ok(())
    };
    let mut worst = Duration::ZERO;
    let mut most = 0;
    let (mut asked, mut refused) = (0, 0);
    beside(&[&idle, &long, &garbage, &unread], || {
        let end = now_ns() + 8_000_000_000;
        while now_ns() < end {
            let begin = now_ns();
            asked += 1;
            match node.status() {
                Ok(status) => ensure!(status.role == Role::Active),
                Err(_turned_away) => refused += 1,
            }
            worst = worst.max(Duration::from_nanos(now_ns() - begin));
            most = most.max(descriptors(node)?);
            sleep(Duration::from_millis(20));
        }
        Ok(())
    })?;
    // Commands of others may fill all places for a moment; connections without a command may not.
    ensure!(refused * 4 < asked, "{refused} of {asked} were turned away");
    ensure!(worst < PATIENCE, "{worst:?}");
    ensure!(most < open + 200, "{most} descriptors instead of {open}");

    // Once they are gone everything is as it was.
    until("the agent is at rest", || {
        Ok(node.status().is_ok() && descriptors(node)? < open + 20)
    })?;
    unmoved(&before, &statuses(&pair)?)?;
    let text = scrape(&pair, node)?;
    for incident in ["lease_lapsed", "overtaken", "both_active"] {
        ensure!(
            incidents(&text, incident) == incidents(&counted, incident),
            "{incident}: {text}"
        );
    }
    // The machine may freeze it now and then by itself.
    let stalled = incidents(&text, "stalled") - incidents(&counted, "stalled");
    ensure!(stalled < 5, "the election was late {stalled} times: {text}");
    let event = |name: &str| {
        let name = format!("ha_agent_control_events_total{{event=\"{name}\"");
        metric(&text, &name)
    };
    for name in ["clients", "displaced", "malformed"] {
        ensure!(event(name) > 20, "{name} was not counted: {text}");
    }
    let at = now_ns();
    load.fault_at(at);
    let (tcp, _) = load.finish(at, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );
    Ok(())
}

fn strangers() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let standby = 1 - active;
    let before = statuses(&pair)?;
    let open = pair.nodes.each_ref().map(descriptors);
    let attacker = pair.reals.first().context("no host")?.clone();
    let targets = pair
        .nodes
        .each_ref()
        .map(|node| SocketAddr::new(config::back(node.number).into(), CHANNEL));

    let speak = |target: SocketAddr, words: &[u8], wait: bool| -> Result<()> {
        attacker.run(|| {
            let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(4)))?;
            stream.set_write_timeout(Some(Duration::from_secs(4)))?;
            stream.write_all(words)?;
            if wait {
                let mut answer = Vec::new();
                (&mut stream).take(1 << 20).read_to_end(&mut answer)?;
            }
            Ok(())
        })
    };
    let each = |words: &[u8], wait: bool| {
        for target in targets {
            // Being refused is what should happen.
            let _refused = speak(target, words, wait);
        }
        Ok(())
    };
    // Nothing at all; no SSH; a banner without end; a packet longer than any; half a handshake.
    let silent = || each(b"", true);
    let banner = || each(&vec![b'S'; 1 << 20], true);
    let words = || each(b"GET / HTTP/1.1\r\n\r\n", true);
    let huge = || each(b"SSH-2.0-x\r\n\xff\xff\xff\xff\x04\x14", true);
    let half = || each(b"SSH-2.0-x\r\n\x00\x00\x00\x0c\x04\x14", true);
    let quick = || each(b"", false);

    let mut delays = Vec::new();
    beside(
        &[&silent, &banner, &words, &huge, &half, &quick, &quick],
        || {
            for weight in 2..12 {
                pair.config.servers = [(1, 1), (2, weight)]
                    .map(|(number, weight)| RealServer { number, weight })
                    .to_vec();
                let begin = now_ns();
                pair.change_config()?;
                delays.push(Duration::from_nanos(now_ns() - begin));
                sleep(Duration::from_millis(400));
            }
            for (node, open) in pair.nodes.iter().zip(&open) {
                let open = open.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
                let now = descriptors(node)?;
                ensure!(now < open + 100, "{now} descriptors instead of {open}");
            }
            Ok(())
        },
    )?;
    delays.sort();
    let median = delays.get(delays.len() / 2).context("edits")?;
    ensure!(*median < Duration::from_secs(3), "{delays:?}");
    until("the alarms of the edits are over", || {
        Ok(statuses(&pair)?
            .iter()
            .all(|status| status.alarms.is_empty()))
    })?;
    // In the crowd the silent one may have found no place.
    until("a silent stranger is sent away by each", || {
        silent()?;
        let nodes = statuses(&pair)?;
        let mut channels = nodes.iter().map(configuration);
        channels.try_fold(true, |all, of| Ok(all && of?.channel.timed_out > 0))
    })?;
    let after = statuses(&pair)?;
    unmoved(&before, &after)?;
    for (before, after) in before.iter().zip(&after) {
        let (before, after) = (configuration(before)?, configuration(after)?);
        // Where the crowd fills the listener's queue while nobody accepts, an exchange has to try again.
        ensure!(
            after.progress.failed <= before.progress.failed + 2,
            "{after:#?}"
        );
        let counted = after.channel;
        ensure!(
            counted.too_many > 20 && counted.unproven > 3 && counted.timed_out > 0,
            "{counted:?}"
        );
        // Nobody showed a key, and nobody said anything that only the partner may.
        assert_eq!(
            (counted.wrong_key, counted.malformed),
            (0, 0),
            "{counted:?}"
        );
    }
    ensure!(pair.active()? == 1 - standby);
    Ok(())
}

/// What lets nothing of the channel through, and everything else.
const CUT: &str = "table inet cut {
  chain in { type filter hook input priority 0; tcp dport 6973 drop; tcp sport 6973 drop; }
}";

fn cut() -> Result<()> {
    let pair = whole()?;
    let before = statuses(&pair)?;
    for node in &pair.nodes {
        node.netns.nft(CUT)?;
    }
    // Nobody edits anything: the nodes find out by themselves.
    for node in &pair.nodes {
        within(Duration::from_secs(45), "the channel's alarm", || {
            let alarms = node.status()?.alarms;
            Ok(alarms
                .iter()
                .any(|alarm| alarm.name == "configuration_channel"))
        })?;
    }
    for node in &pair.nodes {
        node.netns.nft("delete table inet cut")?;
    }
    until("the alarm's end", || {
        Ok(statuses(&pair)?
            .iter()
            .all(|status| status.alarms.is_empty()))
    })?;
    unmoved(&before, &statuses(&pair)?)
}
