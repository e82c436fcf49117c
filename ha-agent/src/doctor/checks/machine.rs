//! The node itself: files, kernel, rights, memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ha_common::conn::{Conn, ConnKey};
use ha_common::service::Addr6;

use crate::config::Diagnostic;
use crate::config::model::{Config, Limits};
use crate::datapath::load;
use crate::doctor::facts::{Agent, Facts};
use crate::doctor::{Check, Report};

/// The oldest kernel that the data plane takes.
const KERNEL_MIN: (u32, u32) = (load::KERNEL_MIN.0 as u32, load::KERNEL_MIN.1 as u32);
/// Least room in the directory for state: it holds kilobytes.
const ROOM_MIN: u64 = 1 << 20;
/// What the kernel keeps with each element of a hash table beside key and value, its bucket included.
const ELEMENT: usize = 64;

/// Capabilities by their numbers in `linux/capability.h`.
const CAPABILITIES: [(u32, &str); 6] = [
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (14, "CAP_IPC_LOCK"),
    (23, "CAP_SYS_NICE"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];
/// `CAP_SYS_ADMIN` stands for the two that were once part of it.
const SYS_ADMIN: u64 = 1 << 21;
const PART_OF_SYS_ADMIN: u64 = 1 << 38 | 1 << 39;

/// Settings and what they must be.
pub(in crate::doctor) fn wanted_settings(config: &Config) -> BTreeMap<String, &'static str> {
    let mut wanted = BTreeMap::from([("net.ipv4.ip_forward".to_owned(), "1")]);
    for interface in config
        .node
        .interfaces
        .iter()
        .filter(|each| !each.is_unnumbered())
    {
        for (name, value) in [
            ("accept_local", "1"),
            ("rp_filter", "0"),
            ("arp_ignore", "1"),
        ] {
            // A dot in a device's name is a slash in that of its setting, as sysctl(8) has it.
            let device = interface.device.replace('.', "/");
            wanted.insert(format!("net.ipv4.conf.{device}.{name}"), value);
        }
    }
    if config
        .virtual_services
        .iter()
        .any(|service| service.address.is_ipv6())
    {
        wanted.insert("net.ipv6.conf.all.forwarding".to_owned(), "1");
    }
    wanted
}

pub(in crate::doctor) fn examine(facts: &Facts, report: &mut Report) {
    configuration(facts, report);
    match &facts.secrets {
        Ok(()) => report.pass(Check::Secrets, "read, mode as it should be"),
        Err(problems) => report.fail(Check::Secrets, listed(problems)),
    }
    agent(facts, report);
    kernel(facts, report);
    rights(facts, report);
    memory(facts, report);
    match facts.clock_kept {
        Some(true) => report.pass(Check::Clock, "the kernel counts it as synchronised"),
        Some(false) => report.warn(Check::Clock, "the kernel counts it as not synchronised"),
        None => report.skip(Check::Clock, "the kernel does not tell"),
    }
    settings(facts, report);
    state_dir(facts, report);
}

fn configuration(facts: &Facts, report: &mut Report) {
    match &facts.config {
        Err(problems) => report.fail(Check::Configuration, listed(problems)),
        Ok(_) if !facts.warnings.is_empty() => {
            report.warn(Check::Configuration, listed(&facts.warnings));
        }
        Ok(_) => report.pass(Check::Configuration, "valid"),
    }
}

/// The first of them, and how many more there are.
fn listed(problems: &[Diagnostic]) -> String {
    let Some(first) = problems.first() else {
        return "unusable".to_owned();
    };
    let mut text = first.to_string();
    if let more @ 1.. = problems.len() - 1 {
        // Writing to a string cannot fail.
        let _infallible = write!(text, " (and {more} more)");
    }
    text
}

fn agent(facts: &Facts, report: &mut Report) {
    match &facts.agent {
        Agent::Running { status, .. } => report.pass(
            Check::Agent,
            format_args!("version {}, process {}", status.version, status.process),
        ),
        Agent::Absent => report.fail(Check::Agent, "it does not run"),
        Agent::Mute(why) => report.fail(Check::Agent, why),
    }
}

