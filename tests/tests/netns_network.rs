//! What the node does to the network around its kernel and what the network does to it: the nftables
//! table, interfaces that lose their XDP program or are made anew.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ha_agent::shell::frame::mac_text;
use ha_agent::shell::guard::{self, Guard};
use ha_agent::status::model::Role;
use ha_common::proto;
use ha_tests::clock::{PATIENCE, now_ns, until};
use ha_tests::demo::SERVICE;
use ha_tests::rig::arp;
use ha_tests::rig::config::{self, CLIENT, CLIENT6, PairConfig, SHARED_BACK, SHARED_FRONT};
use ha_tests::rig::conns::{Conns, differing};
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::traffic::conversation::Conversation;
use ha_tests::traffic::load::Load;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo"],
        &[
            ("the_guard_comes_and_goes_with_the_agent", guard_installed),
            ("without_xdp_the_guard_keeps_the_kernel_silent", guard_holds),
            ("the_guard_knows_ipv6", guard6),
            (
                "a_program_taken_off_moves_the_role_and_comes_back",
                detached,
            ),
            (
                "without_its_bpf_file_system_a_node_goes_on",
                file_system_gone,
            ),
            ("a_box_that_boots_is_no_router", boots),
            ("an_interface_made_anew_is_taken_into_use", remade),
            ("replication_outlives_its_interface", replication_link),
            ("replication_follows_the_mtu", replication_mtu),
            ("replication_does_without_its_group", replication_unicast),
            ("blocked_multicast_is_healed_by_unicast", multicast_blocked),
            ("unicast_needs_no_multicast", unicast),
            ("unicast_needs_no_multicast_in_ipv6_either", unicast6),
        ],
    )
}

fn config() -> PairConfig {
    PairConfig {
        interval: Duration::from_millis(300),
        timeout: Duration::from_secs(2),
        ..PairConfig::default()
    }
}

fn whole(config: PairConfig) -> Result<Pair> {
    let mut pair = Pair::build(config)?;
    pair.start()?;
    Ok(pair)
}

/// Clients that have not heard of the takeover go on sending to a box that boots. It drops that, and does not lead
/// them to the active node by way of its own kernel.
fn boots() -> Result<()> {
    let mut pair = whole(config())?;
    let index = 1 - pair.active()?;
    pair.power_off(index)?;
    let node = pair.nodes.get(index).context("no such node")?;
    let mac = mac_text(node.netns.run(|| arp::mac_of("front"))?);
    pair.client.ip(&format!(
        "neigh replace {SHARED_FRONT} dev front nud permanent lladdr {mac}"
    ))?;
    let socket = pair.client.run(|| Ok(UdpSocket::bind((CLIENT, 0))?))?;
    let capture = pair.capture()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // While the link is down there is no way.
                let _refused = socket.send_to(b"hello", SERVICE);
                sleep(Duration::from_millis(1));
            }
        });
        let booted = pair.power_on(index).and_then(|()| {
            let node = pair.nodes.get(index).context("no such node")?;
            node.wait_role(Role::Standby, PATIENCE)
        });
        // It leads nothing on afterwards, either.
        sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        booted
    })?;
    let node = pair.nodes.get(index).context("no such node")?;
    let frames = capture.finish()?;
    let of_client = frames.iter().filter(|frame| {
        let flow = frame.flow();
        *frame.port == *node.front.name() && flow.is_some_and(|flow| flow.source == CLIENT)
    });
    let (led_on, came): (Vec<_>, Vec<_>) = of_client.partition(|frame| frame.from_node);
    ensure!(came.len() > 100, "only {} frames of the client", came.len());
    ensure!(led_on.is_empty(), "{} frames led on", led_on.len());
    Ok(())
}

fn nft(node: &Node, arguments: &[&str]) -> Result<String> {
    node.netns.output(Command::new("nft").args(arguments))
}

