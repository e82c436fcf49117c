//! `ha-agent doctor`: what is wrong with this node, its network and its pair, why, and what to do.
//!
//! [`look`] gathers [`facts`] of the machine, of the running agent if there is one, and of the network by
//! asking it; the [`checks`] judge them and have no effects. An alarm of the agent belongs to exactly one
//! check, which says what the alarm says. `docs/doctor.md` lists the checks with the words given here.

pub mod checks;
pub mod facts;
pub mod look;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

use facts::Facts;

macro_rules! checks {
    ($($name:ident = $text:literal, $question:literal, $remedy:literal;)+) => {
        /// What is checked. `docs/doctor.md` lists them with the words given here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Check { $(#[doc = $question] $name,)+ }

        impl Check {
            /// All of them, in the order of the manual.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Stable name, for scripts.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What is asked.
            pub const fn question(self) -> &'static str {
                match self { $(Self::$name => $question,)+ }
            }

            /// What to do if the answer is no.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)+ }
            }
        }
    };
}

checks! {
    Configuration = "configuration",
        "Can the configuration be used?",
        "mend what `ha-agent check-config` shows";
    Secrets = "secrets",
        "Can the key files be read, by nobody else?",
        "make a key with `ha-agent keygen`, copy it to both nodes, and keep its mode 0600";
    Agent = "agent",
        "Does the agent run and answer?",
        "start it with `systemctl start ha-agent`; if it ends at once, `journalctl -u ha-agent` says why";
    Kernel = "kernel",
        "Has the kernel what the data plane needs?",
        "run Linux 6.1 or later with CONFIG_DEBUG_INFO_BTF and the BPF compiler on (`sysctl net.core.bpf_jit_enable=1`)";
    BpfFileSystem = "bpf_file_system",
        "Is `node.bpf_dir` on a BPF file system?",
        "mount one: `mount -t bpf bpf /sys/fs/bpf`";
    Rights = "rights",
        "May the agent do what it does?",
        "start it by the unit of this package, or as root: it needs CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, \
         CAP_SYS_NICE, CAP_IPC_LOCK and LimitMEMLOCK=infinity";
    Memory = "memory",
        "Is there memory for tables of the configured size?",
        "lower limits.connections and limits.connections_ipv6, or add memory";
    Clock = "clock",
        "Does somebody keep the wall clock right?",
        "run chrony or systemd-timesyncd: the pair works without, but logs of two nodes cannot be compared, and certificates are judged by it";
    KernelSettings = "kernel_settings",
        "Are the kernel's settings as the data plane needs them?",
        "the agent sets them when it starts: look in /etc/sysctl.d for who sets them back, and restart the agent";
    StateDirectory = "state_directory",
        "Can `node.state_dir` be written, and is there room?",
        "check its disk: space, mount, rights, errors in the kernel's log";
    Load = "load",
        "Does the machine keep up with the agent?",
        "look for what else runs on the machine, and at slow disks";
    Device = "device",
        "Is each interface there, with the addresses of the configuration?",
        "make it with that name and address (`ip link`, `ip addr`); a running agent then takes it into use by itself";
    Carrier = "carrier",
        "Does each interface have a live other end?",
        "look at cable and switch port, and at `ip link set DEVICE up`";
    LinkSpeed = "link_speed",
        "Is each link as fast as it should be, and full duplex?",
        "set both ends to negotiate by themselves, and look at the cable";
    Driver = "driver",
        "Does XDP run in the driver?",
        "use a NIC whose driver has native XDP; the generic path works and is several times slower";
    Queues = "queues",
        "Are packets spread over the processors?",
        "give the NIC as many receive queues as there are processors: `ethtool -L DEVICE combined N`";
    LargeReceive = "large_receive",
        "Does no interface put received packets together (LRO)?",
        "switch it off: `ethtool -K DEVICE lro off`; XDP cannot forward what is longer than the MTU";
    PartnerReachable = "partner_reachable",
        "Does the partner answer on each interface, within 100 ms?",
        "see that both nodes are in the same VLAN and subnet, and that nothing filters ICMP between them";
    PacketLength = "packet_length",
        "Do packets of full length reach the partner?",
        "set the same MTU on both nodes and on every switch between them";
    Gateway = "gateway",
        "Does the gateway of each interface answer?",
        "see that node.interfaces[].gateway is right on this network, and that its host is up";
    Returns = "returns",
        "Do answers to a shared address come back to the active node?",
        "the gateway may send them to the other node's Ethernet address: delete its ARP entry, find out why it does not heed \
         gratuitous ARP, or set ha.virtual_mac";
    PartnerHeard = "partner_heard",
        "Is the partner heard on every link of the HA checks, and does it hear this node?",
        "start the agent there; else see `multicast` and `partner_reachable`";
    Multicast = "multicast",
        "Does multicast pass between the nodes, both ways, in every family?",
        "switch IGMP and MLD snooping off for 224.0.0.18 and ff02::12, or set ha.transport to unicast";
    ModeConflict = "mode_conflict",
        "Do the nodes have different modes?",
        "set node.mode to first on one node and to second on the other, and restart that one";
    VirtualId = "virtual_id",
        "Does nobody else use the pair's virtual id?",
        "change ha.virtual_id on both nodes, or the id of the others";
    DuplicateAddress = "duplicate_address",
        "Does nobody else have an address of the pair?",
        "find the host by its Ethernet address (the switch knows the port), and take the address off it";
    VirtualMac = "virtual_mac",
        "Do frames of the virtual MAC pass?",
        "have the virtual switch accept more than one MAC on the nodes' ports, or set ha.virtual_mac to false on both nodes";
    Keys = "keys",
        "Do both nodes sign with the same key, and nobody else?",
        "copy node.key_file from one node to the other, and reload";
    Versions = "versions",
        "Do both nodes speak the same version?",
        "run the same version of ha-agent on both nodes";
    SameConfiguration = "same_configuration",
        "Do both nodes have the same configuration?",
        "run `ha-agent push` on the active node, and mend what it names";
    OneActive = "one_active",
        "Is exactly one node active?",
        "find out what cut the links between the nodes, or both from their gateways";
    Participation = "participation",
        "Do both nodes take part?",
        "find out why the node was put aside, then run `ha-agent resume` on it";
    DataPlane = "data_plane",
        "Is the data plane attached, and guarded?",
        "see `ha-agent status` for who is there instead (`bpftool net show`)";
    Listening = "listening",
        "Is everything served that the configuration says?",
        "see who has the port (`ss -ltnp`), or change the address";
    Replication = "replication",
        "Does the standby hold the whole table?",
        "see that multicast passes on ha.multicast_interface; compare virtual_services and limits of both nodes";
    Services = "services",
        "Does every virtual service have a real server that takes connections?",
        "`ha-agent services` says what the health checks met";
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It could not be made, or has no meaning here.
    Skip,
    /// All is well.
    Pass,
    /// It works, but somebody should look.
    Warn,
    /// It does not work, or would not after the next fault.
    Fail,
}

