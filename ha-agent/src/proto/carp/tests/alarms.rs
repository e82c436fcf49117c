//! Conditions a person should know of, each with what it rests on.

use super::super::*;
use super::pair::*;
use crate::config::model::{CarpAuth, Mode};

fn raised(pair: &Pair, node: usize, alarm: Alarm) -> Option<Evidence> {
    let snapshot = pair.nodes[node].as_ref()?.snapshot();
    let found = snapshot
        .alarms
        .into_iter()
        .find(|each| each.alarm == alarm)?;
    Some(found.evidence)
}

fn told(pair: &Pair, node: usize, wanted: Alarm) -> usize {
    let tells = |(from, action): &&(usize, Action)| {
        *from == node && matches!(action, Action::Alarm { alarm, .. } if *alarm == wanted)
    };
    pair.log.iter().filter(tells).count()
}

/// Multicast is blocked on the production link, both nodes are well and hear each other on the cable.
#[test]
fn blocked_multicast_is_an_alarm_and_no_reason_to_move() {
    let mut pair = Pair::new();
    pair.run(ms(1000));
    let before = [pair.reasons(0), pair.reasons(1)];
    pair.cut = [[true, false]; 2];
    pair.run(TIMEOUT * 2);
    assert_eq!(raised(&pair, 0, Alarm::LinkSilent), None, "not at once");
    pair.run(TIMEOUT * 2);
    for node in 0..2 {
        let evidence = raised(&pair, node, Alarm::LinkSilent).unwrap();
        assert_eq!(evidence.links, ["front"]);
        assert_eq!(evidence.what, "front: neither node hears the other");
    }
    pair.run(TIMEOUT * 20);
    assert!(pair.settled(0), "no second active node and no move");
    assert_eq!(before, [pair.reasons(0), pair.reasons(1)]);
    pair.cut = [[false; 2]; 2];
    pair.run(TIMEOUT);
    for node in 0..2 {
        assert_eq!(raised(&pair, node, Alarm::LinkSilent), None);
        assert_eq!(told(&pair, node, Alarm::LinkSilent), 2, "begins and ends");
    }
}

#[test]
fn one_way_hearing_names_link_and_direction() {
    for link in 0..2 {
        let mut pair = Pair::new();
        pair.run(ms(1000));
        pair.cut[0][link] = true;
        pair.run(TIMEOUT * 4);
        let name = ["front", "cable"][link];
        let evidence = raised(&pair, 0, Alarm::OneWayHearing).unwrap();
        assert_eq!(evidence.links, [name]);
        assert!(
            evidence
                .what
                .ends_with("the partner does not hear this node")
        );
        let evidence = raised(&pair, 1, Alarm::OneWayHearing).unwrap();
        assert_eq!(evidence.links, [name]);
        assert!(
            evidence
                .what
                .ends_with("this node does not hear the partner")
        );
        assert_eq!(raised(&pair, 0, Alarm::LinkSilent), None);
        assert!(pair.settled(0));
    }
}

/// A link without a carrier is shown as such; that nobody hears anything on it is no news.
#[test]
fn a_dead_link_is_not_called_silent() {
    let mut pair = Pair::new();
    pair.run(ms(1000));
    pair.cut = [[false, true]; 2];
    pair.input(1, Input::Carrier { link: 1, up: false });
    pair.run(TIMEOUT * 5);
    for node in 0..2 {
        assert_eq!(raised(&pair, node, Alarm::LinkSilent), None);
        assert_eq!(raised(&pair, node, Alarm::OneWayHearing), None);
    }
}

#[test]
fn two_nodes_of_one_mode_are_told_apart_and_one_stays() {
    let mut pair = Pair::with(|node| ElectionConfig {
        mode: Mode::First,
        ..config(node)
    });
    pair.run(ms(2000));
    let active = usize::from(pair.open(1));
    assert!(pair.settled(active));
    let first = raised(&pair, active, Alarm::ModeConflict).unwrap();
    assert!(first.what.starts_with("this node came first"), "{first}");
    let later = raised(&pair, 1 - active, Alarm::ModeConflict).unwrap();
    assert!(later.what.starts_with("the partner came first"), "{later}");
    assert!(later.source.is_some() && later.links.len() == 1);
    pair.input(1 - active, Input::Ready(true));
    pair.run(ms(200));
    pair.command(active, Command::Failover);
    assert!(
        pair.log
            .contains(&(active, Action::Refused(Refusal::SameMode)))
    );
    let carrier = Input::Carrier { link: 0, up: false };
    pair.input(active, carrier);
    pair.run(ms(2000));
    assert!(pair.settled(active), "the later one refuses");
    pair.power_off(active);
    pair.run(ms(1000));
    assert!(pair.open(1 - active), "but it is better than none");
}

