//! Carriers, as the kernel tells of them, without a detour through the rest of the agent.
//!
//! A link that is dead ends this node's turn at once, so the news goes from the kernel into the election
//! thread. Whether an interface is fit for use in every other respect is found out elsewhere, and
//! takes its time.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// News read at a time; the rest is read the next time round.
const BURST: usize = 64;
/// What is read of each message: its header and the fixed part of a link's.
const FRONT: usize = 32;

/// What the kernel told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// An interface has a carrier or has none.
    Carrier {
        /// Its index.
        ifindex: u32,
        /// Whether it has one.
        up: bool,
    },
    /// Some news are lost.
    Lost,
}

/// A netlink socket that hears of links, non-blocking.
#[derive(Debug)]
pub(super) struct Carriers {
    fd: OwnedFd,
}

impl Carriers {
    /// Subscribes.
    pub(super) fn open() -> io::Result<Self> {
        // SAFETY: plain system call without pointers.
        let raw = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            )
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by socket(2) and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: an all-zero sockaddr_nl is a valid value of the type.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        // SAFETY: the address is live and its own size is passed along.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd })
    }

    /// What is new, up to a burst.
    pub(super) fn news(&self) -> impl Iterator<Item = News> + use<> {
        let mut news = Vec::new();
        for _ in 0..BURST {
            match self.receive() {
                Ok(Some((front, from_kernel))) => {
                    news.extend(from_kernel.then(|| carrier(&front)).flatten());
                }
                Ok(None) => break,
                // ENOBUFS: the kernel had more to tell than the socket has room for.
                Err(_) => {
                    news.push(News::Lost);
                    break;
                }
            }
        }
        news.into_iter()
    }

    /// The front of the next message, and whether the kernel sent it.
    fn receive(&self) -> io::Result<Option<([u8; FRONT], bool)>> {
        let mut front = [0; FRONT];
        // SAFETY: an all-zero sockaddr_nl is a valid value of the type.
        let mut from: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut from_len = size_of_val(&from) as libc::socklen_t;
        // SAFETY: buffer and address are live and their lengths are passed along.
        let received = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                front.as_mut_ptr().cast(),
                front.len(),
                0,
                (&raw mut from).cast(),
                &raw mut from_len,
            )
        };
        if received >= 0 {
            return Ok(Some((front, from.nl_pid == 0)));
        }
        let error = io::Error::last_os_error();
        if matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
        ) {
            Ok(None)
        } else {
            Err(error)
        }
    }
}

impl AsFd for Carriers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a message says: `struct nlmsghdr`, then `struct ifinfomsg` (rtnetlink(7)). What is missing of a
/// short message is zero, which is no message about a link.
fn carrier(front: &[u8; FRONT]) -> Option<News> {
    let half = |at: usize| Some(u16::from_ne_bytes([*front.get(at)?, *front.get(at + 1)?]));
    let word = |at: usize| -> Option<u32> {
        let bytes = front.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    // Messages of other families are about an interface's place in a bridge, say.
    if u16::from(*front.get(16)?) != libc::AF_UNSPEC as u16 {
        return None;
    }
    let (kind, ifindex, flags) = (half(4)?, word(20)?, word(24)?);
    match kind {
        libc::RTM_NEWLINK => Some(News::Carrier {
            ifindex,
            up: flags & libc::IFF_LOWER_UP as u32 != 0,
        }),
        libc::RTM_DELLINK => Some(News::Carrier { ifindex, up: false }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, flags: u32) -> [u8; FRONT] {
        let mut front = [0; FRONT];
        front[4..6].copy_from_slice(&kind.to_ne_bytes());
        front[16] = family;
        front[20..24].copy_from_slice(&7u32.to_ne_bytes());
        front[24..28].copy_from_slice(&flags.to_ne_bytes());
        front
    }

    #[test]
    fn what_messages_say() {
        let up = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
        let told = |up| Some(News::Carrier { ifindex: 7, up });
        assert_eq!(carrier(&message(libc::RTM_NEWLINK, 0, up)), told(true));
        let no_cable = message(libc::RTM_NEWLINK, 0, libc::IFF_UP as u32);
        assert_eq!(carrier(&no_cable), told(false));
        assert_eq!(carrier(&message(libc::RTM_DELLINK, 0, up)), told(false));
        let left_a_bridge = message(libc::RTM_DELLINK, libc::AF_BRIDGE as u8, up);
        assert_eq!(carrier(&left_a_bridge), None);
        assert_eq!(carrier(&message(libc::RTM_NEWADDR, 0, up)), None);
        assert_eq!(carrier(&[0; FRONT]), None);
    }

    #[test]
    fn without_news_it_does_not_wait() {
        let carriers = Carriers::open().unwrap();
        assert!(!carriers.news().any(|news| news == News::Lost));
    }
}
