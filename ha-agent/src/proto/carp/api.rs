//! What goes into the election and what comes out of it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::config::Settings;
use crate::proto::time::Instant;

/// What this node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Not in a pair: high availability is off, or the node is stopping.
    Off,
    /// Started, has not heard the partner yet.
    Init,
    /// Watches.
    Standby,
    /// Forwards as long as its lease runs.
    Active,
    /// Takes no part until a person resumes it.
    Pacified,
    /// Takes no part by request.
    Maintenance,
}

/// Why a role changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleReason {
    /// The agent started.
    Started,
    /// High availability is off by configuration.
    HaOff,
    /// The partner was heard for the first time.
    PartnerFound,
    /// Nothing was heard from the partner for the timeout.
    PartnerSilent,
    /// The partner gave the active role up.
    PartnerReleased,
    /// The partner takes no part.
    PartnerPassive,
    /// Both were standby and the order favours this node.
    BetterThanPartner,
    /// Both were standby and the favoured partner did not claim in time.
    Unclaimed,
    /// The partner is fitter: released to it.
    PartnerFitter,
    /// The partner is the preferred node and fit again: released to it.
    PartnerPreferred,
    /// Both were active and the partner has the higher term or the better place in the order.
    LostToPartner,
    /// Was active in an older term than the partner has known since.
    TermOvertaken,
    /// No production link has a carrier.
    LinksLost,
    /// Neither the partner nor the gateway is reachable.
    Isolated,
    /// Someone asked for a hand-over.
    Failover,
    /// Someone asked for maintenance.
    Maintenance,
    /// A person took the node back from maintenance or pacification.
    Resumed,
    /// The node had started uncleanly too often.
    Pacified,
    /// The agent was replaced in place; the role is the one it had.
    Replaced,
    /// The agent stops.
    Stopping,
    /// A peer without trailer fell silent.
    ForeignSilent,
    /// A peer without trailer left, or advertises so slowly that it counts as gone.
    ForeignGone,
    /// A peer without trailer advertises faster.
    ForeignFaster,
}

/// A request from the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Hand the active role to the partner.
    Failover,
    /// Leave in order: release, tell the partner, then [`Action::Stopped`].
    Stop,
    /// Enter or leave maintenance. An active node enters only if the partner can take over.
    Maintenance(bool),
    /// Enter maintenance even if nobody takes over.
    MaintenanceAnyway,
    /// Take part again, after maintenance or pacification.
    Resume,
    /// Prepare for the agent's replacement; answered by [`Action::Reexec`].
    Reexec,
}

/// Why a [`Command`] is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// This node is not active.
    NotActive,
    /// The partner is not heard, or does not hear this node.
    PartnerUnheard,
    /// The partner takes no part.
    PartnerPassive,
    /// The partner has the same mode and would refuse.
    SameMode,
    /// The partner's connection table or configuration is not equal.
    PartnerNotReady,
    /// This node is pacified: there is nothing to put aside.
    Pacified,
    /// The partner did not grant the lease under which the agent could be replaced.
    NotGranted,
}

/// A lasting condition that a person should know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// Both nodes have the same mode.
    ModeConflict,
    /// The active term could not be reserved on disk.
    TermNotReserved,
    /// Interval or timeout differ.
    TimingDiffers,
    /// The replicated parts of the configurations differ.
    ConfigurationDiffers,
    /// Somebody advertises for this vhid with another CARP digest: passphrase or shared addresses differ.
    CarpGroupDiffers,
    /// Somebody who has the passphrase advertises for this vhid, but without the trailer demanded.
    UnsignedPeer,
    /// A trailer or HELLO of a layout this version does not know.
    VersionMismatch,
    /// Someone signs with the pair's key but does not answer: a one-way link, or a replayed capture.
    UnverifiedPartner,
    /// Both nodes are active.
    BothActive,
    /// Neither the partner nor the gateway is reachable.
    Isolated,
    /// On a link only one of the nodes hears the other.
    OneWayHearing,
    /// On a link neither node hears the other, though both have a carrier and are heard elsewhere.
    LinkSilent,
    /// On a link the partner's advertisements arrive over one of IPv4 and IPv6 only.
    FamilySilent,
}