#[test]
fn different_settings_are_told_with_both_values() {
    let mut pair = Pair::with(|node| ElectionConfig {
        interval: [ms(100), ms(50)][node],
        generation: [1, 2][node],
        ..config(node)
    });
    pair.run(ms(1000));
    let timing = raised(&pair, 0, Alarm::TimingDiffers).unwrap();
    assert_eq!(
        timing.what,
        "interval 100ms and timeout 300ms here, 50ms and 300ms there"
    );
    let generation = raised(&pair, 0, Alarm::ConfigurationDiffers).unwrap();
    assert_eq!(generation.what, "digest 1 here, 2 there");
    pair.input(1, Input::Generation(1));
    pair.run(ms(200));
    assert_eq!(raised(&pair, 0, Alarm::ConfigurationDiffers), None);
}

/// Recorded or foreign packets that prove nothing are named, and forgotten when they end.
#[test]
fn what_anybody_may_have_sent_is_told_once_and_ends() {
    let mut pair = Pair::with(|node| ElectionConfig {
        auth: CarpAuth::Enforce,
        ..config(node)
    });
    pair.run(ms(1000));
    let good = pair.sent.iter().find(|packet| packet.advert).cloned();
    let good = good.unwrap();
    let spoiled = |at: usize, value: u8, length: usize| {
        let mut packet = good.clone();
        packet.payload[at] = value;
        packet.payload.truncate(length);
        packet
    };
    let whole = good.payload.len();
    let cases = [
        (Alarm::VersionMismatch, spoiled(36 + 4, 2, whole)),
        (Alarm::UnsignedPeer, spoiled(0, 0x21, 36)),
    ];
    for (alarm, packet) in cases {
        for _ in 0..5 {
            pair.hand(1, &packet);
        }
        let evidence = raised(&pair, 1, alarm).unwrap();
        assert_eq!(evidence.links, ["front"]);
        assert_eq!(evidence.source, Some(address(0, 0)));
        assert_eq!(told(&pair, 1, alarm), 1);
        pair.run(ms(11_000));
        assert_eq!(raised(&pair, 1, alarm), None);
    }
    assert!(pair.settled(0));
}

#[test]
fn other_shared_addresses_are_seen_in_the_digest() {
    let mut pair = Pair::with(|node| {
        let mut config = config(node);
        if node == 0 {
            config.links[0].shared = vec![address(7, 0)];
        }
        config
    });
    pair.run(ms(1000));
    let evidence = raised(&pair, 1, Alarm::CarpGroupDiffers).unwrap();
    assert_eq!(evidence.links, ["front"]);
    assert_eq!(evidence.source, Some(address(0, 0)));
    assert!(pair.settled(0), "the trailer is what counts");
}

/// The first words of a partner that starts are a stranger's.
#[test]
fn who_does_not_answer_is_told_of_and_who_starts_is_not() {
    let deaf = [[true; 2], [false; 2]];
    let mut pair = Pair::new();
    pair.run(ms(1000));
    pair.power_off(1);
    pair.run(TIMEOUT * 2);
    pair.cut = deaf;
    pair.start(1, config(1), 0);
    pair.run(TIMEOUT / 2);
    pair.cut = [[false; 2]; 2];
    pair.run(TIMEOUT * 3);
    assert_eq!(told(&pair, 0, Alarm::UnverifiedPartner), 0);

    pair.power_off(1);
    pair.run(TIMEOUT * 2);
    pair.cut = deaf;
    let waits = ElectionConfig {
        initial_wait: TIMEOUT * 5,
        ..config(1)
    };
    pair.start(1, waits, 0);
    pair.run(TIMEOUT * 2);
    let evidence = raised(&pair, 0, Alarm::UnverifiedPartner).unwrap();
    assert_eq!(
        evidence.what,
        "signed with the pair's key, but this node's questions go unanswered"
    );
    assert!(evidence.source.is_some() && evidence.links.len() == 1);
    pair.cut = [[false; 2]; 2];
    pair.run(TIMEOUT);
    assert_eq!(raised(&pair, 0, Alarm::UnverifiedPartner), None);
}