fn guard_installed() -> Result<()> {
    let mut pair = Pair::build(config())?;
    let node = &mut pair.nodes[0];
    // Left by another version: replaced, not added to.
    node.netns
        .nft("table inet ha_agent {\n chain old {\n }\n}")?;
    node.start()?;
    node.wait_role(Role::Active, Duration::from_secs(20))?;
    let table = nft(node, &["list", "table", "inet", "ha_agent"])?;
    for expected in [
        "hook prerouting priority raw; policy accept;",
        "10.77.1.100 . tcp . 80",
        "10.77.1.100 . udp . 80",
        "10.77.2.21 . tcp . 8080",
        "elements = { 10.77.1.11, 10.77.2.11 }",
        "ip daddr . meta l4proto . th dport @services counter packets 0 bytes 0 drop",
        "ip daddr != @own ip saddr . meta l4proto . th sport @real_servers counter",
    ] {
        ensure!(table.contains(expected), "no `{expected}` in\n{table}");
    }
    ensure!(!table.contains("old"), "{table}");
    ensure!(node.status()?.alarms.is_empty(), "{:?}", node.status()?);

    node.signal(Signal::SIGTERM)?;
    let agent = node.agent.as_mut().context("no agent")?;
    agent.wait(Duration::from_secs(10))?;
    let left = nft(node, &["list", "tables"])?;
    ensure!(!left.contains("ha_agent"), "{left}");
    Ok(())
}

/// The agent is frozen, its program detached, its address still there: what does the kernel say to a
/// client?
fn connect_without_xdp(guarded: bool) -> Result<std::io::Result<TcpStream>> {
    // The other node must not have taken over before the kernel was asked.
    let pair = whole(PairConfig {
        timeout: Duration::from_secs(6),
        ..config()
    })?;
    let node = pair.nodes.get(pair.active()?).context("no such node")?;
    if !guarded {
        nft(node, &["delete", "table", "inet", "ha_agent"])?;
    }
    until("the address", || node.has_address(SHARED_FRONT))?;
    node.signal(Signal::SIGSTOP)?;
    node.detach("front")?;
    // The kernel takes the program off in a work item of its own.
    until("the program off", || {
        let mut ip = Command::new("ip");
        let link = node
            .netns
            .output(ip.args(["link", "show", "dev", "front"]))?;
        Ok(!link.contains("xdp"))
    })?;
    let connected = pair.client.run(|| {
        let to = SERVICE.into();
        Ok(TcpStream::connect_timeout(&to, Duration::from_secs(20)))
    })?;
    node.signal(Signal::SIGCONT)?;
    Ok(connected)
}

fn guard_holds() -> Result<()> {
    // Without the table the kernel answers for a port at which nobody listens.
    let refused = connect_without_xdp(false)?.map_err(|error| error.kind());
    assert_eq!(
        refused.err(),
        Some(ErrorKind::ConnectionRefused),
        "the experiment shows nothing"
    );
    // With it the client hears nothing until the other node takes over, and then is served.
    connect_without_xdp(true)?.context("with the guard")?;
    Ok(())
}

/// The same, of the table alone: what the kernel says at a port of an IPv6 address with and without it.
fn guard6() -> Result<()> {
    let pair = Pair::build(PairConfig {
        ipv6: true,
        ..config()
    })?;
    let [node, _] = &pair.nodes;
    let (own, service) = (config::front6(1), 80);
    let guard = Guard {
        services: [(own.into(), proto::TCP, service)].into(),
        reals: [(CLIENT6.into(), proto::UDP, 8080)].into(),
        own: [own.into()].into(),
    };
    let connect = |port: u16| {
        pair.client.run(|| {
            let within = Duration::from_secs(2);
            let connected = TcpStream::connect_timeout(&(own, port).into(), within);
            Ok(connected.map_err(|error| error.kind()).err())
        })
    };
    let refused = Some(ErrorKind::ConnectionRefused);
    until("the address", || Ok(connect(service)? == refused))?;
    node.netns.run(|| Ok(guard.install()?))?;
    assert_eq!(connect(service)?, Some(ErrorKind::TimedOut));
    assert_eq!(
        connect(service + 1)?,
        refused,
        "only the service is guarded"
    );
    let table = nft(node, &["list", "table", "inet", "ha_agent"])?;
    for expected in [
        "elements = { fd00:77:1::11 . tcp . 80 }",
        "elements = { fd00:77:1::fe . udp . 8080 }",
        "ip6 daddr . meta l4proto . th dport @services6 counter packets",
        "ip6 daddr != @own6 ip6 saddr . meta l4proto . th sport @real_servers6 counter",
    ] {
        ensure!(table.contains(expected), "no `{expected}` in\n{table}");
    }
    node.netns.run(|| Ok(guard::remove()?))?;
    assert_eq!(connect(service)?, refused);
    Ok(())
}