fn kernel(facts: &Facts, report: &mut Report) {
    let kernel = &facts.kernel;
    let mut numbers = kernel
        .release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    };
    let release = &kernel.release;
    if version.is_some_and(|version| version < KERNEL_MIN) {
        report.fail(Check::Kernel, format_args!("{release} is too old"));
    } else if !kernel.btf {
        report.fail(
            Check::Kernel,
            format_args!("{release} does not describe its types (/sys/kernel/btf/vmlinux)"),
        );
    } else if kernel.jit == Some(false) {
        report.warn(
            Check::Kernel,
            format_args!("{release} interprets BPF programs: several times slower"),
        );
    } else {
        report.pass(Check::Kernel, release);
    }
    let Ok(config) = &facts.config else {
        return report.skip(Check::BpfFileSystem, "no configuration");
    };
    let place = config.node.bpf_dir.display();
    if kernel.bpffs {
        report.pass(Check::BpfFileSystem, place);
    } else {
        report.fail(
            Check::BpfFileSystem,
            format_args!("{place} is on another one"),
        );
    }
}

fn rights(facts: &Facts, report: &mut Report) {
    let mut held = facts.rights.capabilities;
    if held & SYS_ADMIN != 0 {
        held |= PART_OF_SYS_ADMIN;
    }
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(number, _)| held & 1 << number == 0)
        .map(|(_, name)| *name)
        .collect();
    let whose = match facts.agent {
        Agent::Running { .. } => "the agent",
        Agent::Absent | Agent::Mute(_) => "whoever runs this command",
    };
    if !missing.is_empty() {
        report.fail(
            Check::Rights,
            format_args!("{whose} does not have {}", missing.join(", ")),
        );
    } else if !facts.rights.memory_unlimited {
        report.warn(
            Check::Rights,
            format_args!("{whose} may lock a limited amount of memory, so may be paged out"),
        );
    } else {
        report.pass(
            Check::Rights,
            format_args!("{whose} has all capabilities it needs"),
        );
    }
}

/// Bytes of the kernel's tables: each connection has an entry for each direction.
pub(in crate::doctor) fn tables(limits: Limits) -> u64 {
    let entries =
        |connections: u32, entry: usize| 2 * u64::from(connections) * (entry + ELEMENT) as u64;
    entries(
        limits.connections,
        size_of::<ConnKey<u32>>() + size_of::<Conn<u32>>(),
    ) + entries(
        limits.connections_ipv6,
        size_of::<ConnKey<Addr6>>() + size_of::<Conn<Addr6>>(),
    )
}

fn memory(facts: &Facts, report: &mut Report) {
    let Ok(config) = &facts.config else {
        return report.skip(Check::Memory, "no configuration");
    };
    let needed = tables(config.limits);
    let available = facts.machine.memory_available;
    let mebibytes = |bytes: u64| bytes >> 20;
    let evidence = format!(
        "tables take {} MiB, {} MiB are available",
        mebibytes(needed),
        mebibytes(available)
    );
    match facts.agent {
        // It has them already.
        Agent::Running { .. } => report.pass(
            Check::Memory,
            format_args!("tables have their {} MiB", mebibytes(needed)),
        ),
        _ if needed > available => report.fail(Check::Memory, evidence),
        _ if needed > available / 2 => report.warn(Check::Memory, evidence),
        Agent::Absent | Agent::Mute(_) => report.pass(Check::Memory, evidence),
    }
}

fn settings(facts: &Facts, report: &mut Report) {
    let Ok(config) = &facts.config else {
        return report.skip(Check::KernelSettings, "no configuration");
    };
    if !matches!(facts.agent, Agent::Running { .. }) {
        return report.skip(Check::KernelSettings, "the agent sets them when it starts");
    }
    let wrong: Vec<String> = wanted_settings(config)
        .iter()
        .filter_map(|(name, wanted)| {
            let found = facts.settings.get(name).cloned().flatten();
            let shown = found.as_deref().unwrap_or("unknown");
            (shown != *wanted).then(|| format!("{name} is {shown}, not {wanted}"))
        })
        .collect();
    if wrong.is_empty() {
        report.pass(Check::KernelSettings, "as the agent set them");
    } else {
        report.fail(Check::KernelSettings, wrong.join("; "));
    }
}

fn state_dir(facts: &Facts, report: &mut Report) {
    let Ok(config) = &facts.config else {
        return report.skip(Check::StateDirectory, "no configuration");
    };
    let place = config.node.state_dir.display();
    if super::pair::alarmed(facts, report, Check::StateDirectory) {
        return;
    }
    match (&facts.state_dir.refused, facts.state_dir.free) {
        (Some(why), _) => report.fail(Check::StateDirectory, format_args!("{place}: {why}")),
        (None, Some(free @ ..ROOM_MIN)) => {
            report.fail(
                Check::StateDirectory,
                format_args!("{place}: {free} bytes left"),
            );
        }
        (None, _) => report.pass(Check::StateDirectory, place),
    }
}
