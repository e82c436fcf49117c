//! What a client learns of the way to a service: echoes, hops, the path MTU.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::clock::now_ns;
use crate::packet::Frame;
use crate::rig::netns::Netns;

/// How long answers are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 5;
const ETHERNET_HEADER: usize = 14;
const UDP_HEADER: usize = 8;
/// Bytes in a fragment, a multiple of eight.
const PIECE: usize = 1024;

/// An ICMP error, as the kernel tells it to the socket it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Who sent it.
    pub by: IpAddr,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The MTU that it names, if any.
    pub mtu: u32,
}

impl Told {
    /// Whether a hop says that the time to live ended with it.
    pub fn is_time_exceeded(&self) -> bool {
        let kind = if self.by.is_ipv4() { 11 } else { 3 };
        (self.kind, self.code) == (kind, 0)
    }
}

/// Sends an echo request; whether it was answered within a second.
pub fn ping(netns: &Netns, target: IpAddr) -> Result<bool> {
    netns.sysctl("net/ipv4/ping_group_range", "0 0")?;
    netns.run(|| {
        let (domain, protocol, request, reply) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(&SockAddr::from(SocketAddr::new(target, 0)))?;
        let payload = *b"are you there?";
        let mut message = vec![request, 0, 0, 0, 0, 0, 0, 1];
        message.extend(payload);
        socket.send(&message)?;
        let mut buffer = [0; 64];
        let mut reader = &socket;
        match io::Read::read(&mut reader, &mut buffer) {
            Ok(length) => {
                let answer = buffer.get(..length).unwrap_or_default();
                let right = answer.first() == Some(&reply) && answer.ends_with(&payload);
                if right {
                    Ok(true)
                } else {
                    bail!("a strange answer: {answer:?}")
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    })
}

/// Sends a datagram that lives for so many hops; what its sender is told.
pub fn udp_hop(netns: &Netns, target: SocketAddr, hops: u32) -> Result<Told> {
    for _ in 0..ATTEMPTS {
        let socket = netns.run(|| {
            let socket = Socket::new(Domain::for_address(target), Type::DGRAM, None)?;
            live_for(&socket, target, hops)?;
            hear_errors(&socket, target)?;
            socket.connect(&target.into())?;
            socket.send(b"how far is it?")?;
            Ok(socket)
        })?;
        if let Some(told) = told(&socket, PATIENCE)? {
            return Ok(told);
        }
    }
    bail!("no hop {hops} on the way to {target}")
}

/// Tries to connect with segments that live for so many hops.
pub fn tcp_hop(
    netns: &Netns,
    target: SocketAddr,
    hops: u32,
) -> Result<(io::Result<()>, Option<Told>)> {
    netns.run(|| {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        live_for(&socket, target, hops)?;
        hear_errors(&socket, target)?;
        let connected = socket.connect_timeout(&target.into(), Duration::from_secs(5));
        Ok((connected, told(&socket, Duration::ZERO)?))
    })
}

/// What the socket is told within this time.
pub fn told(socket: &impl AsFd, patience: Duration) -> Result<Option<Told>> {
    let end = now_ns() + u64::try_from(patience.as_nanos())?;
    loop {
        if let Some(told) = read_error(socket)? {
            return Ok(Some(told));
        }
        if now_ns() > end {
            return Ok(None);
        }
        sleep(Duration::from_millis(5));
    }
}

fn read_error(socket: &impl AsFd) -> Result<Option<Told>> {
    let mut buffer = [0; 2048];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let message = match recvmsg::<SockaddrStorage>(
        socket.as_fd().as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
    ) {
        Ok(message) => message,
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let found = message.cmsgs()?.find_map(|message| {
        let (error, by): (_, IpAddr) =
            if let ControlMessageOwned::Ipv4RecvErr(error, Some(by)) = message {
                let by = Ipv4Addr::from(u32::from_be(by.sin_addr.s_addr));
                (error, by.into())
            } else if let ControlMessageOwned::Ipv6RecvErr(error, Some(by)) = message {
                (error, Ipv6Addr::from(by.sin6_addr.s6_addr).into())
            } else {
                return None;
            };
        Some(Told {
            by,
            kind: error.ee_type,
            code: error.ee_code,
            mtu: error.ee_info,
        })
    });
    found.context("an error without its sender").map(Some)
}

/// Sends a datagram in fragments of which the first comes last.
pub fn send_backwards(
    netns: &Netns,
    source: SocketAddr,
    target: SocketAddr,
    payload: &[u8],
    id: u32,
) -> Result<()> {
    let whole = Frame::udp(source, target).payload(payload).id(id);
    let length = UDP_HEADER + payload.len();
    let begins = (0..length).step_by(PIECE).rev();
    let pieces = begins.map(|begin| begin..length.min(begin + PIECE));
    netns.run(|| {
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::for_address(target), Type::RAW, Some(raw))?;
        let to = SockAddr::from(SocketAddr::new(target.ip(), 0));
        for piece in pieces {
            let frame = whole.clone().piece(piece).build();
            socket.send_to(frame.get(ETHERNET_HEADER..).unwrap_or_default(), &to)?;
        }
        Ok(())
    })
}

fn live_for(socket: &Socket, target: SocketAddr, hops: u32) -> io::Result<()> {
    match target {
        SocketAddr::V4(_) => socket.set_ttl_v4(hops),
        SocketAddr::V6(_) => socket.set_unicast_hops_v6(hops),
    }
}

/// Has the kernel keep ICMP errors for [`told`].
pub fn hear_errors(socket: &impl AsFd, target: SocketAddr) -> Result<()> {
    match target {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true)?,
    }
    Ok(())
}

/// Forbids fragments of what the socket sends.
pub fn forbid_fragments(socket: &impl AsFd, target: SocketAddr) -> Result<()> {
    let (level, name, value) = match target {
        SocketAddr::V4(_) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        SocketAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    };
    let length = libc::socklen_t::try_from(size_of_val(&value))?;
    // SAFETY: `value` is an integer of the given length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// The path MTU that the kernel assumes for a connected socket.
pub fn mtu(socket: &impl AsFd, target: SocketAddr) -> Result<u32> {
    let (level, name) = match target {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut value: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&value))?;
    // SAFETY: `value` has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(u32::try_from(value)?)
}
