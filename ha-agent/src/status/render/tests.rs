//! What people see.

use std::net::IpAddr;

use ha_common::conn::{ConnState, flags};

use super::super::model::{
    Alarm, Connection, ConnectionQuery, NodeIdentity, Progress, SCHEMA_VERSION, TableSize,
};
use super::*;
use crate::datapath::family::{FlowEntry, FlowKey, entry_to};
use crate::proto::records::{self, NamespaceSnapshot, Quota, Snapshot};
use crate::shell::records::DeskSnapshot;

/// The status of the manual's example.
pub(crate) fn sample() -> Status {
    Status {
        schema_version: SCHEMA_VERSION,
        node: NodeIdentity {
            name: "lb1".to_owned(),
            mode: Mode::First,
        },
        role: Role::Active,
        since_seconds: 12.5,
        square: Square::Green,
        term: 3,
        config_generation: 7,
        configuration: None,
        version: "0.1.0".to_owned(),
        process: 4711,
        replaced: None,
        partner: Some(Partner {
            name: Some("lb2".to_owned()),
            role: Some(Role::Standby),
            square: Square::Green,
            heard: [("front".to_owned(), true), ("back".to_owned(), false)].into(),
            config_in_sync: true,
        }),
        interfaces: vec![InterfaceStatus {
            name: "front".to_owned(),
            device: "eth0".to_owned(),
            carrier: true,
            xdp_mode: XdpMode::Native,
            shared: vec!["10.0.0.100/24".to_owned()],
            virtual_mac: None,
            gateway_reachable: Some(true),
        }],
        replication: Replication {
            ready: true,
            lag_us_p99: Some(240),
            ..Replication::default()
        },
        records: None,
        connections: TableSize {
            established: 5,
            embryonic: 1,
            max: 1_048_576,
        },
        alarms: Vec::new(),
    }
}

#[test]
fn records_are_shown_by_namespace() {
    let space = |name: &str, records, quota: Option<u32>| NamespaceSnapshot {
        name: name.to_owned(),
        records,
        bytes: 0,
        quota: quota.map(|records| Quota { records, bytes: 9 }),
        refused: 0,
    };
    let mut records = Records {
        table: Snapshot {
            namespaces: vec![
                space("health", 0, Some(4096)),
                space("old", 1, None),
                space("sessions", 0, Some(1000)),
            ],
            ..Snapshot::default()
        },
        clients: DeskSnapshot::default(),
    };
    records.table.counters.refused_quota = 2;
    let mut status = sample();
    status.records = Some(records.clone());
    let text = super::status(&status, Style::PLAIN);
    assert!(
        text.contains("\nRecords      old 1, sessions 0 of 1000, 2 refused\n"),
        "{text}"
    );
    records.table.namespaces.truncate(1);
    records.table.counters.refused_quota = 0;
    status.records = Some(records);
    assert!(!super::status(&status, Style::PLAIN).contains("Records"));
}

