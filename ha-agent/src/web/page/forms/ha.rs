//! HA parameters.

use super::{Field, Input};
use crate::config::edit::Written;
use crate::config::model::{Config, Mode};
use crate::config::pretty;

const MODES: &[(&str, &str)] = &[
    ("off", "off: this node works alone"),
    ("first", "first node"),
    ("second", "second node"),
];
const PREFERRED: &[(&str, &str)] = &[
    ("none", "none: who is active stays active"),
    ("first", "first node"),
    ("second", "second node"),
];
const AUTH: &[(&str, &str)] = &[
    ("enforce", "enforce: only who has the pair's key"),
    (
        "permissive",
        "permissive: others until the partner has signed",
    ),
    ("off", "off: signatures are not demanded"),
];
const TRANSPORTS: &[(&str, &str)] = &[
    (
        "auto",
        "auto: multicast, and unicast where that does not pass",
    ),
    ("multicast", "multicast only"),
    ("unicast", "unicast only"),
];

/// The form: what is this node's own, and what both nodes have alike.
pub(in super::super) struct Form {
    /// Of this node.
    pub(in super::super) own: Vec<Field>,
    /// Of the pair.
    pub(in super::super) pair: Vec<Field>,
}

impl Form {
    /// Of a file, with the defaults of the configuration in force.
    pub(in super::super) fn of(file: &Written, config: &Config) -> Self {
        let names: Vec<String> = config
            .node
            .interfaces
            .iter()
            .map(|i| i.name.clone())
            .collect();
        let mode = Field::new(&["node"], "mode", "HA mode", Input::Choice(MODES))
            .hint("Each node of a pair has another one.")
            .read(file);
        let ha = &config.ha;
        let interfaces = || Input::Interface(names.clone());
        let text = |key, label, hint| Field::new(&["ha"], key, label, Input::Text).hint(hint);
        let number = |key, label, hint| Field::new(&["ha"], key, label, Input::Number).hint(hint);
        let switch = |key, label, hint| Field::new(&["ha"], key, label, Input::Switch).hint(hint);
        let paired = config.node.mode != Mode::Off;
        let pair = vec![
            text(
                "timeout",
                "HA timeout",
                "How long the partner must be silent before this node takes over: 3s, 9s, 300ms.",
            )
            .default("9s"),
            text(
                "advertisement_interval",
                "Advertisement interval",
                "Less than half of the timeout.",
            )
            .default("1s"),
            text(
                "initial_wait",
                "Initial wait",
                "After a start, before this node may become active without having heard the partner.",
            )
            .default("0s"),
            text(
                "hold_down",
                "Hold-down",
                "How long what failed must have worked again before it counts.",
            )
            .default(pretty(ha.hold_down)),
            number(
                "virtual_id",
                "Virtual id",
                "1 to 255, unique on the network among CARP and VRRP; those up to 10 are in frequent use.",
            )
            .default(ha.virtual_id.to_string()),
            Field::new(&["ha"], "preferred", "Preferred node", Input::Choice(PREFERRED))
                .hint("Which node should be active when both can.")
                .default("none"),
            Field::new(&["ha"], "update_interface", "Update interface", interfaces())
                .hint("Over which the configuration is copied to the partner.")
                .default(ha.update_interface.clone()),
            switch(
                "l4_connection_updates",
                "Connection updates",
                "The partner is told of connections, so that they survive a failover.",
            )
            .default(paired.to_string()),
            switch(
                "persistence_updates",
                "Persistence updates",
                "The partner is told where persistent clients go.",
            )
            .default(paired.to_string()),
            Field::new(&["ha"], "multicast_interface", "Multicast interface", interfaces())
                .hint("Over which the partner is told.")
                .default(ha.multicast_interface.clone()),
            switch(
                "virtual_mac",
                "Virtual MAC",
                "One Ethernet address for whoever is active: for networks that do not heed gratuitous ARP.",
            )
            .default("false"),
            Field::new(&["ha"], "carp_auth", "Signatures", Input::Choice(AUTH))
                .hint("What is demanded of advertisements.")
                .default("enforce"),
            Field::new(&["ha"], "transport", "Transport", Input::Choice(TRANSPORTS))
                .hint("How advertisements travel.")
                .default("auto"),
            number(
                "pacify.restarts",
                "Restarts before pacification",
                "A node that crashes more often than that takes no part until it is resumed; 0 = never.",
            )
            .default("3"),
            text("pacify.window", "Within", "").default("5m"),
        ];
        Self {
            own: vec![mode],
            pair: pair.into_iter().map(|field| field.read(file)).collect(),
        }
    }
}
