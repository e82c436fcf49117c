//! Interfaces, addresses, routes and neighbours as the kernel has them, seen through the agent's
//! netlink module.

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::config::model::{
    Cidr, OnDown, Ports, Protocol, RealServer, Timeouts, VirtualService,
};
use ha_agent::datapath::fake::Fake;
use ha_agent::proto::time::Instant;
use ha_agent::services::{RealKey, ServiceTable};
use ha_agent::shell::clock;
use ha_agent::shell::neighbours::Neighbours;
use ha_agent::shell::netlink::{Change, Changes, Netlink, Route};
use ha_common::service::{Forwarding, Real, Scheduler};
use ha_tests::rig::Run;
use ha_tests::rig::netns::Netns;
use tokio::time::{sleep, timeout};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    common::run(
        &["ip"],
        &[],
        &[
            ("an_interface_and_the_loss_of_its_carrier", carrier),
            ("an_address_lives_as_long_as_it_is_renewed", lifetime),
            ("so_does_an_ipv6_address", lifetime6),
            ("a_shared_ipv6_address_keeps_to_itself", shared6),
            ("the_way_to_an_address", routes),
            (
                "a_real_server_is_resolved_and_followed_to_another_mac",
                || neighbours("ipv4", [10, 1, 0, 21].into(), [10, 0, 0, 100].into()),
            ),
            ("so_is_one_with_ipv6", || {
                neighbours("ipv6", SERVER6.into(), SHARED6.into())
            }),
        ],
    )
}

const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x21);
const SHARED6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);

/// A node and a server with a cable between them.
struct Hosts {
    node: Netns,
    server: Netns,
    _run: Run,
}

impl Hosts {
    fn new() -> Result<Self> {
        let run = Run::start()?;
        let (node, server) = (run.namespace("node")?, run.namespace("server")?);
        node.enable_ipv6()?;
        server.enable_ipv6()?;
        node.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}\n\
             link set eth0 address 02:00:00:00:00:01\n\
             addr add 10.1.0.11/24 dev eth0\n\
             addr add fd00:1::11/64 dev eth0 nodad\n\
             link set eth0 up\n",
            server.name()
        ))?;
        server.ip("link set eth0 address 02:00:00:00:00:21\n\
             addr add 10.1.0.21/24 dev eth0\n\
             addr add fd00:1::21/64 dev eth0 nodad\n\
             link set eth0 up\n")?;
        Ok(Self {
            node,
            server,
            _run: run,
        })
    }

    /// Runs `work` inside the node.
    fn on_node<F: Future<Output = Result<()>>>(
        &self,
        work: impl FnOnce(Netlink, Changes) -> F + Send,
    ) -> Result<()> {
        self.node.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let (netlink, changes) = Netlink::connect()?;
                work(netlink, changes).await
            })
        })
    }
}

async fn ifindex(netlink: &Netlink) -> Result<u32> {
    Ok(netlink.link("eth0").await?.context("no eth0")?.ifindex)
}

