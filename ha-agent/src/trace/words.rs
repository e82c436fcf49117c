//! Elements of the maps in words.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ha_common::conn::{Conn, ConnKey, ConnState, Embryo, flags};
use ha_common::control::Gate;
use ha_common::proto;
use ha_common::service::{Forwarding, Real, RealState, Scheduler, Service, service_flags};

use super::notes::{Answer, Details};
use crate::datapath::family::{Kernel, narrow};

/// Address and port, which is in network order.
pub(super) fn endpoint(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, u16::from_be(port)).to_string()
}

/// An Ethernet address.
pub(super) fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// A protocol of the transport layer.
pub(super) fn protocol(number: u32) -> String {
    match u8::try_from(number) {
        Ok(proto::TCP) => "tcp".to_owned(),
        Ok(proto::UDP) => "udp".to_owned(),
        _ => format!("protocol {number}"),
    }
}

/// A 5-tuple.
pub(super) fn flow<A: Kernel>(key: &ConnKey<A>) -> String {
    format!(
        "{} {} to {}",
        protocol(key.proto),
        endpoint(key.src.ip(), key.sport),
        endpoint(key.dst.ip(), key.dport)
    )
}

/// How long ago.
fn ago(now_ns: u64, then_ns: u64) -> String {
    let ago = Duration::from_nanos(now_ns.saturating_sub(then_ns));
    format!("{:.1} s", ago.as_secs_f64())
}

fn joined(words: &[(bool, &str)]) -> String {
    let words: Vec<&str> = words
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, word)| *word)
        .collect();
    words.join(", ")
}

/// The gate.
pub(super) fn gate(gate: &Gate, now_ns: u64) -> Answer {
    let text = if gate.is_open(now_ns, || now_ns) {
        match gate.until_ns {
            Gate::ALWAYS => "open: high availability is off".to_owned(),
            until => format!(
                "open: the lease lasts another {:.1} ms",
                Duration::from_nanos(until.saturating_sub(now_ns)).as_secs_f64() * 1e3
            ),
        }
    } else if gate.is_handing_over(|| now_ns) {
        "closed, but established connections are handed over".to_owned()
    } else if gate.overtaken > gate.term {
        "closed: the partner is active in a higher term".to_owned()
    } else if gate.until_ns == Gate::CLOSED {
        "closed: this node is not active".to_owned()
    } else {
        "closed: the lease is over".to_owned()
    };
    let overtaken = gate.overtaken > gate.term;
    Answer::new(
        text,
        [
            ("term", gate.term.to_string()),
            ("partners_term", shown(overtaken, || gate.overtaken)),
        ],
    )
}

fn shown(is: bool, value: impl FnOnce() -> u64) -> String {
    if is {
        value().to_string()
    } else {
        String::new()
    }
}

/// One direction of a connection.
pub(super) fn conn<A: Kernel>(conn: &Conn<A>, now_ns: u64) -> Answer {
    let to = endpoint(conn.to_addr.ip(), conn.to_port);
    let reverse = conn.is_reverse();
    let word = if reverse { "to" } else { "from" };
    let near = if conn.flags & flags::BOTH_ENDS == 0 {
        String::new()
    } else {
        format!(", {word} {}", endpoint(conn.from_addr.ip(), conn.from_port))
    };
    let text = if reverse {
        format!("reverse entry: an answer, from {to}{near}")
    } else {
        let state = ConnState::from_u8(conn.state).map_or("of no state", ConnState::as_str);
        format!("forward entry: to {to}{near}, {state}")
    };
    let mut answer = Answer::from(text);
    answer.details = conn_fields(conn, now_ns);
    answer
}

/// Fields of an entry that are worth a look.
pub(super) fn conn_fields<A: Kernel>(conn: &Conn<A>, now_ns: u64) -> Details {
    let marks = joined(&[
        (conn.flags & flags::REPLICATED != 0, "replicated"),
        (conn.flags & flags::RECONSTRUCTED != 0, "reconstructed"),
        (conn.flags & flags::BY_HASH != 0, "chosen by hash"),
        (conn.flags & flags::BOTH_ENDS != 0, "both ends rewritten"),
        (conn.flags & flags::ONE_WAY != 0, "one way"),
    ]);
    let hop = if conn.flags & flags::HOP_KNOWN != 0 {
        format!(
            "{} through interface {} from {}",
            mac(conn.hop_mac),
            conn.hop_ifindex,
            mac(conn.hop_src)
        )
    } else {
        "not known".to_owned()
    };
    let state = ConnState::from_u8(conn.state).map_or("", ConnState::as_str);
    Answer::new(
        "",
        [
            (
                "state",
                if conn.is_reverse() { "" } else { state }.to_owned(),
            ),
            ("marks", marks),
            ("way_to_client", hop),
            ("real_server_id", conn.real.to_string()),
            ("generation", conn.real_generation.to_string()),
            ("service_id", conn.service.to_string()),
            ("version", conn.version.to_string()),
            ("age", ago(now_ns, conn.created_ns)),
            ("idle", ago(now_ns, conn.last_seen_ns)),
        ],
    )
    .details
}

