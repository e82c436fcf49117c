//! Configurations of other programs, as this one's: keepalived's `vrrp_instance` and `virtual_server`.
//!
//! What is made is a beginning: a file to complete and check. Whatever could not be carried over is listed with its
//! line, so that nothing is lost unseen.

mod services;
mod syntax;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use syntax::Statement;

/// What stands for what only a person knows; `check-config` refuses it with its place, also as a name.
const UNKNOWN: &str = "FILL-IN!";

/// Something that is not in the new file as it was in the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its line in the old file.
    pub line: usize,
    /// What it is, and what became of it.
    pub what: String,
}

/// A file of this program's, and what is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The file.
    pub text: String,
    /// What was left, in the order of the old file.
    pub left: Vec<Left>,
}

/// Why nothing could be made of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Unreadable {
    line: usize,
    what: &'static str,
}

/// What is gathered on the way.
#[derive(Default)]
struct Draft {
    left: Vec<Left>,
    mode: Option<&'static str>,
    preempts: bool,
    virtual_id: Option<String>,
    interval: Option<String>,
    unicast: bool,
    virtual_mac: bool,
    /// By device, in the order of their names.
    interfaces: BTreeMap<String, Addresses>,
    /// Address with prefix, and device.
    shared: Vec<(String, String)>,
    services: String,
}

/// Own addresses and the partner's on an interface.
#[derive(Default)]
struct Addresses {
    own: Vec<String>,
    partner: Vec<String>,
}

/// Makes a configuration of a keepalived.conf.
pub fn keepalived(text: &str) -> Result<Converted, Unreadable> {
    let statements = syntax::parse(text).map_err(|(line, what)| Unreadable { line, what })?;
    let mut draft = Draft::default();
    let mut instances = 0;
    for statement in &statements {
        match statement.keyword() {
            "vrrp_instance" => {
                draft.instance(statement, instances == 0);
                instances += 1;
            }
            "virtual_server" => services::service(&mut draft, statement),
            "vrrp_sync_group" => draft.leave(statement, "a pair always moves as a whole"),
            "global_defs" => draft.leave(statement, "nothing in it has a meaning here"),
            _ => draft.leave(statement, "not known here"),
        }
    }
    draft.left.sort_by_key(|left| left.line);
    Ok(Converted {
        text: draft.write(),
        left: draft.left,
    })
}

impl Draft {
    fn leave(&mut self, statement: &Statement, why: &str) {
        let words: Vec<&str> = statement.words.iter().take(3).map(String::as_str).collect();
        self.left.push(Left {
            line: statement.line,
            what: format!("{}: {why}", words.join(" ")),
        });
    }

    fn instance(&mut self, instance: &Statement, first: bool) {
        let device = instance.find("interface").map_or("", |found| found.word(1));
        if device.is_empty() {
            self.leave(instance, "has no interface");
            return;
        }
        self.interfaces.entry(device.to_owned()).or_default();
        // Shared addresses first: the node's own have their prefixes.
        for statement in &instance.block {
            if matches!(
                statement.keyword(),
                "virtual_ipaddress" | "virtual_ipaddress_excluded"
            ) {
                for address in &statement.block {
                    self.shared_address(address, device);
                }
            }
        }
        let nopreempt = instance.find("nopreempt").is_some();
        self.preempts |= first && !nopreempt;
        for statement in &instance.block {
            let value = statement.word(1).to_owned();
            match statement.keyword() {
                "interface" | "nopreempt" | "virtual_ipaddress" | "virtual_ipaddress_excluded" => {}
                "state" if first => {
                    self.mode = Some(if value == "MASTER" { "first" } else { "second" });
                }
                // What they say of the nodes' order, `mode` says here.
                "state" | "priority" => {}
                "virtual_router_id" if first => self.virtual_id = Some(value),
                "virtual_router_id" => {
                    self.leave(statement, "a pair has one, that of the first instance");
                }
                "advert_int" if first => self.interval = milliseconds(&value),
                "advert_int" if self.interval == milliseconds(&value) => {}
                "use_vmac" => self.virtual_mac = true,
                "mcast_src_ip" | "unicast_src_ip" => self.own_address(device, &value),
                "unicast_peer" => {
                    self.unicast = true;
                    let partners = statement.block.iter().map(|peer| peer.word(0).to_owned());
                    if let Some(addresses) = self.interfaces.get_mut(device) {
                        addresses.partner.extend(partners);
                    }
                    for third in statement.block.iter().skip(1) {
                        self.leave(third, "a pair has two nodes");
                    }
                }
                "track_interface" => {
                    for tracked in &statement.block {
                        self.interfaces
                            .entry(tracked.word(0).to_owned())
                            .or_default();
                    }
                }
                "authentication" => self.leave(
                    statement,
                    "packets are signed with the key of `ha-agent keygen`",
                ),
                "advert_int" => self.leave(statement, "a pair has one, that of the first instance"),
                _ => self.leave(statement, "not carried over"),
            }
        }
    }

