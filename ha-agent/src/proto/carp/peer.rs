//! Who is heard, and whether what they say is fresh.
//!
//! A packet counts only if it is new: its sequence exceeds all earlier ones of its epoch on its link.
//! An epoch counts only once it has echoed a recent packet of this node, so a recording of an earlier
//! life proves nothing. An epoch that another one succeeded never counts again.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lease::SendLog;
use super::trailer::Body;
use crate::proto::time::Instant;

/// Epochs remembered after they ended, and strangers remembered at a time.
const REMEMBERED: usize = 8;

/// The other node of the pair, once it has proven that it is there now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Partner {
    /// The newest packet, by sequence.
    pub(super) body: Body,
    /// When the last new packet was received.
    pub(super) heard: Instant,
    /// When this node sent what the newest packet echoes.
    pub(super) echo_sent: Option<Instant>,
}

impl Partner {
    /// Its timeout.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_micros(self.body.timeout_us.into())
    }
}

/// What is known of one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LinkWindow {
    /// Highest sequence accepted in the partner's epoch.
    sequence: u64,
    /// When the partner was last heard here.
    heard: Option<Instant>,
}

/// A signed packet's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This node's own packet.
    Reflected,
    /// An epoch that is over.
    Retired,
    /// Not new.
    Replayed,
    /// A stranger: challenge it.
    Stranger,
    /// News, or only a sign of life if a newer packet came first on another link.
    Accepted {
        /// It is the newest packet of the partner.
        newest: bool,
        /// It is the first of its epoch.
        adopted: bool,
    },
}

/// The partner and the strangers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peers {
    epoch: u64,
    partner: Option<Partner>,
    links: Vec<LinkWindow>,
    retired: VecDeque<u64>,
    /// Epochs that have not proven themselves, with their highest sequence.
    strangers: VecDeque<(u64, u64)>,
    /// Until then a stranger may be the restarted partner that does not hear this node.
    suspect_until: Instant,
}

impl Peers {
    /// For a node with this epoch and this number of links.
    pub(super) fn new(epoch: u64, links: usize) -> Self {
        Self {
            epoch,
            partner: None,
            links: vec![LinkWindow::default(); links],
            retired: VecDeque::new(),
            strangers: VecDeque::new(),
            suspect_until: Instant::default(),
        }
    }

    /// The partner, however long it has been silent.
    pub(super) fn partner(&self) -> Option<&Partner> {
        self.partner.as_ref()
    }

    /// When the partner was last heard on a link.
    pub(super) fn heard_on(&self, link: usize) -> Option<Instant> {
        self.links.get(link)?.heard
    }

    /// End of the suspicion that a stranger is the partner.
    pub(super) fn suspect_until(&self) -> Instant {
        self.suspect_until
    }

    /// Takes in a packet whose tag is good. `timeout` is how old an echo may be.
    pub(super) fn receive(
        &mut self,
        link: usize,
        body: &Body,
        at: Instant,
        log: &SendLog,
        timeout: Duration,
    ) -> Verdict {
        if body.epoch == self.epoch {
            return Verdict::Reflected;
        }
        if self.retired.contains(&body.epoch) {
            return Verdict::Retired;
        }
        let echo_sent = (body.echo_epoch == self.epoch)
            .then(|| log.sent_at(body.echo_sequence))
            .flatten();
        let known = self.partner.as_ref().map(|partner| partner.body.epoch);
        let adopted = known != Some(body.epoch);
        if adopted {
            if echo_sent.is_none_or(|sent| at >= sent + timeout) {
                return self.stranger(body, at, timeout);
            }
            self.adopt(known);
        }
        let Some(window) = self.links.get_mut(link) else {
            return Verdict::Replayed;
        };
        if body.sequence <= window.sequence {
            return Verdict::Replayed;
        }
        window.sequence = body.sequence;
        window.heard = window.heard.max(Some(at));
        match &mut self.partner {
            Some(partner) if !adopted => {
                partner.heard = partner.heard.max(at);
                if body.sequence < partner.body.sequence {
                    return Verdict::Accepted {
                        newest: false,
                        adopted: false,
                    };
                }
                partner.body = *body;
                partner.echo_sent = echo_sent;
            }
            partner => {
                *partner = Some(Partner {
                    body: *body,
                    heard: at,
                    echo_sent,
                });
            }
        }
        Verdict::Accepted {
            newest: true,
            adopted,
        }
    }

    /// Makes room for a new epoch of the partner.
    fn adopt(&mut self, previous: Option<u64>) {
        if let Some(previous) = previous {
            remember(&mut self.retired, previous);
        }
        for window in &mut self.links {
            window.sequence = 0;
        }
        self.strangers.clear();
        self.suspect_until = Instant::default();
    }

    /// A packet with the pair's key from an epoch that proves nothing. It may be a recording. It may
    /// also be the partner, restarted, which does not hear this node: then it echoes nothing (or this
    /// very epoch), and going on as if there were no partner would make two active nodes. A node that
    /// has not met its partner in this life cannot tell, and takes it for the partner as well.
    fn stranger(&mut self, body: &Body, at: Instant, timeout: Duration) -> Verdict {
        match self
            .strangers
            .iter_mut()
            .find(|(epoch, _)| *epoch == body.epoch)
        {
            Some((_, sequence)) if *sequence >= body.sequence => return Verdict::Replayed,
            Some((_, sequence)) => *sequence = body.sequence,
            None => remember(&mut self.strangers, (body.epoch, body.sequence)),
        }
        let plausible =
            self.partner.is_none() || body.echo_epoch == 0 || body.echo_epoch == self.epoch;
        if plausible && !body.role.is_passive() {
            self.suspect_until = self.suspect_until.max(at + timeout);
        }
        Verdict::Stranger
    }
}

/// Appends to a list of bounded length.
fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(item);
}
