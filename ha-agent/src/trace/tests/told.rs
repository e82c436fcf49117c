//! What the trace tells of a packet's way.

use ha_common::service::{Forwarding, Scheduler};
use ha_ebpf::parse::transport::flag;

use super::scene::{FRONT, ROUTER, Scene, addressed};
use crate::trace::model::{Entry, Topic, Trace};

fn answers(trace: &Trace, topic: Topic) -> Vec<String> {
    let steps = trace.steps.iter().filter(|step| step.topic == topic);
    steps
        .map(|step| format!("{}: {}", step.about, step.answer))
        .collect()
}

fn rewritten<'a>(trace: &'a Trace, field: &str) -> Option<[Option<&'a str>; 2]> {
    let rewrite = trace.outcome.rewrite.iter();
    let mut found = rewrite.filter(|rewritten| rewritten.field == field);
    let found = found.next()?;
    Some([found.before.as_deref(), found.after.as_deref()])
}

fn syn(scene: &Scene) -> Vec<u8> {
    addressed(&scene.request(Some(flag::SYN)), ROUTER)
}

#[test]
fn who_is_tried_and_why_others_are_refused() {
    let scene = Scene::new(false, Forwarding::Nat);
    let trace = scene.trace(syn(&scene), FRONT);
    assert_eq!(trace.programs, ["ha_xdp", "ha_flow4"]);
    assert_eq!(
        answers(&trace, Topic::Slot),
        [
            "0: 10.1.0.19:8080",
            "1: 10.1.0.31:8080",
            "2: 10.1.0.23:8080"
        ]
    );
    assert_eq!(
        answers(&trace, Topic::Refused),
        [
            "10.1.0.19:8080: down",
            "10.1.0.31:8080: has 1 of 1 connections"
        ]
    );
    let outcome = &trace.outcome;
    assert_eq!(outcome.service.as_deref(), Some("web"));
    assert_eq!(outcome.real_server.as_deref(), Some("10.1.0.23:8080"));
    assert_eq!(outcome.entry, Entry::NewHalfOpen);
    assert_eq!(outcome.leaves_through.as_deref(), Some("eth1"));
    assert_eq!(
        rewritten(&trace, "destination"),
        Some([Some("10.0.0.100"), Some("10.1.0.23")])
    );
    assert_eq!(
        rewritten(&trace, "destination port"),
        Some([Some("80"), Some("8080")])
    );
    assert_eq!(
        rewritten(&trace, "time to live"),
        Some([Some("64"), Some("63")])
    );
    assert_eq!(rewritten(&trace, "source"), None);
}

#[test]
fn nobody_is_left() {
    let scene = Scene::new(false, Forwarding::Nat);
    for (id, mut real) in scene.tables.reals.all() {
        real.state = 3;
        scene.tables.reals.put(id, real);
    }
    let trace = scene.trace(syn(&scene), FRONT);
    assert_eq!(trace.outcome.reason, "no_real_server");
    assert_eq!(answers(&trace, Topic::Refused).len(), 3, "{trace:#?}");
    assert_eq!(trace.outcome.real_server, None);
    assert_eq!(trace.outcome.rewrite, []);
}

#[test]
fn comparing_is_not_trying() {
    let scene = Scene::new(false, Forwarding::Nat);
    for (key, mut service) in scene.tables.v4.services.all() {
        service.scheduler = Scheduler::Lc as u8;
        scene.tables.v4.services.put(key, service);
    }
    let trace = scene.trace(syn(&scene), FRONT);
    let slots = answers(&trace, Topic::Slot);
    let compared = slots.iter().filter(|slot| slot.ends_with("is compared"));
    assert_eq!(compared.count(), 3, "{slots:?}");
    assert_eq!(answers(&trace, Topic::Refused), [""; 0]);
}

#[test]
fn a_tunnel_is_shown_by_its_outer_header() {
    for v6 in [false, true] {
        let scene = Scene::new(v6, Forwarding::Tunnel);
        let trace = scene.trace(syn(&scene), FRONT);
        let vip = scene.vip.to_string();
        let up = scene.up.to_string();
        assert_eq!(
            rewritten(&trace, "outer source"),
            Some([None, Some(&*vip)]),
            "{trace:#?}"
        );
        assert_eq!(
            rewritten(&trace, "outer destination"),
            Some([None, Some(&*up)])
        );
        assert_eq!(rewritten(&trace, "destination"), None);
    }
}

#[test]
fn what_a_connection_would_become() {
    let scene = Scene::new(false, Forwarding::Nat);
    let datagram = addressed(&scene.request(None), ROUTER);
    let (first, _) = scene.pass(datagram.clone(), FRONT);
    assert_eq!(first.outcome.entry, Entry::NewConnection);
    assert_eq!(answers(&first, Topic::Add).len(), 2, "both directions");
    let told = answers(&first, Topic::Tell);
    assert!(
        told.contains(&"replication: a connection began".to_owned()),
        "{told:?}"
    );

    // From another router: the way back is learnt anew, in both entries.
    let mut moved = datagram;
    moved[11] = 0x51;
    let (second, _) = scene.pass(moved, FRONT);
    assert_eq!(second.outcome.entry, Entry::Connection);
    let changes = second
        .steps
        .iter()
        .filter(|step| step.topic == Topic::Change);
    let ways: Vec<_> = changes
        .filter_map(|step| step.details.get("way_to_client"))
        .collect();
    assert_eq!(ways.len(), 2, "{second:#?}");
    assert!(ways[0].contains("02:00:00:00:00:51"), "{ways:?}");
}

#[test]
fn why_the_gate_is_closed() {
    let scene = Scene::new(false, Forwarding::Nat);
    let mut gate = scene.tables.gate.get(&()).unwrap();
    (gate.term, gate.overtaken) = (4, 5);
    scene.tables.gate.put((), gate);
    let trace = scene.trace(syn(&scene), FRONT);
    let gates = answers(&trace, Topic::Gate);
    assert_eq!(gates, [": closed: the partner is active in a higher term"]);
    assert_eq!(trace.outcome.entry, Entry::None);
}
