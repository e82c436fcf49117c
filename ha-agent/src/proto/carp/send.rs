//! What is sent, and when.

use std::net::IpAddr;

use ha_common::carp::{BOW_OUT, trailer_flags};

use super::api::{Action, Role};
use super::counters::Counter;
use super::machine::Election;
use super::receive::mode_number;
use super::trailer::{Body, WireRole};
use crate::config::model::Preferred;
use crate::proto::time::Instant;

impl Election {
    /// Sends what is due.
    pub(super) fn send_due(&mut self, out: &mut Vec<Action>) {
        if self.announce_due.is_some_and(|due| due <= self.now) {
            self.announce_due = None;
            if self.gate.is_some() {
                out.push(Action::Announce);
            }
        }
        if self.copies_left > 0 && self.copy_due <= self.now {
            self.copies_left -= 1;
            self.copy_due = self.now + self.timing.release_gap;
            if self.bow_out {
                self.send_adverts(BOW_OUT, out);
            }
            for link in 0..self.links.len() {
                self.send_hello(link, out);
            }
        }
        if self.role == Role::Off {
            return;
        }
        if self.role == Role::Active && self.advert_due <= self.now {
            self.advert_due = after(self.advert_due, self.timing.interval, self.now);
            let [base, skew] = self.ticks.to_be_bytes();
            self.send_adverts((base, skew), out);
            for link in 0..self.links.len() {
                self.send_hello(link, out);
            }
        }
        for index in 0..self.links.len() {
            if self
                .links
                .get(index)
                .is_some_and(|link| link.hello_due <= self.now)
            {
                self.send_hello(index, out);
            }
            self.send_challenge(index, out);
        }
    }

    fn send_adverts(&mut self, (base, skew): (u8, u8), out: &mut Vec<Action>) {
        for link in 0..self.links.len() {
            let sources: Vec<IpAddr> = self
                .links
                .get(link)
                .into_iter()
                .flat_map(|link| link.config.advert_sources())
                .collect();
            for source in sources {
                let body = self.body(self.echo(), self.transport_flags(link));
                let Some(state) = self.links.get(link) else {
                    break;
                };
                let header = state.group.header(base, skew, self.carp_counter).encode();
                self.carp_counter = self.carp_counter.wrapping_add(1);
                let payload = self.signer.advert(source, &header, &body);
                self.counters.count(Counter::AdvertSent);
                out.push(Action::SendAdvert {
                    link,
                    source,
                    payload,
                });
            }
        }
    }

    /// Sends a HELLO and sets when the next one is due. While the partner is active its packets set
    /// the pace, each being answered at once; the own timer only fills in if they do not come.
    fn send_hello(&mut self, index: usize, out: &mut Vec<Action>) {
        let flags = self.question() | self.transport_flags(index);
        let body = self.body(self.echo(), flags);
        let follows = self.role != Role::Active
            && self
                .partner_heard()
                .is_some_and(|partner| partner.body.role == WireRole::Active);
        let interval = self.timing.interval;
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        link.hello_sent = Some(self.now);
        link.hello_due = self.now
            + if link.quick_hellos > 0 {
                link.quick_hellos -= 1;
                interval / 4
            } else if follows {
                interval * 5 / 4
            } else {
                interval
            };
        let source = link.config.hello_source();
        let payload = self.signer.hello(source, &link.name, &body);
        self.counters.count(Counter::HelloSent);
        out.push(Action::SendHello {
            link: index,
            source,
            payload,
        });
    }

    /// Challenges a stranger, at most once in a quarter of the interval on a link: it must echo this
    /// very packet. The question makes clear that the echo in it grants nothing.
    fn send_challenge(&mut self, index: usize, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        if link.challenge_due > self.now {
            return;
        }
        let Some(echo) = link.challenge.take() else {
            return;
        };
        link.challenge_due = self.now + self.timing.interval / 4;
        let body = self.body(echo, trailer_flags::ASK | self.transport_flags(index));
        let Some(link) = self.links.get(index) else {
            return;
        };
        let source = link.config.hello_source();
        let payload = self.signer.hello(source, &link.name, &body);
        self.counters.count(Counter::HelloSent);
        out.push(Action::SendHello {
            link: index,
            source,
            payload,
        });
    }

    /// An active node whose lease has ended asks.
    fn question(&self) -> u16 {
        if self.role == Role::Active && self.gate.is_none() {
            trailer_flags::ASK
        } else {
            0
        }
    }

    /// Tells the partner whether its multicast is heard on this link.
    fn transport_flags(&self, link: usize) -> u16 {
        match self.links.get(link) {
            Some(link) if !link.multicast.0 => trailer_flags::NO_MULTICAST,
            _ => 0,
        }
    }

    /// The newest packet accepted from the partner.
    fn echo(&self) -> (u64, u64) {
        self.peers
            .partner()
            .map(|partner| (partner.body.epoch, partner.body.sequence))
            .unwrap_or_default()
    }

    fn body(&mut self, (echo_epoch, echo_sequence): (u64, u64), mut flags: u16) -> Body {
        if self.yield_until.is_some() || self.bow_out && self.stopping {
            flags |= trailer_flags::RELEASE;
        }
        flags |= self.reexec_flags((echo_epoch, echo_sequence));
        let hold = self.own_hold();
        let (mut health, mut recent, mut heard) = (0, 0, 0);
        for (index, link) in self.links.iter().enumerate() {
            let sound = link.soundness(self.now, hold);
            health |= u32::from(sound.carrier) << (2 * link.bit);
            health |= u32::from(sound.gateway) << (2 * link.bit + 1);
            recent |= u16::from(sound.recent) << link.bit;
            heard |= u16::from(self.hears_on(index)) << link.bit;
        }
        Body {
            flags,
            epoch: self.epoch,
            sequence: self.log.next(self.now),
            term: self.term,
            interval_us: u32::try_from(self.timing.own.interval.as_micros()).unwrap_or(u32::MAX),
            timeout_us: u32::try_from(self.timing.own.timeout.as_micros()).unwrap_or(u32::MAX),
            mode: mode_number(self.config.mode),
            role: self.wire_role(),
            ready: self.says_ready(),
            preferred: match self.config.preferred {
                Preferred::None => 0,
                Preferred::First => 1,
                Preferred::Second => 2,
            },
            health,
            recent,
            heard,
            generation: self.config.generation,
            echo_epoch,
            echo_sequence,
        }
    }

    fn wire_role(&self) -> WireRole {
        match self.role {
            Role::Init => WireRole::Init,
            Role::Standby => WireRole::Standby,
            Role::Active => WireRole::Active,
            Role::Pacified => WireRole::Pacified,
            // A node that stops will not become active either.
            Role::Maintenance | Role::Off => WireRole::Maintenance,
        }
    }
}

/// The next moment of a periodic timer; a moment that was missed is not made up for.
fn after(due: Instant, period: std::time::Duration, now: Instant) -> Instant {
    let next = due + period;
    if next > now { next } else { now + period }
}
