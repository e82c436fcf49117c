//! The window in which a new node may come for key and configuration: opened by an operator, for minutes, for one
//! node, and only as long as that operator waits for it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use zeroize::Zeroizing;

use super::keys::ChannelKeys;
use crate::pairing::code::Code;
use crate::pairing::{PairReply, Taken};
use crate::proto::time::Instant;
use crate::shell::agent::lock;

/// Wrong codes that may be tried: a person needs two or three, and more tell of somebody else.
const ATTEMPTS_MAX: u32 = 5;
/// How long the operator may be silent.
const LEASE: Duration = Duration::from_secs(5);

/// The window, if there is one.
#[derive(Default)]
pub(super) struct Pairing(Mutex<Option<Window>>);

struct Window {
    number: u64,
    keys: Arc<ChannelKeys>,
    gift: Arc<Zeroizing<Vec<u8>>>,
    ends: Instant,
    watched: Instant,
    attempts: u32,
    state: State,
}

enum State {
    Open,
    Telling { to: String },
    Given { name: String, to: String },
    Void { why: String },
}

impl std::fmt::Debug for Pairing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairing").finish_non_exhaustive()
    }
}

impl Window {
    /// Voids it if its time is over.
    fn look(&mut self, now: Instant) {
        if !matches!(self.state, State::Open) {
            return;
        }
        if now >= self.ends {
            self.void("nobody came in time");
        } else if now.since(self.watched) > LEASE {
            self.void("nobody waited for it any more");
        }
    }

    fn void(&mut self, why: &str) {
        self.state = State::Void {
            why: why.to_owned(),
        };
        // The code and what it was for are good for nothing any more.
        self.gift = Arc::default();
    }
}

impl Pairing {
    /// Opens one, and yields its number; the one before is void.
    pub(super) fn open(&self, now: Instant, code: &Code, gift: Vec<u8>, time: Duration) -> u64 {
        let mut known = lock(&self.0);
        let number = known.as_ref().map_or(1, |before| before.number + 1);
        *known = Some(Window {
            number,
            keys: Arc::new(ChannelKeys::new(&code.keys(), true)),
            gift: Arc::new(Zeroizing::new(gift)),
            ends: now + time,
            watched: now,
            attempts: ATTEMPTS_MAX,
            state: State::Open,
        });
        number
    }

    /// The keys by which giver and new node know each other, while somebody may come.
    pub(super) fn keys(&self, now: Instant) -> Option<Arc<ChannelKeys>> {
        let mut known = lock(&self.0);
        let window = known.as_mut()?;
        window.look(now);
        matches!(window.state, State::Open).then(|| Arc::clone(&window.keys))
    }

    /// Somebody has proved to have the code: the first one gets what it is for, and the code is used up. Keys of an
    /// earlier window open nothing.
    pub(super) fn claim(
        &self,
        now: Instant,
        keys: &Arc<ChannelKeys>,
        to: &str,
    ) -> Option<Arc<Zeroizing<Vec<u8>>>> {
        let mut known = lock(&self.0);
        let window = known
            .as_mut()
            .filter(|window| Arc::ptr_eq(&window.keys, keys))?;
        window.look(now);
        if !matches!(window.state, State::Open) {
            return None;
        }
        window.state = State::Telling { to: to.to_owned() };
        Some(std::mem::take(&mut window.gift))
    }

    /// Somebody came without the code. Whether that voids the window.
    pub(super) fn missed(&self, keys: &Arc<ChannelKeys>) -> bool {
        let mut known = lock(&self.0);
        let window = known
            .as_mut()
            .filter(|window| Arc::ptr_eq(&window.keys, keys));
        let Some(window) = window.filter(|window| matches!(window.state, State::Open)) else {
            return false;
        };
        window.attempts = window.attempts.saturating_sub(1);
        if window.attempts == 0 {
            window.void("it was tried with wrong codes too often");
        }
        window.attempts == 0
    }

    /// What the node that got it says.
    pub(super) fn answered(&self, keys: &Arc<ChannelKeys>, answer: Result<Taken, String>) {
        let mut known = lock(&self.0);
        let window = known
            .as_mut()
            .filter(|window| Arc::ptr_eq(&window.keys, keys));
        let Some(window) = window else { return };
        let State::Telling { to } = &window.state else {
            return;
        };
        window.state = match answer {
            Ok(Taken::Done(name)) => State::Given {
                name,
                to: to.clone(),
            },
            Ok(Taken::Refused(why)) => State::Void {
                why: format!("{to} could not use it, and has nothing: {why}"),
            },
            Err(why) => State::Void {
                why: format!("{to} did not say that it has everything: {why}"),
            },
        };
    }

    /// An operator voids it.
    pub(super) fn withdraw(&self, number: u64) {
        if let Some(window) = lock(&self.0).as_mut()
            && window.number == number
            && matches!(window.state, State::Open)
        {
            window.void("it was withdrawn");
        }
    }

