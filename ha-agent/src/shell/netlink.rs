//! The kernel's view of interfaces, addresses, neighbours and routes, over rtnetlink.
//!
//! The only module that knows the netlink crates, whose interfaces change often.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteVia};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};

use super::frame::Mac;
use crate::config::model::Cidr;
use crate::datapath::attach::{Attached, XdpMode};

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub device: String,
    /// Ethernet address.
    pub mac: Mac,
    /// Longest IP packet it takes.
    pub mtu: u32,
    /// Whether a cable with a live other end is plugged in and the interface is up.
    pub carrier: bool,
    /// The XDP program on it.
    pub xdp: Option<Attached>,
}

/// A neighbour the kernel has resolved, or lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface.
    pub ifindex: u32,
    /// Address.
    pub address: IpAddr,
    /// Ethernet address; none if resolution failed or the entry went away.
    pub mac: Option<Mac>,
    /// Whether the kernel has had reason lately to believe that it is still right.
    pub confirmed: bool,
}

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface.
    pub ifindex: u32,
    /// Next hop; the destination itself if it is on the link.
    pub next_hop: IpAddr,
}

impl Route {
    /// Whether packets on this way go to this neighbour.
    pub fn leads_to(&self, neighbour: &Neighbour) -> bool {
        self.ifindex == neighbour.ifindex && self.next_hop == neighbour.address
    }
}

/// A change the kernel told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface appeared or changed.
    Link(LinkInfo),
    /// An interface is gone.
    LinkGone {
        /// Its index.
        ifindex: u32,
    },
    /// A neighbour was resolved or lost.
    Neighbour(Neighbour),
}

/// A netlink connection.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

/// The stream of [`Change`]s.
pub struct Changes(BoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>);

impl Netlink {
    /// Connects, within a tokio runtime.
    pub fn connect() -> io::Result<(Self, Changes)> {
        let groups = [MulticastGroup::Link, MulticastGroup::Neigh];
        let (connection, handle, messages) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        Ok((Self { handle }, Changes(messages.boxed())))
    }

    /// The interface of this name; `None` if there is none.
    pub async fn link(&self, device: &str) -> io::Result<Option<LinkInfo>> {
        let mut links = self
            .handle
            .link()
            .get()
            .match_name(device.to_owned())
            .execute();
        match links.try_next().await {
            Ok(message) => Ok(message.as_ref().map(link_info)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Addresses of an interface.
    pub async fn addresses(&self, ifindex: u32) -> io::Result<Vec<Cidr>> {
        let messages = self.address_messages(ifindex).await?;
        Ok(messages.iter().filter_map(cidr).collect())
    }

    /// Adds an address or renews it, for this long (rounded up to whole seconds); then the kernel removes it
    /// by itself.
    ///
    /// An IPv6 address is there at once, without duplicate address detection. It is deprecated from the
    /// start, so that nothing the node itself begins has it as its source, and it brings no route to
    /// its subnet: that would end with its lifetime, although the node's own address needs it.
    pub async fn set_address(
        &self,
        ifindex: u32,
        address: Cidr,
        lifetime: Option<Duration>,
    ) -> io::Result<()> {
        let mut request = self
            .handle
            .address()
            .add(ifindex, address.address, address.prefix)
            .replace();
        let seconds = lifetime.map_or(u64::MAX, |lifetime| {
            lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0)
        });
        let mut cache = CacheInfo::default();
        cache.ifa_valid = u32::try_from(seconds).unwrap_or(u32::MAX);
        let attributes = &mut request.message_mut().attributes;
        if address.address.is_ipv6() {
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            attributes.push(AddressAttribute::Flags(flags));
        } else {
            cache.ifa_preferred = cache.ifa_valid;
        }
        attributes.push(AddressAttribute::CacheInfo(cache));
        request.execute().await.map_err(|error| failed(&error))
    }

    /// Removes an address; succeeds if it is not there.
    pub async fn remove_address(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        for message in self.address_messages(ifindex).await? {
            if cidr(&message).is_some_and(|found| found.address == address) {
                match self.handle.address().del(message).execute().await {
                    Ok(()) => {}
                    Err(error) if errno(&error) == Some(libc::EADDRNOTAVAIL) => {}
                    Err(error) => return Err(failed(&error)),
                }
            }
        }
        Ok(())
    }

    /// The kernel's way to an address; `None` if there is none.
    pub async fn route(&self, destination: IpAddr) -> io::Result<Option<Route>> {
        let message = match destination {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(v4, 32)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(v6, 128)
                .build(),
        };
        let mut routes = Box::pin(self.handle.route().get(message).execute());
        let found = match routes.try_next().await {
            Ok(found) => found,
            Err(error) if matches!(errno(&error), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                None
            }
            Err(error) => return Err(failed(&error)),
        };
        let Some(found) = found else { return Ok(None) };
        let mut ifindex = None;
        let mut next_hop = destination;
        for attribute in &found.attributes {
            if let RouteAttribute::Oif(index) = attribute {
                ifindex = Some(*index);
            } else if let RouteAttribute::Gateway(RouteAddress::Inet(gateway)) = attribute {
                next_hop = (*gateway).into();
            } else if let RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) = attribute {
                next_hop = (*gateway).into();
            } else if let RouteAttribute::Via(RouteVia::Inet6(gateway)) = attribute {
                // An IPv4 route over an IPv6 next hop (RFC 5549).
                next_hop = (*gateway).into();
            }
        }
        Ok(ifindex.map(|ifindex| Route { ifindex, next_hop }))
    }

    /// All neighbours the kernel knows.
    pub async fn neighbours(&self) -> io::Result<Vec<Neighbour>> {
        let mut found = Vec::new();
        let mut messages = self.handle.neighbours().get().execute();
        while let Some(message) = messages.try_next().await.map_err(|error| failed(&error))? {
            found.extend(neighbour(&message));
        }
        Ok(found)
    }

    /// Has the kernel find out, or confirm, a neighbour's Ethernet address; the answer comes as a [`Change`].
    pub async fn resolve(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.handle
            .neighbours()
            .add(ifindex, address)
            .state(NeighbourState::None)
            // The kernel acts as if it had a packet for the neighbour.
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(|error| failed(&error))
    }

    /// Has an interface take frames for another station, too, also when nobody is left who wants them
    /// (`bridge fdb add MAC dev DEVICE self`). Not every driver offers that.
    pub async fn add_station(&self, ifindex: u32, mac: Mac) -> io::Result<()> {
        self.handle
            .neighbours()
            .add_bridge(ifindex, &mac)
            .flags(NeighbourFlags::Own)
            .replace()
            .execute()
            .await
            .map_err(|error| failed(&error))
    }

    /// Undoes [`Self::add_station`].
    pub async fn remove_station(&self, ifindex: u32, mac: Mac) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let deleted = self.handle.neighbours().del(message).execute().await;
        deleted.map_err(|error| failed(&error))
    }

