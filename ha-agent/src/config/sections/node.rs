//! Section `node`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::super::model::{Cidr4, Interface, Mode, Node};
use super::super::tree::NodeId;
use super::super::values::{self, Fault, Parsed, Scalar};
use super::super::walk::{Field, Items, Walk};

/// Name of the control socket in `run_dir`.
pub(crate) const SOCKET: &str = "ctl.sock";
/// Where the control socket is unless configured otherwise.
pub(crate) const RUN_DIR: &str = "/run/ha-agent";
/// Longest path of a UNIX socket: `sun_path` less the terminator (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

pub(crate) struct NodeDraft {
    name: Field<String>,
    pub(crate) mode: Field<Mode>,
    key_file: Field<PathBuf>,
    carp_passphrase_file: Field<PathBuf>,
    state_dir: Field<PathBuf>,
    run_dir: Field<PathBuf>,
    bpf_dir: Field<PathBuf>,
    pub(crate) interfaces: Items<InterfaceDraft>,
}

/// `node.interfaces[]`.
pub(crate) struct InterfaceDraft {
    pub(crate) name: Field<String>,
    pub(crate) device: Field<String>,
    pub(crate) address: Field<Cidr4>,
    pub(crate) partner: Field<Ipv4Addr>,
    pub(crate) ha_checks: Field<bool>,
    pub(crate) gateway: Field<Ipv4Addr>,
}

pub(crate) fn read(walk: &mut Walk<'_>, id: NodeId) -> Option<NodeDraft> {
    const KEYS: &[&str] = &[
        "name",
        "mode",
        "key_file",
        "carp_passphrase_file",
        "state_dir",
        "run_dir",
        "bpf_dir",
        "interfaces",
        "web",
    ];
    const MODES: &[(&str, Option<Mode>)] = &[
        ("off", Some(Mode::Off)),
        ("first", Some(Mode::First)),
        ("second", Some(Mode::Second)),
    ];
    let section = walk.section(id, "`node`", KEYS)?;
    if walk.map(&section, "web").given().is_some() {
        walk.error(
            section.place("web"),
            "`web` is not yet supported",
            "remove the key; `ha-agent status` shows the state",
        );
    }
    let node = NodeDraft {
        name: walk.required(&section, "name", "lb1", values::name),
        mode: walk.required(&section, "mode", "first", |v| {
            values::choice(v, "mode", MODES)
        }),
        key_file: walk.value(&section, "key_file", values::path),
        carp_passphrase_file: walk.value(&section, "carp_passphrase_file", values::path),
        state_dir: walk.value(&section, "state_dir", values::path),
        run_dir: walk.value(&section, "run_dir", run_dir),
        bpf_dir: walk.value(&section, "bpf_dir", values::path),
        interfaces: walk.items(&section, "interfaces", interface),
    };
    if node.interfaces.known && node.interfaces.list.is_empty() {
        walk.missing(
            &section,
            "interfaces",
            "[{ name: front, device: eth0, ... }]",
        );
    }
    Some(node)
}

fn run_dir(scalar: Scalar<'_>) -> Parsed<PathBuf> {
    let path = values::path(scalar)?;
    let longest = SOCKET_PATH_MAX - SOCKET.len() - 1;
    if path.as_os_str().len() > longest {
        return Err(Fault::new(
            "the path of the control socket in this directory would be too long for the kernel",
            format!("write a directory of at most {longest} characters"),
        ));
    }
    Ok(path)
}

fn interface(walk: &mut Walk<'_>, id: NodeId) -> Option<InterfaceDraft> {
    const KEYS: &[&str] = &[
        "name",
        "device",
        "address",
        "partner",
        "ha_checks",
        "gateway",
    ];
    let section = walk.section(id, "this interface", KEYS)?;
    Some(InterfaceDraft {
        name: walk.required(&section, "name", "front", values::name),
        device: walk.required(&section, "device", "eth0", values::device),
        address: walk.value(&section, "address", values::cidr),
        partner: walk.value(&section, "partner", values::address),
        ha_checks: walk.value(&section, "ha_checks", values::boolean),
        gateway: walk.value(&section, "gateway", values::address),
    })
}

impl NodeDraft {
    pub(super) fn build(self) -> Option<Node> {
        let dir = |field: Field<PathBuf>, default: &str| field.or(|| PathBuf::from(default));
        Some(Node {
            name: self.name.or(String::new)?,
            mode: self.mode.given()?.value,
            key_file: dir(self.key_file, "/etc/ha-agent/pair.key")?,
            carp_passphrase_file: optional(self.carp_passphrase_file)?,
            state_dir: dir(self.state_dir, "/var/lib/ha-agent")?,
            run_dir: dir(self.run_dir, RUN_DIR)?,
            bpf_dir: dir(self.bpf_dir, "/sys/fs/bpf/ha-agent")?,
            interfaces: self
                .interfaces
                .list
                .into_iter()
                .map(InterfaceDraft::build)
                .collect::<Option<Vec<_>>>()?,
        })
    }
}

impl InterfaceDraft {
    /// Whether HA checks are certainly wanted on it.
    pub(crate) fn checks(&self) -> bool {
        self.ha_checks.value() == Some(&true)
    }

    fn build(self) -> Option<Interface> {
        Some(Interface {
            name: self.name.or(String::new)?,
            device: self.device.or(String::new)?,
            address: optional(self.address)?,
            partner: optional(self.partner)?,
            ha_checks: self.ha_checks.or(|| false)?,
            gateway: optional(self.gateway)?,
        })
    }
}

/// An optional value: `None` if it was refused, `Some(None)` if it is absent.
#[expect(clippy::option_option, reason = "refused and absent are different")]
fn optional<T>(field: Field<T>) -> Option<Option<T>> {
    match field {
        Field::Absent => Some(None),
        Field::Bad => None,
        Field::Given(at) => Some(Some(at.value)),
    }
}
