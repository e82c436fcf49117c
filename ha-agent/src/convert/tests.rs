//! Files as people have them, and hostile ones.

use std::path::Path;
use std::time::Duration;

use ha_common::service::{Forwarding, Scheduler};
use proptest::prelude::*;

use super::*;
use crate::config::model::{Check, Config, Mode, Ports, Preferred, Protocol, Transport};

const FILE: &str = r#"! Configuration File for keepalived
global_defs {
    router_id lb1
}
vrrp_sync_group G { group { front back } }
vrrp_instance front {
    state MASTER
    interface eth0
    virtual_router_id 51
    priority 150
    advert_int 0.5
    authentication {
        auth_type PASS
        auth_pass "a secret"   # seen by everybody
    }
    unicast_src_ip 10.0.0.11
    unicast_peer {
        10.0.0.12
    }
    virtual_ipaddress {
        10.0.0.100/24 dev eth0 label eth0:1
        10.0.0.101
    }
    notify /usr/local/bin/notify.sh
}
vrrp_instance back
{
    state MASTER
    interface eth1
    virtual_router_id 52
    advert_int 0.5
    mcast_src_ip 10.1.0.11
    virtual_ipaddress { 10.1.0.1/24 }
}
virtual_server 10.0.0.100 80 {
    delay_loop 6
    lb_algo wlc
    lb_kind NAT
    persistence_timeout 50
    persistence_granularity 255.255.255.0
    protocol TCP
    quorum 2
    sorry_server 10.1.0.99 8080
    real_server 10.1.0.21 8080 {
        weight 3
        uthreshold 1000
        HTTP_GET {
            url {
                path /alive
                status_code 200
                digest 640205b7b0fc66c1ea91c463fac6334d
            }
            connect_timeout 3
            nb_get_retry 3
        }
    }
    real_server 10.1.0.22 8080 {
        weight 1
        TCP_CHECK {
            connect_timeout 3
        }
    }
}
virtual_server 10.0.0.101 0 {
    lb_algo lblc
    lb_kind DR
    protocol UDP
    real_server 10.0.0.21 0 { }
}
virtual_server 10.0.0.100 90 {
    protocol SCTP
}
virtual_server fwmark 3 {
    protocol TCP
}
"#;

fn left(converted: &Converted) -> Vec<String> {
    converted
        .left
        .iter()
        .map(|left| format!("{} {}", left.line, left.what))
        .collect()
}

#[test]
fn a_whole_file() {
    let converted = keepalived(FILE).unwrap();
    let refused = Config::parse(Path::new("f"), converted.text.clone().into_bytes()).unwrap_err();
    let open: Vec<&str> = refused
        .iter()
        .map(|problem| problem.what.as_str())
        .collect();
    assert!(
        open.iter().any(|what| what.contains(UNKNOWN)),
        "{open:?}\n{}",
        converted.text
    );

    // What a person fills in: the name and the partner on the second network.
    let text = converted
        .text
        .replacen(UNKNOWN, "lb1", 1)
        .replace(UNKNOWN, "10.1.0.12");
    let loaded = Config::parse(Path::new("f"), text.clone().into_bytes())
        .unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
    let config = loaded.config;
    assert_eq!(config.node.mode, Mode::First);
    assert_eq!(config.ha.virtual_id, 51);
    assert_eq!(config.ha.advertisement_interval, Duration::from_millis(500));
    assert_eq!(config.ha.timeout, Duration::from_millis(1500));
    assert_eq!(config.ha.preferred, Preferred::First);
    assert_eq!(config.ha.transport, Transport::Unicast);
    let own: Vec<String> = config
        .node
        .interfaces
        .iter()
        .flat_map(|interface| &interface.addresses)
        .map(ToString::to_string)
        .collect();
    assert_eq!(own, ["10.0.0.11/24", "10.1.0.11/24"]);
    assert_eq!(config.shared_addresses.len(), 3);

    let [web, dns] = &*config.virtual_services else {
        panic!("{text}");
    };
    assert_eq!(
        (web.forwarding, web.scheduler),
        (Forwarding::Nat, Scheduler::Wlc)
    );
    let persistence = web.persistence.unwrap();
    assert_eq!(
        (persistence.timeout, persistence.prefix),
        (Duration::from_secs(50), 24)
    );
    let health = web.health.clone().unwrap();
    assert_eq!(
        (health.interval, health.timeout),
        (Duration::from_secs(6), Duration::from_secs(3))
    );
    assert!(matches!(&health.check, Check::Http(page) if page.path == "/alive"));
    let weights: Vec<_> = web.real_servers.iter().map(|real| real.weight).collect();
    assert_eq!(weights, [3, 1]);
    assert!(web.last_resort.is_some());
    assert_eq!(
        (dns.protocol, dns.ports, dns.forwarding),
        (Protocol::Udp, Ports::Any, Forwarding::Dsr)
    );

    assert_eq!(
        left(&converted),
        [
            "2 global_defs: nothing in it has a meaning here",
            "5 vrrp_sync_group G: a pair always moves as a whole",
            "12 authentication: packets are signed with the key of `ha-agent keygen`",
            "22 10.0.0.101: has no prefix length; a usual one is assumed",
            "24 notify /usr/local/bin/notify.sh: not carried over",
            "30 virtual_router_id 52: a pair has one, that of the first instance",
            "42 quorum 2: not carried over",
            "51 digest 640205b7b0fc66c1ea91c463fac6334d: not carried over",
            "54 nb_get_retry 3: not carried over",
            "59 TCP_CHECK: a service has one check for all real servers, that of the first",
            "65 lb_algo lblc: not a scheduler of this program; mh instead",
            "70 virtual_server 10.0.0.100 90: left out: its protocol or method is not known here",
            "73 virtual_server fwmark 3: only services by address and port are known here",
        ]
    );
    assert!(!converted.text.contains("a secret"));
}

