//! What packets do to the machine.

use std::net::IpAddr;
use std::time::Duration;

use super::api::{Action, Alarm, Role, RoleReason};
use super::counters::Counter;
use super::foreign::{self, Foreign, Meaning};
use super::machine::Election;
use super::peer::{Partner, Verdict};
use super::trailer::{self, Body, WireRole};
use super::wire::{self, Header};
use crate::config::model::{CarpAuth, Mode, Preferred};
use crate::proto::time::Instant;
use ha_common::carp::{TRAILER_VERSION, trailer_flags};

/// Where a packet came in, from whom, and when.
type Origin = (usize, IpAddr, Instant);

impl Election {
    pub(super) fn take_advert(&mut self, origin: Origin, payload: &[u8], out: &mut Vec<Action>) {
        let (index, source, at) = origin;
        if self.role == Role::Off {
            return self.counters.count(Counter::NotExpected);
        }
        let header = match Header::decode(payload) {
            Ok(header) => header,
            Err(error) => {
                return self.counters.count(match error {
                    wire::DecodeError::Truncated(_) => Counter::Truncated,
                    wire::DecodeError::Version(_) => Counter::Version,
                    wire::DecodeError::AuthLength(_) => Counter::AuthLength,
                    wire::DecodeError::Checksum => Counter::Checksum,
                });
            }
        };
        if header.vhid != self.config.vhid {
            return self.counters.count(Counter::OtherVhid);
        }
        let Some(link) = self.links.get(index) else {
            return self.counters.count(Counter::NotExpected);
        };
        if link.config.addresses.contains(&source) {
            return self.counters.count(Counter::Reflected);
        }
        let good_digest = link.group.verify(&header);
        match self.signer.open_advert(source, payload) {
            Ok(body) => {
                if self.take_body(origin, &body, out) {
                    self.counters.count(Counter::AdvertAccepted);
                    if let Some(link) = self.links.get_mut(index) {
                        link.advert_heard(source, at, self.timing.timeout);
                    }
                    if !good_digest {
                        self.counters.count(Counter::DigestDiffers);
                        let what = "an advertisement of the partner with another digest";
                        let evidence = self.heard_from((index, source), what);
                        self.raise(Alarm::CarpGroupDiffers, evidence, out);
                    }
                }
            }
            Err(trailer::DecodeError::Missing) if !good_digest => {
                self.counters.count(Counter::BadDigest);
                let what = "an advertisement for this virtual_id with another digest";
                let evidence = self.heard_from((index, source), what);
                self.raise(Alarm::CarpGroupDiffers, evidence, out);
            }
            Err(trailer::DecodeError::Missing) if self.accepts_foreign() => {
                self.counters.count(Counter::ForeignAccepted);
                self.take_foreign(origin, &header, out);
            }
            Err(error) => self.reject(origin, error, out),
        }
    }

    pub(super) fn take_hello(&mut self, origin: Origin, payload: &[u8], out: &mut Vec<Action>) {
        let (index, source, _) = origin;
        let Some(link) = self.links.get(index).filter(|_| self.role != Role::Off) else {
            return self.counters.count(Counter::NotExpected);
        };
        match self.signer.open_hello(source, &link.name, payload) {
            Ok(body) => {
                if self.take_body(origin, &body, out) {
                    self.counters.count(Counter::HelloAccepted);
                }
            }
            Err(error) => self.reject(origin, error, out),
        }
    }

    /// Counts a packet that proves nothing. Some tell of a peer that was set up in another way.
    fn reject(&mut self, origin: Origin, error: trailer::DecodeError, out: &mut Vec<Action>) {
        let (index, source, _) = origin;
        self.counters.count(reason(error));
        if let trailer::DecodeError::Version(version) = error {
            let what = format!("layout version {version} instead of {TRAILER_VERSION}");
            let evidence = self.heard_from((index, source), what);
            self.raise(Alarm::VersionMismatch, evidence, out);
        } else if error == trailer::DecodeError::Missing {
            let what = "an advertisement with this pair's passphrase, without trailer";
            let evidence = self.heard_from((index, source), what);
            self.raise(Alarm::UnsignedPeer, evidence, out);
        }
    }

