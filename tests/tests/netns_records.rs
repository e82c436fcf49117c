//! What the standby knows besides connections, proven by taking the active node away: where persistent
//! clients go, which real servers are up, and what a proxy has written down.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ha_agent::control::RecordStatus;
use ha_agent::status::model::{RealServerState, RealServerStatus, Records, Role};
use ha_tests::clock::{PATIENCE, until};
use ha_tests::rig::config::{PairConfig, SERVICE_PORT, SHARED_FRONT, SHARED_FRONT6, Scheduler};
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::process;
use ha_tests::rig::switch::Cut;
use ha_tests::traffic::conversation::Conversation;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("persistent_clients_stay_after_a_failover", || {
                ensure!(moved(&["persistence_updates: true"])? == 0);
                Ok(())
            }),
            ("without_replication_of_persistence_clients_move", || {
                ensure!(moved(&["persistence_updates: false"])? > 0);
                Ok(())
            }),
            ("the_active_nodes_health_checks_decide_on_both", health),
            ("what_a_proxy_wrote_is_there_after_a_failover", api),
            ("records_are_written_and_read_over_http", http),
            ("the_manuals_example_does_what_it_says", manual),
            ("records_survive_a_replaced_agent", replaced),
        ],
    )
}

fn records(node: &Node) -> Result<Records> {
    node.status()?.records.context("no records")
}

fn count(node: &Node, namespace: &str) -> Result<u64> {
    let namespaces = records(node)?.table.namespaces;
    let found = namespaces.iter().find(|space| space.name == namespace);
    Ok(found.map_or(0, |space| space.records))
}

/// Cuts the active node off and stops it, and waits until the other one has taken over, which is returned.
fn power_off(pair: &mut Pair) -> Result<&mut Node> {
    let (active, standby) = pair.active_and_standby()?;
    active.cut(Cut::Both);
    active.kill()?;
    standby.wait_role(Role::Active, PATIENCE)?;
    Ok(standby)
}

/// How many of some persistent clients find another real server after the active node has lost its power.
fn moved(ha: &[&'static str]) -> Result<usize> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        scheduler: Scheduler::Rr,
        ipv6: true,
        keys: vec!["persistence: { timeout: 300s }"],
        ha: ha.to_vec(),
        ..PairConfig::default()
    })?;
    pair.start()?;
    let mut clients = Vec::new();
    for host in 0..8 {
        let address = Ipv4Addr::new(10, 77, 1, 200 + host);
        (pair.client).ip(&format!("addr add {address}/24 dev front"))?;
        let client = (IpAddr::from(address), IpAddr::from(SHARED_FRONT));
        let open = Conversation::open_from(
            &pair.client,
            client.0,
            SocketAddr::new(client.1, SERVICE_PORT),
        )?;
        clients.push((client, open.server()));
    }
    let six = SocketAddr::new(SHARED_FRONT6.into(), SERVICE_PORT);
    let first_six = Conversation::open(&pair.client, six)?.server();
    let updates = !ha.contains(&"persistence_updates: false");
    if updates {
        let (_, standby) = pair.active_and_standby()?;
        until("the standby does not know all clients", || {
            Ok(records(standby)?.clients.clients_stored >= 9)
        })?;
        let told = standby.command(&["records", "list", "persistence"])?;
        ensure!(
            told.contains(&format!("tcp {SHARED_FRONT}:80 10.77.1.207/32  10.77.2.2")),
            "{told}"
        );
    } else {
        // As long as it would take.
        sleep(Duration::from_secs(3));
        for node in &pair.nodes {
            ensure!(count(node, "persistence")? == 0);
        }
    }
    power_off(&mut pair)?;
    // Those of one real server after those of the other: turns alone cannot send them there again.
    clients.sort_by_key(|(_, server)| *server);
    let mut moved = 0;
    for ((client, shared), server) in clients {
        let target = SocketAddr::new(shared, SERVICE_PORT);
        let mut open = Conversation::open_from(&pair.client, client, target)?;
        open.talk(1000)?;
        moved += usize::from(open.server() != server);
    }
    if updates {
        ensure!(Conversation::open(&pair.client, six)?.server() == first_six);
    }
    Ok(moved)
}

