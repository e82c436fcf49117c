//! Real servers: their addresses, routes and tunnel ends, as each way of forwarding wants them.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use nix::net::if_::if_nametoindex;

use super::config::{
    Forwarding, PairConfig, RealServer, SERVER_PORT, SERVICE_PORT, SHARED_BACK, SHARED_BACK6,
    SHARED_FRONT, SHARED_FRONT6,
};
use super::netns::Netns;
use super::process::Process;
use super::switch::Switch;
use super::{Run, locate, object};
use crate::clock::until;

/// The end of the tunnels: takes the outer header off every IPIP and IP6IP6 packet. It is an XDP program,
/// since the kernel may have no tunnel devices. Dropping the value detaches it everywhere.
pub(crate) struct TunnelEnd {
    ebpf: Ebpf,
}

impl fmt::Debug for TunnelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelEnd").finish_non_exhaustive()
    }
}

impl TunnelEnd {
    /// Loads it.
    pub(crate) fn load() -> Result<Self> {
        let mut ebpf = object::load()?;
        program(&mut ebpf)?.load()?;
        Ok(Self { ebpf })
    }

    fn attach(&mut self, netns: &Netns, device: &str) -> Result<()> {
        netns.run(|| {
            let index = if_nametoindex(device)?;
            program(&mut self.ebpf)?.attach_to_if_index(index, XdpMode::Driver)?;
            Ok(())
        })
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut("ha_decap");
    Ok(program
        .context("ha_rig has no program ha_decap")?
        .try_into()?)
}

/// Connects a real server and starts it.
pub(crate) fn start(
    run: &Run,
    switch: &Switch,
    number: u8,
    config: &PairConfig,
    tunnel_end: Option<&mut TunnelEnd>,
) -> Result<(Netns, Process)> {
    let host = format!("rs{number}");
    let server = RealServer { number, weight: 1 };
    let netns = run.namespace(&host)?;
    if config.ipv6 {
        netns.enable_ipv6()?;
    }
    let one_way = config.forwarding.is_one_way();
    if !config.one_arm {
        switch.connect("back", &host, &netns, "back")?;
        netns.ip(&format!("addr add {}/24 dev back", server.address()))?;
        if config.ipv6 {
            netns.ip(&format!("addr add {}/64 dev back", server.address6()))?;
        }
    }
    if config.one_arm || one_way {
        switch.connect("front", &host, &netns, "front")?;
    }
    match (config.forwarding, config.one_arm) {
        (Forwarding::Nat, false) => default_route(config, &netns)?,
        (Forwarding::Nat, true) => through_the_shared_address(config, &netns, server)?,
        // The source it sees is next to it: it needs no route at all.
        (Forwarding::FullNat, false) => {}
        (Forwarding::FullNat, true) | (Forwarding::Dsr | Forwarding::Tunnel, _) => {
            on_the_front_network(config, &netns, server)?;
        }
    }
    if one_way {
        have_the_shared_address(config, &netns)?;
    }
    if let Some(end) = tunnel_end {
        end.attach(&netns, if config.one_arm { "front" } else { "back" })?;
    }
    netns.sysctl("net/core/somaxconn", "16384")?;
    netns.sysctl("net/ipv4/tcp_max_syn_backlog", "16384")?;
    let mut command = Command::new(locate::program("ha-demo")?);
    command.arg("serve").args(["--server", &number.to_string()]);
    for address in listened(config, server) {
        command.args(["--listen", &address.to_string()]);
    }
    let log = run.host_dir(&host)?.join("log");
    let process = Process::start(&host, &netns, &mut command, &log)?;
    Ok((netns, process))
}

/// Waits until a real server listens at all of its addresses: until it is judged, a node takes it to be up.
pub(crate) fn wait(netns: &Netns, number: u8, config: &PairConfig) -> Result<()> {
    let server = RealServer { number, weight: 1 };
    let all = listened(config, server);
    let last = all.last().context("it listens nowhere")?;
    until(&format!("rs{number} listens at {last}"), || {
        netns.run(|| Ok(TcpStream::connect(last).is_ok()))
    })
}

/// The active node is its router.
fn default_route(config: &PairConfig, netns: &Netns) -> Result<()> {
    netns.ip(&format!("route add default via {SHARED_BACK}"))?;
    if config.ipv6 {
        netns.ip(&format!("route add default via {SHARED_BACK6}"))?;
    }
    Ok(())
}

/// The same in the clients' own network, where nothing but the nodes may look as if it were next to it.
fn through_the_shared_address(
    config: &PairConfig,
    netns: &Netns,
    server: RealServer,
) -> Result<()> {
    // The nodes have the addresses 10.77.1.11 and .12.
    netns.ip(&format!(
        "addr add {}/32 dev front
route add 10.77.1.8/29 dev front
route add {SHARED_FRONT}/32 dev front
route add default via {SHARED_FRONT}",
        server.front()
    ))?;
    if config.ipv6 {
        netns.ip(&format!(
            "addr add {}/128 dev front
route add fd00:77:1::10/124 dev front
route add {SHARED_FRONT6}/128 dev front
route add default via {SHARED_FRONT6}",
            server.front6()
        ))?;
    }
    Ok(())
}

/// Next to the clients.
fn on_the_front_network(config: &PairConfig, netns: &Netns, server: RealServer) -> Result<()> {
    netns.ip(&format!("addr add {}/24 dev front", server.front()))?;
    if config.ipv6 {
        netns.ip(&format!("addr add {}/64 dev front", server.front6()))?;
    }
    Ok(())
}

/// It takes packets to the shared address and answers as it, but never says that it has it.
fn have_the_shared_address(config: &PairConfig, netns: &Netns) -> Result<()> {
    for (name, value) in [
        ("arp_ignore", "1"),
        ("arp_announce", "2"),
        // What comes out of the tunnel, or in on the other network, has its way back elsewhere.
        ("rp_filter", "0"),
    ] {
        for device in ["all", "front"] {
            netns.sysctl(&format!("net/ipv4/conf/{device}/{name}"), value)?;
        }
    }
    if !config.one_arm {
        netns.sysctl("net/ipv4/conf/back/rp_filter", "0")?;
    }
    netns.ip(&format!("addr add {SHARED_FRONT}/32 dev lo"))?;
    if config.ipv6 {
        // Neighbours are not told of addresses of the loopback device.
        netns.ip(&format!("addr add {SHARED_FRONT6}/128 dev lo nodad"))?;
    }
    Ok(())
}

/// Where it listens.
fn listened(config: &PairConfig, server: RealServer) -> Vec<SocketAddr> {
    let (v4, v6) = config.addresses(server);
    let mut addresses: Vec<IpAddr> = vec![v4.into()];
    if config.ipv6 {
        addresses.push(v6.into());
    }
    let mut ports = vec![SERVER_PORT];
    if config.forwarding.is_one_way() {
        addresses.push(SHARED_FRONT.into());
        if config.ipv6 {
            addresses.push(SHARED_FRONT6.into());
        }
        ports.push(SERVICE_PORT);
    }
    ports.extend(&config.ports);
    let at = |address: IpAddr| ports.iter().map(move |port| (address, *port).into());
    addresses.into_iter().flat_map(at).collect()
}
