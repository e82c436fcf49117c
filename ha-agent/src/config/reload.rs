//! What a running agent may take over from a changed file.
//!
//! Real servers of a virtual service (added, removed, another weight), health checks, the pair's timing and what
//! it demands of advertisements, and the keys in the key file, which are no part of the configuration and so not
//! compared here.
//! Everything else would need addresses, programs or sockets to be changed under traffic and is
//! refused as a whole, with nothing applied.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddrV4;

use super::Loaded;
use super::diagnostic::{Diagnostic, Problem};
use super::model::{Config, Ha, Interface, Node, VirtualService};
use super::tree::Step;

/// One thing a reload changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A real server is added to a service.
    AddReal {
        /// The service's name.
        service: String,
        /// The real server.
        real: SocketAddrV4,
        /// Its weight.
        weight: u32,
    },
    /// A real server leaves a service: its connections live on, it gets no new ones.
    RemoveReal {
        /// The service's name.
        service: String,
        /// The real server.
        real: SocketAddrV4,
    },
    /// A real server gets another weight.
    Weight {
        /// The service's name.
        service: String,
        /// The real server.
        real: SocketAddrV4,
        /// Weight before.
        from: u32,
        /// Weight after; 0 = draining.
        to: u32,
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
    /// A service's health check changes.
    Health {
        /// The service's name.
        service: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddReal {
                service,
                real,
                weight,
            } => write!(f, "{service}: real server {real} added, weight {weight}"),
            Self::RemoveReal { service, real } => {
                write!(f, "{service}: real server {real} removed")
            }
            Self::Weight {
                service,
                real,
                from,
                to,
            } => write!(f, "{service}: real server {real} weight {from} to {to}"),
            Self::Pair { key, from, to } => write!(f, "ha.{key} {from} to {to}"),
            Self::Health { service } => write!(f, "{service}: health check changed"),
        }
    }
}

/// What changes from `old` to `new`, or every place where the change needs a restart.
pub fn diff(old: &Config, new: &Loaded) -> Result<Vec<Change>, Vec<Diagnostic>> {
    let mut refused = Refused {
        new,
        problems: Vec::new(),
    };
    let Config {
        node,
        ha,
        shared_addresses,
        virtual_services,
        limits,
    } = &new.config;
    refused.node(&old.node, node);
    let mut changes = refused.ha(&old.ha, ha);
    refused.unless_equal(
        &[Step::Key("shared_addresses")],
        &old.shared_addresses,
        shared_addresses,
    );
    refused.unless_equal(&[Step::Key("limits")], &old.limits, limits);
    changes.extend(refused.services(&old.virtual_services, virtual_services));
    if refused.problems.is_empty() {
        Ok(changes)
    } else {
        Err(new.source.diagnose(refused.problems))
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
            state_dir,
            run_dir,
            bpf_dir,
            interfaces,
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
        self.unless_equal(&at("state_dir"), &old.state_dir, state_dir);
        self.unless_equal(&at("run_dir"), &old.run_dir, run_dir);
        self.unless_equal(&at("bpf_dir"), &old.bpf_dir, bpf_dir);
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
            l4_connection_updates,
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
            &at("l4_connection_updates"),
            &old.l4_connection_updates,
            l4_connection_updates,
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

    fn services(&mut self, old: &[VirtualService], new: &[VirtualService]) -> Vec<Change> {
        let before: BTreeMap<&str, &VirtualService> =
            old.iter().map(|s| (s.name.as_str(), s)).collect();
        let mut gone: BTreeMap<&str, &VirtualService> = before.clone();
        let mut changes = Vec::new();
        for (index, service) in new.iter().enumerate() {
            let path = [Step::Key("virtual_services"), Step::Index(index)];
            match before.get(service.name.as_str()) {
                Some(old) => self.service(&path, old, service, &mut changes),
                None => self.refuse(&path, &format!("a new virtual service `{}`", service.name)),
            }
            gone.remove(service.name.as_str());
        }
        for name in gone.into_keys() {
            self.refuse(
                &[Step::Key("virtual_services")],
                &format!("removing virtual service `{name}`"),
            );
        }
        changes
    }

    fn service(
        &mut self,
        path: &[Step<'_>],
        old: &VirtualService,
        new: &VirtualService,
        changes: &mut Vec<Change>,
    ) {
        let VirtualService {
            name,
            address,
            port,
            protocol,
            scheduler,
            health,
            real_servers,
            resteer,
        } = new;
        let at = |key| {
            let mut path = path.to_vec();
            path.push(Step::Key(key));
            path
        };
        self.unless_equal(&at("address"), &old.address, address);
        self.unless_equal(&at("port"), &old.port, port);
        self.unless_equal(&at("protocol"), &old.protocol, protocol);
        self.unless_equal(&at("scheduler"), &old.scheduler, scheduler);
        self.unless_equal(&at("resteer"), &old.resteer, resteer);
        if old.health != *health {
            changes.push(Change::Health {
                service: name.clone(),
            });
        }
        let mut before: BTreeMap<SocketAddrV4, u32> = old
            .real_servers
            .iter()
            .map(|real| (SocketAddrV4::new(real.address, real.port), real.weight))
            .collect();
        for real in real_servers {
            let key = SocketAddrV4::new(real.address, real.port);
            match before.remove(&key) {
                Some(from) if from == real.weight => {}
                Some(from) => changes.push(Change::Weight {
                    service: name.clone(),
                    real: key,
                    from,
                    to: real.weight,
                }),
                None => changes.push(Change::AddReal {
                    service: name.clone(),
                    real: key,
                    weight: real.weight,
                }),
            }
        }
        changes.extend(before.into_keys().map(|real| Change::RemoveReal {
            service: name.clone(),
            real,
        }));
    }
}
