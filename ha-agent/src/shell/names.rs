//! Which virtual service an address and port are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::model::{Config, Ports, Protocol};
use crate::datapath::family::FlowKey;

/// Names of virtual services, by shared address and protocol: one port or a range before any port.
pub(super) struct Names(BTreeMap<(IpAddr, u32), Vec<(Ports, String)>>);

impl Names {
    /// Those of a configuration.
    pub(super) fn new(config: &Config) -> Self {
        let mut names = BTreeMap::<_, Vec<_>>::new();
        for service in &config.virtual_services {
            let protocol = match service.protocol {
                Protocol::Tcp => ha_common::proto::TCP,
                Protocol::Udp => ha_common::proto::UDP,
            };
            let there = names.entry((service.address, u32::from(protocol)));
            let named = (service.ports, service.name.clone());
            there.or_default().push(named);
        }
        for named in names.values_mut() {
            named.sort_unstable();
        }
        Self(names)
    }

    /// The service that a connection is of.
    pub(super) fn of(&self, key: &FlowKey) -> Option<&str> {
        self.at(key.dst, key.proto, u16::from_be(key.dport))
    }

    /// The service at a shared address and port.
    pub(super) fn at(&self, address: IpAddr, protocol: u32, port: u16) -> Option<&str> {
        let there = self.0.get(&(address, protocol))?;
        let found = there.iter().find(|(ports, _)| ports.contains(port));
        found.map(|(_, name)| name.as_str())
    }
}
