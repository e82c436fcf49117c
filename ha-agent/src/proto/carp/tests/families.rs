//! Links with IPv4, with IPv6 and with both.

use std::net::{IpAddr, Ipv4Addr};

use super::super::wire::{Group, Header};
use super::super::*;
use super::pair::*;

fn v6(host: u16) -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host])
}

fn own6(node: usize) -> IpAddr {
    v6(11 + node as u16)
}

fn dual(node: usize) -> ElectionConfig {
    let mut config = config(node);
    let front = &mut config.links[0];
    front.addresses.push(own6(node));
    front.partners.push(own6(1 - node));
    front.shared.push(v6(100));
    config
}

fn only6(node: usize) -> ElectionConfig {
    let mut config = config(node);
    let front = &mut config.links[0];
    front.addresses = vec![own6(node)];
    front.partners = vec![own6(1 - node)];
    front.shared = vec![v6(100)];
    config
}

fn sources(pair: &Pair, advert: bool) -> Vec<IpAddr> {
    let front = pair.sent.iter().filter(|packet| packet.link == 0);
    let mut sources: Vec<IpAddr> = front
        .filter(|packet| packet.advert == advert)
        .map(|packet| packet.source)
        .collect();
    sources.sort_unstable();
    sources.dedup();
    sources
}

#[test]
fn two_families_are_advertised_side_by_side_with_one_digest() {
    let mut pair = Pair::with(dual);
    pair.run(ms(1050));
    assert!(pair.settled(0));
    assert_eq!(sources(&pair, true), [address(0, 0), own6(0)]);
    assert_eq!(
        sources(&pair, false),
        [address(0, 0), address(1, 0)],
        "one HELLO a link, over IPv4 where there is any"
    );
    let group = Group::new(b"secret", 110, &[v6(100), SHARED]);
    let adverts: Vec<&Packet> = pair.sent.iter().filter(|packet| packet.advert).collect();
    let count = |v6: bool| {
        let family = adverts
            .iter()
            .filter(|packet| packet.source.is_ipv6() == v6);
        family.count()
    };
    assert_eq!(count(false), count(true));
    for packet in adverts {
        assert!(group.verify(&Header::decode(&packet.payload).unwrap()));
    }
    let rejected = |node: usize, counter: Counter| {
        let snapshot = pair.nodes[node].as_ref().unwrap().snapshot();
        snapshot
            .counters
            .get(counter.as_str())
            .copied()
            .unwrap_or(0)
    };
    assert_eq!(rejected(1, Counter::UnexpectedSource), 0);
    assert_eq!(rejected(1, Counter::Replayed), 0);
}

#[test]
fn a_pair_without_ipv4_elects_and_fails_over() {
    let mut pair = Pair::with(only6);
    pair.run(ms(1050));
    assert!(pair.settled(0));
    assert_eq!(sources(&pair, true), [own6(0)]);
    assert_eq!(sources(&pair, false), [own6(0), own6(1)]);
    pair.power_off(0);
    pair.until(TIMEOUT + INTERVAL, |pair| pair.open(1));
}

#[test]
fn a_packet_cannot_change_its_family_or_its_sender() {
    let mut pair = Pair::with(dual);
    pair.run(ms(1050));
    let active_on_6 = |packet: &&Packet| packet.advert && packet.source == own6(0);
    pair.cut[0][0] = true;
    pair.run(ms(50));
    let original = pair.sent.iter().rev().find(active_on_6).unwrap().clone();
    for (source, counter) in [
        (address(0, 0), Counter::BadTag),
        (v6(77), Counter::BadTag),
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Counter::BadTag),
    ] {
        let count = |pair: &Pair| {
            let snapshot = pair.nodes[1].as_ref().unwrap().snapshot();
            snapshot
                .counters
                .get(counter.as_str())
                .copied()
                .unwrap_or(0)
        };
        let before = count(&pair);
        let moved = Packet {
            source,
            ..original.clone()
        };
        pair.hand(1, &moved);
        assert_eq!(count(&pair), before + 1, "{source}");
    }
    // Whole, but on a link where nobody has that address.
    let moved = Packet {
        link: 1,
        ..original
    };
    pair.hand(1, &moved);
    let snapshot = pair.nodes[1].as_ref().unwrap().snapshot();
    let name = Counter::UnexpectedSource.as_str();
    assert_eq!(snapshot.counters.get(name), Some(&1));
}

/// The advertisements of one family vanish: the other one keeps the pair together, and the alarm names what
/// is missing.
#[test]
fn a_family_that_is_not_heard_is_an_alarm() {
    let mut pair = Pair::with(dual);
    pair.until(ms(1000), |pair| pair.settled(0));
    pair.run(TIMEOUT * 4);
    let alarm = |pair: &Pair| {
        let alarms = pair.nodes[1].as_ref().unwrap().snapshot().alarms;
        let mut found = alarms
            .into_iter()
            .filter(|each| each.alarm == Alarm::FamilySilent);
        found.next().map(|each| each.evidence)
    };
    assert_eq!(alarm(&pair), None);
    pair.deaf_family = Some(true);
    pair.run(TIMEOUT);
    assert_eq!(alarm(&pair), None, "it may be a few lost packets");
    pair.run(TIMEOUT * 2);
    let evidence = alarm(&pair).unwrap();
    assert_eq!(evidence.links, ["front"]);
    assert_eq!(evidence.what, "front: no IPv6");
    assert!(pair.settled(0), "the role stays");
    pair.deaf_family = None;
    pair.run(ms(200));
    assert_eq!(alarm(&pair), None);
    pair.deaf_family = Some(false);
    pair.run(TIMEOUT * 3);
    assert_eq!(alarm(&pair).unwrap().what, "front: no IPv4");
    pair.power_off(0);
    pair.run(TIMEOUT * 2);
    assert_eq!(alarm(&pair), None, "nobody advertises any more");
}
