use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::facts::{Agent, Heard, InterfaceFacts, Kernel, LinkFacts, Machine, Place, Rights};
use super::*;
use crate::config::model::Config;
use crate::config::tests::GOOD;
use crate::datapath::attach::XdpMode;
use crate::shell::alarms::Kind;
use crate::status::model::{
    Alarm, RealServerState, RealServerStatus, Role, SCHEMA_VERSION, ServiceStatus, Services,
    Square, Status, TrafficStatus,
};
use crate::status::render::tests::sample;

const MS: Duration = Duration::from_millis(1);

fn config(text: &str) -> Config {
    let parsed = Config::parse(Path::new("f.yaml"), text.as_bytes().to_vec());
    parsed.unwrap().config
}

fn heard(host: &str) -> Heard {
    Heard {
        host: host.parse().unwrap(),
        answer: Ok(MS),
    }
}

/// An active node of a pair to which nothing is wrong.
fn healthy() -> Facts {
    let config = config(GOOD);
    let mut status = sample();
    if let Some(partner) = &mut status.partner {
        partner.heard = ["front", "back", "cable"]
            .map(|name| (name.to_owned(), true))
            .into();
    }
    let real = |last: u8| RealServerStatus {
        address: format!("10.1.0.{last}:8080"),
        weight: 1,
        last_resort: false,
        state: RealServerState::Up,
        reason: None,
        own_check: None,
        connections: 0,
        connections_max: None,
        traffic: TrafficStatus::default(),
    };
    let service = ServiceStatus {
        name: "web".to_owned(),
        listen: "10.0.0.100:80".to_owned(),
        protocol: "tcp".to_owned(),
        forwarding: "nat".to_owned(),
        scheduler: "mh".to_owned(),
        persistence: None,
        connections: 0,
        traffic: TrafficStatus::default(),
        real_servers: vec![real(21), real(22)],
    };
    let settings = checks::machine::wanted_settings(&config);
    let interfaces = config
        .node
        .interfaces
        .iter()
        .map(|interface| InterfaceFacts {
            name: interface.name.clone(),
            device: interface.device.clone(),
            link: Some(LinkFacts {
                carrier: true,
                mtu: 1500,
                addresses: interface.addresses.clone(),
                driver: Some("ixgbe".to_owned()),
                speed: Some(10_000),
                duplex: Some("full"),
                queues: Some(4),
                merges: Some(false),
                xdp: Some(XdpMode::Native),
            }),
            partners: interface
                .partners
                .iter()
                .map(|host| heard(&host.to_string()))
                .collect(),
            wide: interface
                .partners
                .iter()
                .map(|host| heard(&host.to_string()))
                .collect(),
            gateways: interface
                .gateways
                .iter()
                .map(|host| heard(&host.to_string()))
                .collect(),
            returns: interface
                .gateways
                .iter()
                .map(|host| heard(&host.to_string()))
                .collect(),
        });
    Facts {
        interfaces: interfaces.collect(),
        settings: settings
            .into_iter()
            .map(|(name, value)| (name, Some(value.to_owned())))
            .collect(),
        config: Ok(config),
        warnings: Vec::new(),
        secrets: Ok(()),
        agent: Agent::Running {
            status: Box::new(status),
            services: Services {
                schema_version: SCHEMA_VERSION,
                services: vec![service],
            },
        },
        kernel: Kernel {
            release: "6.1.0-50-amd64".to_owned(),
            btf: true,
            jit: Some(true),
            bpffs: true,
        },
        rights: Rights {
            capabilities: 0xc0_0080_7000,
            memory_unlimited: true,
        },
        clock_kept: Some(true),
        machine: Machine {
            memory_available: 8 << 30,
            processors: 4,
        },
        state_dir: Place {
            refused: None,
            free: Some(1 << 30),
        },
    }
}

fn status(facts: &mut Facts) -> &mut Status {
    match &mut facts.agent {
        Agent::Running { status, .. } => status,
        Agent::Absent | Agent::Mute(_) => panic!("no agent"),
    }
}

fn service(facts: &mut Facts) -> &mut ServiceStatus {
    match &mut facts.agent {
        Agent::Running { services, .. } => &mut services.services[0],
        Agent::Absent | Agent::Mute(_) => panic!("no agent"),
    }
}

fn link(facts: &mut Facts) -> &mut LinkFacts {
    facts.interfaces[0].link.as_mut().unwrap()
}

fn alarm(facts: &mut Facts, kind: Kind) {
    status(facts).alarms.push(Alarm {
        name: kind.as_str().to_owned(),
        since_seconds: 1.0,
        evidence: "seen there".to_owned(),
        remedy: kind.remedy().to_owned(),
    });
}

/// The worst verdict of each check.
fn verdicts(facts: &Facts) -> BTreeMap<&'static str, Verdict> {
    let mut worst = BTreeMap::new();
    for finding in examine(facts) {
        let slot = worst.entry(finding.check).or_insert(finding.verdict);
        *slot = finding.verdict.max(*slot);
    }
    worst
}

fn silent(heard: &mut [Heard]) {
    heard[0].answer = Err("no reply within 1 s".to_owned());
}

