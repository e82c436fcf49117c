//! Inputs that are not packets.

use super::api::{Action, Command, Input, Refusal, Role, RoleReason};
use super::counters::Counter;
use super::link::Link;
use super::machine::{Election, QUICK_HELLOS};
use super::receive::mode_number;

impl Election {
    /// Takes in one input.
    pub(super) fn take(&mut self, input: Input<'_>, out: &mut Vec<Action>) {
        match input {
            Input::Advert {
                link,
                source,
                payload,
                at,
            } => self.take_advert((link, source, at.min(self.now)), payload, out),
            Input::Hello {
                link,
                source,
                payload,
                at,
            } => self.take_hello((link, source, at.min(self.now)), payload, out),
            Input::Carrier { link, up } => self.take_carrier(link, up),
            Input::Gateway { link, reachable } => {
                if let Some(link) = self.links.get_mut(link)
                    && link.gateway.report(reachable, self.now)
                {
                    self.hello_soon();
                }
            }
            Input::Multicast { link, heard } => {
                let gap = self.timing.hello_gap;
                if let Some(link) = self.links.get_mut(link)
                    && link.multicast.0 != heard
                {
                    link.multicast = (heard, self.now);
                    link.hello_soon(self.now, gap);
                }
            }
            Input::Ready(ready) => {
                if self.ready != ready {
                    self.ready = ready;
                    self.unready_since = (!ready).then_some(self.now);
                    self.hello_soon();
                }
            }
            Input::Disputed(disputed) => self.disputed = disputed,
            Input::Generation(generation) => {
                self.config.generation = generation;
                self.hello_soon();
            }
            Input::Settings(settings) => self.take_settings(settings, out),
            Input::TermReserved(up_to) => {
                self.term_reserved = self.term_reserved.max(up_to);
            }
            Input::Overtaken(term) => self.overtaken(term, out),
            Input::Command(command) => self.command(command, out),
        }
    }

    /// The kernel closed the gate on an advertisement that may never have come here. The partner was
    /// there, so its silence begins now; what it says next decides, and whatever this node is then, the
    /// gate opens in a higher term only.
    fn overtaken(&mut self, term: u64, out: &mut Vec<Action>) {
        if term <= self.overtaken.0 {
            return;
        }
        self.overtaken = (term, self.now);
        if self.role != Role::Active || term <= self.term {
            return;
        }
        self.counters.count(Counter::Overtaken);
        self.set_gate(None, out);
        self.alone = false;
        self.listen_for(self.timing.timeout);
        for link in &mut self.links {
            link.quick_hellos = QUICK_HELLOS;
        }
        self.hello_soon();
    }

    fn take_carrier(&mut self, index: usize, up: bool) {
        let deaf = |links: &[Link]| links.iter().all(|link| !link.carrier.works());
        let was_deaf = deaf(&self.links);
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        if !link.carrier.report(up, self.now) {
            return;
        }
        if was_deaf && !deaf(&self.links) {
            self.listen_anew(self.timing.timeout);
        }
        if up && self.gate.is_some() {
            self.announce_due = Some(self.now);
        }
        self.hello_soon();
    }

    fn command(&mut self, command: Command, out: &mut Vec<Action>) {
        if self.stopping {
            return;
        }
        match command {
            Command::Failover => match self.failover_refusal() {
                Some(refusal) => out.push(Action::Refused(refusal)),
                None => self.release(RoleReason::Failover, out),
            },
            Command::Maintenance(true) => {
                let refusal = match self.role {
                    Role::Active => self.failover_refusal(),
                    Role::Pacified => Some(Refusal::Pacified),
                    Role::Off | Role::Init | Role::Standby | Role::Maintenance => None,
                };
                match refusal {
                    Some(refusal) => out.push(Action::Refused(refusal)),
                    None => self.put_aside(out),
                }
            }
            Command::MaintenanceAnyway => self.put_aside(out),
            Command::Maintenance(false) => {
                if self.role == Role::Maintenance {
                    self.take_part(out);
                }
            }
            Command::Resume => {
                if matches!(self.role, Role::Maintenance | Role::Pacified) {
                    self.take_part(out);
                }
            }
            Command::Reexec => self.prepare_reexec(out),
            Command::Stop => {
                self.stopping = true;
                if self.role == Role::Off {
                    self.set_gate(None, out);
                } else {
                    self.leave_active(Role::Off, RoleReason::Stopping, out);
                }
            }
        }
    }

    fn put_aside(&mut self, out: &mut Vec<Action>) {
        match self.role {
            Role::Init | Role::Standby => {
                self.set_role(Role::Maintenance, RoleReason::Maintenance, out);
            }
            Role::Active => {
                self.leave_active(Role::Maintenance, RoleReason::Maintenance, out);
            }
            Role::Off | Role::Pacified | Role::Maintenance => {}
        }
    }

    fn take_part(&mut self, out: &mut Vec<Action>) {
        self.set_role(Role::Standby, RoleReason::Resumed, out);
        self.listen_for(self.timing.timeout);
        self.abstained_until = self.now + self.timing.timeout;
    }

    pub(super) fn failover_refusal(&self) -> Option<Refusal> {
        if self.role != Role::Active {
            return Some(Refusal::NotActive);
        }
        if !self.proven && self.accepts_foreign() {
            return None;
        }
        let Some(partner) = self.partner_heard().filter(|p| self.hears_us(p)) else {
            return Some(Refusal::PartnerUnheard);
        };
        if partner.body.role.is_passive() {
            Some(Refusal::PartnerPassive)
        } else if partner.body.mode == mode_number(self.config.mode) {
            Some(Refusal::SameMode)
        } else if !self.partner_ready(&partner.body) {
            Some(Refusal::PartnerNotReady)
        } else {
            None
        }
    }
}