impl Verdict {
    /// As in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// The answer.
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: String,
    /// What to do; null if nothing is to be done.
    pub remedy: Option<String>,
}

/// Findings in the making.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, check: Check, verdict: Verdict, evidence: impl fmt::Display, remedy: &str) {
        let troubled = matches!(verdict, Verdict::Warn | Verdict::Fail);
        self.findings.push(Finding {
            check: check.as_str(),
            verdict,
            evidence: evidence.to_string(),
            remedy: troubled.then(|| remedy.to_owned()),
        });
    }

    fn pass(&mut self, check: Check, evidence: impl fmt::Display) {
        self.add(check, Verdict::Pass, evidence, "");
    }

    fn skip(&mut self, check: Check, why: impl fmt::Display) {
        self.add(check, Verdict::Skip, why, "");
    }

    fn warn(&mut self, check: Check, evidence: impl fmt::Display) {
        self.add(check, Verdict::Warn, evidence, check.remedy());
    }

    fn fail(&mut self, check: Check, evidence: impl fmt::Display) {
        self.add(check, Verdict::Fail, evidence, check.remedy());
    }
}

/// Judges the facts, in the order of [`Check::ALL`].
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut report = Report::default();
    checks::machine::examine(facts, &mut report);
    checks::links::examine(facts, &mut report);
    checks::pair::examine(facts, &mut report);
    report.findings
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Verdict {
    let verdicts = findings.iter().map(|finding| finding.verdict);
    verdicts.max().unwrap_or(Verdict::Skip)
}