fn carrier() -> Result<()> {
    let hosts = &Hosts::new()?;
    hosts.on_node(|netlink, mut changes| async move {
        assert_eq!(netlink.link("eth7").await?, None);
        let link = netlink.link("eth0").await?.context("no eth0")?;
        assert_eq!(
            (link.mac, link.carrier, link.xdp),
            ([2, 0, 0, 0, 0, 1], true, None)
        );

        hosts.server.ip("link set eth0 down\n")?;
        let lost = async {
            loop {
                match changes.next().await.context("no more changes")? {
                    Change::Link(found) if found.device == "eth0" && !found.carrier => break,
                    Change::Link(_) | Change::LinkGone { .. } | Change::Neighbour(_) => {}
                }
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, lost).await??;
        hosts.node.ip("link del eth0\n")?;
        let gone = async {
            loop {
                match changes.next().await.context("no more changes")? {
                    Change::LinkGone { ifindex } if ifindex == link.ifindex => break,
                    Change::Link(_) | Change::LinkGone { .. } | Change::Neighbour(_) => {}
                }
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, gone).await?
    })
}

fn cidr(address: &str, prefix: u8) -> Result<Cidr> {
    let address = address.parse()?;
    Ok(Cidr { address, prefix })
}

/// Addresses but those that IPv6 makes itself.
async fn configured(netlink: &Netlink, ifindex: u32) -> Result<Vec<Cidr>> {
    let link_local = cidr("fe80::", 10)?;
    let mut found = netlink.addresses(ifindex).await?;
    found.retain(|found| !link_local.contains(found.address));
    Ok(found)
}

fn lifetime() -> Result<()> {
    lives_as_long_as_renewed(cidr("10.1.0.11", 24)?, cidr("10.1.0.1", 24)?)
}

fn lifetime6() -> Result<()> {
    lives_as_long_as_renewed(cidr("fd00:1::11", 64)?, cidr("fd00:1::1", 64)?)
}

fn lives_as_long_as_renewed(own: Cidr, shared: Cidr) -> Result<()> {
    let hosts = &Hosts::new()?;
    hosts.on_node(|netlink, _changes| async move {
        let eth0 = ifindex(&netlink).await?;
        let same_family = async || {
            let mut found = configured(&netlink, eth0).await?;
            found.retain(|found| found.address.is_ipv6() == own.address.is_ipv6());
            // The kernel lists IPv6 addresses newest first.
            found.sort_by_key(|found| found.address != own.address);
            anyhow::Ok(found)
        };
        let life = Duration::from_millis(2500);

        // Renewed well beyond its first lifetime, it stays.
        let started = clock::now();
        let mut left = started;
        while clock::now().since(started) < Duration::from_secs(5) {
            netlink.set_address(eth0, shared, Some(life)).await?;
            left = clock::now();
            assert_eq!(same_family().await?, [own, shared]);
            sleep(Duration::from_millis(500)).await;
        }
        // Then the kernel takes it away by itself.
        while same_family().await?.contains(&shared) {
            ensure!(
                clock::now().since(left) < PATIENCE,
                "the address outlives its lifetime"
            );
            sleep(Duration::from_millis(100)).await;
        }
        let lived = clock::now().since(left);
        assert!(
            lived > Duration::from_secs(1) && lived < Duration::from_secs(6),
            "{lived:?}"
        );

        netlink.set_address(eth0, shared, None).await?;
        netlink.remove_address(eth0, shared.address).await?;
        netlink.remove_address(eth0, shared.address).await?;
        assert_eq!(same_family().await?, [own], "the own address is left alone");
        Ok(())
    })
}

fn ip(node: &Netns, arguments: &str) -> Result<String> {
    node.output(Command::new("ip").args(arguments.split(' ')))
}

/// A shared IPv6 address is there at once, is no source of the node's own traffic, and does not
/// take the route of its subnet with it when it goes.
fn shared6() -> Result<()> {
    let hosts = &Hosts::new()?;
    hosts.on_node(|netlink, _changes| async move {
        let eth0 = ifindex(&netlink).await?;
        let shared = cidr("fd00:1::1", 64)?;
        // The kernel adds and marks routes a moment after the link is up.
        let end = clock::now() + PATIENCE;
        let before = loop {
            let routes = ip(&hosts.node, "-6 route show dev eth0")?;
            if routes.contains("fe80::") && !routes.contains("linkdown") {
                break routes;
            }
            ensure!(clock::now() < end, "{routes}");
            sleep(Duration::from_millis(20)).await;
        };
        let life = Some(Duration::from_secs(5));
        netlink.set_address(eth0, shared, life).await?;
        let shown = ip(&hosts.node, "-6 addr show dev eth0 to fd00:1::1")?;
        ensure!(!shown.contains("tentative"), "{shown}");
        ensure!(shown.contains("deprecated"), "{shown}");
        let after = ip(&hosts.node, "-6 route show dev eth0")?;
        assert_eq!(after, before);
        let started = clock::now();
        while configured(&netlink, eth0).await?.contains(&shared) {
            ensure!(clock::now().since(started) < PATIENCE, "it stays");
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(ip(&hosts.node, "-6 route show dev eth0")?, before);
        Ok(())
    })
}

fn routes() -> Result<()> {
    let hosts = Hosts::new()?;
    hosts.node.ip("route add 10.9.0.0/16 via 10.1.0.254\n\
         route add fd09::/16 via fd00:1::fe\n")?;
    hosts.on_node(|netlink, _changes| async move {
        let eth0 = ifindex(&netlink).await?;
        for (destination, next_hop) in [
            ("10.1.0.77", Some("10.1.0.77")),
            ("10.9.3.4", Some("10.1.0.254")),
            ("192.0.2.1", None),
            ("fd00:1::77", Some("fd00:1::77")),
            ("fd09::3:4", Some("fd00:1::fe")),
            ("2001:db8::1", None),
        ] {
            let wanted = next_hop.map(str::parse).transpose()?.map(|next_hop| Route {
                ifindex: eth0,
                next_hop,
            });
            assert_eq!(netlink.route(destination.parse()?).await?, wanted);
        }
        Ok(())
    })
}

fn neighbours(family: &str, server: IpAddr, shared: IpAddr) -> Result<()> {
    let hosts = &Hosts::new()?;
    // Doubt comes after half a second instead of half a minute.
    for (setting, value) in [
        ("base_reachable_time_ms", "500"),
        ("delay_first_probe_time", "1"),
    ] {
        let setting = format!("net/{family}/neigh/eth0/{setting}");
        hosts.node.sysctl(&setting, value)?;
    }
    hosts.on_node(|netlink, mut changes| async move {
        let eth0 = ifindex(&netlink).await?;
        let server = RealServer {
            address: server,
            port: Some(8080),
            weight: 1,
            connections_max: 0,
            source: None,
        };
        let service = VirtualService {
            name: "web".to_owned(),
            address: shared,
            ports: Ports::One(80),
            protocol: Protocol::Tcp,
            forwarding: Forwarding::Nat,
            scheduler: Scheduler::Mh,
            persistence: None,
            health: None,
            real_servers: vec![server],
            last_resort: None,
            on_down: OnDown::Keep,
            timeouts: Timeouts::default(),
            resteer: true,
        };
        let real = RealKey::new(&service, &server);
        let mut services = ServiceTable::new(1);
        services.configure(&[service])?;
        let id = services.lookup(&real).context("not configured")?.real.id;
        let fake = Arc::new(Fake::new(10));
        let own = BTreeMap::from([(eth0, [2, 0, 0, 0, 0, 1])]);
        let services = Arc::new(Mutex::new(services));
        let mut neighbours = Neighbours::new(netlink, services, Arc::<Fake>::clone(&fake), own);
        let value = || {
            fake.state()
                .reals
                .get(usize::from(id))
                .copied()
                .unwrap_or_default()
        };

        let known =
            |last: u8| move |real: &Real| real.hop_known == 1 && real.mac == [2, 0, 0, 0, 0, last];
        until(&mut neighbours, &mut changes, &value, known(0x21)).await?;
        assert_eq!(
            (value().ifindex, value().src_mac),
            (eth0, [2, 0, 0, 0, 0, 1])
        );

        // Another network card, silently: nobody sends anything that would tell.
        hosts
            .server
            .ip("link set eth0 address 02:00:00:00:00:99\n")?;
        let started = clock::now();
        until(&mut neighbours, &mut changes, &value, known(0x99)).await?;
        assert!(clock::now().since(started) < PATIENCE);

        // Gone for good: the kernel gets the packets, and with them the work of asking.
        hosts.server.ip("link set eth0 down\n")?;
        until(&mut neighbours, &mut changes, &value, |real| {
            real.hop_known == 0
        })
        .await
    })
}

/// Follows the kernel's changes, with a look at everything now and then, until the real server is
/// as wanted.
async fn until(
    neighbours: &mut Neighbours,
    changes: &mut Changes,
    value: &impl Fn() -> Real,
    wanted: impl Fn(&Real) -> bool,
) -> Result<()> {
    let end: Instant = clock::now() + PATIENCE;
    while !wanted(&value()) {
        ensure!(clock::now() < end, "{:?}", value());
        neighbours.refresh().await;
        while let Ok(change) = timeout(Duration::from_millis(200), changes.next()).await {
            if let Change::Neighbour(neighbour) = change.context("no more changes")? {
                neighbours.changed(neighbour);
            }
        }
    }
    Ok(())
}
