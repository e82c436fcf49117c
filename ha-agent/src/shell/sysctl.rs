//! Kernel settings the data plane relies on. They are set, never restored: another service may rely on
//! them too.

use std::fs;
use std::io;

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "setting {name} to {value}: {source}; allow the agent to write /proc/sys/net, or set it with sysctl"
)]
pub struct SysctlError {
    name: String,
    value: &'static str,
    source: io::Error,
}

impl SysctlError {
    /// Whether a privilege is missing.
    pub fn is_permission(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        )
    }
}

/// Prepares the system and these interfaces for what [`forward4`] will bring.
pub fn prepare<D: AsRef<str>>(devices: impl Iterator<Item = D>) -> Result<(), SysctlError> {
    for device in devices {
        let device = device.as_ref();
        // Such a packet towards a client has a shared address, so a local one, as its source.
        set(&format!("net/ipv4/conf/{device}/accept_local"), "1")?;
        // Its source also seems to come from the wrong side.
        set(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
        // A shared address of one interface is not to be answered for on another.
        set(&format!("net/ipv4/conf/{device}/arp_ignore"), "1")?;
        // And never used as the sender of this node's own questions.
        set(&format!("net/ipv4/conf/{device}/arp_announce"), "2")?;
    }
    set("net/ipv4/conf/all/rp_filter", "0")
}

/// Has the kernel forward IPv4 packets: those that XDP rewrites but cannot send yet (no neighbour).
///
/// Not before the data plane knows the shared addresses: without it a box that boots would route what clients still send
/// to its Ethernet address on to the active node, which would then take this box for the clients' way back.
pub fn forward4() -> Result<(), SysctlError> {
    set("net/ipv4/ip_forward", "1")
}

/// The same for IPv6.
///
/// The kernel has one switch for that, and a router does not listen to other routers. Interfaces that did so
/// far, because nothing else was said, go on.
pub fn forward6() -> Result<(), SysctlError> {
    let devices = fs::read_dir("/proc/sys/net/ipv6/conf")
        .into_iter()
        .flatten();
    for device in devices.flatten() {
        let name = device.file_name();
        let accept = format!("net/ipv6/conf/{}/accept_ra", name.to_string_lossy());
        if fs::read_to_string(format!("/proc/sys/{accept}")).is_ok_and(|found| found.trim() == "1")
        {
            set(&accept, "2")?;
        }
    }
    set("net/ipv6/conf/all/forwarding", "1")
}

/// Whether the kernel forwards IPv6 packets that come in on a device, so is a router to its neighbours.
pub fn forwards6(device: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/forwarding"))
        .is_ok_and(|found| found.trim() == "1")
}

fn set(name: &str, value: &'static str) -> Result<(), SysctlError> {
    let path = format!("/proc/sys/{name}");
    if fs::read_to_string(&path).is_ok_and(|found| found.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| SysctlError {
        name: name.replace('/', "."),
        value,
        source,
    })
}
