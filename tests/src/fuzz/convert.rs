//! keepalived's configuration files, which become files of this program's.

use ha_agent::config::edit;
use ha_agent::convert::keepalived;

use super::{Seed, texts};

/// Longest input.
const LENGTH: usize = 32 << 10;

/// Converts an input.
pub fn play(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if input.len() > LENGTH {
        return;
    }
    let Ok(converted) = keepalived(&text) else {
        return;
    };
    // Whatever the words of the old file are, they are values of the new one and nothing else.
    let says = edit::read(&converted.text);
    let says = says.unwrap_or_else(|error| panic!("{error}:\n{}", converted.text));
    for key in ["version", "node"] {
        assert!(says.get(&[key]).is_some(), "no {key}:\n{}", converted.text);
    }
    let lines = text.lines().count().max(1);
    assert!(
        converted
            .left
            .iter()
            .all(|left| (1..=lines).contains(&left.line))
    );
}

const FILE: &str = r#"! Configuration File for keepalived
global_defs { router_id lb1 }
vrrp_instance front {
    state MASTER
    interface eth0
    virtual_router_id 51
    advert_int 0.5
    authentication { auth_type PASS
        auth_pass "a secret"   # seen by everybody
    }
    unicast_src_ip 10.0.0.11
    unicast_peer { 10.0.0.12
    }
    virtual_ipaddress {
        10.0.0.100/24 dev eth0 label eth0:1
    }
}
virtual_server 10.0.0.100 80 {
    delay_loop 6
    lb_algo wlc
    lb_kind NAT
    persistence_timeout 50
    sorry_server 10.1.0.99 8080
    real_server 10.1.0.21 8080 {
        weight 3
        HTTP_GET {
            url { path /alive
                status_code 200
            }
            connect_timeout 3
        }
    }
}
"#;

/// Files as people have them, and words that would mean something in the new one.
pub fn seeds() -> Vec<Seed> {
    let odd = FILE
        .replace("/alive", "\"/: # - {}\"")
        .replace("eth0", "'eth:0 #'");
    texts([
        ("usual", FILE),
        ("odd-words", &odd),
        ("six", &FILE.replace("10.0.0.1", "2001:db8::1")),
        ("unclosed", "vrrp_instance a {\n"),
        ("quote", "virtual_server \"10.0.0.1 80 {\n}\n"),
    ])
}
