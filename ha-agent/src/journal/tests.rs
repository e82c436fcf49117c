//! Text and back, hostile text, and journals of a real pair.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::line::{Begin, Happened, Line, Resume, Setup};
use super::{StandIn, bless, decode, replay};
use crate::config::model::{CarpAuth, Mode, Preferred};
use crate::proto::carp::{
    Action, Alarm, Command, Election, ElectionConfig, ElectionKeys, Evidence, LinkConfig, Refusal,
    Role, RoleReason,
};
use crate::proto::rng::Rng;
use crate::proto::time::Instant;

const START: Instant = Instant::from_nanos(1_000_000_000);

fn address(node: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, 11 + node as u8])
}

fn config(node: usize) -> ElectionConfig {
    ElectionConfig {
        mode: [Mode::First, Mode::Second][node],
        vhid: 110,
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(300),
        initial_wait: Duration::ZERO,
        hold_down: Duration::from_secs(1),
        preferred: Preferred::None,
        auth: CarpAuth::Enforce,
        generation: 1,
        start_pacified: false,
        start_maintenance: false,
        links: vec![LinkConfig {
            name: "front".to_owned(),
            addresses: vec![address(node)],
            partners: vec![address(1 - node)],
            shared: vec![[10, 0, 0, 100].into()],
            has_gateway: true,
        }],
    }
}

fn keys() -> ElectionKeys {
    ElectionKeys {
        carp_passphrase: b"very secret".to_vec(),
        trailer: vec![(3, *b"sixteen secrets!"), (4, *b"another one of 8")],
    }
}

/// Two machines on a wire without delay; everything that happens to the first one is written down.
struct Pair {
    now: Instant,
    nodes: [Election; 2],
    journal: Vec<Line>,
}

impl Pair {
    fn new() -> Self {
        let seeds = [1, 2];
        let begin = Begin {
            config: config(0),
            keys: (&keys()).into(),
            seed: 1,
            first_term: 0,
        };
        Self {
            now: START,
            nodes: [0, 1]
                .map(|node| Election::new(config(node), keys(), Rng::new(seeds[node]), 0, START)),
            journal: vec![Line::Setup(START, Setup::Begin(Box::new(begin)))],
        }
    }

    fn happen(&mut self, node: usize, happened: &Happened) {
        let mut out = Vec::new();
        match happened.input() {
            Some(input) => self.nodes[node].handle_input(self.now, input, &mut out),
            None => self.nodes[node].handle_timeout(self.now, &mut out),
        }
        if node == 0 {
            self.journal.push(Line::Input(self.now, happened.clone()));
            let lines = out
                .iter()
                .map(|action| Line::Output(self.now, action.clone()));
            self.journal.extend(lines);
        }
        let at = self.now;
        for action in out {
            let delivered = match action {
                Action::SendAdvert {
                    link,
                    source,
                    payload,
                } => Happened::Advert {
                    link,
                    source,
                    at,
                    payload,
                },
                Action::SendHello {
                    link,
                    source,
                    payload,
                } => Happened::Hello {
                    link,
                    source,
                    at,
                    payload,
                },
                Action::ReserveTerm { up_to } => {
                    self.happen(node, &Happened::TermReserved(up_to));
                    continue;
                }
                Action::Gate(_)
                | Action::HandOver { .. }
                | Action::ClaimAddresses
                | Action::ReleaseAddresses
                | Action::Announce
                | Action::RoleChanged { .. }
                | Action::Alarm { .. }
                | Action::Refused(_)
                | Action::Reexec(_)
                | Action::Stopped => continue,
            };
            self.happen(1 - node, &delivered);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self
                .nodes
                .each_ref()
                .map(|node| node.poll_timeout().unwrap());
            let node = usize::from(due[1] < due[0]);
            if due[node] > end {
                break;
            }
            self.now = self.now.max(due[node]);
            self.happen(node, &Happened::Timer);
        }
        self.now = end;
    }

    fn resume(&mut self, keys: &ElectionKeys) {
        self.journal.clear();
        let resume = Resume {
            keys: keys.into(),
            machine: self.nodes[0].clone(),
        };
        self.journal
            .push(Line::Setup(self.now, Setup::State(Box::new(resume))));
    }
}

/// A story with a hand-over there and back, and packets that are not genuine.
fn story(pair: &mut Pair) {
    pair.run(Duration::from_millis(450));
    pair.happen(1, &Happened::Ready(true));
    pair.run(Duration::from_millis(150));
    pair.happen(0, &Happened::Command(Command::Failover));
    pair.run(Duration::from_millis(350));
    let genuine: Vec<Happened> = pair
        .journal
        .iter()
        .filter_map(|line| match line {
            Line::Input(_, happened @ (Happened::Advert { .. } | Happened::Hello { .. })) => {
                Some(happened.clone())
            }
            Line::Comment(_)
            | Line::Setup(..)
            | Line::Input(..)
            | Line::Output(..)
            | Line::Account(..) => None,
        })
        .collect();
    for (index, happened) in genuine.into_iter().enumerate() {
        let mut forged = happened;
        if let Happened::Advert { payload, .. } | Happened::Hello { payload, .. } = &mut forged {
            let place = (index * 7) % payload.len();
            payload[place] ^= 1 << (index % 8);
        }
        pair.happen(0, &forged);
    }
    pair.happen(0, &Happened::Ready(true));
    pair.run(Duration::from_millis(250));
    pair.happen(1, &Happened::Command(Command::Failover));
    pair.run(Duration::from_millis(250));
}