fn has_alarm(node: &Node, name: &str) -> Result<bool> {
    let alarms = node.status()?.alarms;
    Ok(alarms.iter().any(|alarm| alarm.name == name))
}

/// The nodes exchange roles while clients go on, and nothing is lost.
fn hand_over(pair: &Pair, cause: impl FnOnce(&Node) -> Result<()>) -> Result<()> {
    let old = pair.active()?;
    let load = Load::start(&pair.client, SERVICE, 50)?;
    let fault_ns = now_ns();
    cause(pair.nodes.get(old).context("no such node")?)?;
    load.fault_at(fault_ns);
    let (tcp, _) = load.finish(fault_ns, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );
    assert_eq!(pair.active()?, 1 - old);
    Ok(())
}

fn detached() -> Result<()> {
    let mut pair = whole(config())?;
    let old = pair.active()?;
    hand_over(&pair, |node| node.detach("front"))?;
    let node = pair.nodes.get(old).context("no such node")?;
    ensure!(has_alarm(node, "xdp_detached")?, "{:?}", node.status()?);
    ensure!(node.bpf_dir().join("link_front").exists());
    pair.wait_whole()?;
    // It is of use again.
    hand_over(&pair, |node| node.failover().map(|_| ()))
}

/// All that is pinned loses its pin, and nobody notices; a restart makes the pins anew.
fn file_system_gone() -> Result<()> {
    let mut pair = whole(config())?;
    let before = pair.roles();
    let old = pair.active()?;
    let load = Load::start(&pair.client, SERVICE, 50)?;
    let fault_ns = now_ns();
    for node in [old, 1 - old] {
        pair.unmount_bpf(node)?;
    }
    load.fault_at(fault_ns);
    let (tcp, udp) = load.finish(fault_ns, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before, udp.lost_flows),
        (tcp.connections, 0, 0),
        "{tcp:#?}"
    );
    assert_eq!(pair.roles(), before);
    for index in [1 - old, old] {
        pair.mount_bpf(index)?;
        let node = pair.nodes.get_mut(index).context("no such node")?;
        node.signal(Signal::SIGTERM)?;
        let agent = node.agent.as_mut().context("no agent")?;
        agent.wait(Duration::from_secs(10))?;
        node.start()?;
        pair.wait_whole()?;
    }
    assert_eq!(pair.active()?, 1 - old);
    let node = pair.nodes.get(old).context("no such node")?;
    ensure!(node.bpf_dir().join("link_front").exists());
    Ok(())
}

fn remade() -> Result<()> {
    let mut pair = whole(config())?;
    let old = pair.active()?;
    hand_over(&pair, |node| node.netns.ip("link del back"))?;
    let node = pair.nodes.get(old).context("no such node")?;
    until("the alarm", || has_alarm(node, "interface_gone"))?;
    pair.remake_back(old)?;
    let node = pair.nodes.get(old).context("no such node")?;
    until("the alarm's end", || {
        Ok(!has_alarm(node, "interface_gone")?)
    })?;
    pair.wait_whole()?;
    // Sockets, program, replication and next hops are those of the new interface.
    hand_over(&pair, |node| node.failover().map(|_| ()))?;
    let node = pair.nodes.get(old).context("no such node")?;
    until("the address", || node.has_address(SHARED_BACK))
}

/// Waits until both nodes have the same connections.
fn until_equal(pair: &Pair) -> Result<()> {
    let [one, other] = pair.nodes.each_ref().map(Conns::open);
    let (one, other) = (one?, other?);
    until("equal tables", || Ok(differing(&one, &other)?.is_empty()))
}

/// Connections that end one after the other; what is left of them is replicated.
fn connect(pair: &Pair, count: usize) -> Result<Vec<Conversation>> {
    let open = |_| Conversation::open(&pair.client, SERVICE.into());
    (0..count).map(open).collect()
}

