//! The replication channel: its addresses, its socket, and how long its packets may be.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::ifreq::ifreq;
use crate::config::model::Transport;
use crate::proto::sync::{Destination, Lengths, SyncRole, SyncSnapshot};
use crate::proto::time::Instant;

/// Socket buffers asked for: a full transfer at full rate for a tenth of a second, or a thousand
/// packets repeated at once.
const BUFFER: usize = 8 << 20;
/// Longest packet of every Ethernet.
const ETHERNET: usize = 1500;
/// A partner that is heard and acknowledges nothing for so long does not hear the group. Longer than silence takes
/// to make it count as gone, and than it waits for a packet that does not come again.
const DEAF_AFTER: Duration = Duration::from_secs(3);

/// Addresses of the replication channel.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Own address on the replication interface.
    pub own: IpAddr,
    /// Partner's address there, of the same family.
    pub partner: IpAddr,
    /// Group, of the same family.
    pub group: IpAddr,
    /// Whether packets go to the group, to the partner's address, or to both where the group is not heard.
    pub transport: Transport,
    /// UDP port, ours and the partner's.
    pub port: u16,
    /// Kernel index of the interface.
    pub ifindex: u32,
    /// Kernel name of the interface.
    pub device: String,
}

impl Channel {
    /// Opens the socket: multicast without loop and beyond no router, bound to the interface, never in
    /// fragments.
    pub fn open(&self) -> io::Result<UdpSocket> {
        let domain = if self.group.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(self.device.as_bytes()))?;
        match (self.group, self.own) {
            (IpAddr::V4(group), IpAddr::V4(own)) => {
                socket.bind(&self.to(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).into())?;
                let on = socket2::InterfaceIndexOrAddress::Index(self.ifindex);
                if self.transport != Transport::Unicast {
                    socket.join_multicast_v4_n(&group, &on)?;
                }
                socket.set_multicast_if_v4(&own)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_multicast_ttl_v4(1)?;
            }
            (IpAddr::V6(group), IpAddr::V6(_)) => {
                socket.set_only_v6(true)?;
                socket.bind(&self.to(IpAddr::V6(Ipv6Addr::UNSPECIFIED)).into())?;
                if self.transport != Transport::Unicast {
                    socket.join_multicast_v6(&group, self.ifindex)?;
                }
                socket.set_multicast_if_v6(self.ifindex)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_hops_v6(1)?;
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
        }
        forbid_fragments(&socket, self.group.is_ipv4())?;
        // More than the system's limit needs a privilege; less only means more repairs under load.
        if socket.set_recv_buffer_size(BUFFER).is_err()
            || socket.set_send_buffer_size(BUFFER).is_err()
        {
            tracing::debug!("buffers of the replication socket stay at their defaults");
        }
        Ok(socket.into())
    }

    /// Where a packet goes; if the group seems to be `deaf`, to the partner's own address, too.
    pub fn destinations(&self, to: Destination, deaf: bool) -> impl Iterator<Item = SocketAddr> {
        let of_group = to == Destination::Group && self.transport != Transport::Unicast;
        let group = of_group.then(|| self.to(self.group));
        let alone = !of_group || deaf;
        group
            .into_iter()
            .chain(alone.then(|| self.to(self.partner)))
    }

    /// The longest payloads that the interface of this socket takes. Whether more gets through than every Ethernet
    /// takes is not known.
    pub fn lengths(&self, socket: &UdpSocket) -> io::Result<Lengths> {
        let headers = if self.group.is_ipv4() { 28 } else { 48 };
        let mtu = mtu(socket, &self.device)?;
        let payload = |mtu: usize| mtu.saturating_sub(headers);
        Ok(Lengths {
            sure: payload(mtu.min(ETHERNET)),
            most: payload(mtu),
        })
    }

    /// An address on the channel's link: a link-local one means nothing without its interface.
    fn to(&self, address: IpAddr) -> SocketAddr {
        match address {
            IpAddr::V4(_) => SocketAddr::new(address, self.port),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, self.port, 0, self.ifindex).into(),
        }
    }
}

/// A packet that is too long is to be refused (`EMSGSIZE`), not cut into pieces, of which a lost one loses all.
/// What routers said of the way does not matter: there is none.
fn forbid_fragments(socket: &Socket, v4: bool) -> io::Result<()> {
    let (level, option, value) = if v4 {
        (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        )
    } else {
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        )
    };
    // SAFETY: the value is a live integer of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The MTU of an interface in the socket's network namespace, which need not be the one that `/sys` shows.
fn mtu(socket: &UdpSocket, device: &str) -> io::Result<usize> {
    let mut request = ifreq(device);
    // SAFETY: the request is live, and its name ends in a zero.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has filled in this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    usize::try_from(mtu).map_err(io::Error::other)
}

