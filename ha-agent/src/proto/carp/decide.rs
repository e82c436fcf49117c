//! Who should be active, and how long the gate may stay open.

use super::api::{Action, Alarm, Role, RoleReason};
use super::counters::Counter;
use super::link::{Link, Soundness};
use super::machine::{Election, RELEASE_COPIES};
use super::order::Standing;
use super::peer::Partner;
use super::receive::mode_number;
use super::trailer::{Body, WireRole};
use crate::config::model::{Mode, Preferred};
use crate::proto::time::Instant;
use ha_common::carp::trailer_flags;

impl Election {
    /// Draws the conclusions from what is known now.
    pub(super) fn decide(&mut self, out: &mut Vec<Action>) {
        if self.role == Role::Off {
            return;
        }
        self.judge_isolation(out);
        self.judge_hearing(out);
        self.judge_families(out);
        self.forget_hearsay(out);
        self.judge_strangers(out);
        self.judge_reserve(out);
        match self.role {
            Role::Init | Role::Standby => self.decide_standby(out),
            Role::Active => self.decide_active(out),
            Role::Off | Role::Pacified | Role::Maintenance => {}
        }
    }

    /// A partner that starts is a stranger until it has answered; only a stranger that goes on is worth an alarm.
    fn judge_strangers(&mut self, out: &mut Vec<Action>) {
        let suspicious =
            self.suspected() && self.partner_heard().is_none() && self.now >= self.not_before;
        self.stranger_since = suspicious.then(|| self.stranger_since.unwrap_or(self.now));
        let Some(since) = self.stranger_since else {
            return self.clear(Alarm::UnverifiedPartner, out);
        };
        match self.stranger_from {
            Some(from) if self.now >= since + self.timing.timeout => {
                let what = "signed with the pair's key, but this node's questions go unanswered";
                let evidence = self.heard_from(from, what);
                self.raise(Alarm::UnverifiedPartner, evidence, out);
            }
            _ => {}
        }
    }

    fn decide_standby(&mut self, out: &mut Vec<Action>) {
        if self.yield_until.is_some_and(|until| until <= self.now) {
            self.yield_until = None;
        }
        let partner = self.partner_heard().cloned();
        if self.role == Role::Init && (partner.is_some() || self.foreign.is_some()) {
            self.set_role(Role::Standby, RoleReason::PartnerFound, out);
        }
        let Some(partner) = partner else {
            self.undecided_since = None;
            if self.now >= self.silence_ends() && self.is_healthy() {
                let reason = match self.foreign.take() {
                    Some(_) => RoleReason::ForeignSilent,
                    None => RoleReason::PartnerSilent,
                };
                self.claim(reason, out);
                self.alone = true;
                self.decide_active(out);
            }
            return;
        };
        match partner.body.role {
            WireRole::Active => self.undecided_since = None,
            WireRole::Maintenance | WireRole::Pacified => {
                self.undecided_since = None;
                if !self.is_healthy() || self.now < self.abstained_until {
                    return;
                }
                self.claim(RoleReason::PartnerPassive, out);
                self.extend_lease(partner.heard + self.timing.alone_lease, out);
            }
            WireRole::Init | WireRole::Standby => {
                if self.yield_until.is_some() || !self.hears_us(&partner) {
                    self.undecided_since = None;
                    return;
                }
                let since = *self.undecided_since.get_or_insert(self.now);
                let (mine, theirs) = self.standings(&partner);
                if mine.beats(&theirs) {
                    self.claim(RoleReason::BetterThanPartner, out);
                } else if self.now >= since + self.timing.timeout && !mine.conflict {
                    self.claim(RoleReason::Unclaimed, out);
                }
            }
        }
    }

    fn decide_active(&mut self, out: &mut Vec<Action>) {
        if self.suspected() {
            self.alone = false;
        }
        if let Some(partner) = self.partner_heard().cloned() {
            if partner.body.role == WireRole::Active {
                self.contest(&partner, out);
            } else {
                self.oversee(&partner, out);
            }
            if self.role != Role::Active {
                return;
            }
        }
        if self.gate.is_some_and(|until| until <= self.now) {
            self.counters.count(Counter::LeaseLapsed);
            self.set_gate(None, out);
            self.alone = false;
        }
        if !self.alone && self.alone_at().is_some_and(|at| at <= self.now) {
            self.alone = true;
            // A conflict that silence ended: another one begins anew.
            self.conflict_since = None;
            self.clear(Alarm::BothActive, out);
        }
        self.judge_asking(out);
        let silent = self.gate.is_none() && self.now >= self.silence_ends();
        if (self.alone || silent) && !self.is_healthy() {
            let reason = if self.isolated {
                RoleReason::Isolated
            } else {
                RoleReason::LinksLost
            };
            self.release(reason, out);
            return;
        }
        if silent && !self.alone {
            // The lease ended long ago: whatever happened since happened in another term.
            self.begin_term(Role::Active, RoleReason::PartnerSilent, out);
            self.alone = true;
        }
        if self.alone && (self.gate.is_none() || self.renewal_due <= self.now) {
            self.renewal_due = self.now + self.timing.alone_renewal;
            self.extend_lease(self.now + self.timing.alone_lease, out);
        }
    }

