//! A host with the data plane, and connections to put into its tables.

pub(crate) mod life;
pub(crate) mod tables;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ha_agent::datapath::Datapath as _;
use ha_agent::datapath::attach::Device;
use ha_agent::datapath::family::{FlowEntry, FlowKey, entry_to};
use ha_agent::datapath::load::{Connections, LoadError, Loaded, Options, load_object};
use ha_agent::shell::netlink::Netlink;
use ha_common::conn::{ConnState, flags};
use ha_common::service::Real;
use ha_tests::rig::netns::Netns;
use ha_tests::rig::{Run, locate};

/// First argument of this program when it plays an agent that is to be killed.
pub(crate) const HOLD: &str = "hold-the-data-plane";
pub(crate) const CONNECTIONS: u32 = 100_000;
/// The same for IPv6.
pub(crate) const CONNECTIONS6: u32 = 10_000;
pub(crate) const TABLES: Connections = Connections {
    v4: CONNECTIONS,
    v6: CONNECTIONS6,
};

/// One host with two interfaces.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    pub(crate) dir: PathBuf,
    pub(crate) run: Run,
}

impl Host {
    pub(crate) fn new() -> Result<Self> {
        let run = Run::start()?;
        let netns = run.namespace("node")?;
        netns.ip("link add eth0 type veth peer name far0\n\
             link add eth1.7 type veth peer name far1\n\
             link set eth0 up\n\
             link set far0 up\n\
             link set eth1.7 up\n\
             link set far1 up\n")?;
        let dir = run.mount_bpf("node")?.join("ha-agent");
        Ok(Self { netns, dir, run })
    }

    pub(crate) fn load(&self) -> Result<Loaded> {
        Ok(self.try_load(&self.options(&["eth0", "eth1.7"])?)??)
    }

    pub(crate) fn try_load(&self, options: &Options) -> Result<Result<Loaded, LoadError>> {
        let object = object()?;
        self.netns.run(|| Ok(load_object(&object, options)))
    }

    pub(crate) fn options(&self, devices: &[&str]) -> Result<Options> {
        Ok(Options {
            bpf_dir: self.dir.clone(),
            connections: TABLES,
            devices: self.devices(devices)?,
            continued: false,
        })
    }

    pub(crate) fn devices(&self, names: &[&str]) -> Result<Vec<Device>> {
        self.netns.run(|| devices(names))
    }

    /// Whether an XDP program is on the interface.
    pub(crate) fn has_xdp(&self, device: &str) -> Result<bool> {
        let devices = self.devices(&[device])?;
        Ok(devices.iter().any(|device| device.attached.is_some()))
    }
}

pub(crate) fn object() -> Result<Vec<u8>> {
    Ok(fs::read(locate::bpf_object("ha_xdp")?)?)
}

pub(crate) fn devices(names: &[&str]) -> Result<Vec<Device>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (netlink, _changes) = Netlink::connect()?;
        let mut devices = Vec::new();
        for name in names {
            let link = netlink
                .link(name)
                .await?
                .with_context(|| format!("no device {name}"))?;
            devices.push(Device {
                name: link.device,
                ifindex: link.ifindex,
                attached: link.xdp,
            });
        }
        Ok(devices)
    })
}

/// An agent that loads, opens its gate, and waits to be killed.
pub(crate) fn hold(dir: &Path) -> Result<()> {
    let options = Options {
        bpf_dir: dir.to_owned(),
        connections: TABLES,
        devices: devices(&["eth0", "eth1.7"])?,
        continued: false,
    };
    let loaded = load_object(&object()?, &options)?;
    loaded
        .datapath
        .put_conns(&connection(1, ConnState::Established, 1))?;
    loaded.datapath.put_real(
        5,
        &Real {
            generation: 9,
            state: 1,
            ..Real::default()
        },
    )?;
    loaded.gate.open_always();
    println!("ready");
    loop {
        std::thread::park();
    }
}

pub(crate) fn key(n: u32) -> FlowKey {
    FlowKey {
        src: Ipv4Addr::from_bits(n).into(),
        dst: [10, 0, 0, 100].into(),
        sport: (1024 + (n % 50_000) as u16).to_be(),
        dport: 80u16.to_be(),
        proto: 6,
    }
}

pub(crate) fn key6(n: u32) -> FlowKey {
    FlowKey {
        src: Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)).into(),
        dst: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100).into(),
        ..key(n)
    }
}

/// Both entries of a connection.
pub(crate) type Pair = [(FlowKey, FlowEntry); 2];

pub(crate) fn connection(n: u32, state: ConnState, last_seen_ns: u64) -> Pair {
    pair(key(n), [10, 1, 0, 21].into(), state, last_seen_ns)
}

pub(crate) fn connection6(n: u32, state: ConnState, last_seen_ns: u64) -> Pair {
    let real = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x21);
    pair(key6(n), real.into(), state, last_seen_ns)
}

pub(crate) fn pair(key: FlowKey, real: IpAddr, state: ConnState, last_seen_ns: u64) -> Pair {
    let forward = FlowEntry {
        to_port: 8080u16.to_be(),
        real: 5,
        state: state as u8,
        last_seen_ns,
        ..entry_to(real)
    };
    let reverse = FlowEntry {
        to_addr: key.dst,
        to_port: key.dport,
        flags: flags::REVERSE,
        ..forward
    };
    [(key, forward), (forward.partner_key(&key), reverse)]
}
