//! `virtual_server` and what is in it.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::syntax::Statement;
use super::{Draft, quoted, text_of};

/// A service as keepalived has it.
struct Service<'a> {
    scheduler: &'static str,
    forwarding: &'static str,
    protocol: &'static str,
    interval: u64,
    persistence: Option<u32>,
    prefix: Option<u32>,
    /// As lines of the new file, and the check of the first that has one.
    reals: Vec<String>,
    check: Option<(&'a str, String)>,
    last_resort: Option<String>,
}

/// Adds a service.
pub(super) fn service(draft: &mut Draft, server: &Statement) {
    let Ok(address) = server.word(1).parse::<IpAddr>() else {
        return draft.leave(server, "only services by address and port are known here");
    };
    let shared = |(cidr, _): &(String, String)| {
        cidr.split_once('/')
            .is_some_and(|(shared, _)| shared.parse() == Ok(address))
    };
    if !draft.shared.iter().any(shared) {
        draft.leave(
            server,
            "its address is no virtual_ipaddress of this file so far: add it to shared_addresses",
        );
    }
    let mut service = Service {
        scheduler: "mh",
        forwarding: "nat",
        protocol: "tcp",
        // keepalived's own default is a minute; two seconds are this program's.
        interval: 2,
        persistence: None,
        prefix: None,
        reals: Vec::new(),
        check: None,
        last_resort: None,
    };
    for statement in &server.block {
        if !service.take(draft, statement) {
            return draft.leave(server, "left out: its protocol or method is not known here");
        }
    }
    let port = match server.word(2) {
        "0" => "any",
        port => port,
    };
    draft.services.push_str(&service.write(address, port));
}

impl<'a> Service<'a> {
    /// Takes over a statement; `false` if the service cannot be one of this program's.
    fn take(&mut self, draft: &mut Draft, statement: &'a Statement) -> bool {
        let value = statement.word(1);
        match statement.keyword() {
            "lb_algo" | "lvs_sched" => match ["rr", "wrr", "lc", "wlc", "sh", "mh"]
                .into_iter()
                .find(|known| *known == value)
            {
                Some(known) => self.scheduler = known,
                None => draft.leave(statement, "not a scheduler of this program; mh instead"),
            },
            "lb_kind" | "lvs_method" => match value {
                "NAT" => self.forwarding = "nat",
                "DR" => self.forwarding = "dsr",
                "TUN" => self.forwarding = "tunnel",
                _ => return false,
            },
            "protocol" => match value {
                "TCP" => self.protocol = "tcp",
                "UDP" => self.protocol = "udp",
                _ => return false,
            },
            "delay_loop" => match value.parse() {
                Ok(seconds) => self.interval = seconds,
                Err(_) => draft.leave(statement, "not a whole number of seconds; 2 instead"),
            },
            // Without a value, six minutes.
            "persistence_timeout" if value.is_empty() => {
                self.persistence = Some(360);
            }
            "persistence_timeout" => match value.parse() {
                Ok(seconds) => self.persistence = Some(seconds),
                Err(_) => draft.leave(statement, "not a whole number of seconds"),
            },
            "persistence_granularity" => match prefix(value) {
                Some(prefix) => self.prefix = Some(prefix),
                None => draft.leave(statement, "neither a mask nor a prefix length"),
            },
            "real_server" => self.real(draft, statement),
            "sorry_server" => {
                self.last_resort = Some(format!(
                    "{{ address: {}, port: {} }}",
                    text_of(value),
                    quoted(statement.word(2))
                ));
            }
            _ => draft.leave(statement, "not carried over"),
        }
        true
    }

