//! Captures at switch ports, with the kernel's time stamps, and the check of every checksum.
//!
//! A packet socket sees what a port lets through: frames from the node after the port's XDP program,
//! frames to the node after its egress program. All stamps come from one clock, so frames at
//! different ports can be ordered.

use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, bail};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use super::checksum;
use super::netns::Netns;
use crate::clock::{now_ns, realtime_to_monotonic};

/// The longest frame of a link with an MTU of 1500 is 1518 bytes with a VLAN tag.
const SNAP: usize = 2048;
/// Room for bursts while the reading thread is not scheduled.
const BUFFER: usize = 64 << 20;

/// A captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When the kernel saw it, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The switch port.
    pub port: Arc<str>,
    /// Whether the node behind the port sent it (else it was sent to the node).
    pub from_node: bool,
    /// From the Ethernet header on.
    pub bytes: Box<[u8]>,
}

/// A running capture on some ports.
#[derive(Debug)]
pub struct Capture {
    /// When it ends.
    stop_ns: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<Vec<Frame>>>>,
}

impl Capture {
    /// Starts capturing on ports of the switch in `netns`.
    pub fn start(netns: &Netns, ports: &[&str]) -> Result<Self> {
        let stop_ns = Arc::new(AtomicU64::new(u64::MAX));
        let mut threads = Vec::new();
        for port in ports {
            let socket = netns.run(|| open(port))?;
            let (port, stop_ns) = (Arc::from(*port), Arc::clone(&stop_ns));
            threads.push(
                thread::Builder::new()
                    .name(format!("capture-{port}"))
                    .spawn(move || read(&socket, &port, &stop_ns))?,
            );
        }
        Ok(Self { stop_ns, threads })
    }

    /// Ends the capture; all frames in the order in which the kernel saw them. A capture with
    /// holes proves nothing, so lost frames are an error.
    pub fn finish(self) -> Result<Vec<Frame>> {
        self.stop_ns.store(now_ns(), Ordering::Relaxed);
        let mut frames = Vec::new();
        for thread in self.threads {
            frames.extend(
                thread
                    .join()
                    .map_err(|_panic| anyhow!("capture panicked"))??,
            );
        }
        frames.sort_by_key(|frame| frame.at_ns);
        Ok(frames)
    }
}

fn open(port: &str) -> Result<OwnedFd> {
    let index = i32::try_from(if_nametoindex(port)?)?;
    // Bound only afterwards, so that no frame of another port slips in between.
    let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL)?.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address))?;
    // SAFETY: `address` is a valid `sockaddr_ll` of the given length.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(result).with_context(|| format!("cannot capture on {port}"))?;
    Ok(socket.into())
}

fn read(socket: &OwnedFd, port: &Arc<str>, stop_ns: &AtomicU64) -> Result<Vec<Frame>> {
    let to_monotonic = realtime_to_monotonic();
    let mut frames = Vec::new();
    let mut buffer = [0u8; SNAP];
    let mut control = nix::cmsg_space!(libc::timespec);
    loop {
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(20u8))? == 0 {
            if stop_ns.load(Ordering::Relaxed) < u64::MAX {
                break;
            }
            continue;
        }
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = match recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        ) {
            // Told once when the port goes down; nothing is lost, and it may come back.
            Err(Errno::ENETDOWN) => continue,
            message => message?,
        };
        let at = message.cmsgs()?.find_map(|message| {
            let ControlMessageOwned::ScmTimestampns(time) = message else {
                return None;
            };
            let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
            let rest = u64::try_from(time.tv_nsec()).unwrap_or_default();
            Some(seconds * 1_000_000_000 + rest)
        });
        let outgoing = message
            .address
            .as_ref()
            .and_then(SockaddrStorage::as_link_addr)
            .is_some_and(is_outgoing);
        let length = message.bytes;
        let at_ns = at
            .context("a frame without a time stamp")?
            .wrapping_add(to_monotonic);
        // On a busy port the queue never runs dry.
        if at_ns > stop_ns.load(Ordering::Relaxed) {
            break;
        }
        frames.push(Frame {
            at_ns,
            port: Arc::clone(port),
            from_node: !outgoing,
            bytes: buffer.get(..length).unwrap_or_default().into(),
        });
    }
    let dropped = dropped(socket)?;
    if dropped > 0 {
        bail!("the capture on {port} lost {dropped} frames");
    }
    Ok(frames)
}

fn is_outgoing(address: &LinkAddr) -> bool {
    let address: &libc::sockaddr_ll = address.as_ref();
    address.sll_pkttype == libc::PACKET_OUTGOING
}

/// Frames the kernel had no room for.
fn dropped(socket: &OwnedFd) -> Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = libc::socklen_t::try_from(size_of_val(&statistics))?;
    // SAFETY: `statistics` has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(statistics.tp_drops)
}

/// What of a frame the tests look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number; in IPv6, that of the first header behind the fixed one.
    pub protocol: u8,
    /// Ports of TCP and UDP, source and destination; zero where there are none.
    pub ports: (u16, u16),
}

impl Frame {
    /// Addresses, protocol and ports if it is IP.
    pub fn flow(&self) -> Option<Flow> {
        let packet = SlicedPacket::from_ethernet(&self.bytes).ok()?;
        let (source, destination, protocol): (IpAddr, IpAddr, _) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
                ip.header().protocol(),
            ),
            Some(NetSlice::Ipv6(ip)) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
                ip.header().next_header(),
            ),
            Some(NetSlice::Arp(_)) | None => return None,
        };
        let ports = match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
            Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
            Some(
                TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_),
            )
            | None => (0, 0),
        };
        Some(Flow {
            source,
            destination,
            protocol: protocol.0,
            ports,
        })
    }

    /// What is wrong with its checksums; `None` if nothing is.
    pub fn checksum_fault(&self) -> Option<String> {
        checksum::fault(&self.bytes)
    }
}