    /// Takes in a signed body; whether it was accepted.
    fn take_body(&mut self, origin: Origin, body: &Body, out: &mut Vec<Action>) -> bool {
        let (index, source, at) = origin;
        let expected = self.links.get(index).is_none_or(|link| {
            let partners = &link.config.partners;
            partners.contains(&source) || partners.is_empty() && source.is_unspecified()
        });
        if body.epoch != self.epoch && !expected {
            self.counters.count(Counter::UnexpectedSource);
            return false;
        }
        let timeout = self.timing.timeout;
        let was_silent = self.partner_heard().is_none();
        let (newest, adopted) = match self.peers.receive(index, body, at, &self.log, timeout) {
            Verdict::Accepted { newest, adopted } => (newest, adopted),
            Verdict::Stranger => {
                self.counters.count(Counter::UnknownEpoch);
                self.stranger_from = Some((index, source));
                self.challenge(index, body);
                return false;
            }
            Verdict::Reflected => {
                self.counters.count(Counter::Reflected);
                return false;
            }
            Verdict::Retired => {
                self.counters.count(Counter::RetiredEpoch);
                return false;
            }
            Verdict::Replayed => {
                self.counters.count(Counter::Replayed);
                return false;
            }
        };
        self.partner_from = Some((index, source));
        self.proven = true;
        self.foreign = None;
        if !body.role.is_passive() {
            self.alone = false;
        }
        if was_silent && self.role == Role::Active {
            // Meanwhile the partner may have been active as well, and known so to others.
            self.announce_due = Some(self.now);
        }
        self.answer(index, body, adopted);
        self.note_transport(index, body);
        if newest {
            self.take_news(body, out);
        }
        true
    }

    /// Answers at once what needs an echo: the active node's packets, questions, and the first packet
    /// of an epoch, so that both hear each other without waiting for a timer.
    fn answer(&mut self, index: usize, body: &Body, adopted: bool) {
        let asked = body.flags & trailer_flags::ASK != 0;
        let follows = self.role != Role::Active && body.role == WireRole::Active;
        if (asked || adopted || follows)
            && let Some(link) = self.links.get_mut(index)
        {
            link.hello_soon(self.now, self.timing.hello_gap);
        }
    }

    /// What the partner says of this node's multicast on the link. That it does not hear it is
    /// answered at once.
    fn note_transport(&mut self, index: usize, body: &Body) {
        let lacks = body.flags & trailer_flags::NO_MULTICAST != 0;
        if let Some(link) = self.links.get_mut(index)
            && link.partner_lacks != lacks
        {
            link.partner_lacks = lacks;
            if lacks {
                link.hello_soon(self.now, self.timing.hello_gap);
            }
        }
    }

    /// Whether packets on this link should go to the partner's own address, too, where that is allowed:
    /// one of the nodes does not hear the other's multicast.
    pub fn wants_unicast(&self, link: usize) -> bool {
        self.links
            .get(link)
            .is_some_and(|link| !link.multicast.0 || link.partner_lacks)
    }

    /// When the partner was last heard on a link.
    pub fn heard_on(&self, link: usize) -> Option<Instant> {
        self.peers.heard_on(link)
    }

    /// The partner's newest packet.
    fn take_news(&mut self, body: &Body, out: &mut Vec<Action>) {
        let Some(partner) = self.peers.partner().cloned() else {
            return;
        };
        self.note_echo(body);
        self.adjust_timing();
        self.compare_settings(&partner, out);
        if body.role == WireRole::Active {
            self.active_heard = Some(partner.heard);
        }
        if self.role != Role::Active {
            self.answer_asking(body);
        }
        match self.role {
            Role::Active => self.take_grant(&partner, out),
            Role::Init | Role::Standby => {
                self.term = self.term.max(body.term);
                if body.role == WireRole::Active || body.role.is_passive() {
                    self.yield_until = None;
                }
                if body.flags & trailer_flags::RELEASE != 0 {
                    self.take_release(&partner, out);
                }
            }
            Role::Off | Role::Pacified | Role::Maintenance => {
                self.term = self.term.max(body.term);
            }
        }
    }

    /// What both nodes must have alike, or must not.
    fn compare_settings(&mut self, partner: &Partner, out: &mut Vec<Action>) {
        let body = &partner.body;
        let interval = Duration::from_micros(body.interval_us.into());
        if (interval, partner.timeout()) == (self.timing.own.interval, self.timing.own.timeout) {
            self.clear(Alarm::TimingDiffers, out);
        } else {
            let what = format!(
                "interval {:?} and timeout {:?} here, {interval:?} and {:?} there",
                self.timing.own.interval,
                self.timing.own.timeout,
                partner.timeout()
            );
            self.raise_about_partner(Alarm::TimingDiffers, what, out);
        }
        if body.generation == self.config.generation {
            self.clear(Alarm::ConfigurationDiffers, out);
        } else {
            let what = format!(
                "digest {} here, {} there",
                self.config.generation, body.generation
            );
            self.raise_about_partner(Alarm::ConfigurationDiffers, what, out);
        }
        if body.mode != mode_number(self.config.mode) {
            self.clear(Alarm::ModeConflict, out);
        } else if self.mode_conflict(partner) {
            let what = "the partner came first: this node does not become active beside it";
            self.raise_about_partner(Alarm::ModeConflict, what, out);
        } else {
            let what = "this node came first: the partner does not become active beside it";
            self.raise_about_partner(Alarm::ModeConflict, what, out);
        }
    }

