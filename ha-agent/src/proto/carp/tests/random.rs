//! Random inputs, forged ones and such of a partner that lies, against one machine. What must hold
//! after each of them is checked by [`Scripted`].

use std::time::Duration;

use proptest::prelude::*;

use super::super::trailer::WireRole;
use super::super::*;
use super::pair::{SHARED, address};
use super::scripted::Scripted;

#[derive(Clone, Debug)]
enum Step {
    /// The partner says something that makes sense by itself.
    Say {
        role: WireRole,
        flags: u16,
        term: u64,
        health: u32,
        heard: (u16, u16),
        ready: bool,
        timeout_us: u32,
        same_mode: bool,
        deaf: bool,
    },
    /// It starts anew.
    Restart,
    /// Somebody sends bytes.
    Noise {
        advert: bool,
        link: usize,
        payload: Vec<u8>,
    },
    /// What the machine sent comes back, spoiled in one place or not.
    Echo {
        at: usize,
        bit: u8,
    },
    /// Time passes; timers are on time.
    Run(u16),
    /// Time passes, and the node was frozen.
    Freeze(u16),
    Carrier(usize, bool),
    Gateway(bool),
    Ready(bool),
    Generation(u64),
    TermReserved(u64),
    Overtaken(u64),
    Command(Command),
}

fn step() -> impl Strategy<Value = Step> {
    use WireRole::{Active, Init, Maintenance, Pacified, Standby};
    let roles = prop::sample::select(vec![Init, Standby, Standby, Active, Pacified, Maintenance]);
    let says = (
        (
            roles,
            any::<u16>(),
            0..2000u64,
            any::<u32>(),
            any::<(u16, u16)>(),
        ),
        (
            any::<bool>(),
            1..900_000u32,
            prop::bool::weighted(0.1),
            prop::bool::weighted(0.2),
        ),
    );
    let say = says.prop_map(
        |((role, flags, term, health, heard), (ready, timeout_us, same_mode, deaf))| Step::Say {
            role,
            // Release, question and the flags of a replacement, seldom any.
            flags: if flags & 0xff < 40 { flags >> 8 } else { 0 },
            term,
            health,
            heard,
            ready,
            timeout_us,
            same_mode,
            deaf,
        },
    );
    let noise = (
        any::<bool>(),
        0..4usize,
        prop::collection::vec(any::<u8>(), 0..200),
    );
    let commands = prop::sample::select(vec![
        Command::Failover,
        Command::Maintenance(true),
        Command::Maintenance(false),
        Command::MaintenanceAnyway,
        Command::Resume,
        Command::Reexec,
    ]);
    prop_oneof![
        12 => say,
        1 => Just(Step::Restart),
        2 => noise.prop_map(|(advert, link, payload)| Step::Noise { advert, link, payload }),
        2 => (0..140usize, 0..9u8).prop_map(|(at, bit)| Step::Echo { at, bit }),
        8 => (0..400u16).prop_map(Step::Run),
        1 => (0..1000u16).prop_map(Step::Freeze),
        2 => (0..3usize, any::<bool>()).prop_map(|(link, up)| Step::Carrier(link, up)),
        1 => any::<bool>().prop_map(Step::Gateway),
        1 => any::<bool>().prop_map(Step::Ready),
        1 => (0..3u64).prop_map(Step::Generation),
        1 => (0..4000u64).prop_map(Step::TermReserved),
        1 => (0..3000u64).prop_map(Step::Overtaken),
        1 => commands.prop_map(Step::Command),
    ]
}

fn take(node: &mut Scripted, step: Step) {
    let now = node.now;
    match step {
        Step::Say {
            role,
            flags,
            term,
            health,
            heard,
            ready,
            timeout_us,
            same_mode,
            deaf,
        } => node.say(|body| {
            (body.role, body.flags, body.term, body.ready) = (role, flags, term, ready);
            (body.health, body.timeout_us) = (health, timeout_us);
            (body.recent, body.heard) = heard;
            body.mode = if same_mode { 1 } else { 2 };
            if deaf {
                body.echo_epoch = 0;
            }
        }),
        Step::Restart => node.epoch += 1,
        Step::Noise {
            advert,
            link,
            payload,
        } => packet(node, advert, link, &payload),
        Step::Echo { at, bit } => {
            let sent = node.out.iter().rev().find_map(|action| {
                if let Action::SendAdvert { link, payload, .. } = action {
                    Some((true, *link, payload.clone()))
                } else if let Action::SendHello { link, payload, .. } = action {
                    Some((false, *link, payload.clone()))
                } else {
                    None
                }
            });
            if let Some((advert, link, mut payload)) = sent {
                if let Some(byte) = payload.get_mut(at) {
                    *byte ^= u8::try_from(1u16 << bit & 0xff).unwrap();
                }
                packet(node, advert, link, &payload);
            }
        }
        Step::Run(millis) => node.run(Duration::from_millis(millis.into())),
        Step::Freeze(millis) => {
            node.now = now + Duration::from_millis(millis.into());
            node.call(None);
        }
        Step::Carrier(link, up) => node.call(Some(Input::Carrier { link, up })),
        Step::Gateway(reachable) => node.call(Some(Input::Gateway { link: 0, reachable })),
        Step::Ready(ready) => node.call(Some(Input::Ready(ready))),
        Step::Generation(generation) => node.call(Some(Input::Generation(generation))),
        Step::TermReserved(up_to) => node.call(Some(Input::TermReserved(up_to))),
        Step::Overtaken(term) => node.call(Some(Input::Overtaken(term))),
        Step::Command(command) => node.call(Some(Input::Command(command))),
    }
}

fn packet(node: &mut Scripted, advert: bool, link: usize, payload: &[u8]) {
    let (source, at) = ([address(1, 0), SHARED][link % 2], node.now);
    node.call(Some(if advert {
        Input::Advert {
            link,
            source,
            payload,
            at,
        }
    } else {
        Input::Hello {
            link,
            source,
            payload,
            at,
        }
    }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn whatever_comes_the_machine_stays_sane_and_small(
        steps in prop::collection::vec(step(), 0..150)
    ) {
        let mut node = Scripted::new();
        for step in steps {
            take(&mut node, step);
        }
        let size = serde_json::to_vec(&node.machine.snapshot()).unwrap().len();
        prop_assert!(size < 32 << 10, "{size} bytes");
    }
}
