//! Who is logged in, and how often somebody may try.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;

use super::users::Access;
use crate::proto::hex;
use crate::proto::time::Instant;

/// Sessions at the same time; the one that was silent longest gives way.
const SESSIONS_MAX: usize = 256;
/// How long a session lives without a request.
const IDLE_MAX: Duration = Duration::from_mins(30);
/// How long it lives at all.
const LIFE_MAX: Duration = Duration::from_hours(12);
/// Wrong passwords from one place within [`WINDOW`], after which more are not looked at.
const FAILURES_MAX: u32 = 5;
/// The same from all places together.
const FAILURES_ALL: u32 = 100;
/// How long a wrong password counts.
const WINDOW: Duration = Duration::from_mins(5);
/// Places that are counted one by one.
const PLACES_MAX: usize = 1024;

/// A secret of 256 random bits, in words; none if the system has no random numbers.
pub fn secret() -> Option<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(hex::encode(&bytes))
}

/// What a secret is kept as: who reads memory or compares times learns nothing of use.
pub(super) fn print(secret: &str) -> Vec<u8> {
    digest(&SHA256, secret.as_bytes()).as_ref().to_vec()
}

/// Whether two secrets are equal, told by their prints.
pub fn same(one: &str, other: &str) -> bool {
    print(one) == print(other)
}

/// A user who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Name.
    pub user: String,
    /// What the user may do.
    pub access: Access,
    /// Must come with every request that changes something.
    pub csrf: String,
    notice: String,
    began: Instant,
    seen: Instant,
}

/// All sessions, by the prints of their secrets; and failures by place.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<BTreeMap<Vec<u8>, Session>>,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    places: BTreeMap<IpAddr, (Instant, u32)>,
    all: (Instant, u32),
}

impl Sessions {
    /// Begins a session; its secret goes into the cookie.
    pub fn begin(&self, now: Instant, user: &str, access: Access) -> Option<String> {
        let (token, csrf) = (secret()?, secret()?);
        let mut open = held(&self.open);
        open.retain(|_, session| session.lives(now));
        if open.len() >= SESSIONS_MAX {
            let oldest = open.iter().min_by_key(|(_, session)| session.seen);
            if let Some(oldest) = oldest.map(|(print, _)| print.clone()) {
                open.remove(&oldest);
            }
        }
        let session = Session {
            user: user.to_owned(),
            access,
            csrf,
            notice: String::new(),
            began: now,
            seen: now,
        };
        open.insert(print(&token), session);
        Some(token)
    }

    /// The session of a secret, which lives on.
    pub fn find(&self, now: Instant, token: &str) -> Option<Session> {
        let mut open = held(&self.open);
        let session = open.get_mut(&print(token))?;
        if !session.lives(now) {
            return None;
        }
        session.seen = now;
        Some(session.clone())
    }

    /// Tells the user of a session something, on the next page.
    pub fn tell(&self, session: &Session, notice: impl Into<String>) {
        let mut open = held(&self.open);
        if let Some(known) = open.values_mut().find(|known| known.csrf == session.csrf) {
            known.notice = notice.into();
        }
    }

    /// What the user of a session is to be told, once.
    pub fn notice(&self, session: &Session) -> String {
        let mut open = held(&self.open);
        let known = open.values_mut().find(|known| known.csrf == session.csrf);
        known
            .map(|known| std::mem::take(&mut known.notice))
            .unwrap_or_default()
    }

    /// Ends all sessions of a user.
    pub fn end_of(&self, user: &str) {
        held(&self.open).retain(|_, session| session.user != user);
    }

    /// Ends all sessions of a user but this one.
    pub fn end_others(&self, user: &str, but: Option<&Session>) {
        let kept = |session: &Session| but.is_some_and(|but| but.csrf == session.csrf);
        held(&self.open).retain(|_, session| session.user != user || kept(session));
    }

    /// Ends all sessions.
    pub fn end_all(&self) {
        held(&self.open).clear();
    }

    /// Ends the session of a secret.
    pub fn end(&self, token: &str) {
        held(&self.open).remove(&print(token));
    }

    /// Whether somebody at this place may try a password now.
    pub fn may_try(&self, now: Instant, place: IpAddr) -> bool {
        let failures = held(&self.failures);
        let counts =
            |(since, count): &(Instant, u32), max| now.since(*since) >= WINDOW || *count < max;
        let here = failures.places.get(&network(place));
        counts(&failures.all, FAILURES_ALL) && here.is_none_or(|here| counts(here, FAILURES_MAX))
    }

