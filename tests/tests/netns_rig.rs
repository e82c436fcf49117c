//! The rig itself: does the traffic notice what it is there to notice?
//!
//! A client talks to a real server over one bridge, without a balancer in between. A judge that
//! cannot see a reset, a loss or a gap would make every later test pass.

mod common;

use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_tests::clock::{now_ns, until};
use ha_tests::rig::capture::Capture;
use ha_tests::rig::netns::Netns;
use ha_tests::rig::process::Process;
use ha_tests::rig::switch::{Cut, Port, Switch};
use ha_tests::rig::{Run, locate};
use ha_tests::traffic::client::Client;
use ha_tests::traffic::load::Load;
use ha_tests::traffic::report::{self, Age};
use ha_tests::traffic::udp::{FLOWS, Prober};

fn main() -> ExitCode {
    common::run(
        &["ip"],
        &["ha-demo"],
        &[
            ("a_short_cut_is_survived_and_its_gap_measured", short_cut),
            ("a_lasting_cut_loses_every_connection", lasting_cut),
            ("a_dead_server_resets_every_connection", dead_server),
            ("loss_is_repaired_by_tcp_and_seen_by_probes", loss),
            ("the_generator_fills_every_age_class", generator),
            ("a_run_removes_everything_it_made", removal),
        ],
    )
}

const SERVER: &str = "10.77.9.2:8080";

/// Two hosts at a switch, the server's port with the programs that can cut it.
struct Hosts {
    client: Netns,
    server: Process,
    port: Port,
    switch: Switch,
    run: Run,
}

impl Hosts {
    fn new() -> Result<Self> {
        let run = Run::start()?;
        let pins = run.mount_bpf("switch")?;
        let mut switch = Switch::new(run.namespace("switch")?);
        switch.bridge("lan")?;
        let client = run.namespace("client")?;
        switch.connect("lan", "client", &client, "lan")?;
        client.ip("addr add 10.77.9.1/24 dev lan")?;
        let netns = run.namespace("server")?;
        let port = switch.connect_node("lan", "server", &netns, "lan", &pins)?;
        netns.ip("addr add 10.77.9.2/24 dev lan")?;
        let mut command = Command::new(locate::program("ha-demo")?);
        command.args(["serve", "--server", "1", "--listen", SERVER]);
        let log = run.host_dir("server")?.join("log");
        let server = Process::start("server", &netns, &mut command, &log)?;
        until("the server listens", || {
            client.run(|| Ok(TcpStream::connect(address()?).is_ok()))
        })?;
        Ok(Self {
            client,
            server,
            port,
            switch,
            run,
        })
    }

    /// A client with this many connections.
    fn client(&self, connections: usize) -> Result<Client> {
        let client = Client::start(&self.client, address()?)?;
        client.control().open(connections, 2_000);
        let end = now_ns() + 20_000_000_000;
        while client.control().established() < connections {
            ensure!(now_ns() < end, "{:?}", client.control());
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(300));
        Ok(client)
    }

    fn prober(&self) -> Result<Prober> {
        let prober = Prober::start(&self.client, address()?)?;
        until(
            "each flow is answered",
            || Ok(prober.answers() >= 2 * FLOWS),
        )?;
        Ok(prober)
    }
}

fn address() -> Result<SocketAddrV4> {
    Ok(SERVER.parse()?)
}

