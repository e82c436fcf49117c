//! What a running agent may take over from a changed file.
//!
//! Virtual services and everything of theirs, the bound of new flows, the pair's timing and what it demands of
//! advertisements, and the keys in the key file, which are no part of the configuration and so not
//! compared here.
//! Everything else would need addresses, programs, tables or sockets to be changed under traffic and is
//! refused as a whole, with nothing applied.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::Loaded;
use super::diagnostic::{Diagnostic, Problem};
use super::model::{
    Config, Ha, Interface, Limits, Node, OnDown, Persistence, RealServer, Timeouts, VirtualService,
    Web,
};
use super::tree::Step;
use super::values::pretty;

/// One thing a reload changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service is added.
    AddService {
        /// Its name.
        service: String,
    },
    /// A service leaves: its connections live on, it gets no new ones.
    RemoveService {
        /// Its name.
        service: String,
    },
    /// A setting of a service changes.
    Service {
        /// The service's name.
        service: String,
        /// The setting's key.
        key: &'static str,
        /// Value before.
        from: String,
        /// Value after.
        to: String,
    },
    /// A service's health check changes.
    Health {
        /// The service's name.
        service: String,
    },
    /// A real server is added to a service.
    AddReal {
        /// The service's name.
        service: String,
        /// The real server.
        real: String,
        /// Its weight.
        weight: u32,
    },
    /// A real server leaves a service: its connections live on, it gets no new ones.
    RemoveReal {
        /// The service's name.
        service: String,
        /// The real server.
        real: String,
    },
    /// A setting of a real server changes.
    Real {
        /// The service's name.
        service: String,
        /// The real server.
        real: String,
        /// The setting's key; a weight of 0 is draining.
        key: &'static str,
        /// Value before.
        from: String,
        /// Value after.
        to: String,
    },
    /// A setting of the pair changes.
    Pair {
        /// Its key.
        key: &'static str,
        /// Value before.
        from: String,
        /// Value after.
        to: String,
    },
    /// The interfaces change at whose addresses the web page may be used.
    WebInterfaces {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
    /// `limits.new_flows` changes.
    NewFlows {
        /// Value before.
        from: u32,
        /// Value after.
        to: u32,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddService { service } => write!(f, "{service}: virtual service added"),
            Self::RemoveService { service } => write!(f, "{service}: virtual service removed"),
            Self::Service {
                service,
                key,
                from,
                to,
            } => write!(f, "{service}: {key} {from} to {to}"),
            Self::Health { service } => write!(f, "{service}: health check changed"),
            Self::AddReal {
                service,
                real,
                weight,
            } => write!(f, "{service}: real server {real} added, weight {weight}"),
            Self::RemoveReal { service, real } => {
                write!(f, "{service}: real server {real} removed")
            }
            Self::Real {
                service,
                real,
                key,
                from,
                to,
            } => write!(f, "{service}: real server {real} {key} {from} to {to}"),
            Self::Pair { key, from, to } => write!(f, "ha.{key} {from} to {to}"),
            Self::WebInterfaces { from, to } => {
                write!(f, "node.web.interfaces {from} to {to}")
            }
            Self::NewFlows { from, to } => write!(f, "limits.new_flows {from} to {to}"),
        }
    }
}

/// How two configurations differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What may change under traffic.
    pub changes: Vec<Change>,
    /// What needs a restart, each with its place in the new file.
    pub restart: Vec<Diagnostic>,
}

/// What changes from `old` to `new`, or every place where the change needs a restart.
pub fn diff(old: &Config, new: &Loaded) -> Result<Vec<Change>, Vec<Diagnostic>> {
    let found = difference(old, new);
    if found.restart.is_empty() {
        Ok(found.changes)
    } else {
        Err(found.restart)
    }
}