    /// What has become of it, for the operator who waits.
    pub(super) fn watch(&self, now: Instant, number: u64) -> PairReply {
        let mut known = lock(&self.0);
        let Some(window) = known.as_mut().filter(|window| window.number == number) else {
            return PairReply::Void {
                why: "another code has taken its place, or the agent was restarted".to_owned(),
            };
        };
        window.look(now);
        window.watched = now;
        match &window.state {
            State::Open => PairReply::Waiting {
                seconds: window.ends.since(now).as_secs(),
                attempts: window.attempts,
            },
            State::Telling { .. } => PairReply::Telling,
            State::Given { name, to } => PairReply::Given {
                name: name.clone(),
                to: to.clone(),
            },
            State::Void { why } => PairReply::Void { why: why.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn open() -> Pairing {
        let pairing = Pairing::default();
        let code = Code::generate().unwrap();
        pairing.open(at(100), &code, b"gift".to_vec(), MINUTE);
        pairing
    }

    fn void(pairing: &Pairing, now: Instant) -> String {
        let PairReply::Void { why } = pairing.watch(now, 1) else {
            panic!("not void");
        };
        why
    }

    #[test]
    fn nothing_is_given_unless_asked_for() {
        let pairing = Pairing::default();
        assert!(pairing.keys(at(1)).is_none());
        assert!(void(&pairing, at(1)).contains("another code"));
    }

    #[test]
    fn a_code_is_good_once() {
        let pairing = open();
        let keys = pairing.keys(at(101)).unwrap();
        let gift = pairing.claim(at(101), &keys, "10.0.0.12").unwrap();
        assert_eq!(**gift, b"gift");
        assert_eq!(pairing.watch(at(102), 1), PairReply::Telling);
        assert!(pairing.keys(at(102)).is_none());
        assert!(pairing.claim(at(102), &keys, "10.0.0.13").is_none());
        pairing.answered(&keys, Ok(Taken::Done("lb2".to_owned())));
        let given = PairReply::Given {
            name: "lb2".to_owned(),
            to: "10.0.0.12".to_owned(),
        };
        assert_eq!(pairing.watch(at(103), 1), given);
        // What is over stays so.
        pairing.withdraw(1);
        assert!(!pairing.missed(&keys));
        assert_eq!(pairing.watch(at(500), 1), given);
    }

    #[test]
    fn a_code_ends_in_time_and_with_who_waits_for_it() {
        let pairing = open();
        let keys = pairing.keys(at(101)).unwrap();
        for second in (101..160).step_by(5) {
            assert!(matches!(
                pairing.watch(at(second), 1),
                PairReply::Waiting { .. }
            ));
        }
        assert!(pairing.claim(at(160), &keys, "x").is_none());
        assert!(void(&pairing, at(160)).contains("in time"));

        let pairing = open();
        assert!(pairing.keys(at(105)).is_some());
        assert!(pairing.keys(at(106)).is_none());
        assert!(void(&pairing, at(107)).contains("waited"));
    }

    #[test]
    fn few_wrong_codes_void_it() {
        let pairing = open();
        let keys = pairing.keys(at(101)).unwrap();
        for left in (1..ATTEMPTS_MAX).rev() {
            assert!(!pairing.missed(&keys));
            let PairReply::Waiting { attempts, .. } = pairing.watch(at(101), 1) else {
                panic!("void");
            };
            assert_eq!(attempts, left);
        }
        assert!(pairing.missed(&keys));
        assert!(pairing.claim(at(102), &keys, "x").is_none());
        assert!(void(&pairing, at(102)).contains("too often"));
    }

    #[test]
    fn an_earlier_code_is_void() {
        let pairing = open();
        let old = pairing.keys(at(101)).unwrap();
        let number = pairing.open(
            at(102),
            &Code::generate().unwrap(),
            b"other".to_vec(),
            MINUTE,
        );
        assert!(pairing.claim(at(103), &old, "x").is_none());
        for _ in 0..10 {
            assert!(!pairing.missed(&old), "nor can it spoil the new one");
        }
        assert!(void(&pairing, at(103)).contains("taken its place"));
        let keys = pairing.keys(at(103)).unwrap();
        pairing.withdraw(1);
        assert!(pairing.keys(at(103)).is_some(), "that was the old one");
        pairing.withdraw(number);
        assert!(pairing.claim(at(103), &keys, "x").is_none());
        let PairReply::Void { why } = pairing.watch(at(104), number) else {
            panic!("not void");
        };
        assert!(why.contains("withdrawn"));
    }

    #[test]
    fn a_node_that_breaks_off_is_told_of() {
        for (answer, words) in [
            (Err("the connection broke".to_owned()), "did not say"),
            (
                Ok(Taken::Refused("no device".to_owned())),
                "has nothing: no device",
            ),
        ] {
            let pairing = open();
            let keys = pairing.keys(at(101)).unwrap();
            pairing.claim(at(101), &keys, "x").unwrap();
            pairing.answered(&keys, answer);
            let why = void(&pairing, at(102));
            assert!(why.contains(words), "{why}");
            assert!(pairing.keys(at(102)).is_none());
        }
    }
}
