//! A virtual service and its real servers.

use serde_json::{Map, Value};

use super::{Field, Input, take};
use crate::config::edit::{Edit, Written};
use crate::web::page::visitor::Posted;

/// Empty rows for real servers that are to be added.
const ROWS: usize = 3;

const PROTOCOLS: &[(&str, &str)] = &[("tcp", "TCP"), ("udp", "UDP")];
const FORWARDING: &[(&str, &str)] = &[
    ("nat", "NAT: answers come back this way"),
    ("full_nat", "full NAT: from a shared address"),
    (
        "dsr",
        "DSR: by Ethernet address, answers go straight to the client",
    ),
    ("tunnel", "tunnel: IP in IP"),
];
const SCHEDULERS: &[(&str, &str)] = &[
    ("mh", "mh: Maglev hash of the connection"),
    ("rr", "rr: in turn"),
    ("wrr", "wrr: in turn, by weight"),
    ("lc", "lc: fewest connections"),
    ("wlc", "wlc: fewest connections, by weight"),
    ("sh", "sh: hash of the client"),
];
const CHECKS: &[(&str, &str)] = &[
    ("tcp", "TCP: accepts a connection"),
    ("http", "HTTP: answers a request"),
    ("https", "HTTPS: answers a request"),
    ("icmp", "ICMP: answers an echo"),
    ("udp", "UDP: takes a datagram"),
];
const ON_DOWN: &[(&str, &str)] = &[
    ("keep", "keep: they may live on"),
    ("reset", "reset: they end at once"),
];

/// A group of fields.
pub(in super::super) struct Group {
    /// Its name.
    pub(in super::super) title: &'static str,
    /// Its fields.
    pub(in super::super) fields: Vec<Field>,
}

/// The form.
pub(in super::super) struct Form {
    /// The service's name in the file; none if it is new.
    pub(in super::super) service: Option<String>,
    /// Everything but real servers.
    pub(in super::super) groups: Vec<Group>,
    /// Real servers: those that are there, then empty rows.
    pub(in super::super) servers: Vec<Vec<Field>>,
    /// How many of them there are.
    pub(in super::super) known: usize,
}

impl Form {
    /// Of a service in a file, or of a new one.
    pub(in super::super) fn of(file: &Written, service: Option<&str>) -> Self {
        let base = ["virtual_services", service.unwrap_or("-")];
        let base = base.as_slice();
        let text = |key, label| Field::new(base, key, label, Input::Text);
        let number = |key, label| Field::new(base, key, label, Input::Number);
        let choice = |key, label, words| Field::new(base, key, label, Input::Choice(words));
        let switch = |key, label| Field::new(base, key, label, Input::Switch);
        let groups = [
            (
                "Service",
                vec![
                    text("name", "Name"),
                    text("address", "Shared address").hint("One of the pair's shared addresses."),
                    number("port", "Port").hint("A port, several (8000-8100), or any."),
                    choice("protocol", "Protocol", PROTOCOLS).default("tcp"),
                    choice("forwarding", "Forwarding", FORWARDING).default("nat"),
                    choice("scheduler", "Scheduler", SCHEDULERS).default("mh"),
                    switch("enabled", "Enabled")
                        .hint("Off: as if it were not there; its connections live on.")
                        .default("true"),
                ],
            ),
            (
                "Persistence",
                vec![
                    text("persistence.timeout", "Timeout")
                        .hint("How long a client keeps its real server; empty = it does not."),
                    number("persistence.prefix", "Prefix length")
                        .hint("Leading bits of the address that make one client."),
                ],
            ),
            (
                "Health check",
                vec![
                    choice("health.type", "Type", CHECKS)
                        .hint("Empty = real servers always count as up."),
                    text("health.interval", "Interval").default("2s"),
                    text("health.timeout", "Timeout").default("1s"),
                    number("health.rise", "Successes until up").default("2"),
                    number("health.fall", "Failures until down").default("3"),
                    number("health.port", "Port").hint("If not the real server's."),
                    text("health.path", "Path").hint("HTTP and HTTPS."),
                    text("health.host", "Host").hint("HTTP and HTTPS."),
                    text("health.status", "Good statuses").hint("HTTP and HTTPS: 200, 301-302."),
                    text("health.body", "Body contains").hint("HTTP and HTTPS."),
                    text("health.send", "Datagram").hint("UDP: what is sent."),
                    text("health.expect", "Answer contains").hint("UDP."),
                ],
            ),
            (
                "More",
                vec![
                    text("source", "Source address")
                        .hint("Full NAT and tunnel: the shared address that packets come from."),
                    text("last_resort.address", "Last resort")
                        .hint("Takes new connections when no real server can."),
                    number("last_resort.port", "Its port"),
                    choice("on_down", "Connections of a server that goes down", ON_DOWN)
                        .default("keep"),
                    switch("resteer", "Forward unknown connections by hash").default("true"),
                    text("timeouts.established", "Idle time, established").default("15m"),
                    text("timeouts.closing", "Idle time, closing").default("2m"),
                    text("timeouts.closed", "Idle time, closed").default("30s"),
                    text("timeouts.udp", "Idle time, UDP").default("2m"),
                ],
            ),
        ];
        let read = |field: Field| {
            if service.is_some() {
                field.read(file)
            } else {
                field
            }
        };
        let groups = groups.into_iter().map(|(title, fields)| Group {
            title,
            fields: fields.into_iter().map(read).collect(),
        });
        let known = file.get(&[base, &["real_servers"]].concat()).items().len();
        let known = if service.is_some() { known } else { 0 };
        let servers = (0..known + ROWS).map(|row| {
            let index = row.to_string();
            let base = [base, &["real_servers", &index]].concat();
            let field = |key: &str, label, input| {
                let mut field = Field::new(&base, key, label, input);
                field.name = format!("real.{row}.{key}");
                if row < known { field.read(file) } else { field }
            };
            vec![
                field("address", "Address", Input::Text),
                field("port", "Port", Input::Number),
                field("weight", "Weight", Input::Number).default("1"),
                field("connections", "Most connections", Input::Number),
            ]
        });
        Self {
            service: service.map(str::to_owned),
            groups: groups.collect(),
            servers: servers.collect(),
            known,
        }
    }

