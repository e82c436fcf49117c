//! Lasting conditions: raised with what they rest on, cleared when it is over.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api::{Action, Alarm, Evidence};
use super::link::Link;
use super::machine::Election;
use super::trailer::Body;
use crate::proto::time::Instant;

/// How long what anybody may have sent keeps an alarm up: ten timeouts, and long enough to be seen.
const QUIET: Duration = Duration::from_secs(10);

/// How long a disk may take over a term before that is worth an alarm: disks stall for less when others write.
pub(super) const DISK_ANSWERS: Duration = Duration::from_secs(2);

/// An alarm that is raised.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Raised {
    pub(super) since: Instant,
    /// When it was raised or confirmed last.
    seen: Instant,
    pub(super) evidence: Evidence,
}

/// Who hears whom on a link whose both ends have a carrier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Hearing {
    /// Both hear each other, or nothing can be known.
    #[default]
    Mutual,
    /// Only the partner hears.
    Deaf,
    /// Only this node hears.
    Unheard,
    /// Neither hears the other, but both do on another link.
    Silent,
}

impl Hearing {
    const fn in_words(self) -> &'static str {
        match self {
            Self::Mutual => "fine",
            Self::Deaf => "the partner hears this node, this node does not hear the partner",
            Self::Unheard => "this node hears the partner, the partner does not hear this node",
            Self::Silent => "neither node hears the other",
        }
    }
}

impl Alarm {
    /// Whether it rests on a packet that anybody may have sent: it ends when no more come, and only
    /// the first of them is told of.
    const fn is_hearsay(self) -> bool {
        matches!(
            self,
            Self::CarpGroupDiffers | Self::VersionMismatch | Self::UnsignedPeer
        )
    }
}

impl Election {
    /// Raises a condition, or says anew what it rests on if that changed.
    pub(super) fn raise(&mut self, alarm: Alarm, evidence: Evidence, out: &mut Vec<Action>) {
        let now = self.now;
        let known = self.alarms.get_mut(&alarm);
        let since = known.as_ref().map_or(now, |known| known.since);
        if let Some(known) = known
            && (alarm.is_hearsay() || known.evidence.what == evidence.what)
        {
            known.seen = now;
            return;
        }
        let raised = Raised {
            since,
            seen: now,
            evidence: evidence.clone(),
        };
        self.alarms.insert(alarm, raised);
        out.push(Action::Alarm {
            alarm,
            raised: true,
            evidence,
        });
    }

    /// A condition is over.
    pub(super) fn clear(&mut self, alarm: Alarm, out: &mut Vec<Action>) {
        if let Some(Raised { evidence, .. }) = self.alarms.remove(&alarm) {
            out.push(Action::Alarm {
                alarm,
                raised: false,
                evidence,
            });
        }
    }

    /// Evidence about links.
    pub(super) fn about_links(
        &self,
        concerned: impl Fn(&Link) -> bool,
        what: impl Into<String>,
    ) -> Evidence {
        let links = self.links.iter().filter(|link| concerned(link));
        Evidence {
            links: links.map(|link| link.config.name.clone()).collect(),
            source: None,
            what: what.into(),
        }
    }

    /// Whether a term was taken that a restart might take again, and the disk has had its time.
    pub(super) fn judge_reserve(&mut self, out: &mut Vec<Action>) {
        let reserved = self.term_reserved;
        self.unreserved = self.unreserved.filter(|(term, _)| *term >= reserved);
        match self.unreserved {
            Some((term, since)) if self.now >= since + DISK_ANSWERS => {
                let evidence = Evidence {
                    what: format!("term {term} is not on disk"),
                    ..Evidence::default()
                };
                self.raise(Alarm::TermNotReserved, evidence, out);
            }
            Some(_) => {}
            None => self.clear(Alarm::TermNotReserved, out),
        }
    }