    /// Raises an alarm that rests on what the partner said.
    pub(super) fn raise_about_partner(
        &mut self,
        alarm: Alarm,
        what: impl Into<String>,
        out: &mut Vec<Action>,
    ) {
        if let Some(from) = self.partner_from {
            let evidence = self.heard_from(from, what);
            self.raise(alarm, evidence, out);
        }
    }

    /// The echo of a packet sent as active, from a partner that is not: it has begun to wait again when
    /// it received that packet, which was after it was sent.
    fn take_grant(&mut self, partner: &Partner, out: &mut Vec<Action>) {
        let body = &partner.body;
        if body.role == WireRole::Active
            || body.flags & trailer_flags::ASK != 0
            || body.echo_sequence < self.stint
        {
            return;
        }
        if let Some(sent) = partner.echo_sent
            && !self.take_long_grant(partner, sent, out)
        {
            self.extend_lease(sent + self.timing.lease, out);
        }
    }

    /// Opens the gate until then, or keeps it open that long. In a term that the data plane knows to be
    /// over it would not open.
    pub(super) fn extend_lease(&mut self, until: Instant, out: &mut Vec<Action>) {
        let over = self.overtaken.0 > self.term;
        if !over && until > self.now && self.gate.is_none_or(|gate| until > gate) {
            self.set_gate(Some(until), out);
        }
    }

    /// The partner gave the active role up, its gate is closed, and it will wait its timeout before it
    /// takes the role back by silence. The release counts only if it echoes something this node sent in
    /// its present role: then the partner knew that role when it released.
    fn take_release(&mut self, partner: &Partner, out: &mut Vec<Action>) {
        let body = &partner.body;
        let fresh = partner
            .echo_sent
            .filter(|_| body.echo_sequence >= self.stint);
        let Some(sent) = fresh else { return };
        if body.role == WireRole::Active || self.mode_conflict(partner) {
            return;
        }
        let until = sent + self.timing.lease;
        self.claim(RoleReason::PartnerReleased, out);
        self.extend_lease(until, out);
    }

    fn challenge(&mut self, index: usize, body: &Body) {
        if let Some(link) = self.links.get_mut(index) {
            link.challenge = Some((body.epoch, body.sequence));
        }
    }

    /// Whether an advertisement without trailer may count.
    pub(super) fn accepts_foreign(&self) -> bool {
        match self.config.auth {
            CarpAuth::Enforce => false,
            CarpAuth::Permissive => !self.proven,
            CarpAuth::Off => true,
        }
    }

    fn take_foreign(&mut self, origin: Origin, header: &Header, out: &mut Vec<Action>) {
        let (link, source, heard) = origin;
        let ticks = foreign::ticks(header);
        let faster = foreign::yields((self.ticks, self.own_like(link, source)), (ticks, source));
        let meaning = foreign::meaning(self.ticks, ticks);
        let prefers_us = matches!(
            (self.config.preferred, self.config.mode),
            (Preferred::First, Mode::First) | (Preferred::Second, Mode::Second)
        );
        match self.role {
            Role::Active if faster => {
                self.foreign = Some(Foreign {
                    link,
                    source,
                    ticks,
                    heard,
                });
                self.set_role(Role::Standby, RoleReason::ForeignFaster, out);
            }
            Role::Active => {
                // The next advertisement makes it step down; the caches it poisoned are put right.
                if self.gate.is_some() && self.announce_due.is_none() {
                    out.push(Action::Announce);
                    self.announce_due = Some(self.now + self.timing.interval * 2);
                }
                self.advert_due = self.now;
            }
            Role::Init | Role::Standby => {
                let takes = match meaning {
                    Meaning::Gone => true,
                    Meaning::Slower => prefers_us,
                    Meaning::Master => false,
                };
                if takes && self.now >= self.not_before.max(self.initial_until) {
                    self.foreign = None;
                    self.claim(RoleReason::ForeignGone, out);
                    self.alone = true;
                } else if meaning != Meaning::Gone {
                    self.foreign = Some(Foreign {
                        link,
                        source,
                        ticks,
                        heard,
                    });
                }
            }
            Role::Off | Role::Pacified | Role::Maintenance => {}
        }
    }
}

/// A mode as the trailer tells it.
pub(super) const fn mode_number(mode: Mode) -> u8 {
    match mode {
        Mode::Off => 0,
        Mode::First => 1,
        Mode::Second => 2,
    }
}

const fn reason(error: trailer::DecodeError) -> Counter {
    match error {
        trailer::DecodeError::Missing => Counter::Unsigned,
        trailer::DecodeError::Truncated(_) => Counter::Truncated,
        trailer::DecodeError::Magic => Counter::NotHello,
        trailer::DecodeError::Version(_) => Counter::TrailerVersion,
        trailer::DecodeError::UnknownKey(_) => Counter::UnknownKey,
        trailer::DecodeError::BadTag => Counter::BadTag,
        trailer::DecodeError::Field => Counter::Meaningless,
    }
}
