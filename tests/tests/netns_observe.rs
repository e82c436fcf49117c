//! What people and programs see of a pair afterwards and from outside: the event history, metrics and health,
//! notify commands, systemd's journal.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::events::{Event, EventPage};
use ha_agent::status::model::Role;
use ha_agent::web::metrics::family::{Family, Form};
use ha_tests::clock::{PATIENCE, until};
use ha_tests::rig::config::{self, PairConfig, SHARED_FRONT};
use ha_tests::rig::http::{self, metric};
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use nix::sys::signal::Signal;

const PORT: u16 = 9573;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft", "unshare"],
        &["ha-agent"],
        &[
            ("history_tells_who_when_and_why_and_survives", history),
            ("metrics_and_health_are_served_and_disturb_nobody", served),
            ("a_notify_command_is_told_of_every_change", hooks),
            ("events_reach_the_journal_with_their_fields", journal),
        ],
    )
}

fn events(node: &Node, more: &[&str]) -> Result<Vec<Event>> {
    let mut words = vec!["events", "--json", "--limit", "1000"];
    words.extend(more);
    let page: EventPage = serde_json::from_str(&node.command(&words)?)?;
    ensure!(page.unreadable == 0, "{page:?}");
    Ok(page.events)
}

/// Waits until an event of a kind is there of which this holds; returns the newest.
fn find(node: &Node, kind: &str, is: impl Fn(&Event) -> bool) -> Result<Event> {
    let mut found = None;
    until(&format!("an event {kind}"), || {
        let all = events(node, &["--kind", kind])?;
        found = all.into_iter().rfind(|event| is(event));
        Ok(found.is_some())
    })?;
    found.context("an event")
}

fn became(role: &str) -> impl Fn(&Event) -> bool {
    move |event| event.fields.get("to").is_some_and(|to| to == role)
}

fn history() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        ..PairConfig::default()
    })?;
    pair.start()?;
    let (active, standby) = pair.active_and_standby()?;

    // An operator, by the user that the kernel knows.
    active.failover()?;
    standby.wait_role(Role::Active, PATIENCE)?;
    let command = find(active, "command", |event| event.what == "failover")?;
    ensure!(command.who == "uid 0" && command.fields.get("uid").is_some_and(|uid| uid == "0"));
    let gave = find(active, "role_changed", |event| {
        became("standby")(event) && event.why == "failover"
    })?;
    ensure!(gave.fields.contains_key("term"), "{gave:?}");
    let refused = active.failover();
    ensure!(refused.is_err(), "a standby handed over");
    let refused = find(active, "command_refused", |event| event.what == "failover")?;
    ensure!(refused.why.contains("not active"), "{refused:?}");
    active.reload()?;
    find(active, "reloaded", |event| event.who == "uid 0")?;
    active.signal(Signal::SIGHUP)?;
    find(active, "reloaded", |event| event.who == "SIGHUP")?;
    let shown = active.command(&["events", "--limit", "500"])?;
    ensure!(shown.contains("failover  [uid 0 (root)]"), "{shown}");

    // The partner dies: who is left tells of it, and of an alarm that comes and goes.
    let (new_active, other) = (standby, active);
    new_active.cut(ha_tests::rig::switch::Cut::Both);
    new_active.kill()?;
    other.wait_role(Role::Active, PATIENCE)?;
    find(other, "partner_lost", |event| {
        event.why.starts_with("silent for")
    })?;
    let took = find(other, "role_changed", |event| {
        became("active")(event) && event.why == "partner silent"
    })?;
    // The real servers went with the cut ports for the other node, not for this one.
    let before = events(new_active, &[])?;
    ensure!(!before.is_empty(), "without an agent the files tell");

    // It starts again and goes on counting.
    new_active.cut(ha_tests::rig::switch::Cut::Nothing);
    new_active.start()?;
    let started = find(new_active, "started", |event| {
        event
            .fields
            .get("start")
            .is_some_and(|start| start == "crashed")
    })?;
    let last = before.last().context("events")?;
    ensure!(started.number > last.number, "{started:?} {last:?}");
    find(other, "partner_heard", |event| event.number > took.number)?;

    // Numbers are in the order of time, and none is missing once both files are written.
    pair.wait_whole()?;
    for node in &pair.nodes {
        let (mut all, mut numbers) = (Vec::new(), Vec::new());
        until("all events are there", || {
            all = events(node, &[])?;
            numbers = all.iter().map(|event| event.number).collect();
            Ok(numbers.is_sorted_by(|one, next| *next == one + 1))
        })
        .with_context(|| format!("{numbers:?}"))?;
        ensure!(all.is_sorted_by_key(|event| event.time), "{all:?}");
        ensure!(events(node, &["--since", "1h"])?.len() >= all.len());
        ensure!(events(node, &["--since", "2999-01-01"])?.is_empty());
    }
    // A disk that takes nothing changes no role.
    let (active, _) = pair.active_and_standby()?;
    let state = active.dir().join("state");
    for file in ["events.jsonl", "events-world.jsonl"] {
        fs::rename(state.join(file), state.join(format!("{file}.kept")))?;
        std::os::unix::fs::symlink("/dev/full", state.join(file))?;
    }
    // The file that is open is the one that was moved; a program that continues opens the other.
    active.reexec()?;
    until("the alarm", || {
        let status = active.status();
        Ok(status.is_ok_and(|status| {
            status.role == Role::Active
                && status
                    .alarms
                    .iter()
                    .any(|alarm| alarm.name == "events_not_stored")
        }))
    })?;
    for file in ["events.jsonl", "events-world.jsonl"] {
        fs::remove_file(state.join(file))?;
    }
    until("it is stored again", || {
        let status = active.status()?;
        ensure!(status.role == Role::Active, "{status:?}");
        Ok(status
            .alarms
            .iter()
            .all(|alarm| alarm.name != "events_not_stored"))
    })
}