/// The standby's and then the active node's replication interface is down for a while, and made anew.
fn replication_link() -> Result<()> {
    let mut pair = whole(config())?;
    let mut kept = connect(&pair, 20)?;
    let standby = 1 - pair.active()?;
    let node = pair.nodes.get(standby).context("no such node")?;
    node.netns.ip("link set back down")?;
    until("the standby's doubt", || {
        Ok(!node.status()?.replication.ready)
    })?;
    kept.extend(connect(&pair, 20)?);
    node.netns.ip("link set back up")?;
    pair.wait_whole()?;
    until_equal(&pair)?;

    let node = pair.nodes.get(standby).context("no such node")?;
    node.netns.ip("link del back")?;
    until("the alarm", || has_alarm(node, "interface_gone"))?;
    kept.extend(connect(&pair, 20)?);
    pair.remake_back(standby)?;
    pair.wait_whole()?;
    until_equal(&pair)?;

    let active = pair.active()?;
    assert_eq!(active, 1 - standby, "the standby was worse off");
    let node = pair.nodes.get(active).context("no such node")?;
    node.netns.ip("link set back down")?;
    let other = pair.nodes.get(standby).context("no such node")?;
    other.wait_role(Role::Active, Duration::from_secs(20))?;
    kept.extend(connect(&pair, 20)?);
    node.netns.ip("link set back up")?;
    pair.wait_whole()?;
    until_equal(&pair)?;
    for talk in &mut kept {
        talk.talk(1000)?;
    }
    Ok(())
}

/// Packets become shorter and longer with the interface, longer than every Ethernet takes only if the path takes
/// them, and are never cut into pieces.
fn replication_mtu() -> Result<()> {
    let mut pair = whole(config())?;
    let active = pair.active()?;
    let _kept = connect(&pair, 1000)?;
    for (mtu, path, long, longer) in [
        (1500, 1500, true, false),
        (1400, 1500, false, false),
        (3000, 1500, true, false),
        (3000, 3000, true, true),
        (1500, 3000, true, false),
    ] {
        for node in &pair.nodes {
            let port = node.back.name();
            pair.switch
                .netns()
                .ip(&format!("link set {port} mtu {path}"))?;
        }
        let [one, other] = &mut pair.nodes;
        let (node, standby) = if active == 0 {
            (one, other)
        } else {
            (other, one)
        };
        node.netns.ip(&format!("link set back mtu {mtu}"))?;
        standby.netns.ip(&format!("link set back mtu {path}"))?;
        standby.netns.nft(
            "table inet lengths
            delete table inet lengths
            table inet lengths {
                counter long { }
                counter longer { }
                counter pieces { }
                chain in {
                    type filter hook prerouting priority -450
                    udp dport 6974 meta length > 1400 counter name long
                    udp dport 6974 meta length > 1500 @th,88,8 1 counter name longer
                    ip daddr 239.255.69.73 ip frag-off & 0x3fff != 0 counter name pieces
                }
            }",
        )?;
        // A standby that begins is sent the whole table, in packets that are full. The first time it shows what
        // the path takes, the second time it is known.
        for _ in 0..2 {
            let standby = pair.nodes.get_mut(1 - active).context("no such node")?;
            standby.kill()?;
            standby.start()?;
            pair.wait_whole()?;
            sleep(Duration::from_millis(1500));
        }
        until_equal(&pair)?;
        let node = pair.nodes.get(1 - active).context("no such node")?;
        let counted = |name: &str| -> Result<bool> {
            let text = nft(node, &["list", "counter", "inet", "lengths", name])?;
            Ok(!text.contains("packets 0 "))
        };
        assert_eq!(counted("long")?, long, "MTU {mtu}, path {path}");
        assert_eq!(counted("longer")?, longer, "MTU {mtu}, path {path}");
        ensure!(
            !counted("pieces")?,
            "MTU {mtu}: a packet was cut into pieces"
        );
    }
    Ok(())
}

