//! Settings of one interface that `ip` cannot make.

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::AsRawFd as _;

use super::netns::Netns;
use crate::clock::now_ns;

/// Legacy `ethtool` commands that set one feature each; from `linux/ethtool.h`.
const SET_TX_CHECKSUM: u32 = 0x17;
const SET_SCATTER_GATHER: u32 = 0x19;
const SET_TSO: u32 = 0x1f;
const SET_GSO: u32 = 0x24;
const SET_GRO: u32 = 0x2c;
/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Turns transmit offloads off: a veth has no hardware that would fill in checksums, so frames that
/// XDP forwards past the receiving kernel would arrive without one.
pub fn offloads_off(netns: &Netns, device: &str) -> Result<()> {
    netns.run(|| {
        for command in [SET_TX_CHECKSUM, SET_SCATTER_GATHER, SET_TSO, SET_GSO] {
            ethtool_set(device, command, 0)
                .with_context(|| format!("cannot turn offload {command:#x} of {device} off"))?;
        }
        Ok(())
    })
}

/// Turns generic receive offload on: without an XDP program of its own a veth takes frames of XDP only with it.
pub fn gro_on(netns: &Netns, device: &str) -> Result<()> {
    netns.run(|| ethtool_set(device, SET_GRO, 1).context("cannot turn GRO on"))
}

fn ethtool_set(device: &str, command: u32, data: u32) -> Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut value = EthtoolValue { command, data };
    let mut request = request(device);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names a valid `ethtool_value` that outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Sets an interface up or down as an administrator would, and so takes the carrier from the far
/// end of a veth; returns when, taken just before.
pub fn set_up(netns: &Netns, device: &str, up: bool) -> Result<u64> {
    netns.run(|| {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let mut request = request(device);
        // SAFETY: the request names an interface and has room for the answer.
        let result =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
        nix::errno::Errno::result(result).with_context(|| format!("no interface {device}"))?;
        // SAFETY: the call above has filled this field in.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let bit = libc::IFF_UP as libc::c_short;
        request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
        let at = now_ns();
        // SAFETY: the request names an interface and its flags.
        let result =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
        nix::errno::Errno::result(result).with_context(|| format!("cannot switch {device}"))?;
        Ok(at)
    })
}

/// A request that names an interface.
fn request(device: &str) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(device.bytes())
    {
        *to = from.cast_signed();
    }
    request
}
