//! A packet socket on one interface: sends whole frames, receives the few the election needs.
//!
//! HELLOs go through packet sockets rather than UDP sockets so that a cable without addresses works,
//! and so that neither routing nor a firewall of the host is in their way.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use ha_common::{carp, proto};

use super::frame::{Mac, discovery};

/// Which frames a socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// None: it only sends.
    Nothing,
    /// HELLOs over IPv4: UDP to the HELLO port.
    Hellos,
    /// HELLOs over IPv6.
    Hellos6,
    /// ARP replies.
    ArpReplies,
    /// Neighbour advertisements.
    NeighbourAdvertisements,
}

/// A packet socket bound to one interface, non-blocking.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket on the interface with this index.
    pub fn open(ifindex: u32, receive: Receive) -> io::Result<Self> {
        let protocol = match receive {
            Receive::Nothing => 0,
            Receive::Hellos => libc::ETH_P_IP as u16,
            Receive::ArpReplies => libc::ETH_P_ARP as u16,
            Receive::Hellos6 | Receive::NeighbourAdvertisements => libc::ETH_P_IPV6 as u16,
        };
        // Protocol 0 until the filter is in place, so that nothing else slips into the queue.
        // SAFETY: plain system call without pointers.
        let raw = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                0,
            )
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by socket(2) and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let socket = Self { fd };
        match receive {
            Receive::Nothing => {}
            Receive::Hellos => socket.filter(&hello_filter())?,
            Receive::Hellos6 => socket.filter(&hello6_filter())?,
            Receive::ArpReplies => socket.filter(&arp_reply_filter())?,
            Receive::NeighbourAdvertisements => socket.filter(&neighbour_filter())?,
        }
        if matches!(receive, Receive::Hellos | Receive::Hellos6) {
            // The network card is to let through what XDP and this socket are to see.
            socket.join(ifindex, carp::GROUP_MAC)?;
            socket.join(ifindex, carp::GROUP6_MAC)?;
        }
        socket.bind(ifindex, protocol)?;
        Ok(socket)
    }

    /// Sends a frame. A full queue or a link that is down is an error like any other: the caller
    /// counts it, the protocol repeats itself.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of one live slice.
        let sent = unsafe {
            libc::send(
                self.fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_NOSIGNAL,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Receives the next frame that came from outside, or `None` if there is none waiting.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        loop {
            // SAFETY: an all-zero sockaddr_ll is a valid value of the type.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_len = size_of_val(&from) as libc::socklen_t;
            // SAFETY: buffer and address are live and their lengths are passed along.
            let received = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                )
            };
            let Ok(length) = usize::try_from(received) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                if error.kind() == io::ErrorKind::WouldBlock {
                    return Ok(None);
                }
                return Err(error);
            };
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                continue;
            }
            return Ok(buffer.get(..length));
        }
    }

    fn bind(&self, ifindex: u32, protocol: u16) -> io::Result<()> {
        // SAFETY: an all-zero sockaddr_ll is a valid value of the type.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = ifindex.cast_signed();
        // SAFETY: the address is live and its own size is passed along.
        let bound = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if bound < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Has the network card let frames for this address through, as long as the socket is open: a
    /// group, or another station's. A card that cannot filter several stations' then lets everything
    /// through.
    pub fn join(&self, ifindex: u32, mac: Mac) -> io::Result<()> {
        let kind = match mac {
            [first, ..] if first & 1 == 0 => libc::PACKET_MR_UNICAST as u16,
            _ => libc::PACKET_MR_MULTICAST as u16,
        };
        let mut address = [0; 8];
        address[..6].copy_from_slice(&mac);
        let request = libc::packet_mreq {
            mr_ifindex: ifindex.cast_signed(),
            mr_type: kind,
            mr_alen: mac.len() as u16,
            mr_address: address,
        };
        // SAFETY: the kernel copies the request during the call.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                size_of_val(&request) as libc::socklen_t,
            )
        };
        if set < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn filter(&self, program: &[libc::sock_filter]) -> io::Result<()> {
        let filter = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel copies the program during the call; both outlive it.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of_val(&filter) as libc::socklen_t,
            )
        };
        if set < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// Classic BPF, as of the kernel's Documentation/networking/filter.rst.
const LOAD_HALF: u16 = 0x28; // ldh [k]
const LOAD_BYTE: u16 = 0x30; // ldb [k]
const LOAD_HEADER: u16 = 0xb1; // ldx 4*([k]&0xf)
const LOAD_HALF_INDEXED: u16 = 0x48; // ldh [x + k]
const JUMP_EQUAL: u16 = 0x15; // jeq #k, jt, jf
const RETURN: u16 = 0x06; // ret #k
const WHOLE: u32 = 0x0004_0000;

const fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn hello_filter() -> [libc::sock_filter; 7] {
    [
        step(LOAD_BYTE, 0, 0, 14 + 9),
        step(JUMP_EQUAL, 0, 4, u32::from(proto::UDP)),
        step(LOAD_HEADER, 0, 0, 14),
        step(LOAD_HALF_INDEXED, 0, 0, 14 + 2),
        step(JUMP_EQUAL, 0, 1, u32::from(carp::HELLO_PORT)),
        step(RETURN, 0, 0, WHOLE),
        step(RETURN, 0, 0, 0),
    ]
}

fn hello6_filter() -> [libc::sock_filter; 6] {
    [
        step(LOAD_BYTE, 0, 0, 14 + 6),
        step(JUMP_EQUAL, 0, 3, u32::from(proto::UDP)),
        step(LOAD_HALF, 0, 0, 14 + 40 + 2),
        step(JUMP_EQUAL, 0, 1, u32::from(carp::HELLO_PORT)),
        step(RETURN, 0, 0, WHOLE),
        step(RETURN, 0, 0, 0),
    ]
}

fn neighbour_filter() -> [libc::sock_filter; 6] {
    [
        step(LOAD_BYTE, 0, 0, 14 + 6),
        step(JUMP_EQUAL, 0, 3, u32::from(proto::ICMPV6)),
        step(LOAD_BYTE, 0, 0, 14 + 40),
        step(JUMP_EQUAL, 0, 1, u32::from(discovery::ADVERTISEMENT)),
        step(RETURN, 0, 0, WHOLE),
        step(RETURN, 0, 0, 0),
    ]
}

fn arp_reply_filter() -> [libc::sock_filter; 4] {
    [
        step(LOAD_HALF, 0, 0, 14 + 6),
        step(JUMP_EQUAL, 0, 1, 2),
        step(RETURN, 0, 0, WHOLE),
        step(RETURN, 0, 0, 0),
    ]
}