    /// Both are active: the higher term wins, then the order. A winner whom the partner does not hear is
    /// in the way, since the partner cannot give in: at once if its gate is closed, else after another
    /// advertisement.
    fn contest(&mut self, partner: &Partner, out: &mut Vec<Action>) {
        let (mine, theirs) = self.standings(partner);
        let lost = match partner.body.term.cmp(&self.term) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => !mine.beats(&theirs),
            std::cmp::Ordering::Less => false,
        };
        let unheeded =
            self.gate.is_none() || self.conflict_ends().is_some_and(|end| end <= self.now);
        let in_the_way = unheeded && !self.hears_us(partner);
        if lost || in_the_way {
            self.term = self.term.max(partner.body.term);
            self.set_role(Role::Standby, RoleReason::LostToPartner, out);
            // A winner that met this node only now believes, opens and announces itself by the answer.
            for link in &mut self.links {
                link.hello_due = self.now;
            }
            return;
        }
        if self.conflict_since.is_none() {
            self.conflict_since = Some(self.now);
            self.advert_due = self.now;
        }
        // One that asks has closed its gate: it was frozen or replaced, and will give in.
        let asks = partner.body.flags & trailer_flags::ASK != 0;
        if !asks && !self.alarms.contains_key(&Alarm::BothActive) {
            self.counters.count(Counter::BothActive);
            let what = format!(
                "this node is active in term {}, the partner in term {}",
                self.term, partner.body.term
            );
            self.raise_about_partner(Alarm::BothActive, what, out);
            self.announce(out);
        }
    }

    /// When an active partner that does not hear this node has had its time to give in.
    pub(super) fn conflict_ends(&self) -> Option<Instant> {
        self.conflict_since
            .map(|since| since + self.timing.interval)
    }

    /// The partner is not active: it may know of a newer term, and it may be the fitter one.
    fn oversee(&mut self, partner: &Partner, out: &mut Vec<Action>) {
        if self.conflict_since.take().is_some() {
            self.clear(Alarm::BothActive, out);
            self.announce(out);
        }
        let (overtaken, told) = self.overtaken;
        // What the data plane heard is newer than anything but an answer to what was sent since.
        let is_over = overtaken > self.term && partner.echo_sent.is_some_and(|sent| sent >= told);
        if partner.body.term > self.term || is_over {
            self.term = self.term.max(partner.body.term);
            self.begin_term(Role::Active, RoleReason::TermOvertaken, out);
        }
        if partner.body.role.is_passive() {
            if !self.suspected() && self.now >= self.abstained_until {
                self.extend_lease(partner.heard + self.timing.alone_lease, out);
            }
        } else if let Some(reason) = self.fitter(partner) {
            self.release(reason, out);
        }
    }

    fn announce(&mut self, out: &mut Vec<Action>) {
        if self.gate.is_some() {
            out.push(Action::Announce);
            self.announce_due = Some(self.now + self.timing.interval * 2);
        }
    }

    /// Whether and why the partner, a standby that hears this node, should be active instead.
    fn fitter(&mut self, partner: &Partner) -> Option<RoleReason> {
        let (mut mine, mut theirs) = self.standings(partner);
        theirs.preferred &= !self.disputed;
        if theirs.ready {
            self.ready_epoch = Some(partner.body.epoch);
        }
        if mine.failed > theirs.failed {
            // The failure may have cut replication too. What the partner holds from before is better
            // than a node that nobody reaches.
            theirs.ready |= self.ready_epoch == Some(partner.body.epoch);
            mine.failed -= self.fresh_gateway_faults(partner);
        }
        let lately = self.now < partner.heard + self.timing.interval * 3 / 2;
        if partner.body.role != WireRole::Standby || !lately || !self.hears_us(partner) {
            self.preferred_since = None;
            return None;
        }
        let sound = theirs.failed <= mine.failed && theirs.recent == 0;
        let fit = theirs.preferred && theirs.ready && sound;
        if !fit {
            self.preferred_since = None;
            return theirs.beats(&mine).then_some(RoleReason::PartnerFitter);
        }
        let since = *self.preferred_since.get_or_insert(self.now);
        mine.active = self.now < since + self.timing.hold_down;
        if !theirs.beats(&mine) {
            None
        } else if theirs.failed < mine.failed {
            Some(RoleReason::PartnerFitter)
        } else {
            Some(RoleReason::PartnerPreferred)
        }
    }

    /// Gateways that this node has just lost and the partner has not: it may be about to.
    fn fresh_gateway_faults(&self, partner: &Partner) -> u32 {
        let fresh = |link: &&Link| {
            link.config.is_production()
                && link.carrier.works()
                && link
                    .gateway
                    .failed_since()
                    .is_some_and(|at| self.now < at + self.timing.gateway_hold)
                && Soundness::told(&partner.body, link.bit).gateway
        };
        self.links.iter().filter(fresh).count() as u32
    }

    /// Becomes active in a new term. The gate stays closed: only an echo, a release or silence opens it.
    pub(super) fn claim(&mut self, reason: RoleReason, out: &mut Vec<Action>) {
        self.yield_until = None;
        self.copies_left = 0;
        self.begin_term(Role::Active, reason, out);
    }

    fn begin_term(&mut self, to: Role, reason: RoleReason, out: &mut Vec<Action>) {
        self.next_term(out);
        self.advert_due = self.now;
        self.renewal_due = self.now;
        if self.role == to {
            self.stint = self.log.upcoming();
            self.note_term(reason, out);
        } else {
            self.set_role(to, reason, out);
        }
    }

    /// Gives the active role to the partner, which has the timeout to take it.
    pub(super) fn release(&mut self, reason: RoleReason, out: &mut Vec<Action>) {
        self.leave_active(Role::Standby, reason, out);
        self.yield_until = Some(self.now + self.timing.timeout);
    }

    /// Leaves in order: gate, addresses, then the partner is told three times on every link. If it
    /// hears that, packets of established connections pass here for a moment longer: what is on its
    /// way to this node when the switches learn of the move is not lost.
    pub(super) fn leave_active(&mut self, to: Role, reason: RoleReason, out: &mut Vec<Action>) {
        self.bow_out = self.role == Role::Active;
        let heir = self
            .partner_heard()
            .is_some_and(|partner| !partner.body.role.is_passive() && self.hears_us(partner));
        self.hand_over = (self.gate.is_some() && heir).then(|| self.now + self.timing.hand_over);
        self.set_role(to, reason, out);
        self.copies_left = RELEASE_COPIES;
        self.copy_due = self.now;
        self.listen_for(self.timing.timeout);
    }

    /// The partner, if it was heard within the timeout.
    pub(super) fn partner_heard(&self) -> Option<&Partner> {
        self.peers
            .partner()
            .filter(|partner| self.now < self.partner_silent_at(partner))
    }

    /// From when on the partner counts as silent: after the longer of the two timeouts.
    fn partner_silent_at(&self, partner: &Partner) -> Instant {
        partner.heard + self.timing.timeout.max(partner.timeout())
    }

    /// Whether the partner has lately heard this node.
    pub(super) fn hears_us(&self, partner: &Partner) -> bool {
        partner
            .echo_sent
            .is_some_and(|sent| self.now < sent + self.timing.timeout)
    }

    /// When silence allows this node to open its gate.
    pub(super) fn silence_ends(&self) -> Instant {
        let partner = self
            .peers
            .partner()
            .map(|partner| self.partner_silent_at(partner));
        self.not_before
            .max(self.initial_until)
            .max(self.granted_until())
            .max(self.peers.suspect_until())
            .max(partner.unwrap_or_default())
            .max(self.foreign_until().unwrap_or_default())
    }

    fn suspected(&self) -> bool {
        self.now < self.peers.suspect_until()
    }

    /// When an active node with a running lease finds itself alone, if nothing is heard till then. It is
    /// before the lease ends, so that a dying standby interrupts nothing; under the long lease of a
    /// replacement, not long before. Only silence counts during which this node was able to hear.
    pub(super) fn alone_at(&self) -> Option<Instant> {
        let gate = self.gate.filter(|until| *until > self.now)?;
        if self.alone {
            return None;
        }
        let timing = &self.timing;
        let silence = self.peers.partner().map(|partner| {
            let least = if partner.body.role.is_passive() {
                timing.alone_passive
            } else {
                timing.alone_least
            };
            let since = partner.heard.max(self.listens_since);
            let late = (since + least).max(gate - timing.alone_guard);
            if self.has_long_grant() {
                late
            } else {
                late.min(since + timing.alone_after)
            }
        });
        Some(silence.unwrap_or_default().max(self.peers.suspect_until()))
    }

    /// Fit to be active unheard: a production link works, and this node is not the isolated one.
    fn is_healthy(&self) -> bool {
        let mut production = self
            .links
            .iter()
            .filter(|link| link.config.is_production())
            .peekable();
        let carrier = production.peek().is_none() || production.any(|link| link.carrier.works());
        carrier && !self.isolated
    }

    /// If all gateways are lost at about the time the partner fell silent, and the partner reached one,
    /// then it is this node that is cut off. A gateway that fails long after is merely broken.
    fn judge_isolation(&mut self, out: &mut Vec<Action>) {
        let mut gateways = self.links.iter().filter(|link| link.config.has_gateway);
        let lost = gateways.clone().next().is_some() && gateways.all(|link| !link.gateway.works());
        let partner = self.peers.partner();
        let heard = partner.is_some_and(|partner| self.now < self.partner_silent_at(partner));
        if !lost || heard {
            if self.isolated {
                self.isolated = false;
                self.listen_for(self.timing.timeout);
            }
        } else if let Some(partner) = partner {
            let reached = self.links.iter().any(|link| {
                link.config.has_gateway && Soundness::told(&partner.body, link.bit).gateway
            });
            self.isolated |= reached && self.now < partner.heard + self.timing.isolation;
        }
        if self.isolated {
            let lost = |link: &Link| link.config.has_gateway && !link.gateway.works();
            let mut evidence = self.about_links(lost, "");
            evidence.what = format!(
                "the gateways on {} do not answer, and the partner is not heard",
                evidence.links.join(", ")
            );
            self.raise(Alarm::Isolated, evidence, out);
        } else {
            self.clear(Alarm::Isolated, out);
        }
    }

    /// Whether the partner could take over without loss.
    pub(super) fn partner_ready(&self, body: &Body) -> bool {
        body.ready && body.generation == self.config.generation
    }

    /// Whether this node is the later one of two with the same mode.
    pub(super) fn mode_conflict(&self, partner: &Partner) -> bool {
        self.same_mode(partner) && !self.came_first(partner)
    }

    fn same_mode(&self, partner: &Partner) -> bool {
        partner.body.mode == mode_number(self.config.mode)
    }

    /// An active node came before one that is not; else epochs decide, which are random but differ.
    fn came_first(&self, partner: &Partner) -> bool {
        let mine = self.role == Role::Active;
        let theirs = partner.body.role == WireRole::Active;
        if mine == theirs {
            self.epoch < partner.body.epoch
        } else {
            mine
        }
    }

    /// This node's standing and the partner's.
    fn standings(&self, partner: &Partner) -> (Standing, Standing) {
        let body = &partner.body;
        let same_mode = self.same_mode(partner);
        let came_first = self.came_first(partner);
        let generation = body.generation == self.config.generation;
        let mut mine = Standing {
            conflict: same_mode && !came_first,
            ready: self.says_ready() && generation,
            failed: 0,
            recent: 0,
            active: self.role == Role::Active,
            preferred: self.is_preferred(),
            first: self.config.mode == Mode::First,
        };
        let mut theirs = Standing {
            conflict: same_mode && came_first,
            ready: self.partner_ready(body),
            failed: 0,
            recent: 0,
            active: body.role == WireRole::Active,
            preferred: body.preferred == body.mode,
            first: body.mode == mode_number(Mode::First),
        };
        let hold = self.own_hold();
        for link in self.links.iter().filter(|link| link.config.is_production()) {
            let here = link.soundness(self.now, hold);
            let there = Soundness::told(body, link.bit);
            for (standing, own, other) in [(&mut mine, here, there), (&mut theirs, there, here)] {
                let failed = own.failed(other);
                standing.failed += u32::from(failed);
                standing.recent += u32::from(own.recent && !failed);
            }
        }
        (mine, theirs)
    }

    /// Whether this node holds the pair's connections. The active node does by definition. A standby
    /// that replication calls unready only since the active node fell silent still has them all, and
    /// must not lose to that node when it comes back with an empty table.
    pub(super) fn says_ready(&self) -> bool {
        self.ready
            || self.role == Role::Active
            || self
                .unready_since
                .is_some_and(|since| self.active_heard.is_some_and(|heard| heard < since))
    }

    pub(super) fn is_preferred(&self) -> bool {
        matches!(
            (self.config.preferred, self.config.mode),
            (Preferred::First, Mode::First) | (Preferred::Second, Mode::Second)
        )
    }
}
