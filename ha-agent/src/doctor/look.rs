//! Gathers the [`Facts`]: reads the machine, asks the agent if it runs, and sends echo requests.
//!
//! Nothing is changed, and no fault ends it: what cannot be looked up is a fact, too.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use tokio::time;

use super::checks;
use super::facts::{
    Agent, Facts, Heard, InterfaceFacts, Kernel, LinkFacts, Machine, Place, Rights,
};
use crate::config::model::{Config, Interface};
use crate::control::{Client, ClientError, Request};
use crate::datapath::bpffs;
use crate::echo::{self, Source};
use crate::shell::netlink::Netlink;
use crate::shell::{clock, ethtool};

/// How long an echo may take, and how often one is asked for.
const PATIENCE: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 2;

/// Looks at the node of this configuration. `socket` is that of its agent, if not as the file says.
pub async fn look(file: &Path, socket: Option<&Path>) -> Facts {
    let loaded = Config::load(file);
    let (config, warnings, secrets) = match loaded {
        Ok(loaded) => {
            let secrets = loaded.secrets().map(drop);
            (Ok(loaded.config), loaded.warnings, secrets)
        }
        Err(problems) => (Err(problems), Vec::new(), Ok(())),
    };
    let socket = socket
        .map(Path::to_owned)
        .or_else(|| crate::config::control_socket(file).ok());
    let agent = socket.map_or_else(
        || Agent::Mute("the configuration does not say where its socket is".to_owned()),
        |socket| ask(&socket),
    );
    let (place, pins) = config.as_ref().map_or_else(
        |_| (PathBuf::from("/"), PathBuf::from("/sys/fs/bpf")),
        |config| (config.node.state_dir.clone(), config.node.bpf_dir.clone()),
    );
    let interfaces = match &config {
        Ok(config) => interfaces(config, checks::links::holds_addresses(&agent)).await,
        Err(_) => Vec::new(),
    };
    let settings = config.as_ref().map_or_else(
        |_| BTreeMap::new(),
        |config| {
            let names = checks::machine::wanted_settings(config).into_keys();
            names
                .map(|name| {
                    let value = setting(&name);
                    (name, value)
                })
                .collect()
        },
    );
    Facts {
        config,
        warnings,
        secrets,
        rights: rights(&agent),
        agent,
        kernel: kernel(&pins),
        clock_kept: clock_kept(),
        machine: machine(),
        settings,
        state_dir: directory(&place),
        interfaces,
    }
}

fn ask(socket: &Path) -> Agent {
    let answers = || -> Result<Agent, ClientError> {
        let mut client = Client::connect(socket)?;
        Ok(Agent::Running {
            status: Box::new(client.request(&Request::Status)?),
            services: client.request(&Request::Services)?,
        })
    };
    match answers() {
        Ok(agent) => agent,
        Err(ClientError::NotRunning { .. }) => Agent::Absent,
        Err(error) => Agent::Mute(error.to_string()),
    }
}

fn kernel(pins: &Path) -> Kernel {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).ok();
    Kernel {
        release: read("kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: read("net/core/bpf_jit_enable").map(|value| value.trim() != "0"),
        bpffs: existing(pins).is_some_and(|place| bpffs::is_bpffs(place).unwrap_or(false)),
    }
}

/// The nearest directory that is there.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.exists())
}

fn rights(agent: &Agent) -> Rights {
    let process = match agent {
        Agent::Running { status, .. } => status.process.to_string(),
        Agent::Absent | Agent::Mute(_) => "self".to_owned(),
    };
    let read =
        |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
    let capabilities = field(&read("status"), "CapEff:")
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .unwrap_or_default();
    let limits = read("limits");
    Rights {
        capabilities,
        memory_unlimited: field(&limits, "Max locked memory").as_deref() == Some("unlimited"),
    }
}

/// The word after this beginning of a line.
fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next().map(str::to_owned)
}

fn clock_kept() -> Option<bool> {
    /// `STA_UNSYNC` of `linux/timex.h`.
    const NOT_KEPT: libc::c_int = 0x40;
    let mut clock = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the kernel fills in the structure; zero modes set nothing.
    let state = unsafe { libc::adjtimex(clock.as_mut_ptr()) };
    // SAFETY: zeros are a valid value of it, whatever the kernel did.
    let clock = unsafe { clock.assume_init() };
    (state >= 0).then_some(clock.status & NOT_KEPT == 0)
}