/// What an alarm rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Logical names of the links concerned; none if it concerns the node.
    pub links: Vec<String>,
    /// Who sent what raised it.
    pub source: Option<IpAddr>,
    /// What was seen; empty if the alarm says it all.
    pub what: String,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.source {
            Some(source) => write!(f, " (from {source} on {})", self.links.join(", ")),
            None => Ok(()),
        }
    }
}

/// What happens to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A CARP packet for this node's vhid.
    Advert {
        /// Index into [`super::ElectionConfig::links`].
        link: usize,
        /// Source address of its IP header.
        source: IpAddr,
        /// What follows the IP header.
        payload: &'a [u8],
        /// When the kernel received it.
        at: Instant,
    },
    /// A UDP packet to the HELLO port.
    Hello {
        /// Index into [`super::ElectionConfig::links`].
        link: usize,
        /// Source address of its IP header.
        source: IpAddr,
        /// What follows the UDP header.
        payload: &'a [u8],
        /// When the kernel received it.
        at: Instant,
    },
    /// A link gained or lost its carrier (or its XDP program). Assumed present until reported.
    Carrier {
        /// Which link.
        link: usize,
        /// Whether it works.
        up: bool,
    },
    /// A link's gateway became reachable or unreachable. Assumed reachable until reported.
    Gateway {
        /// Which link.
        link: usize,
        /// Whether it answers.
        reachable: bool,
    },
    /// Whether the partner's multicast is heard on a link. Assumed heard until reported.
    Multicast {
        /// Which link.
        link: usize,
        /// Whether it is.
        heard: bool,
    },
    /// Whether the connection table is equal to the partner's.
    Ready(bool),
    /// Whether a stranger has a shared address. Assumed not until reported.
    Disputed(bool),
    /// The configuration changed.
    Generation(u64),
    /// Other settings, while it runs.
    Settings(Settings),
    /// Terms below this one are reserved on disk.
    TermReserved(u64),
    /// The data plane has heard the partner as active in this term, and keeps the gate closed in all
    /// lower ones.
    Overtaken(u64),
    /// The operator wants something.
    Command(Command),
}

/// What the shell must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Store the gate word: open until then, or closed. Always comes before the addresses move and
    /// before any packet that depends on it.
    Gate(Option<Instant>),
    /// Let packets of established connections through the closed gate until then, so that those on their
    /// way to this node while the partner takes over are not lost. Directly follows `Gate(None)`.
    HandOver {
        /// At most 50 ms and half the timeout from now.
        until: Instant,
    },
    /// Add the shared addresses; the gate has just opened. While it is open their lifetime is refreshed.
    ClaimAddresses,
    /// Remove the shared addresses; the gate has just closed.
    ReleaseAddresses,
    /// Send gratuitous ARP or unsolicited neighbour advertisements for every shared address.
    Announce,
    /// Send a CARP payload to the group of the source's family.
    SendAdvert {
        /// On which link.
        link: usize,
        /// Own address; the tag covers it.
        source: IpAddr,
        /// What follows the IP header.
        #[serde(with = "crate::proto::hex")]
        payload: Vec<u8>,
    },
    /// Send a HELLO to the group of the source's family.
    SendHello {
        /// On which link.
        link: usize,
        /// Own address, 0.0.0.0 on an unnumbered link; the tag covers it.
        source: IpAddr,
        /// What follows the UDP header.
        #[serde(with = "crate::proto::hex")]
        payload: Vec<u8>,
    },
    /// Write this bound to disk, then answer with [`Input::TermReserved`].
    ReserveTerm {
        /// Terms below it are then reserved.
        up_to: u64,
    },
    /// The role, or the term of an active node, changed. Comes before the gate is opened in that term.
    RoleChanged {
        /// Old role.
        from: Role,
        /// New role.
        to: Role,
        /// Why.
        reason: RoleReason,
        /// Term of an active node; else the highest known.
        term: u64,
    },
    /// A lasting condition began or ended, or rests on something else now.
    Alarm {
        /// Which.
        alarm: Alarm,
        /// Whether it holds.
        raised: bool,
        /// What it rests on, or did.
        evidence: Evidence,
    },
    /// The command is refused.
    Refused(Refusal),
    /// Answer to [`Command::Reexec`], not always at once: the agent may be replaced now, with
    /// [`super::Election::park`]'s state. If that fails the machine just goes on.
    Reexec(Result<(), Refusal>),
    /// The last packet is out; the machine does nothing any more.
    Stopped,
}
