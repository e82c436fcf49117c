//! Alarms and refusals in words: what is wrong, what shows it, and what to do about it.

mod board;
#[cfg(test)]
mod tests;

pub use board::Board;
pub(in crate::shell) use board::{EACH, SHOWN};

use super::{election, replication};
use crate::control::Refusal as Words;
use crate::events::Recorder;
use crate::proto::carp::{Alarm, Refusal};
use crate::status::model;

macro_rules! kinds {
    ($($name:ident = $text:literal, $meaning:literal, $remedy:literal;)+) => {
        /// What can be wrong. `docs/alarms.md` lists them with the words given here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(#[doc = $meaning] $name,)+ }

        impl Kind {
            /// All of them, in the order of the manual.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Stable name, for scripts.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What is wrong.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)+ }
            }

            /// What to do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)+ }
            }
        }
    };
}

kinds! {
    ModeConflict = "mode_conflict",
        "Both nodes have the same mode; the later one refuses to become active.",
        "set node.mode to first on one node and to second on the other, and restart that one";
    TermNotReserved = "term_not_reserved",
        "The term could not be written to disk; until it is, a restart of this node may use a term twice.",
        "check the disk of node.state_dir: space, mount, errors in the kernel's log";
    TimingDiffers = "timing_differs",
        "Advertisement interval or timeout differ between the nodes; the shorter timeout counts for the lease.",
        "make ha.advertisement_interval and ha.timeout equal on both nodes, and run `ha-agent reload`";
    ConfigurationDiffers = "configuration_differs",
        "What both nodes must have alike is not alike, so neither is ready for the other.",
        "wait a moment: the active node's configuration is copied to the other; if this stays, see the other \
         configuration alarms and `ha-agent config diff`, and compare the sections node of both";
    ConfigurationChannel = "configuration_channel",
        "The nodes hear each other, but not on the configuration channel, so changes do not reach the other node.",
        "let TCP to ha.update_port pass on ha.update_interface both ways, and see that both nodes have the same \
         node.key_file";
    ConfigurationRefused = "configuration_refused",
        "One node cannot take over the other's configuration; both go on with what they have.",
        "mend what the evidence names: on the active node the file, on the other its section node or its disk";
    ConfigurationLost = "configuration_lost",
        "A configuration was replaced by the partner's, which did not come from it; it was kept.",
        "compare it (`ha-agent config diff FILE`), edit the active node's file if something of it is wanted, and remove \
         the file that was kept";
    ConfigurationKey = "configuration_key",
        "Somebody without the pair's key spoke on the configuration channel; nothing was accepted.",
        "if it is the partner, copy node.key_file from one node to the other and reload; if not, find the sender by \
         its address";
    ConfigurationNotStored = "configuration_not_stored",
        "The number of the configuration's version could not be written to disk; after a restart this node may lag behind.",
        "check the disk of node.state_dir: space, mount, errors in the kernel's log";
    RestartNeeded = "restart_needed",
        "The configuration file says something that only a restart puts in force.",
        "restart the agent (`systemctl restart ha-agent`) on the standby, then on the other node";
    CarpGroupDiffers = "carp_group_differs",
        "Somebody advertises for this virtual id with another CARP digest.",
        "if it is the partner, make node.carp_passphrase_file and shared_addresses equal on both nodes; if not, \
         another CARP group uses the same virtual_id: change one of them";
    UnsignedPeer = "unsigned_peer",
        "A CARP peer without the pair's key advertises for this virtual id, and would not give way.",
        "remove it, or set ha.carp_auth to off if it is the partner";
    VersionMismatch = "version_mismatch",
        "Somebody speaks another version of the pair's protocol, so this node does not hear it.",
        "run the same version of ha-agent on both nodes";
    DuplicateAddress = "duplicate_address",
        "A host that is neither of the nodes has one of this node's addresses or of the shared ones.",
        "find the host by its Ethernet address (the switch knows the port), and take the address off it";
    VrrpSameVhid = "vrrp_same_vhid",
        "A VRRP router has this pair's virtual id as its router id; both have the same virtual Ethernet address.",
        "change ha.virtual_id on both nodes, or the router's id";
    CarpForeignVersion = "carp_foreign_version",
        "Somebody uses this virtual id with another version of CARP.",
        "change ha.virtual_id on both nodes, or the id of the others";
    BadTag = "bad_tag",
        "Advertisements in the partner's name have a wrong tag: forged, or signed with another key of the same id.",
        "if the partner is not heard, copy node.key_file from one node to the other and reload; if it is, find \
         the sender by its Ethernet address";
    UnknownKey = "unknown_key",
        "Advertisements in the partner's name are signed with a key that this node does not have.",
        "copy node.key_file from one node to the other, and reload";
    WrongSource = "wrong_source",
        "Advertisements like the partner's come from an address that is not the partner's.",
        "if it is the partner, set the partner address of the interface right; if it is another pair, change \
         ha.virtual_id of one of them";
    UnverifiedPartner = "unverified_partner",
        "Somebody signs with the pair's key but does not answer this node.",
        "look for a link on which only one direction works; else recorded packets are being replayed: find \
         the sender, and make a new key with ha-agent keygen";
    BothActive = "both_active",
        "Both nodes were active and now hear each other again; one of them steps down.",
        "find out what cut all links between the nodes: switch, cables, VLANs; a heartbeat cable makes it rarer";
    Isolated = "isolated",
        "Neither the partner nor a gateway answers, so this node does not become active.",
        "look at this node's cables and switch ports";
    OneWayHearing = "one_way_hearing",
        "Only one direction of a link between the nodes works; the role stays where it is.",
        "look at both cables, and at filters for protocol 112 and UDP port 6975";
    LinkSilent = "link_silent",
        "The nodes hear each other, but not on this link, though it has a carrier; the role stays where it is.",
        "let multicast to 224.0.0.18 and ff02::12 pass there (IGMP snooping, filters), and see that both ports \
         are in the same VLAN";
    FamilySilent = "family_silent",
        "The active partner's advertisements arrive on this link over one of IPv4 and IPv6 only.",
        "let protocol 112 to 224.0.0.18 and to ff02::12 pass there (filters, MLD snooping), and look at the partner's \
         own address of the family that is missing";
    GuardMissing = "guard_missing",
        "The nftables table `ha_agent` is not in the kernel: nothing stops service traffic if XDP is detached.",
        "load the kernel module nf_tables (CONFIG_NF_TABLES_INET), and restart the agent";
    XdpDetached = "xdp_detached",
        "The data plane's XDP program was taken off an interface; the node gave the active role away and attaches it again.",
        "find out who did it (`bpftool net show`, `bpftool link show`): another agent, a driver that was reset; \
         take a foreign program off with `ip link set dev DEVICE xdp off`";
    InterfaceGone = "interface_gone",
        "An interface of the configuration is not there, or not as the configuration says; it counts as one without carrier.",
        "make it again with the same name and address (`ip link`, `ip addr`): the agent then takes it into use by itself";
    MulticastBlocked = "multicast_blocked",
        "The partner is heard on an interface, but not by multicast: unicast keeps the nodes together there.",
        "let the switch pass multicast to 224.0.0.18 and ff02::12 both ways (IGMP and MLD snooping off for it), or set ha.transport to unicast";
    VirtualMacBlocked = "virtual_mac_blocked",
        "Frames to or from the virtual MAC do not pass an interface's network: a takeover would not reach its neighbours.",
        "have the virtual switch, or the switch's port security, accept more than one MAC on both nodes' ports (\"forged \
         transmits\", \"MAC address changes\", MAC spoofing, MAC learning); where that cannot be had, set \
         ha.virtual_mac to false on both nodes";
    ReplicationNotStored = "replication_not_stored",
        "Replicated connections could not be stored, so they would not survive a takeover by this node.",
        "compare virtual_services and limits.connections of both nodes";
    Pacified = "pacified",
        "This node started uncleanly too often: it takes no part and will not take over, also after a reboot.",
        "find the cause in the logs of the agent and of the kernel, then run ha-agent resume";
    StartsUnreadable = "starts_unreadable",
        "The history of starts in `node.state_dir` could not be read, so counting begins anew.",
        "check the disk of node.state_dir; if the node was pacified or in maintenance, decide anew";
    EventsLost = "events_lost",
        "Events of the election were not logged because nobody took them in time.",
        "the machine is overloaded: look at its load and at slow disks";
    NotListening = "not_listening",
        "Nothing could be opened at an address for metrics, health or the web page; it is tried again.",
        "see who has the port (`ss -ltnp`), or change the address in node.metrics or node.web";
    EventsNotStored = "events_not_stored",
        "The event history is not written to disk; what does not fit into memory until it is again is lost.",
        "check the disk of node.state_dir: space, mount, errors in the kernel's log";
}