fn health() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        scheduler: Scheduler::Rr,
        ..PairConfig::default()
    })?;
    pair.start()?;
    // Only the standby's way to rs1 is blocked: what it finds is shown and changes nothing.
    let first = |node: &Node| -> Result<RealServerStatus> {
        let services = node.services()?.services;
        let server = services
            .iter()
            .find_map(|service| service.real_servers.first());
        server.cloned().context("no real server")
    };
    let block = "add table ip test
add chain ip test out { type filter hook output priority 0 ; }
add rule ip test out ip daddr 10.77.2.21 drop
";
    let (active, standby) = pair.active_and_standby()?;
    until("the standby was not told", || {
        Ok(count(standby, "health")? == 4)
    })?;
    standby.netns.nft(block)?;
    until("the standby does not show what it finds", || {
        Ok(first(standby)?
            .own_check
            .is_some_and(|own| own.starts_with("down: ")))
    })?;
    ensure!(first(standby)?.state == RealServerState::Up);
    ensure!(first(active)?.state == RealServerState::Up && first(active)?.own_check.is_none());

    // Only the active node finds rs2 down: that counts on both.
    active
        .netns
        .nft(&block.replace("10.77.2.21", "10.77.2.22"))?;
    let second = |node: &Node| -> Result<RealServerStatus> {
        let services = node.services()?.services;
        let server = services
            .iter()
            .find_map(|service| service.real_servers.get(1));
        server.cloned().context("no second real server")
    };
    until("rs2 is not down on both", || {
        let (active, standby) = (second(active)?, second(standby)?);
        Ok(active.state == RealServerState::Down
            && standby.state == RealServerState::Down
            && standby.reason == active.reason
            && standby.own_check.as_deref() == Some("up"))
    })?;
    let shown = standby.command(&["services"])?;
    ensure!(shown.contains("(own check: up)"), "{shown}");

    // From the takeover on its own checks decide.
    let new = power_off(&mut pair)?;
    until("its own checks do not decide", || {
        let (first, second) = (first(new)?, second(new)?);
        Ok(first.state == RealServerState::Down
            && second.state == RealServerState::Up
            && first.own_check.is_none()
            && second.own_check.is_none())
    })?;
    let target = SocketAddr::new(SHARED_FRONT.into(), SERVICE_PORT);
    for _ in 0..4 {
        ensure!(Conversation::open(&pair.client, target)?.server() == 2);
    }
    Ok(())
}

/// A pair that keeps a proxy's records.
fn keeping() -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        sections: "records:
  listen: records.sock
  namespaces:
    - { name: sessions, records: 1000 }
    - { name: few, records: 3 }
"
        .to_owned(),
        ..PairConfig::default()
    })?;
    for node in &mut pair.nodes {
        node.install()?;
    }
    pair.start()?;
    Ok(pair)
}