/// Asks a node's listener from the client's host: the code and the body.
fn get(pair: &Pair, address: IpAddr, path: &str) -> Result<(u16, String)> {
    http::get(&pair.client, SocketAddr::new(address, PORT), path)
}

fn own(node: &Node) -> IpAddr {
    config::front(if node.config_file().to_string_lossy().contains("lb2") {
        2
    } else {
        1
    })
    .into()
}

fn served() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        node: vec!["metrics: { listen: \"0.0.0.0:9573\" }"],
        ..PairConfig::default()
    })?;
    pair.start()?;
    pair.wait_in_sync()?;
    let (active, standby) = pair.active_and_standby()?;
    let (first, second) = (own(active), own(standby));
    let codes = |pair: &Pair, address: IpAddr| -> Result<[u16; 3]> {
        Ok([
            get(pair, address, "/healthz")?.0,
            get(pair, address, "/readyz")?.0,
            get(pair, address, "/active")?.0,
        ])
    };
    // A machine that stalls for longer than the lease closes the gate for a moment.
    until("the active node says so", || {
        Ok(codes(&pair, first)? == [200, 200, 200])
    })?;
    until("the standby is ready", || {
        Ok(codes(&pair, second)? == [200, 200, 503])
    })?;
    ensure!(get(&pair, SHARED_FRONT.into(), "/active")? == (200, "active\n".to_owned()));

    // Every metric of the manual is there, but for those whose subject is not.
    let (code, text) = get(&pair, first, "/metrics")?;
    ensure!(code == 200 && text.ends_with("# EOF\n"), "{text}");
    let absent = [
        "real_server_connections_max",
        "replication_repair_buckets",
        "replication_transfer_connections",
        "replication_lag_seconds",
        "notify_runs",
        "notify_changes_passed_over",
        "notify_changes_waiting",
        "records",
        "records_max",
        "records_bytes",
        "records_bytes_max",
        "records_refused",
    ];
    for family in Family::ALL
        .iter()
        .filter(|family| !absent.contains(&family.stem()))
    {
        let suffix = if family.form() == Form::Counter {
            "_total"
        } else {
            ""
        };
        let name = format!("ha_agent_{}{suffix}", family.stem());
        let there = text.lines().any(|line| {
            line.strip_prefix(&name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        // The first role of all is no change.
        ensure!(there || family.stem() == "role_changes", "{name}\n{text}");
    }
    ensure!(metric(&text, "ha_agent_gate_open") == 1);
    ensure!(metric(&text, "ha_agent_partner_ready") == 1);
    ensure!(metric(&text, "ha_agent_config_in_sync") == 1);
    ensure!(text.contains("ha_agent_role{role=\"active\"} 1"));
    ensure!(
        text.contains(
            "real_server_state{service=\"web\",real_server=\"10.77.2.21:8080\",state=\"up\"} 1"
        ),
        "{text}"
    );
    let standby_text = get(&pair, second, "/metrics")?.1;
    ensure!(metric(&standby_text, "ha_agent_gate_open") == 0);

    // Many scrapes, many half-open clients: the election notices none of it.
    let late = metric(&text, "ha_agent_role_changes_total");
    let mut idle = Vec::new();
    for _ in 0..100 {
        let stream = pair.client.run(|| {
            let mut stream = TcpStream::connect((first, PORT))?;
            stream.write_all(b"GET /met")?;
            Ok(stream)
        })?;
        idle.push(stream);
        ensure!(get(&pair, first, "/metrics")?.0 == 200);
    }
    let text = get(&pair, first, "/metrics")?.1;
    ensure!(
        metric(&text, "ha_agent_role_changes_total") == late,
        "a role changed"
    );
    ensure!(
        metric(&text, "ha_agent_http_connections_displaced_total") >= 1,
        "{text}"
    );
    drop(idle);

    // The answer follows the role.
    let (active, standby) = pair.active_and_standby()?;
    active.failover()?;
    standby.wait_role(Role::Active, PATIENCE)?;
    until("the new active node says so", || {
        Ok(codes(&pair, second)?[2] == 200)
    })?;
    ensure!(get(&pair, first, "/active")?.0 == 503);
    until("the change is counted", || {
        let text = get(&pair, first, "/metrics")?.1;
        Ok(text.contains(
            "ha_agent_role_changes_total{from=\"active\",to=\"standby\",reason=\"failover\"} 1",
        ))
    })?;
    // A frozen agent answers nothing; that is no 200.
    Ok(())
}

fn hooks() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        node: vec!["notify: { command: '{dir}/notify', user: root, timeout: 5s, instance: VI_1 }"],
        ..PairConfig::default()
    })?;
    for node in &pair.nodes {
        let told = node.dir().join("told");
        let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display());
        let path = node.dir().join("notify");
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    pair.start()?;
    let told = |node: &Node| fs::read_to_string(node.dir().join("told")).unwrap_or_default();
    let (active, standby) = pair.active_and_standby()?;
    until("the standby's command is told", || {
        Ok(told(standby).ends_with("BACKUP 50\n") || told(standby).ends_with("BACKUP 100\n"))
    })?;
    active.failover()?;
    standby.wait_role(Role::Active, PATIENCE)?;
    let states = |node: &Node| -> Vec<String> {
        let text = told(node);
        let words = text.lines().filter_map(|line| line.split(' ').nth(2));
        words.map(str::to_owned).collect()
    };
    until("both are told of the failover", || {
        Ok(
            states(active).ends_with(&["MASTER".to_owned(), "BACKUP".to_owned()])
                && states(standby).ends_with(&["BACKUP".to_owned(), "MASTER".to_owned()]),
        )
    })?;
    ensure!(told(active).starts_with("INSTANCE VI_1 "));
    active.command(&["maintenance", "on"])?;
    until("maintenance is a fault", || {
        Ok(states(active).last().is_some_and(|state| state == "FAULT"))
    })?;
    standby.signal(Signal::SIGTERM)?;
    until("the end is told", || {
        Ok(states(standby).last().is_some_and(|state| state == "STOP"))
    })
}