    fn real(&mut self, draft: &mut Draft, real: &'a Statement) {
        let mut fields = Fields(vec![("address", text_of(real.word(1)))]);
        if real.word(2) != "0" {
            fields.0.push(("port", quoted(real.word(2))));
        }
        for statement in &real.block {
            match statement.keyword() {
                "weight" | "uthreshold" => {
                    let key = if statement.keyword() == "weight" {
                        "weight"
                    } else {
                        "connections"
                    };
                    fields.add(draft, statement, key, statement.word(1));
                }
                kind @ ("TCP_CHECK" | "HTTP_GET" | "SSL_GET" | "PING_CHECK" | "UDP_CHECK") => {
                    let check = check(draft, kind, statement);
                    match &self.check {
                        None => self.check = Some((kind, check)),
                        Some(known) if *known == (kind, check) => {}
                        Some(_) => draft.leave(
                            statement,
                            "a service has one check for all real servers, that of the first",
                        ),
                    }
                }
                "inhibit_on_failure" => {
                    draft.leave(statement, "see `on_down`: connections stay by default");
                }
                _ => draft.leave(statement, "not carried over"),
            }
        }
        self.reals.push(format!("{{ {fields} }}"));
    }

    fn write(&self, address: IpAddr, port: &str) -> String {
        let name = format!("{}-{address}-{port}", self.protocol).replace(':', "-");
        let mut text = format!(
            "  - name: {}\n    address: '{address}'\n    port: {}\n    protocol: {}\n    forwarding: {}\n    scheduler: {}\n",
            quoted(&name),
            quoted(port),
            self.protocol,
            self.forwarding,
            self.scheduler
        );
        // Writing to a string cannot fail.
        if let Some(timeout) = self.persistence {
            let prefix = self.prefix.map(|prefix| format!(", prefix: {prefix}"));
            let _infallible = writeln!(
                text,
                "    persistence: {{ timeout: {}s{} }}",
                timeout,
                prefix.unwrap_or_default()
            );
        }
        if let Some((_, check)) = &self.check {
            let _infallible = writeln!(
                text,
                "    health: {{ {check}, interval: {}s }}",
                self.interval
            );
        }
        text.push_str("    real_servers:");
        if self.reals.is_empty() {
            text.push_str(" []");
        }
        text.push('\n');
        for real in &self.reals {
            let _infallible = writeln!(text, "      - {real}");
        }
        if let Some(last_resort) = &self.last_resort {
            let _infallible = writeln!(text, "    last_resort: {last_resort}");
        }
        text
    }
}

/// Keys and values of one line of the new file, each key once.
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    /// Adds what a statement says, unless one before it said so of the same.
    fn add(&mut self, draft: &mut Draft, statement: &Statement, key: &'static str, value: &str) {
        if self.0.iter().any(|(known, _)| *known == key) {
            return draft.leave(statement, "said twice: the first one counts");
        }
        self.0.push((key, quoted(value)));
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{key}: {value}")?;
        }
        Ok(())
    }
}

/// A check, without its interval.
fn check(draft: &mut Draft, kind: &str, statement: &Statement) -> String {
    let kind = match kind {
        "HTTP_GET" => "http",
        "SSL_GET" => "https",
        "PING_CHECK" => "icmp",
        "UDP_CHECK" => "udp",
        _ => "tcp",
    };
    let mut fields = Fields(vec![("type", kind.to_owned())]);
    for inner in &statement.block {
        let value = inner.word(1);
        match inner.keyword() {
            "connect_port" => fields.add(draft, inner, "port", value),
            "connect_timeout" => fields.add(draft, inner, "timeout", &format!("{value}s")),
            "url" => {
                for part in &inner.block {
                    let key = match part.keyword() {
                        "path" => "path",
                        "status_code" => "status",
                        "virtualhost" => "host",
                        _ => {
                            draft.leave(part, "not carried over");
                            continue;
                        }
                    };
                    fields.add(draft, part, key, part.word(1));
                }
            }
            _ => draft.leave(inner, "not carried over"),
        }
    }
    fields.to_string()
}

/// The length of a mask, `255.255.255.0` or `64`.
fn prefix(text: &str) -> Option<u32> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(mask)) => {
            let bits = u32::from(mask);
            (bits.leading_ones() + bits.trailing_zeros() == 32).then(|| bits.leading_ones())
        }
        Ok(IpAddr::V6(_)) => None,
        Err(_) => text.parse().ok().filter(|prefix| *prefix <= 128),
    }
}
