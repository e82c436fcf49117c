//! Virtual services: ports, ways of forwarding, families.

use super::*;

/// The good file with more keys for its service.
fn and(more: &str) -> String {
    with("    health", &format!("    {more}\n    health"))
}

/// The good file without ports of real servers, with another port of the service.
fn on_ports(port: &str, more: &str) -> String {
    and(more)
        .replace("port: 80\n", &format!("port: {port}\n"))
        .replace(", port: 8080", "")
}

#[track_caller]
fn only(text: &str, what: &str) {
    let all = said(text);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains(what), "{all:?}");
}

fn first(text: &str) -> model::VirtualService {
    let loaded = parse(text).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(loaded.warnings, []);
    loaded.config.virtual_services[0].clone()
}

#[test]
fn a_service_may_have_many_ports() {
    const CHECKED: &str = "health: { type: tcp, port: 80 }\n    #";
    let range = first(&on_ports("8000-8100", CHECKED).replace("    health: { type: tcp }\n", ""));
    assert_eq!(
        range.ports,
        Ports::Range {
            first: 8000,
            last: 8100
        }
    );
    assert_eq!(range.port_of(&range.real_servers[0]), None);
    for any in ["any", "0"] {
        let service = on_ports(any, CHECKED).replace("    health: { type: tcp }\n", "");
        assert_eq!(first(&service).ports, Ports::Any);
    }
    only(
        &on_ports("any", ""),
        "does not say which of them is to be checked",
    );
    assert_eq!(
        first(&on_ports("any", "").replace("type: tcp", "type: icmp")).ports,
        Ports::Any
    );
    only(
        &with("port: 80\n", "port: any\n")
            .replace("type: tcp", "type: icmp")
            .replace("10.1.0.21, port: 8080", "10.1.0.21"),
        "gets packets at the port they were sent to",
    );
    only(&on_ports("1-5000", ""), "a range of 5000 ports");
    only(
        &on_ports("6900-7000", "")
            .replace("address: 10.0.0.100\n", "address: 10.1.0.1\n")
            .replace("type: tcp", "type: icmp"),
        "TCP 6973 on this interface is reserved",
    );
    let one = first(&on_ports("80", ""));
    assert_eq!(one.port_of(&one.real_servers[0]), Some(80));
}

#[test]
fn ports_of_an_address_do_not_overlap() {
    let beside = |here: &str, there: &str| {
        let text = on_ports(here, "").replace("type: tcp", "type: icmp");
        said(&format!(
            "{text}  - {{ name: two, address: 10.0.0.100, port: {there}, real_servers: [{{ address: 10.1.0.21 }}] }}\n"
        ))
    };
    for (here, there) in [
        ("80", "81"),
        ("any", "80"),
        ("80", "any"),
        ("80-90", "any"),
        ("80-90", "91-95"),
    ] {
        assert_eq!(beside(here, there), [""; 0], "{here} {there}");
    }
    for (here, there) in [
        ("80", "80"),
        ("any", "0"),
        ("80-90", "85"),
        ("85", "80-90"),
        ("80-90", "90-95"),
        ("80-90", "82-83"),
    ] {
        let all = beside(here, there);
        assert_eq!(all.len(), 1, "{here} {there}: {all:?}");
        assert!(all[0].contains("another virtual service"), "{all:?}");
    }
}

#[test]
fn all_ports_together_are_limited() {
    let mut text = with("virtual_services:\n", "virtual_services:\n#");
    text.truncate(text.find('#').unwrap());
    for n in 0u16..5 {
        use std::fmt::Write as _;
        writeln!(
            text,
            "  - {{ name: s{n}, address: 10.0.0.100, port: {}-{}, real_servers: [{{ address: 10.1.0.21 }}] }}",
            10_000 + n * 4096,
            10_000 + n * 4096 + 4095
        )
        .unwrap();
    }
    only(
        &text,
        "20480 ports together, more than a pair can hold: 16384",
    );
}

#[test]
fn real_servers_keep_the_port_where_it_is_not_rewritten() {
    for way in ["dsr", "tunnel"] {
        let text = and(&format!("forwarding: {way}"));
        let all = said(&text);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].contains("as they were sent, at port 80"), "{all:?}");
        first(&text.replace("port: 8080", "port: 80"));
        first(&text.replace(", port: 8080", ""));
    }
}