#[test]
fn the_other_node_and_its_wishes() {
    let text = FILE
        .replace("state MASTER", "state BACKUP")
        .replace("priority 150", "priority 100\n    nopreempt\n    use_vmac");
    let converted = keepalived(&text).unwrap().text;
    for line in ["  mode: second\n", "  virtual_mac: true\n"] {
        assert!(converted.contains(line), "{converted}");
    }
    assert!(!converted.contains("preferred"), "{converted}");
}

#[test]
fn what_is_said_twice_or_odd_is_one_value() {
    let text = FILE
        .replace("path /alive", "path /alive\n                path /other")
        .replace("connect_timeout 3", "connect_timeout ?")
        .replace("weight 3", "weight 3\n        weight 4");
    let converted = keepalived(&text).unwrap();
    let text = &converted.text;
    assert!(crate::config::edit::read(text).is_ok(), "{text}");
    for piece in ["path: '/alive', ", "timeout: '?s'", "weight: 3, "] {
        assert!(text.contains(piece), "{piece}: {text}");
    }
    let left = left(&converted);
    let twice = left.iter().filter(|left| left.contains("twice"));
    assert_eq!(twice.count(), 2, "{left:?}");
}

#[test]
fn what_is_no_such_file() {
    for (text, line) in [
        ("a {\n b {\n}\n", 1),
        ("}\n", 1),
        ("\n\n{ }\n", 3),
        ("x \"y\n", 1),
    ] {
        assert_eq!(keepalived(text).unwrap_err().line, line, "{text}");
    }
    let deep = "a {\n".repeat(10_000);
    assert!(keepalived(&deep).is_err());
    assert_eq!(
        left(&keepalived("include x.conf\n").unwrap()),
        ["1 include x.conf: not known here"]
    );
}

proptest! {
    /// Whatever stands in the place of a word, the new file is YAML of the same shape.
    #[test]
    fn words_stay_words(word in "[!-~]{1,12}", which in 0..200usize) {
        let mut words: Vec<&str> = FILE.split(' ').collect();
        let which = which % words.len();
        words[which] = &word;
        if let Ok(converted) = keepalived(&words.join(" ")) {
            let parsed = Config::parse(Path::new("f"), converted.text.clone().into_bytes());
            for problem in parsed.err().unwrap_or_default() {
                prop_assert!(!problem.what.contains("YAML"), "{problem:#}\n{}", converted.text);
            }
        }
    }

    #[test]
    fn nothing_panics(text in "[a-z {}\"#!\n/0-9.:]{0,400}") {
        let _any = keepalived(&text);
    }
}
