//! Persistent clients in words, and back on a node that numbers everything differently.

use ha_common::conn::Persist;

use super::ways::applied;
use super::*;
use crate::config::model::Persistence;
use crate::datapath::family::ClientKey;

fn persistent(port: u16, servers: &[(u8, u32)]) -> VirtualService {
    VirtualService {
        persistence: Some(Persistence {
            timeout: Duration::from_mins(5),
            prefix: 24,
        }),
        ..service(port, servers)
    }
}

#[test]
fn clients_are_told_by_address_and_found_under_other_numbers() {
    let services = [persistent(80, &[(21, 1), (22, 1)]), service(81, &[(21, 1)])];
    let (here, _) = applied(&services);
    // There, everything was configured in another order and beside other services.
    let (mut there, fake) = applied(&[service(79, &[(9, 1)]), service(81, &[(21, 1)])]);
    there
        .configure(&[service(79, &[(9, 1)]), persistent(80, &[(22, 1), (21, 1)])])
        .unwrap();
    apply(&mut there, &fake);

    let (mine, theirs) = (real(80, 22), real(80, 22));
    let (mine, theirs) = (here.lookup(&mine).unwrap(), there.lookup(&theirs).unwrap());
    assert_ne!(mine, theirs);
    let client = ClientKey {
        client: "192.0.2.0".parse().unwrap(),
        service: mine.service,
        pad: 0,
    };
    let held = Persist {
        real: mine.real.id,
        real_generation: mine.real.generation,
        pad: 0,
        last_seen_ns: 5,
    };
    let words = here.client_words().say(&client, &held).unwrap();
    assert_eq!(words.client, format!("tcp {VIP}:80 192.0.2.0/24"));
    assert_eq!(words.real, format!("{}:8080", server(22)));
    assert_eq!(words.timeout, Duration::from_mins(5));
    let (key, value) = there.client_entry(&words.client, &words.real, 7).unwrap();
    assert_eq!((key.client, key.service), (client.client, theirs.service));
    assert_eq!(
        (value.real, value.real_generation),
        (theirs.real.id, theirs.real.generation)
    );
    assert_eq!(value.last_seen_ns, 7);

    // One of an earlier generation of the number is nobody's.
    let stale = Persist {
        real_generation: held.real_generation.wrapping_add(1),
        ..held
    };
    assert_eq!(here.client_words().say(&client, &stale), None);
}

#[test]
fn words_that_mean_nothing_here_are_refused() {
    let (table, _) = applied(&[persistent(80, &[(21, 1)]), service(81, &[(21, 1)])]);
    let real = format!("{}:8080", server(21));
    let good = format!("tcp {VIP}:80 192.0.2.0/24");
    assert!(table.client_entry(&good, &real, 0).is_some());
    for client in [
        "",
        "tcp",
        &format!("tcp {VIP}:80 192.0.2.0"),
        &format!("tcp {VIP}:80 192.0.2.0/24 more"),
        &format!("tcp {VIP}:80 192.0.2.0/32"),
        &format!("tcp {VIP}:80 2001:db8::/24"),
        &format!("tcp {VIP}:81 192.0.2.0/24"),
        &format!("udp {VIP}:80 192.0.2.0/24"),
        &format!("sctp {VIP}:80 192.0.2.0/24"),
        &format!("tcp {VIP}:82 192.0.2.0/24"),
    ] {
        assert_eq!(table.client_entry(client, &real, 0), None, "{client}");
    }
    for real in ["", "10.1.0.21", "10.1.0.99:8080", "10.1.0.21:81"] {
        assert_eq!(table.client_entry(&good, real, 0), None, "{real}");
    }
}
