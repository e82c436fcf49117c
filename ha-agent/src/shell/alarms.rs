//! Alarms and refusals in words: what is wrong, and what to do about it.

use super::{election, replication};
use crate::control::Refusal as Words;
use crate::proto::carp::{Alarm, Refusal};
use crate::status::model;

/// Everything that is wrong now.
pub fn current(
    election: &election::Published,
    replication: Option<&replication::Handle>,
) -> Vec<model::Alarm> {
    let mut alarms: Vec<model::Alarm> = election
        .election
        .alarms
        .iter()
        .map(|alarm| named(*alarm))
        .collect();
    if let Some(replication) = replication {
        let published = replication.published();
        if published.apply_errors > 0 {
            alarms.push(model::Alarm {
                name: "replication_not_stored".to_owned(),
                message: format!(
                    "{} replicated changes were not stored: compare the virtual services of both \
                     nodes, and limits.connections",
                    published.apply_errors
                ),
            });
        }
    }
    if election.events_lost > 0 {
        alarms.push(model::Alarm {
            name: "events_lost".to_owned(),
            message: format!(
                "{} events of the election were not logged: the machine is overloaded",
                election.events_lost
            ),
        });
    }
    alarms
}

/// An alarm's stable name and what to do about it.
pub fn named(alarm: Alarm) -> model::Alarm {
    let (name, message) = match alarm {
        Alarm::ModeConflict => (
            "mode_conflict",
            "both nodes have the same mode: set node.mode to first on one and second on the other, \
             and restart that one",
        ),
        Alarm::TermNotReserved => (
            "term_not_reserved",
            "the term could not be written to node.state_dir: check the disk; until then a restart \
             of this node may use a term twice",
        ),
        Alarm::TimingDiffers => (
            "timing_differs",
            "advertisement_interval or timeout differ between the nodes: make them equal; the \
             shorter timeout counts for the lease",
        ),
        Alarm::ConfigurationDiffers => (
            "configuration_differs",
            "everything but section `node` must be the same on both nodes: copy it, and reload",
        ),
        Alarm::CarpGroupDiffers => (
            "carp_group_differs",
            "the partner's advertisements have another CARP digest: passphrase, virtual_id or shared \
             addresses differ between the nodes",
        ),
        Alarm::UnverifiedPartner => (
            "unverified_partner",
            "somebody signs with the pair's key but does not answer this node: one direction of a \
             link does not work, or recorded packets are being replayed",
        ),
        Alarm::BothActive => (
            "both_active",
            "the partner is active, too: the links between the nodes were cut; look at the switch",
        ),
        Alarm::Isolated => (
            "isolated",
            "neither the partner nor a gateway answers: this node's network is cut off",
        ),
    };
    model::Alarm {
        name: name.to_owned(),
        message: message.to_owned(),
    }
}

/// Why an operator's wish is not carried out.
pub fn refused(refusal: Refusal) -> Words {
    let (what, remedy) = match refusal {
        Refusal::NotActive => (
            "this node is not active",
            "run the command on the active node",
        ),
        Refusal::PartnerUnheard => (
            "the partner is not heard, so there is nobody to hand over to",
            "see `ha-agent status`, and start the partner",
        ),
        Refusal::PartnerPassive => ("the partner takes no part", "run `ha-agent resume` on it"),
        Refusal::PartnerNotReady => (
            "the partner's connection table or configuration is not complete yet",
            "wait until `ha-agent status` shows replication ready and the configuration in sync",
        ),
        Refusal::Pacified => (
            "this node is pacified, so it takes no part already",
            "find out why it started so often, then run `ha-agent resume`",
        ),
        Refusal::NotGranted => (
            "the partner did not grant the time to replace the agent",
            "see `ha-agent status` on both nodes; a partner of an older version grants none: hand over \
             and restart this agent instead",
        ),
    };
    Words::new(what, remedy)
}