fn machine() -> Machine {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes: Option<u64> = field(&memory, "MemAvailable:").and_then(|text| text.parse().ok());
    Machine {
        memory_available: kibibytes.unwrap_or_default() << 10,
        processors: thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Dots and slashes change places, as sysctl(8) has it.
fn setting(name: &str) -> Option<String> {
    let path: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    let text = fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?;
    Some(text.trim().to_owned())
}

fn directory(place: &Path) -> Place {
    let Some(there) = existing(place) else {
        return Place {
            refused: Some("no such directory".to_owned()),
            free: None,
        };
    };
    Place {
        refused: access(there, AccessFlags::W_OK)
            .err()
            .map(|error| error.desc().to_owned()),
        free: statvfs(there)
            .ok()
            .map(|system| system.blocks_available() * system.fragment_size()),
    }
}

async fn interfaces(config: &Config, active: bool) -> Vec<InterfaceFacts> {
    let Ok((netlink, _changes)) = Netlink::connect() else {
        return Vec::new();
    };
    let all = config.node.interfaces.iter();
    join_all(all.map(|interface| one(config, interface, &netlink, active))).await
}

async fn one(
    config: &Config,
    interface: &Interface,
    netlink: &Netlink,
    active: bool,
) -> InterfaceFacts {
    let link = link(&interface.device, netlink).await;
    let mut facts = InterfaceFacts {
        name: interface.name.clone(),
        device: interface.device.clone(),
        link: None,
        partners: Vec::new(),
        wide: Vec::new(),
        gateways: Vec::new(),
        returns: Vec::new(),
    };
    if let Ok(Some(link)) = link {
        if link.carrier {
            let own = |v6: bool| interface.own(v6).map(|own| own.address);
            let mut shared = config.shared_addresses.iter();
            let shared: Vec<IpAddr> = shared
                .by_ref()
                .filter(|shared| active && shared.interface == interface.name)
                .map(|shared| shared.address.address)
                .collect();
            let held = |v6: bool| shared.iter().copied().find(|shared| shared.is_ipv6() == v6);
            let short = |_| echo::SHORTEST;
            let whole = |host: IpAddr| {
                let header = if host.is_ipv6() { 40 } else { 20 };
                usize::try_from(link.mtu)
                    .unwrap_or_default()
                    .saturating_sub(header)
            };
            let device = &interface.device;
            (facts.partners, facts.wide, facts.gateways, facts.returns) = tokio::join!(
                hear(&interface.partners, device, own, short),
                hear(&interface.partners, device, own, whole),
                hear(&interface.gateways, device, own, short),
                hear(&interface.gateways, device, held, short),
            );
        }
        facts.link = Some(link);
    }
    facts
}

async fn link(device: &str, netlink: &Netlink) -> io::Result<Option<LinkFacts>> {
    let Some(link) = netlink.link(device).await? else {
        return Ok(None);
    };
    let told = ethtool::ask(device).unwrap_or_default();
    Ok(Some(LinkFacts {
        carrier: link.carrier,
        mtu: link.mtu,
        addresses: netlink.addresses(link.ifindex).await?,
        driver: told.driver,
        speed: told.speed,
        duplex: told.duplex,
        queues: told.queues,
        merges: told.merges,
        xdp: link.xdp.map(|attached| attached.mode),
    }))
}

/// Asks all of these hosts at the same time, each from the address of its family, if there is one.
async fn hear(
    hosts: &[IpAddr],
    device: &str,
    from: impl Fn(bool) -> Option<IpAddr>,
    length: impl Fn(IpAddr) -> usize,
) -> Vec<Heard> {
    let asked = hosts.iter().filter_map(|host| {
        let source = Source {
            address: from(host.is_ipv6())?,
            device: device.to_owned(),
        };
        Some(patiently(*host, source, length(*host)))
    });
    join_all(asked).await
}

async fn patiently(host: IpAddr, source: Source, length: usize) -> Heard {
    let mut answer = Err("not asked".to_owned());
    for _ in 0..ATTEMPTS {
        answer = once(host, Some(&source), length, PATIENCE).await;
        if answer.is_ok() {
            break;
        }
    }
    Heard { host, answer }
}

/// One echo request: how long the reply took, or why there was none.
pub async fn once(
    host: IpAddr,
    source: Option<&Source>,
    length: usize,
    patience: Duration,
) -> Result<Duration, String> {
    let nonce = RandomState::new().build_hasher().finish();
    let begun = clock::now();
    match time::timeout(patience, echo::echo(host, source, nonce, length)).await {
        Ok(Ok(())) => Ok(clock::now().since(begun)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no reply within {} s", patience.as_secs_f32())),
    }
}