impl From<Alarm> for Kind {
    fn from(alarm: Alarm) -> Self {
        match alarm {
            Alarm::ModeConflict => Self::ModeConflict,
            Alarm::TermNotReserved => Self::TermNotReserved,
            Alarm::TimingDiffers => Self::TimingDiffers,
            Alarm::ConfigurationDiffers => Self::ConfigurationDiffers,
            Alarm::CarpGroupDiffers => Self::CarpGroupDiffers,
            Alarm::UnverifiedPartner => Self::UnverifiedPartner,
            Alarm::BothActive => Self::BothActive,
            Alarm::Isolated => Self::Isolated,
            Alarm::OneWayHearing => Self::OneWayHearing,
            Alarm::LinkSilent => Self::LinkSilent,
            Alarm::FamilySilent => Self::FamilySilent,
            Alarm::UnsignedPeer => Self::UnsignedPeer,
            Alarm::VersionMismatch => Self::VersionMismatch,
        }
    }
}

/// Everything that is wrong now: what the board knows, and what the election, the replication and the event
/// history say.
pub fn current(
    board: &Board,
    election: &election::Published,
    replication: Option<&replication::Handle>,
    events: &Recorder,
) -> Vec<model::Alarm> {
    let mut found: Vec<(Kind, String)> = election
        .election
        .alarms
        .iter()
        .map(|raised| (Kind::from(raised.alarm), raised.evidence.to_string()))
        .collect();
    let blocked: Vec<&str> = election
        .election
        .links
        .iter()
        .filter(|link| link.multicast_blocked)
        .map(|link| link.name.as_str())
        .collect();
    if !blocked.is_empty() {
        found.push((
            Kind::MulticastBlocked,
            format!("only unicast is heard on {}", blocked.join(", ")),
        ));
    }
    let not_stored = replication.map_or(0, |replication| replication.published().apply_errors);
    if not_stored > 0 {
        found.push((
            Kind::ReplicationNotStored,
            format!("{not_stored} changes were not stored"),
        ));
    }
    if election.events_lost > 0 {
        found.push((
            Kind::EventsLost,
            format!("{} events were lost", election.events_lost),
        ));
    }
    if let Some(problem) = events.problem() {
        found.push((Kind::EventsNotStored, problem));
    }
    board.follow(found);
    board.list()
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
        Refusal::PartnerPassive => (
            "the partner takes no part",
            "run `ha-agent resume` on it, or start it if it was stopped",
        ),
        Refusal::SameMode => (
            "the partner has the same node.mode and would not become active",
            "set node.mode to first on one node and second on the other, and restart that one",
        ),
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
