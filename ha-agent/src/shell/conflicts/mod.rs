//! Others on the network who are in the pair's way: named, and answered where that helps.
//!
//! XDP records what should not happen ([`ha_common::event::Evidence`]); here it is read a few times a
//! second and becomes alarms. Whoever claims a shared address is answered by a new announcement
//! if this node holds the addresses. And so that a host that has a shared address and says nothing is found,
//! too, all addresses are probed: at start, when the node becomes active, before it hands over on
//! request, and every half minute. While a stranger has a shared address, the role is not given back to a
//! preferred node. The answers come by way of XDP like everything else.
//!
//! Nothing here delays a takeover, and the election thread only ever gets a message that fits its queue.

mod ledger;
mod probe;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ha_common::event::{Evidence, EvidenceKind};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use super::agent::{Shared, lock};
use super::alarms::{Kind, SHOWN};
use super::frame::{Mac, mac_text};
use super::{clock, election, parts};
use crate::control::{Refusal, Reply};
use crate::proto::carp::Role;
use crate::proto::time::Instant;
use ledger::{Ledger, Sighting};
pub(super) use probe::send as probe;
use schedule::{Defence, Rounds};

/// How often the ring is read.
const POLL: Duration = Duration::from_millis(100);
/// How long an answer to a probe may take: hosts answer from their kernel.
const ANSWER: Duration = Duration::from_millis(150);
/// The longest wait for the ring to be read, on a machine that stalls.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// XDP stamps records with a clock that advances once a tick of the kernel.
const COARSE: Duration = Duration::from_millis(10);

/// A host with a shared address that is neither of the pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    mac: Mac,
    interface: String,
    seen: Instant,
}

/// Who else has the shared addresses, as far as is known.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Everything that happened before is in it.
    looked: Instant,
    rivals: BTreeMap<IpAddr, Rival>,
}

/// Reads the evidence as long as the agent runs.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut watch = Watch {
        shared,
        ledger: Ledger::default(),
        defence: Defence::default(),
        rounds: Rounds::after_first(clock::now()),
        partners: BTreeMap::new(),
        disputed: false,
        unreadable: false,
    };
    let mut tick = interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        watch.look().await;
    }
}

struct Watch {
    shared: Arc<Shared>,
    ledger: Ledger,
    defence: Defence,
    rounds: Rounds,
    /// The partner's Ethernet addresses, by interface and address: it may rightly claim what is shared.
    partners: BTreeMap<(u32, IpAddr), Mac>,
    /// What the election was told.
    disputed: bool,
    /// The ring could not be read, and that was logged.
    unreadable: bool,
}

impl Watch {
    async fn look(&mut self) {
        let role = self.shared.election.published().election.role;
        let holds = matches!(role, Role::Active | Role::Off);
        if self.rounds.due(clock::now(), holds) {
            probe(&lock(&self.shared.bound));
            self.learn().await;
        }
        let looked = clock::now();
        let records = match self.shared.datapath.evidence() {
            Ok(records) => records,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    warn!(%error, "conflicts go unnoticed: the evidence cannot be read");
                }
                return;
            }
        };
        let (claims, packets): (Vec<_>, Vec<_>) = records.into_iter().partition(is_claim);
        let strange = self.strange(&claims);
        if strange.iter().any(is_about_shared) {
            self.defence.claimed();
        }
        if self.defence.due(looked) {
            self.shared.election.send(election::Command::Announce);
        }
        if !strange.is_empty() {
            // Perhaps it is the partner, with another network card or not met before.
            self.learn().await;
        }
        let strange = self.strange(&strange);
        for record in packets.iter().chain(&strange) {
            self.tell(looked, record);
        }
        self.ledger.forget(looked);
        self.shared.board.sweep();
        self.publish(looked, &strange);
    }

    /// Claims of neither node.
    fn strange(&self, claims: &[Evidence]) -> Vec<Evidence> {
        let own = parts::own_macs(&self.shared.bound);
        let friends: BTreeSet<&Mac> = own.values().chain(self.partners.values()).collect();
        let strange = |claim: &&Evidence| !friends.contains(&claim.source_mac);
        claims.iter().filter(strange).copied().collect()
    }

    /// Finds out the partner's Ethernet addresses. One that does not answer keeps those it had.
    async fn learn(&mut self) {
        let bound = lock(&self.shared.bound).clone();
        self.partners.extend(probe::partners(&bound, ANSWER).await);
    }

    fn tell(&mut self, now: Instant, record: &Evidence) {
        let Some(sighting) = Sighting::of(record) else {
            return;
        };
        if self.is_known(&sighting) {
            return;
        }
        let interface = self.name(record.ifindex);
        if let Some((about, what)) = self.ledger.note(now, &sighting, &interface) {
            self.shared.board.report(sighting.kind, &about, what);
        }
    }

    /// Whether the election says the same.
    fn is_known(&self, sighting: &Sighting) -> bool {
        let published = self.shared.election.published();
        published.election.alarms.iter().any(|raised| {
            Kind::from(raised.alarm) == sighting.kind
                && raised.evidence.source == Some(sighting.address)
        })
    }

    fn name(&self, ifindex: u32) -> String {
        let bound = lock(&self.shared.bound);
        let found = bound.iter().find(|bound| bound.link.ifindex == ifindex);
        found.map_or_else(
            || format!("interface {ifindex}"),
            |bound| bound.interface.name.clone(),
        )
    }

    fn publish(&mut self, looked: Instant, strange: &[Evidence]) {
        let rivals = strange.iter().filter(|claim| is_about_shared(claim));
        let rivals: Vec<(IpAddr, Rival)> = rivals
            .map(|claim| {
                let rival = Rival {
                    mac: claim.source_mac,
                    interface: self.name(claim.ifindex),
                    seen: Instant::from_nanos(claim.at_ns),
                };
                (ledger::address(claim), rival)
            })
            .collect();
        self.shared.conflicts.send_modify(|picture| {
            picture.looked = looked;
            picture.rivals.extend(rivals);
            // As long as the alarm stands.
            picture
                .rivals
                .retain(|_, rival| looked < rival.seen + SHOWN);
        });
        let disputed = !self.shared.conflicts.borrow().rivals.is_empty();
        let command = election::Command::Disputed(disputed);
        if disputed != self.disputed && self.shared.election.send(command) {
            self.disputed = disputed;
        }
    }
}

fn is_claim(record: &Evidence) -> bool {
    record.kind == EvidenceKind::DuplicateAddress as u8
}

const fn is_about_shared(claim: &Evidence) -> bool {
    claim.detail == 1
}

impl Shared {
    /// Asks the network whether a host that is none of the pair has a shared address, before the active
    /// node gives the role away without need. Other nodes have nothing to give.
    pub(super) async fn undisputed(&self) -> Reply<()> {
        if self.election.published().election.role != Role::Active {
            return Ok(());
        }
        let asked = clock::now();
        probe(&lock(&self.bound));
        let mut picture = self.conflicts.subscribe();
        let answered = picture.wait_for(|picture| picture.looked >= asked + ANSWER);
        let Ok(Ok(picture)) = timeout(LOOK_MAX, answered).await else {
            warn!("nothing was found out of others with a shared address in time");
            return Ok(());
        };
        let mut rivals = picture.rivals.iter();
        let Some((address, rival)) = rivals.find(|(_, rival)| rival.seen + COARSE >= asked) else {
            return Ok(());
        };
        Err(Refusal::new(
            format!(
                "another host has {address}: {} on {}",
                mac_text(rival.mac),
                rival.interface
            ),
            Kind::DuplicateAddress.remedy(),
        ))
    }
}