/// A half-open connection.
pub(super) fn embryo<A: Kernel>(embryo: &Embryo<A>, now_ns: u64) -> Answer {
    let fresh = now_ns.saturating_sub(embryo.last_seen_ns) < Embryo::<A>::LIFETIME_NS;
    let answered = embryo.answered != 0;
    let text = format!(
        "to {} by way of {}, {}{}",
        endpoint(embryo.vip.ip(), embryo.vport),
        endpoint(embryo.real_addr.ip(), embryo.real_port),
        if answered {
            "answered by the server"
        } else {
            "not answered yet"
        },
        if fresh { "" } else { ", too old to count" }
    );
    let both_ends = embryo.flags & flags::BOTH_ENDS != 0;
    let other_name = if both_ends {
        endpoint(embryo.from_addr.ip(), embryo.from_port)
    } else {
        String::new()
    };
    Answer::new(
        text,
        [
            ("clients_other_name", other_name),
            (
                "servers_sequence",
                shown(answered, || embryo.server_isn.into()),
            ),
            ("real_server_id", embryo.real.to_string()),
            ("generation", embryo.real_generation.to_string()),
            ("service_id", embryo.service.to_string()),
            ("idle", ago(now_ns, embryo.last_seen_ns)),
        ],
    )
}

/// A virtual service of this name.
pub(super) fn service(service: &Service, name: &str) -> Answer {
    let scheduler = Scheduler::from_u8(service.scheduler).map_or("mh", Scheduler::as_str);
    let persistence = if service.persist_seconds == 0 {
        String::new()
    } else {
        format!(
            "/{} for {} s",
            service.persist_prefix, service.persist_seconds
        )
    };
    let unknown = if service.flags & service_flags::NO_RESTEER == 0 {
        ""
    } else {
        "dropped"
    };
    Answer::new(
        format!("{name}, scheduled by {scheduler}"),
        [
            ("id", service.id.to_string()),
            ("maglev_slots", service.table_len.to_string()),
            ("members", service.members_len.to_string()),
            ("persistence", persistence),
            (
                "last_resort_id",
                shown(service.last_resort != 0, || service.last_resort.into()),
            ),
            ("unknown_connections", unknown.to_owned()),
        ],
    )
}

/// A real server's address and port, of the family of `like`.
pub(super) fn real_name(real: &Real, like: IpAddr) -> String {
    let address = narrow(real.addr, like);
    if real.port == 0 {
        // The port is that of the packet.
        return address.to_string();
    }
    endpoint(address, real.port)
}

/// The word for a real server's state.
pub(super) const fn state(real: &Real) -> &'static str {
    match RealState::from_u8(real.state) {
        RealState::Unused => "the id is not in use",
        RealState::Up => "up",
        RealState::Draining => "draining: takes no new connections",
        RealState::Down => "down",
    }
}

/// A real server.
pub(super) fn real(real: &Real, like: IpAddr) -> Answer {
    let forwarding = Forwarding::from_u8(real.forwarding);
    let way = if real.hop_known != 0 {
        format!(
            "{} through interface {} from {}",
            mac(real.mac),
            real.ifindex,
            mac(real.src_mac)
        )
    } else {
        "not known".to_owned()
    };
    let source = match forwarding {
        Forwarding::FullNat | Forwarding::Tunnel => narrow(real.source, like).to_string(),
        Forwarding::Nat | Forwarding::Dsr => String::new(),
    };
    Answer::new(
        format!(
            "{}, {}, {}",
            real_name(real, like),
            forwarding.as_str(),
            state(real)
        ),
        [
            ("way", way),
            ("source", source),
            ("generation", real.generation.to_string()),
            ("service_id", real.service.to_string()),
            ("mtu", real.mtu.to_string()),
            (
                "connections_max",
                shown(real.connections_max != 0, || real.connections_max.into()),
            ),
        ],
    )
}