type Breakage = (Check, Verdict, fn(&mut Facts));

/// What breaks each check, and how badly.
const BROKEN: &[Breakage] = &[
    (Check::Configuration, Verdict::Fail, |facts| {
        facts.config =
            Config::parse(Path::new("f.yaml"), b"version: 2\n".to_vec()).map(|l| l.config);
    }),
    (Check::Secrets, Verdict::Fail, |facts| {
        facts.secrets = Err(Vec::new());
    }),
    (Check::Agent, Verdict::Fail, |facts| {
        facts.agent = Agent::Absent;
    }),
    (Check::Agent, Verdict::Fail, |facts| {
        facts.agent = Agent::Mute("no".to_owned());
    }),
    (Check::Kernel, Verdict::Fail, |facts| {
        facts.kernel.release = "5.10.0".to_owned();
    }),
    (Check::Kernel, Verdict::Fail, |facts| {
        facts.kernel.btf = false;
    }),
    (Check::Kernel, Verdict::Warn, |facts| {
        facts.kernel.jit = Some(false);
    }),
    (Check::BpfFileSystem, Verdict::Fail, |facts| {
        facts.kernel.bpffs = false;
    }),
    (Check::Rights, Verdict::Fail, |facts| {
        facts.rights.capabilities ^= 1 << 13;
    }),
    (Check::Rights, Verdict::Warn, |facts| {
        facts.rights.memory_unlimited = false;
    }),
    (Check::Memory, Verdict::Fail, |facts| {
        facts.agent = Agent::Absent;
        facts.machine.memory_available = 1 << 20;
    }),
    (Check::Memory, Verdict::Warn, |facts| {
        facts.agent = Agent::Absent;
        let limits = facts.config.as_ref().unwrap().limits;
        facts.machine.memory_available = checks::machine::tables(limits) + 1;
    }),
    (Check::Clock, Verdict::Warn, |facts| {
        facts.clock_kept = Some(false);
    }),
    (Check::KernelSettings, Verdict::Fail, |facts| {
        facts
            .settings
            .insert("net.ipv4.ip_forward".to_owned(), Some("0".to_owned()));
    }),
    (Check::KernelSettings, Verdict::Fail, |facts| {
        facts.settings.clear();
    }),
    (Check::StateDirectory, Verdict::Fail, |facts| {
        facts.state_dir.refused = Some("Read-only file system".to_owned());
    }),
    (Check::StateDirectory, Verdict::Fail, |facts| {
        facts.state_dir.free = Some(4096);
    }),
    (Check::Device, Verdict::Fail, |facts| {
        facts.interfaces[0].link = None;
    }),
    (Check::Device, Verdict::Fail, |facts| {
        link(facts).addresses.clear();
    }),
    (Check::Carrier, Verdict::Fail, |facts| {
        link(facts).carrier = false;
    }),
    (Check::LinkSpeed, Verdict::Fail, |facts| {
        link(facts).duplex = Some("half");
    }),
    (Check::LinkSpeed, Verdict::Warn, |facts| {
        link(facts).speed = Some(100);
    }),
    (Check::Driver, Verdict::Warn, |facts| {
        link(facts).xdp = Some(XdpMode::Generic);
    }),
    (Check::Queues, Verdict::Warn, |facts| {
        link(facts).queues = Some(1);
    }),
    (Check::LargeReceive, Verdict::Fail, |facts| {
        link(facts).merges = Some(true);
    }),
    (Check::PartnerReachable, Verdict::Fail, |facts| {
        silent(&mut facts.interfaces[0].partners);
    }),
    (Check::PartnerReachable, Verdict::Warn, |facts| {
        facts.interfaces[0].partners[0].answer = Ok(150 * MS);
    }),
    (Check::PacketLength, Verdict::Fail, |facts| {
        silent(&mut facts.interfaces[0].wide);
    }),
    (Check::Gateway, Verdict::Fail, |facts| {
        silent(&mut facts.interfaces[0].gateways);
    }),
    (Check::Returns, Verdict::Fail, |facts| {
        silent(&mut facts.interfaces[0].returns);
    }),
    (Check::PartnerHeard, Verdict::Fail, |facts| {
        let partner = status(facts).partner.as_mut().unwrap();
        partner.heard.insert("back".to_owned(), false);
    }),
    (Check::PartnerHeard, Verdict::Fail, |facts| {
        status(facts).partner = None;
    }),
    (Check::PartnerHeard, Verdict::Fail, |facts| {
        status(facts).partner.as_mut().unwrap().square = Square::Red;
    }),
    (Check::SameConfiguration, Verdict::Fail, |facts| {
        status(facts).partner.as_mut().unwrap().config_in_sync = false;
    }),
    (Check::OneActive, Verdict::Fail, |facts| {
        status(facts).partner.as_mut().unwrap().role = Some(Role::Active);
    }),
    (Check::OneActive, Verdict::Fail, |facts| {
        status(facts).role = Role::Standby;
    }),
    (Check::Participation, Verdict::Warn, |facts| {
        status(facts).partner.as_mut().unwrap().role = Some(Role::Maintenance);
    }),
    (Check::Replication, Verdict::Fail, |facts| {
        status(facts).replication.ready = false;
    }),
    (Check::Services, Verdict::Warn, |facts| {
        service(facts).real_servers[0].state = RealServerState::Down;
    }),
    (Check::Services, Verdict::Fail, |facts| {
        for real in &mut service(facts).real_servers {
            real.state = RealServerState::Down;
        }
    }),
];