    /// Evidence that came in a packet.
    pub(super) fn heard_from(
        &self,
        (link, source): (usize, IpAddr),
        what: impl Into<String>,
    ) -> Evidence {
        Evidence {
            links: self
                .links
                .get(link)
                .map(|link| link.config.name.clone())
                .into_iter()
                .collect(),
            source: Some(source),
            what: what.into(),
        }
    }

    /// Clears what nobody has said for a while.
    pub(super) fn forget_hearsay(&mut self, out: &mut Vec<Action>) {
        let quiet = QUIET.max(self.timing.timeout * 10);
        let over = |(alarm, raised): (&Alarm, &Raised)| {
            (alarm.is_hearsay() && self.now >= raised.seen + quiet).then_some(*alarm)
        };
        let over: Vec<Alarm> = self.alarms.iter().filter_map(over).collect();
        for alarm in over {
            self.clear(alarm, out);
        }
    }

    /// Compares on each link whether this node hears the partner and whether the partner hears this
    /// node. It moves nothing: the nodes hear each other elsewhere, and both links look good.
    pub(super) fn judge_hearing(&mut self, out: &mut Vec<Action>) {
        let body = self.partner_heard().map(|partner| partner.body);
        let mut one_way = false;
        let mut silent = false;
        for index in 0..self.links.len() {
            let here = self.hears_on(index);
            let Some(link) = self.links.get_mut(index) else {
                continue;
            };
            let hearing = body.map_or(Hearing::Mutual, |body| link.hearing(here, &body));
            if link.hearing.0 != hearing {
                link.hearing = (hearing, self.now);
            }
            if self.now >= link.hearing.1 + self.timing.timeout * 2 {
                one_way |= matches!(hearing, Hearing::Deaf | Hearing::Unheard);
                silent |= hearing == Hearing::Silent;
            }
        }
        self.alarm_about_links(Alarm::OneWayHearing, one_way, out);
        self.alarm_about_links(Alarm::LinkSilent, silent, out);
    }

    /// Whether the active partner's advertisements arrive in one family only: clients of the other one
    /// may be cut off, and nothing else would show it.
    pub(super) fn judge_families(&mut self, out: &mut Vec<Action>) {
        let silent = |link: &Link| link.silent_family(self.now, self.timing.timeout);
        let words: Vec<String> = self
            .links
            .iter()
            .filter_map(|link| Some(format!("{}: no {}", link.config.name, silent(link)?)))
            .collect();
        if words.is_empty() {
            return self.clear(Alarm::FamilySilent, out);
        }
        let evidence = self.about_links(|link| silent(link).is_some(), words.join("; "));
        self.raise(Alarm::FamilySilent, evidence, out);
    }

    fn alarm_about_links(&mut self, alarm: Alarm, any: bool, out: &mut Vec<Action>) {
        if !any {
            return self.clear(alarm, out);
        }
        let concerned = |link: &Link| {
            let silent = link.hearing.0 == Hearing::Silent;
            link.hearing.0 != Hearing::Mutual && silent == (alarm == Alarm::LinkSilent)
        };
        let links = self.links.iter().filter(|link| concerned(link));
        let words = links.map(|link| {
            let hearing = link.hearing.0.in_words();
            format!("{}: {hearing}", link.config.name)
        });
        let what = words.collect::<Vec<String>>().join("; ");
        let evidence = self.about_links(concerned, what);
        self.raise(alarm, evidence, out);
    }

    /// Whether the partner was heard on a link within the timeout.
    pub(super) fn hears_on(&self, link: usize) -> bool {
        let heard = self.peers.heard_on(link);
        heard.is_some_and(|at| self.now < at + self.timing.timeout)
    }
}

impl Link {
    fn hearing(&self, here: bool, body: &Body) -> Hearing {
        let there = body.heard >> self.bit & 1 != 0;
        let connected = self.carrier.works() && body.health >> (2 * self.bit) & 1 != 0;
        match (here, there) {
            _ if !connected => Hearing::Mutual,
            (true, true) => Hearing::Mutual,
            (false, true) => Hearing::Deaf,
            (true, false) => Hearing::Unheard,
            (false, false) => Hearing::Silent,
        }
    }
}