/// What changes from `old` to `new`.
pub fn difference(old: &Config, new: &Loaded) -> Difference {
    let mut refused = Refused {
        new,
        problems: Vec::new(),
    };
    let Config {
        node,
        ha,
        shared_addresses,
        virtual_services,
        // Nothing of it is in force.
        disabled_services: _,
        limits,
        records,
    } = &new.config;
    refused.node(&old.node, node);
    let mut changes = refused.ha(&old.ha, ha);
    changes.extend(web_interfaces(&old.node, node));
    refused.unless_equal(
        &[Step::Key("shared_addresses")],
        &old.shared_addresses,
        shared_addresses,
    );
    refused.unless_equal(&[Step::Key("records")], &old.records, records);
    changes.extend(refused.limits(&old.limits, limits));
    changes.extend(services(&old.virtual_services, virtual_services));
    Difference {
        changes,
        restart: new.source.diagnose(refused.problems),
    }
}

struct Refused<'a> {
    new: &'a Loaded,
    problems: Vec<Problem>,
}

impl Refused<'_> {
    fn refuse(&mut self, path: &[Step<'_>], what: &str) {
        let remedy = "restart the agent to apply it (`systemctl restart ha-agent`, the standby \
                      node first), or take the change back";
        self.problems.push(Problem::error(
            self.new.locate(path),
            format!("{what} needs a restart"),
            remedy,
        ));
    }

    fn unless_equal<T: PartialEq>(&mut self, path: &[Step<'_>], old: &T, new: &T) {
        if old != new {
            let name: Vec<&str> = path
                .iter()
                .filter_map(|step| match step {
                    Step::Key(key) => Some(*key),
                    Step::Index(_) => None,
                })
                .collect();
            self.refuse(path, &format!("a change of `{}`", name.join(".")));
        }
    }

    fn node(&mut self, old: &Node, new: &Node) {
        let Node {
            name,
            mode,
            key_file,
            carp_passphrase_file,
            operators_file,
            state_dir,
            run_dir,
            bpf_dir,
            interfaces,
            metrics,
            notify,
            web,
        } = new;
        let at = |key| [Step::Key("node"), Step::Key(key)];
        self.unless_equal(&at("name"), &old.name, name);
        self.unless_equal(&at("mode"), &old.mode, mode);
        self.unless_equal(&at("key_file"), &old.key_file, key_file);
        self.unless_equal(
            &at("carp_passphrase_file"),
            &old.carp_passphrase_file,
            carp_passphrase_file,
        );
        self.unless_equal(&at("operators_file"), &old.operators_file, operators_file);
        self.unless_equal(&at("state_dir"), &old.state_dir, state_dir);
        self.unless_equal(&at("run_dir"), &old.run_dir, run_dir);
        self.unless_equal(&at("bpf_dir"), &old.bpf_dir, bpf_dir);
        self.unless_equal(&at("metrics"), &old.metrics, metrics);
        self.unless_equal(&at("notify"), &old.notify, notify);
        // Where it may be used is looked at with each request.
        let listens = |web: &Option<Web>| {
            web.clone().map(|web| Web {
                interfaces: None,
                ..web
            })
        };
        self.unless_equal(&at("web"), &listens(&old.web), &listens(web));
        if old.interfaces.len() != interfaces.len() {
            self.refuse(&at("interfaces"), "a change of the number of interfaces");
            return;
        }
        for (index, (old, new)) in old.interfaces.iter().zip(interfaces).enumerate() {
            self.interface(index, old, new);
        }
    }

    fn interface(&mut self, index: usize, old: &Interface, new: &Interface) {
        let Interface {
            name,
            device,
            addresses,
            partners,
            ha_checks,
            gateways,
        } = new;
        let at = |key| {
            [
                Step::Key("node"),
                Step::Key("interfaces"),
                Step::Index(index),
                Step::Key(key),
            ]
        };
        self.unless_equal(&at("name"), &old.name, name);
        self.unless_equal(&at("device"), &old.device, device);
        self.unless_equal(&at("address"), &old.addresses, addresses);
        self.unless_equal(&at("partner"), &old.partners, partners);
        self.unless_equal(&at("ha_checks"), &old.ha_checks, ha_checks);
        self.unless_equal(&at("gateway"), &old.gateways, gateways);
    }

    fn ha(&mut self, old: &Ha, new: &Ha) -> Vec<Change> {
        let Ha {
            virtual_id,
            advertisement_interval,
            timeout,
            initial_wait,
            hold_down,
            preferred,
            virtual_mac,
            carp_auth,
            transport,
            multicast_interface,
            multicast_group,
            multicast_port,
            update_interface,
            update_port,
            l4_connection_updates,
            persistence_updates,
            pacify,
        } = new;
        let at = |key| [Step::Key("ha"), Step::Key(key)];
        self.unless_equal(&at("virtual_id"), &old.virtual_id, virtual_id);
        self.unless_equal(&at("initial_wait"), &old.initial_wait, initial_wait);
        self.unless_equal(&at("preferred"), &old.preferred, preferred);
        self.unless_equal(&at("virtual_mac"), &old.virtual_mac, virtual_mac);
        self.unless_equal(&at("pacify"), &old.pacify, pacify);
        self.unless_equal(&at("transport"), &old.transport, transport);
        self.unless_equal(
            &at("multicast_interface"),
            &old.multicast_interface,
            multicast_interface,
        );
        self.unless_equal(
            &at("multicast_group"),
            &old.multicast_group,
            multicast_group,
        );
        self.unless_equal(&at("multicast_port"), &old.multicast_port, multicast_port);
        self.unless_equal(
            &at("update_interface"),
            &old.update_interface,
            update_interface,
        );
        self.unless_equal(&at("update_port"), &old.update_port, update_port);
        self.unless_equal(
            &at("l4_connection_updates"),
            &old.l4_connection_updates,
            l4_connection_updates,
        );
        self.unless_equal(
            &at("persistence_updates"),
            &old.persistence_updates,
            persistence_updates,
        );
        let durations = [
            (
                "advertisement_interval",
                old.advertisement_interval,
                advertisement_interval,
            ),
            ("timeout", old.timeout, timeout),
            ("hold_down", old.hold_down, hold_down),
        ];
        let mut changes: Vec<Change> = durations
            .into_iter()
            .filter(|(_, from, to)| from != *to)
            .map(|(key, from, to)| Change::Pair {
                key,
                from: format!("{from:?}"),
                to: format!("{to:?}"),
            })
            .collect();
        if old.carp_auth != *carp_auth {
            changes.push(Change::Pair {
                key: "carp_auth",
                from: format!("{:?}", old.carp_auth).to_lowercase(),
                to: format!("{carp_auth:?}").to_lowercase(),
            });
        }
        changes
    }

    fn limits(&mut self, old: &Limits, new: &Limits) -> Option<Change> {
        let Limits {
            connections,
            connections_ipv6,
            new_flows,
        } = new;
        let at = |key| [Step::Key("limits"), Step::Key(key)];
        self.unless_equal(&at("connections"), &old.connections, connections);
        self.unless_equal(
            &at("connections_ipv6"),
            &old.connections_ipv6,
            connections_ipv6,
        );
        (old.new_flows != *new_flows).then_some(Change::NewFlows {
            from: old.new_flows,
            to: *new_flows,
        })
    }
}

fn web_interfaces(old: &Node, new: &Node) -> Option<Change> {
    let names = |node: &Node| {
        let interfaces = node.web.as_ref()?.interfaces.clone();
        Some(interfaces.map_or_else(|| "all".to_owned(), |names| names.join(", ")))
    };
    let (from, to) = (names(old)?, names(new)?);
    (from != to).then_some(Change::WebInterfaces { from, to })
}

fn services(old: &[VirtualService], new: &[VirtualService]) -> Vec<Change> {
    let mut before: BTreeMap<&str, &VirtualService> =
        old.iter().map(|s| (s.name.as_str(), s)).collect();
    let mut changes = Vec::new();
    for new in new {
        match before.remove(new.name.as_str()) {
            Some(old) => service(old, new, &mut changes),
            None => changes.push(Change::AddService {
                service: new.name.clone(),
            }),
        }
    }
    changes.extend(before.into_keys().map(|name| Change::RemoveService {
        service: name.to_owned(),
    }));
    changes
}

fn service(old: &VirtualService, new: &VirtualService, changes: &mut Vec<Change>) {
    let VirtualService {
        name,
        address,
        ports,
        protocol,
        forwarding,
        scheduler,
        persistence,
        health,
        real_servers: _,
        last_resort,
        on_down,
        timeouts,
        resteer,
    } = new;
    let mut setting = |key, from: String, to: String| {
        if from != to {
            changes.push(Change::Service {
                service: name.clone(),
                key,
                from,
                to,
            });
        }
    };
    setting("address", old.address.to_string(), address.to_string());
    setting("port", old.ports.to_string(), ports.to_string());
    setting(
        "protocol",
        old.protocol.as_str().to_owned(),
        protocol.as_str().to_owned(),
    );
    setting(
        "forwarding",
        old.forwarding.as_str().to_owned(),
        forwarding.as_str().to_owned(),
    );
    setting(
        "scheduler",
        old.scheduler.as_str().to_owned(),
        scheduler.as_str().to_owned(),
    );
    setting(
        "persistence",
        or_none(old.persistence.map(persistence_text)),
        or_none(persistence.map(persistence_text)),
    );
    setting(
        "last_resort",
        or_none(old.last_resort),
        or_none(*last_resort),
    );
    setting(
        "on_down",
        on_down_text(old.on_down).to_owned(),
        on_down_text(*on_down).to_owned(),
    );
    setting(
        "timeouts",
        timeouts_text(old.timeouts),
        timeouts_text(*timeouts),
    );
    setting("resteer", old.resteer.to_string(), resteer.to_string());
    if old.health != *health {
        changes.push(Change::Health {
            service: name.clone(),
        });
    }
    real_servers(old, new, changes);
}

fn real_servers(old: &VirtualService, new: &VirtualService, changes: &mut Vec<Change>) {
    let service = || new.name.clone();
    let mut before: BTreeMap<(IpAddr, Option<u16>), &RealServer> = old
        .real_servers
        .iter()
        .map(|real| ((real.address, old.port_of(real)), real))
        .collect();
    for real in &new.real_servers {
        let Some(old) = before.remove(&(real.address, new.port_of(real))) else {
            changes.push(Change::AddReal {
                service: service(),
                real: real.to_string(),
                weight: real.weight,
            });
            continue;
        };
        let RealServer {
            address: _,
            port: _,
            weight,
            connections_max,
            source,
        } = real;
        let settings = [
            ("weight", old.weight.to_string(), weight.to_string()),
            (
                "connections",
                old.connections_max.to_string(),
                connections_max.to_string(),
            ),
            ("source", or_none(old.source), or_none(*source)),
        ];
        for (key, from, to) in settings {
            if from != to {
                changes.push(Change::Real {
                    service: service(),
                    real: real.to_string(),
                    key,
                    from,
                    to,
                });
            }
        }
    }
    changes.extend(before.into_values().map(|real| Change::RemoveReal {
        service: service(),
        real: real.to_string(),
    }));
}

fn or_none(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn persistence_text(persistence: Persistence) -> String {
    let Persistence { timeout, prefix } = persistence;
    format!("{} /{prefix}", pretty(timeout))
}

const fn on_down_text(on_down: OnDown) -> &'static str {
    match on_down {
        OnDown::Keep => "keep",
        OnDown::Reset => "reset",
    }
}

fn timeouts_text(timeouts: Timeouts) -> String {
    let Timeouts {
        established,
        closing,
        closed,
        udp,
    } = timeouts;
    [established, closing, closed, udp].map(pretty).join("/")
}