#[test]
fn nothing_is_wrong_with_a_healthy_pair() {
    let found = verdicts(&healthy());
    for check in Check::ALL {
        let verdict = found.get(check.as_str());
        let wanted = if *check == Check::VirtualMac {
            Verdict::Skip
        } else {
            Verdict::Pass
        };
        assert_eq!(verdict, Some(&wanted), "{check:?}");
    }
    assert_eq!(worst(&examine(&healthy())), Verdict::Pass);
}

#[test]
fn each_check_fails_when_that_is_broken_which_it_looks_at() {
    let mut provoked = BTreeSet::new();
    for (check, wanted, breakage) in BROKEN {
        let mut facts = healthy();
        breakage(&mut facts);
        let found = verdicts(&facts);
        assert_eq!(
            found.get(check.as_str()),
            Some(wanted),
            "{check:?}: {:#?}",
            examine(&facts)
        );
        provoked.insert(*check);
    }
    for kind in Kind::ALL {
        let mut facts = healthy();
        alarm(&mut facts, *kind);
        let check = checks::pair::check_of(*kind);
        let found: Vec<Finding> = examine(&facts)
            .into_iter()
            .filter(|finding| finding.verdict == Verdict::Fail)
            .collect();
        assert_eq!(found.len(), 1, "{kind:?}: {found:#?}");
        assert_eq!(found[0].check, check.as_str(), "{kind:?}");
        assert_eq!(found[0].remedy.as_deref(), Some(kind.remedy()));
        assert!(found[0].evidence.contains("seen there"));
        provoked.insert(check);
    }
    let all: BTreeSet<Check> = Check::ALL.iter().copied().collect();
    assert_eq!(provoked, all);
}

/// What is broken underneath is told once, not again by everything that rests on it.
#[test]
fn one_fault_is_one_finding() {
    let failed = |breakage: fn(&mut Facts)| -> Vec<&'static str> {
        let mut facts = healthy();
        breakage(&mut facts);
        let found = examine(&facts);
        let bad = found.iter().filter(|each| each.verdict == Verdict::Fail);
        bad.map(|finding| finding.check).collect()
    };
    assert_eq!(failed(|facts| link(facts).carrier = false), ["carrier"]);
    assert_eq!(failed(|facts| facts.agent = Agent::Absent), ["agent"]);
    assert_eq!(
        failed(|facts| {
            silent(&mut facts.interfaces[0].partners);
            silent(&mut facts.interfaces[0].wide);
        }),
        ["partner_reachable"]
    );
    assert_eq!(
        failed(|facts| {
            silent(&mut facts.interfaces[0].gateways);
            silent(&mut facts.interfaces[0].returns);
        }),
        ["gateway"]
    );
    assert_eq!(
        failed(|facts| {
            let broken = Config::parse(Path::new("f.yaml"), b"version: 2\n".to_vec());
            facts.config = broken.map(|loaded| loaded.config);
            facts.interfaces.clear();
        }),
        ["configuration"]
    );
}

/// A partner that died while it was active is not a second active node.
#[test]
fn what_a_partner_said_before_it_fell_silent_is_over() {
    let mut facts = healthy();
    let partner = status(&mut facts).partner.as_mut().unwrap();
    partner.role = Some(Role::Active);
    partner.square = Square::Red;
    assert_eq!(verdicts(&facts)[Check::OneActive.as_str()], Verdict::Pass);
}

/// One of two gateways is enough for the link, and worth a look.
#[test]
fn a_second_gateway_stands_in() {
    let mut facts = healthy();
    silent(&mut facts.interfaces[0].gateways);
    facts.interfaces[0].gateways.push(heard("10.0.0.253"));
    assert_eq!(verdicts(&facts)[Check::Gateway.as_str()], Verdict::Warn);
}

#[test]
fn high_availability_may_be_off() {
    let mut facts = healthy();
    let alone = GOOD.replacen("mode: first", "mode: off", 1);
    facts.config = Ok(config(&alone));
    status(&mut facts).role = Role::Off;
    status(&mut facts).partner = None;
    let bad: Vec<Finding> = examine(&facts)
        .into_iter()
        .filter(|finding| finding.verdict > Verdict::Pass)
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn every_check_has_its_words_in_the_manual() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md");
    let manual = fs::read_to_string(path).unwrap();
    let rows: Vec<&str> = manual
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let wanted: Vec<String> = Check::ALL
        .iter()
        .map(|check| {
            let (name, question) = (check.as_str(), check.question());
            format!("| `{name}` | {question} | {} |", check.remedy())
        })
        .collect();
    assert_eq!(
        rows,
        wanted,
        "write into docs/doctor.md:\n{}",
        wanted.join("\n")
    );
}