fn api() -> Result<()> {
    let mut pair = keeping()?;
    {
        let (active, standby) = pair.active_and_standby()?;
        active.command(&["records", "put", "sessions", "alice", "rs2"])?;
        active.command(&[
            "records", "put", "sessions", "brief", "gone", "--ttl", "10s",
        ])?;
        ensure!(active.command(&["records", "get", "sessions", "brief"])? == "gone\n");
        for key in ["a", "b", "c"] {
            active.command(&["records", "put", "few", key, "v"])?;
        }
        let refused = active.command(&["records", "put", "few", "d", "v"]);
        let refused = format!("{:#}", refused.err().context("a quota was not kept")?);
        ensure!(
            refused.contains("holds the 3 records it may hold"),
            "{refused}"
        );
        ensure!(active.command(&["records", "get", "sessions", "alice"])? == "rs2\n");

        // The standby reads and does not write.
        until("the standby does not know it", || {
            Ok(standby
                .command(&["records", "get", "sessions", "alice"])
                .is_ok())
        })?;
        let refused = standby.command(&["records", "put", "sessions", "x", "y"]);
        let refused = format!("{:#}", refused.err().context("a standby wrote")?);
        ensure!(refused.contains("only the active node writes"), "{refused}");
        let refused = active.command(&["records", "put", "health", "x", "y"]);
        let refused = format!(
            "{:#}",
            refused.err().context("the agent's own was written")?
        );
        ensure!(refused.contains("the agent itself writes"), "{refused}");
        active.command(&["records", "delete", "few", "a"])?;
        until("the standby does not forget", || {
            Ok(count(standby, "few")? == 2)
        })?;
    }
    let new = power_off(&mut pair)?;
    ensure!(new.command(&["records", "get", "sessions", "alice"])? == "rs2\n");
    until("its time is over and it is still there", || {
        Ok(new
            .command(&["records", "get", "sessions", "brief"])
            .is_err())
    })?;
    until("what is over still counts", || {
        Ok(count(new, "sessions")? == 1)
    })?;
    let listed = new.command(&["records", "list", "few"])?;
    ensure!(listed == "b  v\nc  v\n", "{listed}");
    // It writes now, and what it writes is the later word.
    new.command(&["records", "put", "sessions", "alice", "rs1"])?;
    let shown = new.command(&["--json", "records", "get", "sessions", "alice"])?;
    let record: RecordStatus = serde_json::from_str(&shown)?;
    let term = new.status()?.term;
    ensure!(
        record.term == term && record.value.shown() == "rs1",
        "{shown}"
    );
    let status = new.command(&["status"])?;
    ensure!(
        status.contains("few 2 of 3") && status.contains("sessions 1 of 1000"),
        "{status}"
    );
    Ok(())
}

