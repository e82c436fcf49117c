//! The schema against the reader of the file: both must know the same keys, words and bounds.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::*;

fn schema_value() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// Follows a reference within the schema.
fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(path) => resolved(root, root.pointer(path.trim_start_matches('#')).unwrap()),
        None => schema,
    }
}

/// As much of JSON Schema as ours uses.
fn valid(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolved(root, schema);
    if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
        let tried: Vec<_> = any.iter().map(|one| valid(root, one, value)).collect();
        if tried.iter().all(Result::is_err) {
            return Err(format!("{value}: {tried:?}"));
        }
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array)
        && !words.contains(value)
    {
        return Err(format!("{value} is none of {words:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match schema.get("type") {
        Some(Value::String(wanted)) if wanted != kind => {
            return Err(format!("{value} is no {wanted}"));
        }
        Some(Value::Array(wanted)) if !wanted.contains(&Value::from(kind)) => {
            return Err(format!("{value} is none of {wanted:?}"));
        }
        _ => {}
    }
    match value {
        Value::Number(number) => {
            let number = number.as_u64().unwrap();
            let bound = |key| schema.get(key).and_then(Value::as_u64);
            if bound("minimum").is_some_and(|low| number < low)
                || bound("maximum").is_some_and(|high| number > high)
            {
                return Err(format!("{number} is out of bounds"));
            }
        }
        Value::Array(items) => {
            for item in items {
                valid(
                    root,
                    schema.get("items").unwrap_or(&Value::Bool(true)),
                    item,
                )?;
            }
        }
        Value::Object(members) => object(root, schema, members)?,
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
    Ok(())
}

fn object(root: &Value, schema: &Value, members: &Map<String, Value>) -> Result<(), String> {
    let Some(known) = schema.get("properties").and_then(Value::as_object) else {
        return Ok(());
    };
    for (key, value) in members {
        let schema = known.get(key).ok_or_else(|| format!("unknown key {key}"))?;
        valid(root, schema, value).map_err(|error| format!("{key}: {error}"))?;
    }
    let required = schema.get("required").and_then(Value::as_array);
    for key in required.into_iter().flatten() {
        let key = key.as_str().unwrap();
        if !members.contains_key(key) {
            return Err(format!("{key} is missing"));
        }
    }
    Ok(())
}

fn json(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

const WHOLE: &str = "\
version: 1
node:
  name: lb1
  mode: first
  key_file: /etc/ha-agent/pair.key
  carp_passphrase_file: null
  state_dir: /var/lib/ha-agent
  run_dir: /run/ha-agent
  metrics: { listen: ['127.0.0.1:9573'] }
  web: { listen: '[::]:8443', certificate: /etc/web.pem, key: /etc/web.key, interfaces: [front] }
  notify: { command: /usr/bin/true, user: nobody, timeout: 1s, instance: lb }
  bpf_dir: /sys/fs/bpf/ha-agent
  interfaces:
    - { name: front, device: eth0, address: [10.0.0.11/24, '2001:db8::11/64'], partner: [10.0.0.12, '2001:db8::12'], ha_checks: true, gateway: 10.0.0.254 }
    - { name: back, device: eth1, address: 10.1.0.11/24, partner: 10.1.0.12, ha_checks: true }
ha:
  virtual_id: 110
  advertisement_interval: 1s
  timeout: 9s
  initial_wait: 0s
  hold_down: 27s
  preferred: none
  virtual_mac: false
  carp_auth: enforce
  transport: auto
  multicast_interface: back
  multicast_group: 239.255.69.73
  multicast_port: 6974
  update_interface: back
  update_port: 6973
  pacify: { restarts: 3, window: 5m }
  l4_connection_updates: true
  persistence_updates: true
shared_addresses:
  - { interface: front, address: 10.0.0.100/24 }
  - { interface: back, address: 10.1.0.1/24 }
virtual_services:
  - name: web
    address: 10.0.0.100
    port: 80
    protocol: tcp
    forwarding: full_nat
    scheduler: mh
    source: 10.1.0.1
    persistence: { timeout: 300s, prefix: 24 }
    health: { type: http, interval: 2s, timeout: 1s, rise: 2, fall: 3, port: 8080, path: /, host: a.example, status: 200-299, body: ok }
    real_servers:
      - { address: 10.1.0.21, port: 8080, weight: 1, connections: 100 }
    last_resort: { address: 10.1.0.99, port: 8080 }
    on_down: keep
    timeouts: { established: 15m, closing: 2m, closed: 30s, udp: 2m }
    resteer: true
    enabled: true
  - name: dns
    address: 10.0.0.100
    port: 8000-8100
    protocol: udp
    health: { type: udp, port: 53, send: hello, expect: hi }
    real_servers: []
    last_resort: { address: 10.1.0.99 }
limits: { connections: 100000, connections_ipv6: 10000, new_flows: 1000 }
records:
  listen: records.sock
  namespaces:
    - { name: sessions, records: 100, bytes: 10000 }
";

fn read(text: &str) -> Result<config::Loaded, Vec<Diagnostic>> {
    Config::parse(Path::new("f.yaml"), text.as_bytes().to_vec())
}

#[test]
fn files_that_are_read_are_valid() {
    let root = schema_value();
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/ha-agent.yaml");
    let example = std::fs::read_to_string(example).unwrap();
    for text in [WHOLE, &example, config::tests::GOOD] {
        read(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
        valid(&root, &root, &json(text)).unwrap();
    }
}

/// Every object of the schema: where it is in a file, and which keys it has.
fn objects(
    root: &Value,
    schema: &Value,
    way: &[String],
    found: &mut Vec<(Vec<String>, BTreeSet<String>)>,
) {
    let schema = resolved(root, schema);
    if let Some(known) = schema.get("properties").and_then(Value::as_object) {
        found.push((way.to_vec(), known.keys().cloned().collect()));
        for (key, schema) in known {
            objects(
                root,
                schema,
                &[way, std::slice::from_ref(key)].concat(),
                found,
            );
        }
    }
    if let Some(items) = schema.get("items") {
        objects(root, items, &[way, &["0".to_owned()]].concat(), found);
    }
    for one in schema
        .get("anyOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        objects(root, one, way, found);
    }
}

/// Puts a key into the object at the end of a way through the example of everything.
fn with(way: &[String], key: &str) -> String {
    let mut file = json(WHOLE);
    let place = way.iter().fold(&mut file, |value, step| {
        let below = value.pointer_mut(&format!("/{step}"));
        below.unwrap_or_else(|| panic!("{way:?} is in no example"))
    });
    place
        .as_object_mut()
        .unwrap()
        .insert(key.to_owned(), Value::from(1));
    // The sections on lines of their own; within them JSON is YAML.
    let mut text = String::new();
    for (key, value) in file.as_object().unwrap() {
        writeln!(text, "{key}: {value}").unwrap();
    }
    text
}

/// The reader names the keys that it knows when it meets one that it does not.
#[test]
fn both_know_the_same_keys() {
    let root = schema_value();
    let mut found = Vec::new();
    objects(&root, &root, &[], &mut found);
    assert!(found.len() >= 12, "{found:#?}");
    for (way, keys) in found {
        let problems = read(&with(&way, "zzzzzzzzzz")).unwrap_err();
        let remedy = problems.iter().find_map(|problem| {
            let known = problem.what.contains("unknown key `zzzzzzzzzz`");
            problem
                .remedy
                .strip_prefix("known here: ")
                .filter(|_| known)
        });
        let known: BTreeSet<String> = remedy
            .unwrap_or_else(|| panic!("{way:?}: {problems:#?}"))
            .split(", ")
            .map(str::to_owned)
            .collect();
        assert_eq!(known, keys, "at {way:?}");
    }
}

/// Every word of an enumeration is read, and the reader knows no other.
#[test]
fn both_know_the_same_words() {
    let root = schema_value();
    let words = |pointer: &str| -> BTreeSet<String> {
        let words = root.pointer(pointer).and_then(|schema| schema.get("enum"));
        let words = words.and_then(Value::as_array).unwrap();
        words
            .iter()
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    let service = "/properties/virtual_services/items/properties";
    for (pointer, line) in [
        (
            "/properties/node/properties/mode".to_owned(),
            "  mode: first",
        ),
        (
            "/properties/ha/properties/preferred".to_owned(),
            "  preferred: none",
        ),
        (
            "/properties/ha/properties/carp_auth".to_owned(),
            "  carp_auth: enforce",
        ),
        (
            "/properties/ha/properties/transport".to_owned(),
            "  transport: auto",
        ),
        (format!("{service}/protocol"), "    protocol: tcp"),
        (format!("{service}/forwarding"), "    forwarding: full_nat"),
        (format!("{service}/scheduler"), "    scheduler: mh"),
        (format!("{service}/on_down"), "    on_down: keep"),
    ] {
        let (key, _) = line.split_once(':').unwrap();
        let text = WHOLE.replacen(line, &format!("{key}: zzz"), 1);
        let problems = read(&text).unwrap_err();
        let mut remedies = problems.iter().map(|problem| &problem.remedy);
        let remedy = remedies.rfind(|remedy| remedy.starts_with("write `"));
        let known: BTreeSet<String> = remedy
            .unwrap_or_else(|| panic!("{line}: {problems:#?}"))
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        assert_eq!(known, words(&pointer), "{line}");
    }
}

/// The bounds of numbers are the reader's.
#[test]
fn both_know_the_same_bounds() {
    let root = schema_value();
    for (pointer, line) in [
        ("/properties/ha/properties/virtual_id", "  virtual_id: 110"),
        (
            "/properties/ha/properties/multicast_port",
            "  multicast_port: 6974",
        ),
        (
            "/properties/ha/properties/update_port",
            "  update_port: 6973",
        ),
        (
            "/properties/limits/properties/connections",
            "limits: { connections: 100000",
        ),
        (
            "/properties/virtual_services/items/properties/real_servers/items/properties/weight",
            "      - { address: 10.1.0.21, port: 8080, weight: 1",
        ),
    ] {
        let schema = root.pointer(pointer).unwrap();
        let low = schema.get("minimum").and_then(Value::as_u64).unwrap();
        let high = schema.get("maximum").and_then(Value::as_u64).unwrap();
        let (before, _) = line.rsplit_once(' ').unwrap();
        let good = |number: u64| {
            let text = WHOLE.replacen(line, &format!("{before} {number}"), 1);
            let Err(problems) = read(&text) else {
                return true;
            };
            !problems
                .iter()
                .any(|problem| problem.what.contains("out of range"))
        };
        assert!(good(low) && good(high), "{pointer}");
        assert!(!good(high + 1), "{pointer}");
        assert!(low == 0 || !good(low - 1), "{pointer}");
    }
}