fn text(journal: &[Line]) -> String {
    let lines: Vec<String> = journal.iter().map(Line::to_string).collect();
    lines.join("\n")
}

#[test]
fn a_journal_is_read_back_and_replayed() {
    let mut pair = Pair::new();
    story(&mut pair);
    let text = text(&pair.journal);
    assert!(pair.nodes[0].snapshot().gate_open);
    assert!(text.lines().count() > 100);
    replay(&decode(&text).unwrap()).unwrap();
}

#[test]
fn a_running_machine_is_resumed() {
    let mut pair = Pair::new();
    pair.run(Duration::from_millis(730));
    pair.resume(&keys());
    story(&mut pair);
    replay(&decode(&text(&pair.journal)).unwrap()).unwrap();
}

/// What a live node writes down: no secret of it, and yet the machine does the same and counts the same.
#[test]
fn stand_ins_change_nothing_but_signatures() {
    let mut pair = Pair::new();
    pair.run(Duration::from_millis(730));
    let stand_in = StandIn::new(&config(0), &keys());
    pair.resume(stand_in.keys());
    let before = pair.nodes[0].snapshot().counters;
    let secrets = text(&pair.journal);
    story(&mut pair);
    let mut disguised = pair.journal.clone();
    for line in &mut disguised {
        match line {
            Line::Input(_, happened) => stand_in.input(happened),
            Line::Output(_, action) => stand_in.output(action),
            Line::Comment(_) | Line::Setup(..) | Line::Account(..) => {}
        }
    }
    let public = text(&disguised);
    replay(&decode(&public).unwrap()).unwrap();
    // The same fates.
    let mut player = super::Player::new(false);
    for line in decode(&public).unwrap() {
        match line {
            Line::Setup(at, setup) => player.set_up(at, &setup),
            Line::Input(at, happened) => drop(player.play(at, &happened)),
            Line::Comment(_) | Line::Output(..) | Line::Account(..) => {}
        }
    }
    let after = pair.nodes[0].snapshot().counters;
    let replayed = player.machine().unwrap().snapshot().counters;
    for (name, count) in after {
        assert_eq!(count - before[name], replayed[name], "{name}");
    }
    // No signature of the true keys is left in it.
    for (line, disguised) in pair.journal.iter().zip(&disguised) {
        let (Line::Output(_, Action::SendHello { payload, .. }), Line::Output(_, other)) =
            (line, disguised)
        else {
            continue;
        };
        assert!(matches!(other, Action::SendHello { payload: other, .. }
            if other[..76] == payload[..76] && other[76..] != payload[76..]));
    }
    for word in ["very secret", "7369787465656e", "sixteen"] {
        assert!(!public.contains(word) && !secrets.contains(word));
    }
}

#[test]
fn the_first_difference_is_shown_with_what_came_before() {
    let mut pair = Pair::new();
    pair.run(Duration::from_millis(250));
    let mut journal = pair.journal;
    let place = journal
        .iter()
        .position(|line| matches!(line, Line::Output(_, Action::Announce)))
        .unwrap();
    let Line::Output(at, _) = journal[place] else {
        panic!("just found");
    };
    journal[place] = Line::Output(at, Action::Stopped);
    let difference = replay(&journal).unwrap_err();
    assert_eq!(difference.line, place + 1);
    let text = difference.to_string();
    assert!(text.contains("- 1.012500000 > stopped"), "{text}");
    assert!(text.contains("+ 1.012500000 > announce"), "{text}");
    assert!(text.contains("claim_addresses"), "{text}");
    replay(&bless(&journal)).unwrap();
}

