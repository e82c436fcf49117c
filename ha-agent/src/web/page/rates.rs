//! How fast things go: of each service and real server now, and of all together for the last hour.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;

use super::sessions::held;
use crate::proto::time::Instant;
use crate::status::model::{Services, TrafficStatus};

/// How often traffic is looked at.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// Looks that make one point of the hour.
const PER_POINT: u32 = 6;
/// Points of the hour.
pub(super) const POINTS: usize = 120;

/// So many a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rate {
    /// Connections that entered the table.
    pub(super) connections: f64,
    /// Packets, both ways.
    pub(super) packets: f64,
    /// Bits, both ways.
    pub(super) bits: f64,
}

impl Rate {
    fn between(old: &TrafficStatus, new: &TrafficStatus, seconds: f64) -> Self {
        let per_second = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        let packets =
            |traffic: &TrafficStatus| traffic.packets_in.saturating_add(traffic.packets_out);
        let bytes = |traffic: &TrafficStatus| traffic.bytes_in.saturating_add(traffic.bytes_out);
        Self {
            connections: per_second(old.connections, new.connections),
            packets: per_second(packets(old), packets(new)),
            bits: per_second(bytes(old), bytes(new)) * 8.0,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            packets: self.packets + other.packets,
            bits: self.bits + other.bits,
        }
    }

    fn part(self, share: f64) -> Self {
        Self {
            connections: self.connections * share,
            packets: self.packets * share,
            bits: self.bits * share,
        }
    }
}

/// A service, and one of its real servers or all of them.
type Key = (String, Option<String>);

/// How fast things went when they were last looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// All services together.
    pub(super) all: Rate,
    /// One by one.
    each: BTreeMap<Key, Rate>,
    /// All together, oldest first, one for each half minute.
    pub(super) hour: VecDeque<Rate>,
}

impl Rates {
    /// Of a service, or of one of its real servers.
    pub(super) fn of(&self, service: &str, server: Option<&str>) -> Rate {
        let key = (service.to_owned(), server.map(str::to_owned));
        self.each.get(&key).copied().unwrap_or_default()
    }
}

/// Looks at traffic again and again.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<(Instant, BTreeMap<Key, TrafficStatus>)>,
    /// Looks since the last point, and what they found.
    sum: (u32, Rate),
    rates: Arc<Rates>,
}

impl Meter {
    /// Takes a look.
    pub(super) fn look(&self, now: Instant, services: &Services) {
        let mut seen = BTreeMap::new();
        for service in &services.services {
            seen.insert((service.name.clone(), None), service.traffic);
            for real in &service.real_servers {
                let key = (service.name.clone(), Some(real.address.clone()));
                seen.insert(key, real.traffic);
            }
        }
        let mut state = held(&self.0);
        let Some((then, before)) = state.last.replace((now, seen)) else {
            return;
        };
        let seconds = now.since(then).as_secs_f64().max(0.001);
        let mut rates = Rates {
            hour: state.rates.hour.clone(),
            ..Rates::default()
        };
        if let Some((_, seen)) = &state.last {
            for (key, new) in seen {
                // What is new has not been counted since the last look only.
                let old = before.get(key).unwrap_or(new);
                rates
                    .each
                    .insert(key.clone(), Rate::between(old, new, seconds));
            }
        }
        let services = rates
            .each
            .iter()
            .filter(|((_, server), _)| server.is_none());
        rates.all = services.fold(Rate::default(), |sum, (_, rate)| sum.plus(*rate));
        let (looks, sum) = (state.sum.0 + 1, state.sum.1.plus(rates.all));
        if looks == PER_POINT {
            rates.hour.push_back(sum.part(1.0 / f64::from(looks)));
            while rates.hour.len() > POINTS {
                rates.hour.pop_front();
            }
            state.sum = (0, Rate::default());
        } else {
            state.sum = (looks, sum);
        }
        state.rates = Arc::new(rates);
    }

    /// What was found last.
    pub(super) fn read(&self) -> Arc<Rates> {
        Arc::clone(&held(&self.0).rates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::model::{RealServerState, RealServerStatus, ServiceStatus};

    fn services(connections: u64) -> Services {
        let traffic = TrafficStatus {
            connections,
            packets_in: connections * 3,
            packets_out: connections * 2,
            bytes_in: connections * 100,
            ..TrafficStatus::default()
        };
        Services {
            schema_version: 1,
            services: vec![ServiceStatus {
                name: "web".to_owned(),
                listen: "10.0.0.100:80".to_owned(),
                protocol: "tcp".to_owned(),
                forwarding: "nat".to_owned(),
                scheduler: "mh".to_owned(),
                persistence: None,
                connections: 0,
                traffic,
                real_servers: vec![RealServerStatus {
                    address: "10.1.0.21:8080".to_owned(),
                    weight: 1,
                    last_resort: false,
                    state: RealServerState::Up,
                    reason: None,
                    own_check: None,
                    connections: 0,
                    connections_max: None,
                    traffic,
                }],
            }],
        }
    }

    #[test]
    fn rates_are_what_came_since_the_last_look() {
        let meter = Meter::default();
        let at = |look: u64| Instant::default() + EVERY * u32::try_from(look).unwrap();
        meter.look(at(0), &services(1000));
        assert_eq!(*meter.read(), Rates::default());
        meter.look(at(1), &services(1050));
        let rates = meter.read();
        let ten = Rate {
            connections: 10.0,
            packets: 50.0,
            bits: 8000.0,
        };
        assert_eq!(rates.all, ten);
        assert_eq!(rates.of("web", None), ten);
        assert_eq!(rates.of("web", Some("10.1.0.21:8080")), ten);
        assert_eq!(rates.of("none", None), Rate::default());
        // A counter that began anew.
        meter.look(at(2), &services(0));
        assert_eq!(meter.read().all, Rate::default());
        for look in 3..3000 {
            meter.look(at(look), &services(look * 50));
        }
        let rates = meter.read();
        assert_eq!(rates.hour.len(), POINTS);
        assert_eq!(rates.hour.back().map(|rate| rate.connections), Some(10.0));
    }
}