/// Whether the partner hears the group: switches that look for members of groups, and find no router that
/// asks for them, pass nothing.
///
/// The partner's requests come to this node's own address in any case. If they come, and acknowledge
/// nothing of what was sent to the group, or say that the partner is not ready, the group does not reach it. Once that was seen it is assumed until
/// the role changes or the interface is another one: to try again would cost a gap in the stream.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Packets acknowledged, and since when.
    acknowledged: Option<(u64, Instant)>,
    deaf: bool,
}

impl Hearing {
    pub(super) const fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Judges by what replication says of itself.
    pub(super) fn judge(&mut self, now: Instant, sync: &SyncSnapshot) {
        if sync.role != SyncRole::Active {
            *self = Self::default();
            return;
        }
        let acknowledged = sync.counters.sent_packets.saturating_sub(sync.outstanding);
        // Without changes nothing is outstanding: one that hears no heartbeat says that it is not ready.
        let waits = sync.partner_heard && (sync.outstanding > 0 || !sync.ready);
        match self.acknowledged {
            Some((before, since)) if waits && before == acknowledged => {
                if !self.deaf && now.since(since) >= DEAF_AFTER {
                    self.deaf = true;
                    tracing::warn!(
                        "the partner does not hear the replication group: sending to its address, too"
                    );
                }
            }
            Some(_) | None => self.acknowledged = Some((acknowledged, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{PairKey, PairKeys};
    use crate::proto::rng::Rng;
    use crate::proto::sync::{Sync, SyncConfig};

    fn snapshot() -> SyncSnapshot {
        let keys = PairKeys::new(vec![PairKey::new(1, [7; 32])]);
        let mut config = SyncConfig::new(1, 110);
        config.max_entries = 1;
        let now = Instant::from_nanos(1);
        let sync = Sync::new(config, keys, [1; 16], Rng::new(1), now);
        SyncSnapshot {
            role: SyncRole::Active,
            partner_heard: true,
            ready: true,
            ..sync.snapshot()
        }
    }

    #[test]
    fn only_a_partner_that_acknowledges_nothing_is_deaf() {
        let mut sync = snapshot();
        let mut hearing = Hearing::default();
        let mut now = Instant::from_nanos(1_000_000_000);
        let mut wait = |hearing: &mut Hearing, sync: &SyncSnapshot| {
            hearing.judge(now, sync);
            now = now + DEAF_AFTER;
            hearing.judge(now, sync);
            hearing.is_deaf()
        };
        assert!(!wait(&mut hearing, &sync), "nothing was sent");
        for sent in 10..20 {
            sync.counters.sent_packets = sent;
            sync.outstanding = 5;
            hearing.judge(Instant::from_nanos(sent), &sync);
            assert!(!hearing.is_deaf(), "it goes on");
        }
        sync.partner_heard = false;
        assert!(!wait(&mut hearing, &sync), "it is gone");
        sync.partner_heard = true;
        assert!(wait(&mut hearing, &sync));
        sync.outstanding = 0;
        assert!(wait(&mut hearing, &sync), "it hears the other way now");
        sync.role = SyncRole::Standby;
        assert!(!wait(&mut hearing, &sync));
        (sync.role, sync.ready) = (SyncRole::Active, false);
        assert!(wait(&mut hearing, &sync), "it hears no heartbeat");
    }

    #[test]
    fn packets_go_where_they_are_heard() {
        let channel = |transport| Channel {
            own: [10, 1, 0, 11].into(),
            partner: [10, 1, 0, 12].into(),
            group: [239, 255, 69, 73].into(),
            transport,
            port: 6974,
            ifindex: 2,
            device: "back".to_owned(),
        };
        let (group, partner) = (Destination::Group, Destination::Partner);
        for (transport, to, deaf, wanted) in [
            (Transport::Auto, group, false, &["239.255.69.73:6974"][..]),
            (
                Transport::Auto,
                group,
                true,
                &["239.255.69.73:6974", "10.1.0.12:6974"],
            ),
            (Transport::Auto, partner, true, &["10.1.0.12:6974"]),
            (Transport::Multicast, group, false, &["239.255.69.73:6974"]),
            (Transport::Unicast, group, false, &["10.1.0.12:6974"]),
            (Transport::Unicast, partner, false, &["10.1.0.12:6974"]),
        ] {
            let channel = channel(transport);
            let found: Vec<_> = channel
                .destinations(to, deaf)
                .map(|address| address.to_string())
                .collect();
            assert_eq!(found, wanted, "{transport:?} {to:?}");
        }
    }
}