    fn shared_address(&mut self, statement: &Statement, device: &str) {
        let (address, prefix) = match statement.word(0).split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (statement.word(0), None),
        };
        let Ok(parsed) = address.parse::<IpAddr>() else {
            return self.leave(statement, "not an address");
        };
        let prefix = prefix.unwrap_or_else(|| {
            self.leave(statement, "has no prefix length; a usual one is assumed");
            if parsed.is_ipv4() { "24" } else { "64" }
        });
        let mut device = device;
        let mut words = statement.words.iter().skip(1).map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "dev" => device = words.next().unwrap_or(device),
                "brd" | "label" | "scope" => {
                    words.next();
                }
                _ => {}
            }
        }
        self.interfaces.entry(device.to_owned()).or_default();
        self.shared
            .push((format!("{address}/{prefix}"), device.to_owned()));
    }

    /// The node's own address, with the prefix of a shared one of its family and device.
    fn own_address(&mut self, device: &str, address: &str) {
        let family = |text: &str| text.contains(':');
        let prefix = self
            .shared
            .iter()
            .find(|(shared, on)| on == device && family(shared) == family(address))
            .and_then(|(shared, _)| shared.split_once('/'))
            .map_or(UNKNOWN, |(_, prefix)| prefix);
        let own = format!("{address}/{prefix}");
        if let Some(addresses) = self.interfaces.get_mut(device)
            && !addresses.own.contains(&own)
        {
            addresses.own.push(own);
        }
    }

    fn write(&self) -> String {
        let mode = self.mode.unwrap_or("first");
        let mut text = format!(
            "# Made from a keepalived.conf. Complete it, and run `ha-agent check-config`.\nversion: 1\n\nnode:\n  name: \
             {UNKNOWN}\n  mode: {mode}\n  interfaces:\n"
        );
        let mut add = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        for (device, addresses) in &self.interfaces {
            add(format!("    - name: {}", quoted(device)));
            add(format!("      device: {}", quoted(device)));
            add(format!("      address: {}", list(&addresses.own)));
            add(format!("      partner: {}", list(&addresses.partner)));
            add("      ha_checks: true".to_owned());
        }
        add("\nha:".to_owned());
        if let Some(id) = &self.virtual_id {
            add(format!("  virtual_id: {}", quoted(id)));
        }
        if let Some(interval) = &self.interval {
            add(format!("  advertisement_interval: {interval}ms"));
            // A keepalived standby waits for three advertisements, and a little longer.
            let timeout = interval.parse::<u64>().map_or(0, |ms| ms.saturating_mul(3));
            add(format!("  timeout: {timeout}ms"));
        }
        if self.preempts {
            add("  preferred: first".to_owned());
        }
        if self.virtual_mac {
            add("  virtual_mac: true".to_owned());
        }
        if self.unicast {
            add("  transport: unicast".to_owned());
        }
        add("\nshared_addresses:".to_owned());
        for (address, device) in &self.shared {
            add(format!(
                "  - {{ interface: {}, address: {} }}",
                quoted(device),
                text_of(address)
            ));
        }
        if !self.services.is_empty() {
            add("\nvirtual_services:".to_owned());
            text.push_str(&self.services);
        }
        text
    }
}

/// Seconds, perhaps with a fraction, in milliseconds.
fn milliseconds(seconds: &str) -> Option<String> {
    let seconds: f64 = seconds.parse().ok()?;
    let whole = (0.001..=255.0).contains(&seconds);
    whole.then(|| format!("{:.0}", seconds * 1e3))
}

/// A word of the old file as a scalar of YAML, plain if it may be.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // A dash may begin a list, and three dots or dashes a document.
    if word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(plain) {
        word.to_owned()
    } else {
        text_of(word)
    }
}

/// A word of the old file as a text of YAML.
fn text_of(word: &str) -> String {
    let printable = word.replace(|c: char| c.is_control(), "?");
    format!("'{}'", printable.replace('\'', "''"))
}

fn list(addresses: &[String]) -> String {
    match addresses {
        [] => UNKNOWN.to_owned(),
        [one] => text_of(one),
        several => {
            let texts: Vec<String> = several.iter().map(|one| text_of(one)).collect();
            format!("[{}]", texts.join(", "))
        }
    }
}