/// Every counter of the records has its line in the manual.
#[test]
fn the_manual_has_all_counters() {
    let page = include_str!("../../../../docs/records.md");
    let counters = serde_json::to_value(records::Counters::default()).unwrap();
    let clients = serde_json::to_value(DeskSnapshot::default()).unwrap();
    for names in [counters, clients] {
        for name in names.as_object().unwrap().keys() {
            assert!(page.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}

/// The keys that scripts rely on, as the manual lists them.
#[test]
fn json_has_the_documented_shape() {
    let json = serde_json::to_value(sample()).unwrap();
    let expected = serde_json::json!({
        "schema_version": 1,
        "node": { "name": "lb1", "mode": "first" },
        "role": "active",
        "since_seconds": 12.5,
        "square": "green",
        "term": 3,
        "config_generation": 7,
        "version": "0.1.0",
        "process": 4711,
        "replaced": null,
        "partner": {
            "name": "lb2", "role": "standby", "square": "green",
            "heard": { "front": true, "back": false }, "config_in_sync": true
        },
        "interfaces": [{
            "name": "front", "device": "eth0", "carrier": true, "xdp_mode": "native",
            "shared": ["10.0.0.100/24"], "virtual_mac": null,
            "gateway_reachable": true
        }],
        "replication": {
            "ready": true, "lag_us_p99": 240, "sent": 0, "applied": 0, "repaired": 0, "dropped": 0,
            "sweep": {
                "passes": 0, "told": 0, "told_gone": 0, "mended": 0, "restored": 0, "replaced": 0,
                "removed": 0, "in_flight": 0, "put_off": 0
            },
            "oldest_waiting_us": null, "transfer": null, "repair_buckets": null,
            "comparisons": 0, "differences": 0,
            "unique": {
                "waiting": 0, "deferred": 0, "overflowed": 0, "coalesced": 0, "dropped": 0,
                "repaired": 0
            },
            "recomputable": {
                "waiting": 0, "deferred": 0, "overflowed": 0, "coalesced": 0, "dropped": 0,
                "repaired": 0
            }
        },
        "connections": { "established": 5, "embryonic": 1, "max": 1_048_576 },
        "alarms": []
    });
    assert_eq!(json, expected);
    assert_eq!(
        serde_json::from_value::<Status>(json).unwrap(),
        sample(),
        "what is written can be read"
    );
}

#[test]
fn status_for_people() {
    let text = status(&sample(), Style::PLAIN);
    let expected = "\
SQUARE     NODE  PLACE   ROLE
[A] green  lb1   first   active   for 12s, term 3, configuration 7, version 0.1.0
[ ] green  lb2   second  standby  heard on front; not heard on back; same configuration

INTERFACE  DEVICE  CARRIER  XDP     GATEWAY    SHARED ADDRESSES
front      eth0    up       native  reachable  10.0.0.100/24

Replication  ready, lag p99 240 us, 0 sent, 0 applied, 0 repaired, 0 dropped
Connections  5 of at most 1048576, 1 half-open
Alarms       none
";
    assert_eq!(text, expected);

    let mut one_mac = sample();
    if let Some(front) = one_mac.interfaces.first_mut() {
        front.virtual_mac = Some("00:00:5e:00:01:6e".to_owned());
    }
    let text = status(&one_mac, Style::PLAIN);
    assert!(
        text.contains("10.0.0.100/24 at 00:00:5e:00:01:6e\n"),
        "{text}"
    );
}

#[test]
fn nothing_is_said_of_a_partner_never_heard() {
    let mut lonely = sample();
    let partner = lonely.partner.as_mut().unwrap();
    partner.role = None;
    partner.config_in_sync = false;
    assert!(!status(&lonely, Style::PLAIN).contains("another configuration"));
}

#[test]
fn a_partner_that_is_not_heard_is_not_shown_as_active() {
    let mut dead = sample();
    let partner = dead.partner.as_mut().unwrap();
    partner.role = Some(Role::Active);
    assert!(status(&dead, Style::PLAIN).contains("\n[A] green  lb2"));
    dead.partner.as_mut().unwrap().square = Square::Red;
    assert!(status(&dead, Style::PLAIN).contains("\n[ ] red    lb2"));
}

#[test]
fn the_first_node_stands_first_on_both() {
    let mut on_second = sample();
    on_second.node.mode = Mode::Second;
    let text = status(&on_second, Style::PLAIN);
    let row = |name: &str| text.lines().position(|line| line.contains(name));
    assert!(row("lb2").unwrap() < row("lb1").unwrap(), "{text}");
}

#[test]
fn a_node_alone_shows_no_partner() {
    let mut alone = sample();
    alone.partner = None;
    alone.role = Role::Off;
    alone.node.mode = Mode::Off;
    let text = status(&alone, Style::PLAIN);
    assert!(
        !text.contains("Replication") && !text.contains("lb2"),
        "{text}"
    );
}

#[test]
fn replication_says_what_it_still_has_to_do() {
    let mut busy = sample();
    busy.replication.transfer = Some(Progress { done: 3, total: 9 });
    busy.replication.repair_buckets = Some(2);
    busy.replication.unique.waiting = 1;
    busy.replication.recomputable.waiting = 4;
    let text = status(&busy, Style::PLAIN);
    assert!(
        text.contains(" dropped, 3 of 9 transferred, 2 buckets to repair, 5 waiting\n"),
        "{text}"
    );
}

#[test]
fn colours_only_where_wanted() {
    let mut bad = sample();
    bad.alarms.push(Alarm {
        name: "partner_unheard".to_owned(),
        since_seconds: 1.0,
        evidence: "nothing heard\u{1b}[2J".to_owned(),
        remedy: "start it".to_owned(),
    });
    assert!(!status(&bad, Style::PLAIN).contains('\u{1b}'));
    let color = Style {
        color: true,
        fit: false,
    };
    let text = status(&bad, color);
    assert!(text.contains("\u{1b}["), "{text}");
    assert!(!text.contains("\u{1b}[2J"), "{text}");
    assert!(text.contains("start it"), "{text}");
}

fn key(port: u16) -> FlowKey {
    FlowKey {
        src: [192, 0, 2, 1].into(),
        dst: [10, 0, 0, 100].into(),
        sport: port.to_be(),
        dport: 80_u16.to_be(),
        proto: 6,
    }
}

fn entry(port: u16) -> Connection {
    let value = FlowEntry {
        to_port: 8080_u16.to_be(),
        state: ConnState::Established as u8,
        flags: flags::REPLICATED,
        created_ns: 1_000_000_000,
        last_seen_ns: 60_000_000_000,
        ..entry_to([10, 1, 0, 21].into())
    };
    Connection::from_entry(&key(port), &value, Some("web".to_owned()), 66_000_000_000).unwrap()
}

fn page(query: &ConnectionQuery, all: impl Iterator<Item = Connection>) -> ConnectionPage {
    let mut page = query.page();
    query.add(&mut page, all);
    page
}

#[test]
fn connections_are_read_from_the_table() {
    let query = ConnectionQuery {
        limit: 10,
        ..ConnectionQuery::default()
    };
    let page = page(&query, [entry(4000)].into_iter());
    let expected = "\
SERVICE  PROTO  CLIENT          SHARED         REAL SERVER     STATE        AGE   IDLE  FROM
web      tcp    192.0.2.1:4000  10.0.0.100:80  10.1.0.21:8080  established  1m5s  6.0s  partner

1 established, 1 match, 1 to 1 shown
";
    assert_eq!(connections(&page, Style::PLAIN), expected);
}

#[test]
fn connections_over_ipv6_with_full_nat() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let key = FlowKey {
        src: address("2001:db8:9::1"),
        dst: address("2001:db8::100"),
        sport: 4000_u16.to_be(),
        dport: 80_u16.to_be(),
        proto: 6,
    };
    let value = FlowEntry {
        to_port: 8080_u16.to_be(),
        from_addr: address("2001:db8::100"),
        from_port: 20_001_u16.to_be(),
        flags: flags::BOTH_ENDS,
        state: ConnState::TimeWait as u8,
        ..entry_to(address("2001:db8:1::21"))
    };
    let connection = Connection::from_entry(&key, &value, None, 0).unwrap();
    assert_eq!(
        connection.seen_as,
        Some("[2001:db8::100]:20001".parse().unwrap())
    );
    let query = ConnectionQuery {
        client: Some(key.src),
        real: Some(value.to_addr),
        limit: 10,
        ..ConnectionQuery::default()
    };
    let page = page(&query, [connection, entry(4000)].into_iter());
    assert_eq!((page.total, page.matching), (2, 1));
    let text = connections(&page, Style::PLAIN);
    for shown in [
        "[2001:db8:9::1]:4000",
        "[2001:db8::100]:80",
        "[2001:db8:1::21]:8080",
        "time-wait",
    ] {
        assert!(text.contains(shown), "{text}");
    }
}

#[test]
fn reverse_entries_are_not_connections() {
    let reverse = FlowEntry {
        flags: flags::REVERSE,
        ..entry_to([10, 0, 0, 100].into())
    };
    assert_eq!(Connection::from_entry(&key(80), &reverse, None, 0), None);
}

#[test]
fn pages_and_filters() {
    let query = ConnectionQuery {
        limit: 10,
        offset: 95,
        service: Some("web".to_owned()),
        client: Some([192, 0, 2, 1].into()),
        state: Some("established".to_owned()),
        real: Some([10, 1, 0, 21].into()),
        from: None,
        look: None,
    };
    let found = page(&query, (1000..1100).map(entry));
    assert_eq!((found.total, found.matching), (100, 100));
    assert_eq!(found.connections.len(), 5);
    assert_eq!(found.connections[0].client.port(), 1095);
    let none = ConnectionQuery {
        state: Some("closed".to_owned()),
        ..query
    };
    let found = page(&none, (1000..1100).map(entry));
    assert_eq!((found.total, found.matching), (100, 0));
    assert!(connections(&found, Style::PLAIN).contains("none shown"));
}

#[test]
fn counters_tell_what_they_count() {
    let mut values = [0; ha_common::reason::COUNTERS];
    values[0] = 7;
    let all = Counters::from_values(&values);
    assert_eq!(all.counters.len(), values.len());
    let text = counters(&all, false, Style::PLAIN);
    assert!(text.contains("not_ip"), "{text}");
    assert!(text.contains("pass"), "{text}");
    assert!(text.contains("more are zero"), "{text}");
    let text = counters(&all, true, Style::PLAIN);
    assert!(text.contains("events_lost"), "{text}");
    assert!(all.counters.iter().all(|c| !c.meaning.is_empty()));
}

#[test]
fn durations() {
    for (seconds, text) in [
        (0.04, "0.0s"),
        (9.96, "10.0s"),
        (59.0, "59s"),
        (61.0, "1m1s"),
        (7_300.0, "2h1m"),
        (200_000.0, "2d7h"),
        (f64::NAN, "?"),
        (-1.0, "?"),
    ] {
        assert_eq!(duration(seconds), text);
    }
}
