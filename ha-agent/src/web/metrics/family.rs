//! Which metrics there are.

#![expect(
    clippy::doc_markdown,
    reason = "the same words are exported, and name values of labels"
)]

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Only grows while the agent runs; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

macro_rules! families {
    ($($name:ident = $text:literal, $form:ident, [$($label:literal),*], $help:literal;)+) => {
        /// A metric with its labels. `docs/metrics.md` lists them with the words given here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Family { $(#[doc = $help] $name,)+ }

        impl Family {
            /// All of them, in the order of the manual.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Name, without the prefix `ha_agent_` and without the `_total` of a counter.
            pub const fn stem(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Counter or gauge.
            pub const fn form(self) -> Form {
                match self { $(Self::$name => Form::$form,)+ }
            }

            /// Names of its labels.
            pub const fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$name => &[$($label),*],)+ }
            }

            /// What it says.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => $help,)+ }
            }
        }
    };
}

families! {
    BuildInfo = "build_info", Gauge, ["version"],
        "1, with the version of the agent.";
    NodeInfo = "node_info", Gauge, ["name", "mode", "partner"],
        "1, with the names of node and partner and the place of the node in the pair.";
    StartTime = "start_time_seconds", Gauge, [],
        "When the agent started, in seconds since 1970.";

    Role = "role", Gauge, ["role"],
        "1 for the role that this node has, 0 for the others.";
    RoleSeconds = "role_seconds", Gauge, [],
        "Time since the role last changed.";
    RoleChanges = "role_changes", Counter, ["from", "to", "reason"],
        "Changes of the role, and of the term of an active node, by reason.";
    Square = "square", Gauge, ["node", "square"],
        "1 for the status square that a node (own, partner) has, 0 for the others.";
    Term = "term", Gauge, [],
        "Own term of an active node, else the highest known.";
    GateOpen = "gate_open", Gauge, [],
        "Whether traffic is let through: 1 on an active node whose lease runs.";
    LeaseSeconds = "lease_seconds", Gauge, [],
        "What is left of the lease; absent if the gate is closed or always open.";
    Alone = "alone", Gauge, [],
        "Whether this node is active and hears nothing of the partner.";
    Alarms = "alarms", Gauge, ["alarm"],
        "How many alarms of a name stand; docs/alarms.md says what they mean.";

    PartnerHeard = "partner_heard", Gauge, [],
        "Whether the partner is heard.";
    PartnerHears = "partner_hears", Gauge, [],
        "Whether the partner says that it hears this node.";
    PartnerReady = "partner_ready", Gauge, [],
        "Whether the partner could take over with nothing lost.";
    PartnerRole = "partner_role", Gauge, ["role"],
        "1 for the role that the partner last said it has, 0 for the others.";
    PartnerSilentSeconds = "partner_silent_seconds", Gauge, [],
        "Time since the partner was last heard.";
    ConfigGeneration = "config_generation", Gauge, [],
        "Generation of the configuration that both nodes must have alike.";
    ConfigInSync = "config_in_sync", Gauge, [],
        "Whether the partner's configuration is this node's.";
    ConfigExchanges = "config_exchanges", Counter, ["event"],
        "Questions and versions of the configuration: exchanged, failed, asked, applied, not_applied.";
    ConfigChannel = "config_channel", Counter, ["event"],
        "The configuration channel: sessions, wrong_key, too_many, timed_out, unproven = ended before anybody showed a key, operators, operators_refused, malformed.";
    ConfigRestartNeeded = "config_restart_needed", Gauge, [],
        "Changes of the configuration file that only a restart puts in force.";
    ReloadOk = "config_last_reload_successful", Gauge, [],
        "Whether the last reload of the configuration file was taken over; 1 if there was none.";
    ReloadTime = "config_last_reload_success_timestamp_seconds", Gauge, [],
        "When the configuration in force was taken over, in seconds since 1970.";

    InterfaceCarrier = "interface_carrier", Gauge, ["interface", "device"],
        "Whether an interface has a link.";
    InterfaceXdp = "interface_xdp", Gauge, ["interface", "device", "mode"],
        "1 for the way in which the data plane is attached to an interface.";
    InterfaceGateway = "interface_gateway_reachable", Gauge, ["interface"],
        "Whether an interface's gateway answers; absent if none is configured or nothing is known yet.";
    LinkHeard = "link_heard", Gauge, ["interface"],
        "Whether the partner is heard on an interface with HA checks.";
    LinkHeardByPartner = "link_heard_by_partner", Gauge, ["interface"],
        "Whether the partner says that it hears this node there.";
    LinkMulticastBlocked = "link_multicast_blocked", Gauge, ["interface"],
        "Whether the partner is heard there, but only by unicast.";
    LinkSilentSeconds = "link_silent_seconds", Gauge, ["interface"],
        "Time since the partner was last heard there; absent if it never was.";

    ElectionSent = "election_packets_sent", Counter, ["packet"],
        "Advertisements (advert) and HELLOs (hello) sent.";
    ElectionAccepted = "election_packets_accepted", Counter, ["packet"],
        "Packets of the partner accepted: advert, hello; foreign = of a peer without trailer.";
    ElectionDropped = "election_packets_dropped", Counter, ["reason"],
        "Packets that the election dropped, by reason.";
    ElectionIncidents = "election_incidents", Counter, ["incident"],
        "What should not happen: stalled = found frozen, lease_lapsed = the lease ended while active, overtaken, both_active, digest_differs.";
    ElectionSendErrors = "election_send_errors", Counter, [],
        "Frames of the election that could not be sent.";
    ElectionEventsLost = "election_events_lost", Counter, [],
        "Events of the election that found their queue full.";
    ElectionTimers = "election_timers", Counter, [],
        "Timers of the election served.";
    ElectionTimersLate = "election_timers_late", Counter, [],
        "Of these, later than a millisecond.";
    ElectionLatenessMax = "election_lateness_max_seconds", Gauge, [],
        "The latest timer of the election ever.";

    DatapathPackets = "datapath_packets", Counter, ["reason", "verdict"],
        "Packets by how they ended; docs/counters.md says what the reasons mean. Counted since the maps were made.";
    DatapathEvents = "datapath_events", Counter, ["event"],
        "What the data plane counts besides packets; docs/counters.md.";
    Connections = "connections", Gauge, ["state"],
        "Connections in the table: established, half_open; as of the last walk through it.";
    ConnectionsMax = "connections_max", Gauge, [],
        "Established connections that the table can hold.";
    TableEntries = "table_entries", Gauge, ["family"],
        "Entries of both directions in the connection table of a family; as of the last walk through it.";
    TableEntriesMax = "table_entries_max", Gauge, ["family"],
        "Entries that the table of a family can hold.";

    ServiceInfo = "service_info", Gauge, ["service", "listen", "protocol", "forwarding", "scheduler"],
        "1 for each virtual service, with what it is.";
    RealState = "real_server_state", Gauge, ["service", "real_server", "state"],
        "1 for the state that a real server has (up, draining, down), 0 for the others.";
    RealOwnCheck = "real_server_own_check_differs", Gauge, ["service", "real_server"],
        "Whether this node's own check finds something else than the active node, whose word counts.";
    RealWeight = "real_server_weight", Gauge, ["service", "real_server"],
        "Configured weight.";
    RealConnections = "real_server_connections", Gauge, ["service", "real_server"],
        "Connections of a real server in the table.";
    RealConnectionsMax = "real_server_connections_max", Gauge, ["service", "real_server"],
        "Connections it may have; absent if there is no limit.";
    RealConnectionsMade = "real_server_connections_made", Counter, ["service", "real_server"],
        "Connections of a real server that entered the table.";
    RealPackets = "real_server_packets", Counter, ["service", "real_server", "direction"],
        "Packets from clients (in) and to them (out; 0 where answers do not come back this way).";
    RealBytes = "real_server_bytes", Counter, ["service", "real_server", "direction"],
        "Their bytes, from the IP header on.";
    RealDropped = "real_server_packets_dropped", Counter, ["service", "real_server"],
        "Packets of a real server that were not sent on.";

    ReplicationReady = "replication_ready", Gauge, [],
        "Whether the standby's table is complete.";
    ReplicationLag = "replication_lag_seconds", Gauge, ["quantile"],
        "Time from a change until the standby's word that it is applied (0.5, 0.99), over the last 10 to 20 s; absent if not measured.";
    ReplicationEntries = "replication_connections", Gauge, [],
        "Connections that replication holds.";
    ReplicationOutstanding = "replication_packets_outstanding", Gauge, [],
        "Active: packets not acknowledged yet. Standby: packets known to be missing.";
    ReplicationWaiting = "replication_changes_waiting", Gauge, ["class"],
        "Changes that wait to be sent: unique = nobody else knows where these connections go, recomputable = the partner would forward them alike by hash.";
    ReplicationOldest = "replication_oldest_waiting_seconds", Gauge, [],
        "How long the oldest of them has waited: what the partner would not know if this node died now.";
    ReplicationRepair = "replication_repair_buckets", Gauge, [],
        "Buckets, of 4096, still to be sent (active) or known to differ (standby); absent if no repair is under way.";
    ReplicationTransfer = "replication_transfer_connections", Gauge, ["progress"],
        "The full transfer under way: connections done, and in total; absent if there is none.";
    ReplicationEvents = "replication_events", Counter, ["event"],
        "What replication counts; docs/metrics.md says where the meaning of each stands.";
    ReplicationBytes = "replication_bytes", Counter, ["event"],
        "Bytes of the stream: sent, repeated, transfer, bucket, received.";
    ReplicationClassEvents = "replication_connection_events", Counter, ["event", "class"],
        "What replication counts by class of connections.";
    ReplicationSweep = "replication_sweep", Counter, ["event"],
        "What sweeps, which compare map and table, have found and repaired.";
    ReplicationErrors = "replication_errors", Counter, ["error"],
        "apply = changes that the live map did not take, send = packets not sent, too_long = of those, longer than the interface takes, bad_event = events of the data plane that could not be understood.";
    Records = "records", Gauge, ["namespace"],
        "Records that are no connections.";
    RecordsMax = "records_max", Gauge, ["namespace"],
        "How many may be in a namespace; absent on a node whose configuration does not have it.";
    RecordsBytes = "records_bytes", Gauge, ["namespace"],
        "Bytes of their keys and values.";
    RecordsBytesMax = "records_bytes_max", Gauge, ["namespace"],
        "How many bytes may be in a namespace.";
    RecordsRefused = "records_refused", Counter, ["namespace"],
        "Writes that the quota of a namespace refused.";
    RecordsWaiting = "records_waiting", Gauge, [],
        "Changes of records that wait to be said to the partner.";
    RecordsEvents = "records_events", Counter, ["event"],
        "What the table of records counts.";
    PersistentClients = "persistent_clients", Counter, ["result"],
        "The partner's word about persistent clients: stored, unknown = of services or real servers that this node does not have, failed.";

    Events = "history_events", Counter, ["result"],
        "Events of the history: recorded, stored = of these, on disk, lost.";
    NotifyRuns = "notify_runs", Counter, ["result"],
        "Runs of the notify command: done, failed = another exit code than 0, timed_out, not_started.";
    NotifyPassedOver = "notify_changes_passed_over", Counter, [],
        "Changes of the role that the notify command was not told of because it was too slow.";
    NotifyWaiting = "notify_changes_waiting", Gauge, [],
        "Changes of the role that it is to be told of when it has ended.";
    ControlEvents = "control_events", Counter, ["event"],
        "The control socket: clients, turned_away = of these, while all places were busy, displaced = of these, gave way without a command, malformed = lines that are no command, timed_out.";
    HttpConnections = "http_connections", Counter, ["listener"],
        "Connections to the agent's HTTP listeners.";
    HttpDisplaced = "http_connections_displaced", Counter, ["listener"],
        "Connections ended early because there were too many: the oldest gave way.";
    HttpTurnedAway = "http_connections_turned_away", Counter, ["listener"],
        "Connections to an address of the node at which its page may not be used.";
}