    /// Somebody at this place did not know a password.
    pub fn failed(&self, now: Instant, place: IpAddr) {
        let mut failures = held(&self.failures);
        let place = network(place);
        if failures.places.len() >= PLACES_MAX && !failures.places.contains_key(&place) {
            failures
                .places
                .retain(|_, (since, _)| now.since(*since) < WINDOW);
            if failures.places.len() >= PLACES_MAX {
                failures.places.pop_first();
            }
        }
        let count = |counted: &mut (Instant, u32)| {
            if now.since(counted.0) >= WINDOW {
                *counted = (now, 0);
            }
            counted.1 += 1;
        };
        count(&mut failures.all);
        count(failures.places.entry(place).or_insert((now, 0)));
    }
}

impl Session {
    fn lives(&self, now: Instant) -> bool {
        now.since(self.seen) < IDLE_MAX && now.since(self.began) < LIFE_MAX
    }
}

/// What counts as one place: an IPv4 address, or the /64 of an IPv6 address, of which one host has all.
fn network(place: IpAddr) -> IpAddr {
    match place.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_when_nobody_uses_it_or_it_is_old() {
        let sessions = Sessions::default();
        let at = |seconds| Instant::default() + Duration::from_secs(seconds);
        let token = sessions.begin(at(0), "alice", Access::Viewer).unwrap();
        let found = sessions.find(at(1700), &token).unwrap();
        assert_eq!((&*found.user, found.access), ("alice", Access::Viewer));
        assert_eq!(found.csrf.len(), 64);
        assert!(sessions.find(at(1700), "another").is_none());
        assert!(sessions.find(at(3400), &token).is_some());
        assert!(sessions.find(at(3400 + 1800), &token).is_none());
        let token = sessions.begin(at(0), "alice", Access::Viewer).unwrap();
        for minute in 0..12 * 60 {
            assert!(sessions.find(at(minute * 60), &token).is_some(), "{minute}");
        }
        assert!(sessions.find(at(12 * 3600), &token).is_none());
        let token = sessions.begin(at(0), "alice", Access::Viewer).unwrap();
        sessions.end(&token);
        assert!(sessions.find(at(0), &token).is_none());
        let alice = sessions.begin(at(0), "alice", Access::Viewer).unwrap();
        let bob = sessions.begin(at(0), "bob", Access::Viewer).unwrap();
        sessions.end_of("alice");
        assert!(sessions.find(at(0), &alice).is_none());
        assert!(sessions.find(at(0), &bob).is_some());
        sessions.end_all();
        assert!(sessions.find(at(0), &bob).is_none());
    }

    #[test]
    fn sessions_are_bounded_and_the_idle_give_way() {
        let sessions = Sessions::default();
        let at = |seconds| Instant::default() + Duration::from_secs(seconds);
        let first = sessions.begin(at(0), "first", Access::Viewer).unwrap();
        let second = sessions.begin(at(1), "second", Access::Viewer).unwrap();
        assert!(sessions.find(at(2), &first).is_some());
        for number in 0..SESSIONS_MAX as u64 - 1 {
            sessions
                .begin(at(3 + number), "more", Access::Viewer)
                .unwrap();
        }
        assert!(sessions.find(at(300), &second).is_none());
        assert!(sessions.find(at(300), &first).is_some());
        assert_eq!(held(&sessions.open).len(), SESSIONS_MAX);
    }

    #[test]
    fn guessing_is_slow_from_one_place_and_from_all() {
        let sessions = Sessions::default();
        let at = |seconds| Instant::default() + Duration::from_secs(seconds);
        let place: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..FAILURES_MAX {
            assert!(sessions.may_try(at(10), place));
            sessions.failed(at(10), place);
        }
        assert!(!sessions.may_try(at(11), place));
        assert!(sessions.may_try(at(11), "192.0.2.2".parse().unwrap()));
        // The same place by another way of writing, and a host with many addresses.
        assert!(!sessions.may_try(at(11), "::ffff:192.0.2.1".parse().unwrap()));
        for number in 0..FAILURES_MAX {
            sessions.failed(at(10), format!("2001:db8::{number}").parse().unwrap());
        }
        assert!(!sessions.may_try(at(11), "2001:db8::ffff".parse().unwrap()));
        assert!(sessions.may_try(at(10) + WINDOW, place));
        for number in 0..u64::from(FAILURES_ALL) {
            let place = std::net::Ipv4Addr::from_bits(number as u32);
            sessions.failed(at(1000), place.into());
        }
        assert!(!sessions.may_try(at(1001), "198.51.100.1".parse().unwrap()));
        for number in 0..5000 {
            sessions.failed(at(2000), std::net::Ipv4Addr::from_bits(number).into());
        }
        assert!(held(&sessions.failures).places.len() <= PLACES_MAX);
    }
}