/// A switch that passes nothing to the replication group: it looks for members of groups, and no router asks
/// them.
fn replication_unicast() -> Result<()> {
    let mut pair = Pair::build(config())?;
    pair.switch.netns().nft(
        "table bridge rig {
            chain forward {
                type filter hook forward priority 0
                ether daddr 01:00:5e:7f:45:49 counter drop
            }
        }",
    )?;
    pair.start()?;
    let mut kept = connect(&pair, 50)?;
    until_equal(&pair)?;
    let old = pair.active()?;
    let node = pair.nodes.get(old).context("no such node")?;
    ensure!(node.log().contains("does not hear the replication group"));
    node.failover()?;
    let other = pair.nodes.get(1 - old).context("no such node")?;
    other.wait_role(Role::Active, Duration::from_secs(10))?;
    for talk in &mut kept {
        talk.talk(1000)?;
    }
    pair.wait_whole()
}

/// The switch drops what goes to the CARP groups, everywhere, and what goes to those of the replication.
fn block_multicast(pair: &Pair) -> Result<()> {
    pair.switch.netns().nft(
        "table bridge rig {
            chain forward {
                type filter hook forward priority 0
                ether daddr { 01:00:5e:00:00:12, 33:33:00:00:00:12, 01:00:5e:7f:45:49, 33:33:00:00:45:49 } counter drop
            }
        }",
    )
}

fn multicast_blocked() -> Result<()> {
    let pair = whole(config())?;
    let before = pair.roles();
    let terms = |pair: &Pair| -> Result<Vec<u64>> {
        let nodes = pair.nodes.iter();
        nodes.map(|node| Ok(node.status()?.term)).collect()
    };
    let term = terms(&pair)?;
    block_multicast(&pair)?;
    for node in &pair.nodes {
        until("the alarm", || {
            assert_eq!(pair.roles(), before);
            has_alarm(node, "multicast_blocked")
        })?;
        let partner = node.status()?.partner.context("no partner")?;
        ensure!(partner.heard.values().all(|heard| *heard), "{partner:?}");
    }
    assert_eq!(
        (pair.roles(), terms(&pair)?),
        (before, term),
        "nothing moved"
    );
    // Replication takes a while to see that its group is not heard either.
    for node in &pair.nodes {
        until("a ready standby", || Ok(node.status()?.replication.ready))?;
    }
    // The role can be handed over as ever, with nothing but unicast.
    hand_over(&pair, |node| node.failover().map(|_| ()))?;

    let switch = pair.switch.netns();
    switch.output(Command::new("nft").args(["delete", "table", "bridge", "rig"]))?;
    for node in &pair.nodes {
        until("the alarm's end", || {
            Ok(!has_alarm(node, "multicast_blocked")?)
        })?;
    }
    Ok(())
}

fn unicast() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        transport: "unicast",
        ..config()
    })?;
    block_multicast(&pair)?;
    pair.start()?;
    hand_over(&pair, |node| node.failover().map(|_| ()))?;
    let switch = pair.switch.netns();
    let rules = switch.output(Command::new("nft").args(["list", "table", "bridge", "rig"]))?;
    ensure!(rules.contains("counter packets 0 "), "{rules}");
    Ok(())
}

fn unicast6() -> Result<()> {
    for transport in ["unicast", "auto"] {
        let mut pair = Pair::build(PairConfig {
            ipv6: true,
            ..config()
        })?;
        for node in &pair.nodes {
            let text = config::file_with_ipv6_alone(node.number, node.dir());
            let text = text.replace(
                "  virtual_id",
                &format!("  transport: {transport}\n  virtual_id"),
            );
            fs::write(node.config_file(), text)?;
        }
        block_multicast(&pair)?;
        pair.start()?;
        let old = pair.active()?;
        let (Some(from), Some(to)) = (pair.nodes.get(old), pair.nodes.get(1 - old)) else {
            bail!("a pair has two nodes");
        };
        from.failover()?;
        to.wait_role(Role::Active, Duration::from_secs(10))?;
        pair.wait_whole()?;
        let switch = pair.switch.netns();
        let rules = switch.output(Command::new("nft").args(["list", "table", "bridge", "rig"]))?;
        // Nothing else speaks to the groups.
        let silent = rules.contains("counter packets 0 ");
        ensure!(silent == (transport == "unicast"), "{transport}: {rules}");
    }
    Ok(())
}