/// The fields of an entry: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>.
fn fields(mut entry: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = entry.split_at(end);
        let rest = rest.get(1..)?;
        let line = std::str::from_utf8(line).ok()?;
        if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
            entry = rest;
        } else {
            let (length, rest) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let value = String::from_utf8_lossy(rest.get(..length)?).into_owned();
            fields.insert(line.to_owned(), value);
            entry = rest.get(length + 1..)?;
        }
    }
    Some(fields)
}

/// Runs an agent that cannot start, with or without a journal on standard error; what the journal got and what
/// was written to standard error.
fn started_with_journal(
    dir: &Path,
    told_of_it: bool,
) -> Result<(Vec<BTreeMap<String, String>>, String)> {
    let own = dir.join("journal");
    fs::create_dir_all(&own)?;
    let socket = own.join("socket");
    let _gone = fs::remove_file(&socket);
    let receiver = UnixDatagram::bind(&socket)?;
    receiver.set_nonblocking(true)?;
    let key = dir.join("pair.key");
    if !key.exists() {
        ha_agent::keys::PairKeys::generate(&key)?;
    }
    let file = dir.join("ha-agent.yaml");
    let place = dir.display();
    fs::write(
        &file,
        format!(
            "version: 1\nnode:\n  name: lb1\n  mode: first\n  key_file: {place}/pair.key\n  state_dir: {place}/state\n  run_dir: {place}/run\n  bpf_dir: {place}/bpf\n  interfaces:\n    - {{ name: front, device: nosuchdevice, address: 10.0.0.11/24, partner: 10.0.0.12, ha_checks: true }}\nshared_addresses:\n  - {{ interface: front, address: 10.0.0.100/24 }}\n"
        ),
    )?;
    let stream = if told_of_it {
        "export JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2);"
    } else {
        "export JOURNAL_STREAM=1:1;"
    };
    let script = format!(
        "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && mount --bind {own} /run/systemd/journal && {stream} exec {agent} run -f {file}",
        own = own.display(),
        agent = locate::program("ha-agent")?.display(),
        file = file.display(),
    );
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
        ])
        .env_remove("RUST_LOG")
        .env_remove("HA_LOG")
        .stdin(Stdio::null())
        .output()?;
    let mut entries = Vec::new();
    let mut entry = vec![0; 64 << 10];
    while let Ok(length) = receiver.recv(&mut entry) {
        let bytes = entry.get(..length).unwrap_or_default();
        // The first of all is empty: a greeting.
        if !bytes.is_empty() {
            entries.push(fields(bytes).context("an entry that is none")?);
        }
    }
    Ok((
        entries,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

fn journal() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (entries, text) = started_with_journal(dir.path(), true)?;
    let with = |name: &str, value: &str| {
        let mut found = entries.iter();
        found
            .find(|entry| entry.get(name).is_some_and(|found| found == value))
            .cloned()
    };
    let started = with("HA_EVENT", "started").with_context(|| format!("{entries:#?}\n{text}"))?;
    let id = "0c9612241aa64f15aea4164431906e1b";
    ensure!(
        started.get("MESSAGE_ID").is_some_and(|found| found == id),
        "{started:?}"
    );
    ensure!(
        started
            .get("HA_REASON")
            .is_some_and(|why| why == "the first start of all"),
        "{started:?}"
    );
    ensure!(
        started.get("HA_WHO").is_some_and(|who| who == "agent"),
        "{started:?}"
    );
    ensure!(!started.contains_key("HA_ROLE"), "{started:?}");
    ensure!(
        started
            .get("SYSLOG_IDENTIFIER")
            .is_some_and(|name| name == "ha-agent"),
        "{started:?}"
    );
    // Other lines are there, too, and their values have the prefix.
    let error = entries.iter().find(|entry| {
        entry
            .get("MESSAGE")
            .is_some_and(|line| line.contains("nosuchdevice"))
            && !entry.contains_key("HA_EVENT")
    });
    ensure!(
        error.is_some_and(|entry| entry.get("PRIORITY").is_some_and(|level| level == "3")),
        "{entries:#?}"
    );
    ensure!(!text.contains("INFO"), "the journal has them: {text}");

    // A variable that was inherited by somebody whose standard error goes elsewhere means nothing.
    let (entries, text) = started_with_journal(dir.path(), false)?;
    ensure!(entries.is_empty(), "{entries:#?}");
    ensure!(
        text.contains("nosuchdevice") && text.contains("ERROR"),
        "{text}"
    );
    Ok(())
}