/// Says something in HTTP to a node's socket, and returns the answer's head and body.
fn say(node: &Node, request: &str, body: &str) -> Result<(String, String)> {
    let mut stream = UnixStream::connect(node.dir().join("run/records.sock"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // At once: an answer may come before all of a body is read.
    let whole = format!(
        "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(whole.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok((head.to_owned(), body.to_owned()))
}

fn http() -> Result<()> {
    let mut pair = keeping()?;
    let (active, standby) = pair.active_and_standby()?;
    let (active, standby) = (&*active, &*standby);
    let code = |node: &Node, request: &str, body: &str| -> Result<String> {
        let (head, body) = say(node, request, body)?;
        let code = head.split(' ').nth(1).context("no status")?;
        Ok(format!("{code} {body}"))
    };

    let mut watcher = UnixStream::connect(active.dir().join("run/records.sock"))?;
    watcher.set_read_timeout(Some(PATIENCE))?;
    watcher.write_all(b"GET /records/sessions?watch HTTP/1.1\r\nHost: x\r\n\r\n")?;
    // Its head has come, so it watches.
    let mut seen = String::new();
    let mut read_until = |wanted: &str| -> Result<()> {
        let mut piece = [0; 4096];
        while !seen.contains(wanted) {
            let length = watcher.read(&mut piece)?;
            ensure!(length > 0, "{seen} without {wanted}");
            let piece = piece.get(..length).unwrap_or_default();
            seen.push_str(&String::from_utf8_lossy(piece));
        }
        Ok(())
    };
    read_until("\r\n\r\n")?;

    let put = "PUT /records/sessions/a%20key?ttl=300s";
    ensure!(code(active, put, "value")? == "204 ");
    read_until(r#""change":"put","key":"a key","value":"value""#)?;
    let (head, body) = say(active, "GET /records/sessions/a%20key", "")?;
    ensure!(
        head.starts_with("HTTP/1.1 200") && body == "value",
        "{head}"
    );
    ensure!(head.contains("x-record-left: 2"), "{head}");
    until("the standby does not answer the same", || {
        Ok(code(standby, "GET /records/sessions/a%20key", "")? == "200 value")
    })?;
    for (node, request, body, wanted) in [
        (standby, put, "v", "503 "),
        (active, "GET /records/sessions/none", "", "404 "),
        (active, "GET /records/nowhere", "", "404 "),
        (active, "GET /elsewhere", "", "404 "),
        (active, "POST /records/sessions/a", "", "405 "),
        (active, "DELETE /records/sessions", "", "405 "),
        (active, "PUT /records/persistence/a", "v", "403 "),
        (active, "PUT /records/sessions/a?ttl=soon", "v", "400 "),
        (active, "PUT /records/sessions/%4", "v", "400 "),
        (active, "PUT /records/sessions/a", &"v".repeat(200), "413 "),
        (active, "PUT /records/few/a", "", "204 "),
        (active, "PUT /records/few/b", "", "204 "),
        (active, "PUT /records/few/c", "", "204 "),
        (active, "PUT /records/few/d", "", "507 "),
    ] {
        let answer = code(node, request, body)?;
        ensure!(answer.starts_with(wanted), "{request}: {answer}");
        ensure!(
            wanted == "204 " || answer.contains("\"remedy\""),
            "{answer}"
        );
    }
    let page = code(active, "GET /records/few?limit=2&after=a", "")?;
    ensure!(
        page.contains(r#""key":"b""#) && page.contains(r#""more":false"#),
        "{page}"
    );
    ensure!(code(active, "DELETE /records/sessions/a%20key", "")? == "204 ");
    read_until(r#""change":"deleted","key":"a key""#)?;
    Ok(())
}

/// The shell commands of the page about records, as they stand there.
fn manual() -> Result<()> {
    if !process::installed("curl") {
        // As the obstacle of a whole file would: nothing to see without it, and in CI it is there.
        ensure!(std::env::var_os("CI").is_none(), "curl is not installed");
        return Ok(());
    }
    let page = locate_docs("records.md")?;
    let mut pair = keeping()?;
    let (active, _) = pair.active_and_standby()?;
    let socket = active.dir().join("run/records.sock");
    let mut checked = 0;
    for block in page.split("```sh\n").skip(1) {
        let (block, _) = block.split_once("```").context("a block does not end")?;
        for line in block.lines().filter(|line| line.starts_with("curl ")) {
            let (command, wanted) = line
                .split_once("  # ")
                .context("a command without its answer")?;
            let command = command.replace("/run/ha-agent/records.sock", &socket.to_string_lossy());
            let mut shell = Command::new("sh");
            shell.args(["-c", command.trim()]);
            let answer = active.netns.output(&mut shell)?;
            ensure!(answer.trim_end() == wanted.trim(), "{line}: {answer}");
            checked += 1;
        }
    }
    ensure!(checked >= 5, "only {checked} commands in the page");
    Ok(())
}

fn locate_docs(name: &str) -> Result<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/");
    fs::read_to_string(format!("{path}{name}")).with_context(|| format!("{path}{name}"))
}

fn replaced() -> Result<()> {
    let mut pair = keeping()?;
    let (active, standby) = pair.active_and_standby()?;
    active.command(&["records", "put", "sessions", "stays", "v"])?;
    active.command(&["records", "put", "sessions", "ends", "v", "--ttl", "300s"])?;
    until("the standby does not know it", || {
        Ok(count(standby, "sessions")? == 2)
    })?;
    active.install()?;
    // If it takes longer than the partner waits, the role moves, and the command says so.
    let _moved = active.reexec();
    pair.wait_whole()?;
    let (active, standby) = pair.active_and_standby()?;
    for node in [active, standby] {
        for key in ["stays", "ends"] {
            let value = node.command(&["records", "get", "sessions", key])?;
            ensure!(value == "v\n", "{key}: {value}");
        }
        let list = node.command(&["--json", "records", "list", "sessions"])?;
        let list: Vec<RecordStatus> = serde_json::from_str(&list)?;
        let first = list.first().context("no record")?;
        let left = first.left_ms.context("no life")?;
        if !(200_000..300_000).contains(&left) {
            bail!("{left} ms left");
        }
    }
    Ok(())
}