fn short_cut() -> Result<()> {
    let hosts = Hosts::new()?;
    let capture = Capture::start(hosts.switch.netns(), &[hosts.port.name()])?;
    let client = hosts.client(200)?;
    let prober = hosts.prober()?;

    let fault = now_ns();
    hosts.port.cut(Cut::Both);
    let cut = now_ns();
    client.control().fault_at(fault);
    sleep(Duration::from_millis(200));
    let healed = now_ns();
    hosts.port.cut(Cut::Nothing);
    sleep(Duration::from_millis(2500));

    let tcp = report::tcp(&client.finish()?, fault);
    assert_eq!((tcp.connections, tcp.survived), (200, 200), "{tcp:?}");
    let udp = report::udp(&prober.finish()?, fault, 1_000_000_000);
    let gap = udp.gap_ms.context("no flow was answered")?;
    // However long the machine let the cut last.
    let cut_ms = (healed - cut) as f64 / 1e6;
    let range = cut_ms - 5.0..cut_ms + 2_000.0;
    assert!(range.contains(&gap.p50), "{range:?}: {udp:?}");
    assert!(udp.probes_lost > 0, "{udp:?}");
    assert_eq!(
        (udp.lost_flows, udp.moved_flows, udp.wrong_answers),
        (0, 0, 0)
    );

    let frames = capture.finish()?;
    assert!(frames.iter().any(|f| f.from_node) && frames.iter().any(|f| !f.from_node));
    // 20 ms for frames that were queued, and for a machine that stalls.
    let cut = cut + 20_000_000..healed;
    let passed = frames.iter().filter(|f| cut.contains(&f.at_ns)).count();
    assert_eq!(passed, 0, "a cut port carries nothing");
    for frame in &frames {
        assert_eq!(frame.checksum_fault(), None, "{frame:?}");
    }
    Ok(())
}

fn lasting_cut() -> Result<()> {
    for cut in [Cut::Both, Cut::FromNode, Cut::ToNode] {
        let hosts = Hosts::new()?;
        let client = hosts.client(20)?;
        let fault = now_ns();
        hosts.port.cut(cut);
        client.control().fault_at(fault);
        sleep(Duration::from_millis(5_200));
        let tcp = report::tcp(&client.finish()?, fault);
        assert_eq!((tcp.connections, tcp.lost), (20, 20), "{cut:?} {tcp:?}");
    }
    Ok(())
}

fn dead_server() -> Result<()> {
    let mut hosts = Hosts::new()?;
    let client = hosts.client(20)?;
    let fault = now_ns();
    client.control().fault_at(fault);
    hosts.server.kill()?;
    until("all are told", || Ok(client.control().failed() == 20))?;
    let tcp = report::tcp(&client.finish()?, fault);
    assert_eq!((tcp.connections, tcp.reset), (20, 20), "{tcp:?}");
    Ok(())
}

fn loss() -> Result<()> {
    let hosts = Hosts::new()?;
    let client = hosts.client(20)?;
    let prober = hosts.prober()?;
    let fault = now_ns();
    client.control().fault_at(fault);
    hosts.port.lose(100_000);
    sleep(Duration::from_secs(3));
    hosts.port.lose(0);
    sleep(Duration::from_secs(1));
    let tcp = report::tcp(&client.finish()?, fault);
    assert_eq!((tcp.connections, tcp.survived), (20, 20), "{tcp:?}");
    let udp = report::udp(&prober.finish()?, fault, 3_000_000_000);
    // A tenth of about 6000 probes.
    assert!((300..1_500).contains(&udp.probes_lost), "{udp:?}");
    Ok(())
}

fn generator() -> Result<()> {
    let hosts = Hosts::new()?;
    let load = Load::start(&hosts.client, address()?, 1000)?;
    // What a busy machine reaches is not judged; it must only not be next to nothing.
    let rate = load.open(1_100, Duration::from_secs(2));
    load.burst();
    let fault = now_ns();
    load.fault_at(fault);
    let (tcp, _udp) = load.finish(fault, Duration::from_millis(300))?;
    assert!(rate > 50.0, "{rate}");
    assert!(
        tcp.classes
            .iter()
            .all(|class| class.connections > 0 || class.age == Age::Opening)
    );
    assert_eq!(tcp.survived, tcp.connections, "{tcp:?}");
    Ok(())
}

fn removal() -> Result<()> {
    let hosts = Hosts::new()?;
    let process = format!("/proc/{}", hosts.server.pid()?);
    let dir = hosts.run.dir().to_owned();
    let namespace = hosts.client.path();
    assert!(Path::new(&process).exists() && dir.exists() && namespace.exists());
    drop(hosts);
    assert!(!Path::new(&process).exists() && !dir.exists() && !namespace.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    assert!(!mounts.contains(&dir.display().to_string()), "{mounts}");
    Ok(())
}