#[test]
fn errors_have_a_place() {
    for (line, column, what) in [
        ("x", 1, "expected a time"),
        ("1.0 < timer", 1, "nine decimals"),
        ("1.00000000x < timer", 1, "nine decimals"),
        ("99999999999999.000000000 < timer", 1, "nine decimals"),
        ("1.000000000 timer", 13, "expected a mark"),
        ("1.000000000 ? timer", 13, "none of"),
        ("1.000000000 < Timer", 15, "is not a name"),
        ("1.000000000 < timr", 15, "unknown variant"),
        ("1.000000000 < carrier", 15, ""),
        (r#"1.000000000 < carrier {"link":0}"#, 32, "missing field"),
        (
            r#"1.000000000 < carrier {"link":0,"up":7}"#,
            39,
            "invalid type",
        ),
        (
            r#"1.000000000 < carrier {"link":0,"up":true} x"#,
            43,
            "expected the end",
        ),
        (r#"1.000000000 < carrier {"link":0,"#, 33, ""),
        (
            r#"1.000000000 < carrier {"link":0,"up":true,"z":1}"#,
            45,
            "unknown field",
        ),
        (
            r#"1.000000000 < hello {"link":0,"source":"10.0.0.1","at":1,"payload":"123"}"#,
            73,
            "hexadecimal",
        ),
    ] {
        let error = decode(&format!("# first\n{line}\n")).unwrap_err();
        assert_eq!(error.line, 2, "{line}");
        assert!(error.what.contains(what), "{line}: {error}");
        assert!(
            error.column.abs_diff(column) <= 1,
            "{line}: {error} instead of column {column}"
        );
    }
}

fn any_instant() -> impl Strategy<Value = Instant> + Clone {
    any::<u64>().prop_map(Instant::from_nanos)
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> + Clone {
    proptest::collection::vec(any::<u8>(), 0..160)
}

fn any_input() -> impl Strategy<Value = Happened> {
    let packet = (
        any::<usize>(),
        any::<IpAddr>(),
        any_instant(),
        any_payload(),
    );
    prop_oneof![
        Just(Happened::Timer),
        packet
            .clone()
            .prop_map(|(link, source, at, payload)| Happened::Advert {
                link,
                source,
                at,
                payload
            }),
        packet.prop_map(|(link, source, at, payload)| Happened::Hello {
            link,
            source,
            at,
            payload
        }),
        any::<(usize, bool)>().prop_map(|(link, up)| Happened::Carrier { link, up }),
        any::<(usize, bool)>().prop_map(|(link, reachable)| Happened::Gateway { link, reachable }),
        any::<(usize, bool)>().prop_map(|(link, heard)| Happened::Multicast { link, heard }),
        any::<bool>().prop_map(Happened::Ready),
        any::<bool>().prop_map(Happened::Disputed),
        any::<u64>().prop_map(Happened::Generation),
        any::<u64>().prop_map(Happened::TermReserved),
        any::<u64>().prop_map(Happened::Overtaken),
        Just(Happened::Command(Command::Maintenance(true))),
        Just(Happened::Command(Command::Stop)),
    ]
}

fn any_action() -> impl Strategy<Value = Action> {
    let packet = (any::<usize>(), any::<IpAddr>(), any_payload());
    prop_oneof![
        proptest::option::of(any_instant()).prop_map(Action::Gate),
        any::<u64>().prop_map(|until| Action::HandOver {
            until: Instant::from_nanos(until),
        }),
        Just(Action::ClaimAddresses),
        packet
            .clone()
            .prop_map(|(link, source, payload)| Action::SendAdvert {
                link,
                source,
                payload
            }),
        packet.prop_map(|(link, source, payload)| Action::SendHello {
            link,
            source,
            payload
        }),
        any::<u64>().prop_map(|up_to| Action::ReserveTerm { up_to }),
        any::<u64>().prop_map(|term| Action::RoleChanged {
            from: Role::Init,
            to: Role::Maintenance,
            reason: RoleReason::ForeignGone,
            term
        }),
        any::<bool>().prop_map(|raised| Action::Alarm {
            alarm: Alarm::ModeConflict,
            evidence: Evidence::default(),
            raised
        }),
        Just(Action::Refused(Refusal::NotActive)),
        Just(Action::Stopped),
    ]
}

proptest! {
    #[test]
    fn round_trip(at in any_instant(), input in any_input(), action in any_action()) {
        let text = text(&[Line::Input(at, input.clone()), Line::Output(at, action.clone())]);
        let lines = decode(&text).unwrap();
        match lines.as_slice() {
            [Line::Input(at_in, input_in), Line::Output(at_out, action_out)] => {
                prop_assert_eq!((*at_in, *at_out), (at, at));
                prop_assert_eq!((input_in, action_out), (&input, &action));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text: String) {
        if let Err(error) = decode(&text) {
            prop_assert!(error.line >= 1 && error.column >= 1);
        }
    }

    #[test]
    fn damaged_lines_never_panic(
        place in any::<proptest::sample::Index>(),
        byte in 32u8..127,
        input in any_input(),
    ) {
        let mut text = text(&[Line::Input(START, input)]).into_bytes();
        let place = place.index(text.len());
        text[place] = byte;
        if let Err(error) = decode(&String::from_utf8(text).unwrap()) {
            prop_assert!(error.line >= 1 && error.column >= 1);
        }
    }

    /// Whatever a log says, running it does no harm.
    #[test]
    fn any_inputs_can_be_played(inputs in proptest::collection::vec((any_instant(), any_input()), 0..40)) {
        let mut journal = Pair::new().journal;
        journal.extend(inputs.into_iter().map(|(at, input)| Line::Input(at, input)));
        replay(&bless(&journal)).unwrap();
    }

    /// Stand-ins take any packet.
    #[test]
    fn any_packet_can_be_disguised(mut input in any_input()) {
        StandIn::new(&config(0), &keys()).input(&mut input);
    }
}