    /// The changes that a posted form asks for.
    pub(in super::super) fn take(&mut self, posted: &Posted) -> Vec<Edit> {
        let mut edits = Vec::new();
        let mut name = None;
        for group in &mut self.groups {
            let taken = take(&mut group.fields, posted);
            // Without its first key a check, and so on, is none at all.
            let key = match group.title {
                "Health check" => Some("health.type"),
                "Persistence" => Some("persistence.timeout"),
                _ => None,
            };
            let off = key.is_some_and(|key| posted.get(key).is_empty());
            if off {
                let first = group.fields.first().map(|field| field.path.clone());
                let mut path = first.unwrap_or_default();
                path.pop();
                if !taken.is_empty() {
                    let value = Value::Null;
                    edits.push(Edit { path, value });
                }
                continue;
            }
            for edit in taken {
                // A service is found by its name, so that changes last.
                if edit.path.len() == 3 && edit.path.last().is_some_and(|key| key == "name") {
                    name = Some(edit);
                } else {
                    edits.push(edit);
                }
            }
        }
        let base = self.service.as_deref().unwrap_or("-").to_owned();
        let mut gone = Vec::new();
        for (row, fields) in self.servers.iter_mut().enumerate() {
            let taken = take(fields, posted);
            let empty = fields
                .first()
                .is_none_or(|address| address.value.is_empty());
            if row >= self.known {
                let values = taken
                    .into_iter()
                    .filter_map(|mut edit| Some((edit.path.pop()?, edit.value)));
                let server: Map<String, Value> = values.collect();
                if !server.is_empty() {
                    edits.push(Edit::new(
                        &["virtual_services", &base, "real_servers", "-"],
                        server,
                    ));
                }
            } else if empty || posted.get(&format!("real.{row}.remove")) == "yes" {
                gone.push(row);
            } else {
                edits.extend(taken);
            }
        }
        // From the last on, since numbers behind one that goes change.
        edits.extend(gone.iter().rev().map(|row| {
            Edit::new(
                &["virtual_services", &base, "real_servers", &row.to_string()],
                Value::Null,
            )
        }));
        edits.extend(name);
        if self.service.is_some() {
            return edits;
        }
        vec![Edit::new(&["virtual_services", "-"], gathered(&edits))]
    }
}

/// A new service of what would be written into it.
fn gathered(edits: &[Edit]) -> Value {
    let mut service = Map::new();
    for edit in edits {
        let way = edit.path.get(2..).unwrap_or_default();
        match way {
            [key] => {
                service.insert(key.clone(), edit.value.clone());
            }
            [key, last] => {
                let inner = service.entry(key.clone()).or_insert(Value::Null);
                if last == "-" {
                    if let Value::Array(items) = inner {
                        items.push(edit.value.clone());
                    } else {
                        *inner = vec![edit.value.clone()].into();
                    }
                } else {
                    if !inner.is_object() {
                        *inner = Map::new().into();
                    }
                    if let Value::Object(map) = inner {
                        map.insert(last.clone(), edit.value.clone());
                    }
                }
            }
            _ => {}
        }
    }
    service.into()
}