    async fn address_messages(&self, ifindex: u32) -> io::Result<Vec<AddressMessage>> {
        let mut found = Vec::new();
        let mut messages = self
            .handle
            .address()
            .get()
            .set_link_index_filter(ifindex)
            .execute();
        while let Some(message) = messages.try_next().await.map_err(|error| failed(&error))? {
            let family = message.header.family;
            if message.header.index == ifindex
                && matches!(family, AddressFamily::Inet | AddressFamily::Inet6)
            {
                found.push(message);
            }
        }
        Ok(found)
    }
}

impl Changes {
    /// The next change; `None` when the connection is gone.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let (message, _) = self.0.next().await?;
            let NetlinkPayload::InnerMessage(inner) = message.payload else {
                continue;
            };
            let change = if let RouteNetlinkMessage::NewLink(link) = &inner {
                Some(Change::Link(link_info(link)))
            } else if let RouteNetlinkMessage::DelLink(link) = &inner {
                Some(Change::LinkGone {
                    ifindex: link.header.index,
                })
            } else if let RouteNetlinkMessage::NewNeighbour(message) = &inner {
                neighbour(message).map(Change::Neighbour)
            } else if let RouteNetlinkMessage::DelNeighbour(message) = &inner {
                neighbour(message).map(|gone| Change::Neighbour(Neighbour { mac: None, ..gone }))
            } else {
                None
            };
            if change.is_some() {
                return change;
            }
        }
    }
}

fn link_info(message: &LinkMessage) -> LinkInfo {
    let mut info = LinkInfo {
        ifindex: message.header.index,
        device: String::new(),
        mac: Mac::default(),
        mtu: 0,
        carrier: false,
        xdp: None,
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            info.device.clone_from(name);
        } else if let LinkAttribute::Address(bytes) = attribute {
            info.mac = Mac::try_from(bytes.as_slice()).unwrap_or_default();
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            info.mtu = *mtu;
        } else if let LinkAttribute::Carrier(carrier) = attribute {
            info.carrier = *carrier != 0;
        } else if let LinkAttribute::Xdp(xdp) = attribute {
            info.xdp = attached(xdp);
        }
    }
    info
}

fn attached(xdp: &[LinkXdp]) -> Option<Attached> {
    xdp.iter().find_map(|attribute| {
        let (mode, program) = if let LinkXdp::DrvProgId(id) = attribute {
            (XdpMode::Native, *id)
        } else if let LinkXdp::SkbProgId(id) = attribute {
            (XdpMode::Generic, *id)
        } else if let LinkXdp::HwProgId(id) = attribute {
            (XdpMode::Offloaded, *id)
        } else {
            return None;
        };
        Some(Attached { program, mode })
    })
}

/// An interface's own address: on a point-to-point link the other attribute is the far end's, but IPv6
/// addresses without a far end have only that one (rtnetlink(7)).
fn cidr(message: &AddressMessage) -> Option<Cidr> {
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(address) = attribute {
            Some(*address)
        } else {
            None
        }
    });
    let other = || {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address @ IpAddr::V6(_)) = attribute {
                Some(*address)
            } else {
                None
            }
        })
    };
    Some(Cidr {
        address: local.or_else(other)?,
        prefix: message.header.prefix_len,
    })
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) = attribute {
            address = Some(IpAddr::V4(*found));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) = attribute {
            address = Some(IpAddr::V6(*found));
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = Mac::try_from(bytes.as_slice()).ok();
        }
    }
    // In these states the kernel has no valid address to send to.
    let unresolved = [
        NeighbourState::None,
        NeighbourState::Incomplete,
        NeighbourState::Failed,
    ]
    .contains(&message.header.state);
    let confirmed = [
        NeighbourState::Reachable,
        NeighbourState::Permanent,
        NeighbourState::Noarp,
    ]
    .contains(&message.header.state);
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address: address?,
        mac: mac.filter(|_| !unresolved),
        confirmed,
    })
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    if let rtnetlink::Error::NetlinkError(message) = error {
        message.code.map(|code| -code.get())
    } else {
        None
    }
}

fn failed(error: &rtnetlink::Error) -> io::Error {
    errno(error).map_or_else(
        || io::Error::other(error.to_string()),
        io::Error::from_raw_os_error,
    )
}
