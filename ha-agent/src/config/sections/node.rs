//! Section `node`.

use std::net::IpAddr;
use std::path::PathBuf;

use super::super::model::{Cidr, Interface, Mode, Node};
use super::super::network;
use super::super::tree::NodeId;
use super::super::values::{self, Fault, Parsed, Scalar};
use super::super::walk::{At, Field, Items, Walk};
use super::observe::{self, MetricsDraft, NotifyDraft, WebDraft};
use super::optional;

/// Name of the control socket in `run_dir`.
pub(crate) const SOCKET: &str = "ctl.sock";
/// Where the control socket is unless configured otherwise.
pub(crate) const RUN_DIR: &str = "/run/ha-agent";
/// Where state is unless configured otherwise.
pub(crate) const STATE_DIR: &str = "/var/lib/ha-agent";
/// Longest path of a UNIX socket: `sun_path` less the terminator (unix(7)).
pub(crate) const SOCKET_PATH_MAX: usize = 107;

pub(crate) struct NodeDraft {
    name: Field<String>,
    pub(crate) mode: Field<Mode>,
    key_file: Field<PathBuf>,
    carp_passphrase_file: Field<PathBuf>,
    operators_file: Field<PathBuf>,
    state_dir: Field<PathBuf>,
    run_dir: Field<PathBuf>,
    bpf_dir: Field<PathBuf>,
    pub(crate) interfaces: Items<InterfaceDraft>,
    metrics: Field<MetricsDraft>,
    notify: Field<NotifyDraft>,
    pub(crate) web: Field<WebDraft>,
}

/// `node.interfaces[]`.
pub(crate) struct InterfaceDraft {
    pub(crate) name: Field<String>,
    pub(crate) device: Field<String>,
    pub(crate) addresses: Items<At<Cidr>>,
    pub(crate) partners: Items<At<IpAddr>>,
    pub(crate) ha_checks: Field<bool>,
    pub(crate) gateways: Items<At<IpAddr>>,
}

pub(crate) fn read(walk: &mut Walk<'_>, id: NodeId) -> Option<NodeDraft> {
    const KEYS: &[&str] = &[
        "name",
        "mode",
        "key_file",
        "carp_passphrase_file",
        "operators_file",
        "state_dir",
        "run_dir",
        "bpf_dir",
        "interfaces",
        "metrics",
        "notify",
        "web",
    ];
    const MODES: &[(&str, Mode)] = &[
        ("off", Mode::Off),
        ("first", Mode::First),
        ("second", Mode::Second),
    ];
    let section = walk.section(id, "`node`", KEYS)?;
    let node = NodeDraft {
        name: walk.required(&section, "name", "lb1", values::name),
        mode: walk.required(&section, "mode", "first", |v| {
            values::choice(v, "mode", MODES)
        }),
        key_file: walk.value(&section, "key_file", values::path),
        carp_passphrase_file: walk.value(&section, "carp_passphrase_file", values::path),
        operators_file: walk.value(&section, "operators_file", values::path),
        state_dir: walk.value(&section, "state_dir", values::path),
        run_dir: walk.value(&section, "run_dir", run_dir),
        bpf_dir: walk.value(&section, "bpf_dir", values::path),
        interfaces: walk.items(&section, "interfaces", interface),
        metrics: observe::metrics(walk, &section),
        notify: observe::notify(walk, &section),
        web: observe::web(walk, &section),
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
        addresses: walk.one_or_more(&section, "address", network::cidr),
        partners: walk.one_or_more(&section, "partner", network::address),
        ha_checks: walk.value(&section, "ha_checks", values::boolean),
        gateways: walk.one_or_more(&section, "gateway", network::address),
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
            operators_file: optional(self.operators_file)?,
            state_dir: dir(self.state_dir, STATE_DIR)?,
            run_dir: dir(self.run_dir, RUN_DIR)?,
            bpf_dir: dir(self.bpf_dir, "/sys/fs/bpf/ha-agent")?,
            interfaces: self
                .interfaces
                .list
                .into_iter()
                .map(InterfaceDraft::build)
                .collect::<Option<Vec<_>>>()?,
            metrics: match optional(self.metrics)? {
                Some(metrics) => metrics.build()?,
                None => Vec::new(),
            },
            notify: match optional(self.notify)? {
                Some(notify) => Some(notify.build()?),
                None => None,
            },
            web: match optional(self.web)? {
                Some(web) => Some(web.build()?),
                None => None,
            },
        })
    }
}

impl InterfaceDraft {
    /// Whether HA checks are certainly wanted on it.
    pub(crate) fn checks(&self) -> bool {
        self.ha_checks.value() == Some(&true)
    }

    /// Whether it certainly has no address of its own: a heartbeat link.
    pub(crate) fn is_unnumbered(&self) -> bool {
        self.addresses.known && self.addresses.list.is_empty()
    }

    /// Whether it certainly has an address.
    pub(crate) fn has_address(&self) -> bool {
        !self.addresses.list.is_empty()
    }

    fn build(self) -> Option<Interface> {
        Some(Interface {
            name: self.name.or(String::new)?,
            device: self.device.or(String::new)?,
            addresses: all(self.addresses)?,
            partners: all(self.partners)?,
            ha_checks: self.ha_checks.or(|| false)?,
            gateways: all(self.gateways)?,
        })
    }
}

/// The values of a list; `None` if one was refused.
fn all<T>(items: Items<At<T>>) -> Option<Vec<T>> {
    let values = items.list.into_iter().map(|at| at.value);
    items.known.then(|| values.collect())
}