#[test]
fn ways_of_forwarding() {
    let dsr = and("forwarding: dsr").replace(", port: 8080", "");
    assert_eq!(first(&dsr).forwarding, Forwarding::Dsr);
    only(
        &dsr.replace("10.1.0.22", "10.9.0.22"),
        "must be a neighbour",
    );

    let tunnel = and("forwarding: tunnel").replace(", port: 8080", "");
    let sources = |text: &str| {
        let service = first(text);
        let servers = service.real_servers.iter();
        servers
            .map(|real| {
                real.source
                    .map_or_else(String::new, |source| source.to_string())
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(sources(&tunnel), ["10.1.0.1", "10.1.0.1"]);
    let far = tunnel.replace("10.1.0.22", "10.9.0.22");
    assert_eq!(
        sources(&far),
        ["10.1.0.1", "10.0.0.100"],
        "the service's own"
    );
    let given = "forwarding: tunnel\n    source: 10.0.0.100";
    let given = and(given).replace(", port: 8080", "");
    assert_eq!(sources(&given), ["10.0.0.100", "10.0.0.100"]);

    let full_nat = and("forwarding: full_nat");
    assert_eq!(sources(&full_nat), ["10.1.0.1", "10.1.0.1"]);
    only(
        &full_nat.replace("10.1.0.22", "10.9.0.22"),
        "no shared address is in the network of 10.9.0.22",
    );
    assert_eq!(sources(&and("resteer: true")), ["", ""]);
}

#[test]
fn sources_are_shared_addresses() {
    only(
        &and("source: 10.1.0.1"),
        "means nothing to a service with `forwarding: nat`",
    );
    let full_nat = |source: &str| and(&format!("forwarding: full_nat\n    source: {source}"));
    only(
        &full_nat("10.1.0.11"),
        "source 10.1.0.11 is not a shared address",
    );
    only(
        &full_nat("fd00::1"),
        "source fd00::1 is IPv6, but the service is IPv4",
    );
    assert_eq!(said(&full_nat("10.0.0.100")), [""; 0]);
}

#[test]
fn schedulers() {
    for (word, scheduler) in [
        ("mh", Scheduler::Mh),
        ("rr", Scheduler::Rr),
        ("wrr", Scheduler::Wrr),
        ("lc", Scheduler::Lc),
        ("wlc", Scheduler::Wlc),
        ("sh", Scheduler::Sh),
    ] {
        assert_eq!(
            first(&and(&format!("scheduler: {word}"))).scheduler,
            scheduler
        );
        assert_eq!(scheduler.as_str(), word);
    }
    only(&and("scheduler: wheel"), "`scheduler: wheel` is not known");
    for way in ["dsr", "tunnel"] {
        let text = and(&format!("forwarding: {way}\n    scheduler: wlc"));
        only(
            &text.replace(", port: 8080", ""),
            "answers do not come back this way",
        );
    }
    assert_eq!(
        said(&and("forwarding: full_nat\n    scheduler: lc")),
        [""; 0]
    );
}

#[test]
fn persistence() {
    let persistence = |keys: &str| and(&format!("persistence: {{ {keys} }}"));
    assert_eq!(
        first(&persistence("timeout: 1h"))
            .persistence
            .unwrap()
            .prefix,
        32
    );
    only(&persistence("prefix: 24"), "`timeout` has no value");
    only(&persistence("timeout: 500ms"), "out of range");
    only(&persistence("timeout: 25h"), "out of range");
    only(&persistence("timeout: 5m, prefix: 0"), "out of range");
    only(
        &persistence("timeout: 5m, prefix: 33"),
        "longer than an IPv4 address",
    );
    only(&and("persistence: 300s"), "must be a map");
}

#[test]
fn the_last_resort() {
    let last = |keys: &str| and(&format!("last_resort: {{ {keys} }}"));
    assert_eq!(first(&last("address: 10.1.0.99")).all_servers().count(), 3);
    only(&last("port: 80"), "`address` has no value");
    only(
        &last("address: 10.1.0.99, weight: 5"),
        "unknown key `weight`",
    );
    only(&last("address: 10.1.0.21, port: 8080"), "listed twice");
    assert_eq!(said(&last("address: 10.1.0.21, port: 81")), [""; 0]);
    only(&last("address: 10.1.0.1"), "is a shared address");
    let draining = last("address: 10.1.0.99").replace("port: 8080 }", "port: 8080, weight: 0 }");
    only(&draining, "new connections go to the last resort");
    let mut none = last("address: 10.1.0.99");
    none.truncate(none.find("    real_servers").unwrap());
    assert_eq!(said(&none), [""; 0]);
}

#[test]
fn idle_times() {
    let timeouts = |keys: &str| and(&format!("timeouts: {{ {keys} }}"));
    let service = first(&timeouts("closed: 5s"));
    assert_eq!(service.timeouts.closed, Duration::from_secs(5));
    assert_eq!(service.timeouts.established, Duration::from_mins(15));
    only(&timeouts("closed: 1s"), "out of range");
    only(&timeouts("established: 169h"), "out of range");
    only(&timeouts("tcp: 5s"), "unknown key `tcp`");
    only(&and("on_down: drop"), "`on_down: drop` is not known");
}
