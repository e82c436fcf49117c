//! As much of nfnetlink as it takes to replace one nftables table in one transaction.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`, `nfnetlink.h` and `netlink.h`. Written out here
//! because an appliance need not have the `nft` program, and the crates that speak this protocol want
//! libnftnl or libclang to build.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
/// What a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Packets, IPv4 and IPv6.
    Inet = 1,
    /// Frames of single interfaces.
    Netdev = 5,
}

/// A transaction must fit into the socket's buffer as a whole.
const BUFFER: usize = 4 << 20;

/// What a message does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Makes a table unless it exists.
    NewTable,
    /// Removes a table with all it holds.
    DeleteTable,
    /// Makes a chain.
    NewChain,
    /// Makes a set.
    NewSet,
    /// Adds elements to a set.
    NewElements,
    /// Adds a rule at the end of a chain.
    NewRule,
}

impl Operation {
    const fn number(self) -> u16 {
        match self {
            Self::NewTable => 0,
            Self::DeleteTable => 2,
            Self::NewChain => 3,
            Self::NewRule => 6,
            Self::NewSet => 9,
            Self::NewElements => 12,
        }
    }

    const fn flags(self) -> u16 {
        match self {
            Self::NewRule => CREATE | APPEND,
            Self::DeleteTable => 0,
            Self::NewTable | Self::NewChain | Self::NewSet | Self::NewElements => CREATE,
        }
    }
}

/// A list of netlink attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // The length does not count the padding to four bytes.
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nested(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }
}

/// Messages that take effect together or not at all.
#[derive(Debug)]
pub(super) struct Transaction {
    family: Family,
    bytes: Vec<u8>,
    sequence: u32,
}

impl Transaction {
    pub(super) fn new(family: Family) -> Self {
        let mut transaction = Self {
            family,
            bytes: Vec::new(),
            sequence: 0,
        };
        transaction.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, &Attributes::new());
        transaction
    }

    pub(super) fn add(&mut self, operation: Operation, attributes: &Attributes) {
        self.message(
            SUBSYSTEM << 8 | operation.number(),
            operation.flags() | ACK,
            self.family as u8,
            0,
            attributes,
        );
    }

    /// Carries the transaction out in the caller's network namespace.
    pub(super) fn commit(mut self) -> io::Result<()> {
        // All between begin and end are to be acknowledged.
        let expected = self.sequence as usize - 1;
        self.message(BATCH_END, 0, 0, SUBSYSTEM, &Attributes::new());
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )?;
        setsockopt(&fd, sockopt::SndBufForce, &BUFFER)?;
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)?;
        send(fd.as_raw_fd(), &self.bytes, MsgFlags::empty())?;
        // The kernel works the batch off within the call: all answers are there.
        let mut buffer = vec![0; 1 << 16];
        let mut done = 0;
        loop {
            match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => done += acknowledged(buffer.get(..length).unwrap_or_default())?,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if done == expected {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "{done} of {expected} messages acknowledged"
            )))
        }
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: &Attributes,
    ) {
        let length = (HEADER + 4 + attributes.0.len()) as u32;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        // `struct nfgenmsg`: family, version 0, resource.
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(&attributes.0);
        self.sequence += 1;
    }
}

/// Counts the messages acknowledged in a datagram; an error among them is the transaction's.
fn acknowledged(mut datagram: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some((header, rest)) = datagram.split_first_chunk::<HEADER>() {
        let [a, b, c, d, kind_low, kind_high, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        if u16::from_ne_bytes([kind_low, kind_high]) == NLMSG_ERROR
            && let Some((code, _)) = rest.split_first_chunk::<4>()
        {
            match i32::from_ne_bytes(*code) {
                0 => done += 1,
                code => return Err(io::Error::from_raw_os_error(-code)),
            }
        }
        datagram = datagram
            .get(length.max(HEADER).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nest() {
        let inner = Attributes::new().text(1, "ab");
        assert_eq!(inner.0, [7, 0, 1, 0, b'a', b'b', 0, 0]);
        let outer = Attributes::new().nested(2, &inner).number(3, 7);
        assert_eq!(outer.0.get(..4), Some(&[12, 0, 2, 0x80][..]));
        assert_eq!(outer.0.get(12..), Some(&[8, 0, 3, 0, 0, 0, 0, 7][..]));
    }

    #[test]
    fn answers_of_any_shape_are_read() {
        let mut answer = vec![0; 36];
        answer[0] = 36;
        answer[4] = 2;
        assert_eq!(acknowledged(&answer).ok(), Some(1));
        let twice = [answer.clone(), answer.clone()].concat();
        assert_eq!(acknowledged(&twice).ok(), Some(2));
        answer[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        let error = acknowledged(&answer).map_err(|error| error.raw_os_error());
        assert_eq!(error, Err(Some(libc::ENOENT)));
        for length in 0..twice.len() {
            assert!(acknowledged(&twice[..length]).is_ok(), "{length}");
        }
        assert_eq!(acknowledged(&[0; 40]).ok(), Some(0));
    }
}
