//! What happens in a second: the difference of two looks.

use ha_common::reason::Reason;

use crate::proto::time::Instant;
use crate::status::model::{Counters, Services, Status, TrafficStatus};

/// One look at the agent.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) status: Status,
    pub(super) services: Services,
    pub(super) counters: Counters,
    pub(super) at: Instant,
}

/// Of a real server, a service or everything; none where a counter began anew meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Flow {
    pub(super) connections: Option<f64>,
    pub(super) packets_in: Option<f64>,
    pub(super) packets_out: Option<f64>,
    pub(super) bytes: Option<f64>,
    pub(super) dropped: Option<f64>,
}

/// Packets of the data plane.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Packets {
    pub(super) forwarded: Option<f64>,
    pub(super) dropped: Option<f64>,
    /// Why most of them were dropped, most first.
    pub(super) reasons: Vec<(String, f64)>,
}

/// Reasons that are named at most.
const REASONS: usize = 3;

/// Two looks, the later one last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Between<'a> {
    before: Option<&'a Sample>,
    now: &'a Sample,
}

impl<'a> Between<'a> {
    pub(super) const fn new(before: Option<&'a Sample>, now: &'a Sample) -> Self {
        Self { before, now }
    }

    fn seconds(self) -> Option<f64> {
        let passed = self.now.at.since(self.before?.at).as_secs_f64();
        (passed > 0.0).then_some(passed)
    }

    fn rate(self, before: Option<u64>, now: u64) -> Option<f64> {
        Some(now.checked_sub(before?)? as f64 / self.seconds()?)
    }

    fn flow(self, before: Option<TrafficStatus>, now: TrafficStatus) -> Flow {
        let rate = |of: fn(TrafficStatus) -> u64| self.rate(before.map(of), of(now));
        Flow {
            connections: rate(|traffic| traffic.connections),
            packets_in: rate(|traffic| traffic.packets_in),
            packets_out: rate(|traffic| traffic.packets_out),
            bytes: rate(|traffic| traffic.bytes_in.saturating_add(traffic.bytes_out)),
            dropped: rate(|traffic| traffic.dropped),
        }
    }

    /// Of a service: of those of its real servers that both looks know.
    pub(super) fn service(self, index: usize) -> Flow {
        let Some(service) = self.now.services.services.get(index) else {
            return Flow::default();
        };
        let flows = service
            .real_servers
            .iter()
            .map(|real| self.real(index, &real.address));
        flows.reduce(Flow::plus).unwrap_or_default()
    }

    /// Of a real server of a service.
    pub(super) fn real(self, index: usize, address: &str) -> Flow {
        let Some(service) = self.now.services.services.get(index) else {
            return Flow::default();
        };
        let of = |sample: &Sample| {
            let mut services = sample.services.services.iter();
            let same = services.find(|other| {
                (&other.name, &other.listen, &other.protocol)
                    == (&service.name, &service.listen, &service.protocol)
            });
            let mut reals = same?.real_servers.iter();
            let real = reals.find(|real| real.address == address)?;
            Some(real.traffic)
        };
        match of(self.now) {
            Some(now) => self.flow(self.before.and_then(of), now),
            None => Flow::default(),
        }
    }

    /// Of all services.
    pub(super) fn all(self) -> Flow {
        let flows = (0..self.now.services.services.len()).map(|index| self.service(index));
        flows.reduce(Flow::plus).unwrap_or_default()
    }

    /// Of the data plane.
    pub(super) fn packets(self) -> Packets {
        let rates = self.now.counters.counters.iter().filter_map(|counter| {
            let verdict = counter.verdict.as_deref()?;
            let mut before = self.before?.counters.counters.iter();
            let before = before.find(|other| other.name == counter.name)?;
            let rate = self.rate(Some(before.value), counter.value)?;
            Some((counter.name.clone(), verdict, rate))
        });
        let mut packets = Packets::default();
        for (name, verdict, rate) in rates {
            match verdict {
                "transmit" | "redirect" => *packets.forwarded.get_or_insert(0.0) += rate,
                // The data plane has handed it to the election, where it is heard.
                "drop" if name == Reason::CarpDelivered.as_str() => {}
                "drop" => {
                    *packets.dropped.get_or_insert(0.0) += rate;
                    if rate > 0.0 {
                        packets.reasons.push((name, rate));
                    }
                }
                _ => {}
            }
        }
        packets
            .reasons
            .sort_by(|one, other| other.1.total_cmp(&one.1));
        packets.reasons.truncate(REASONS);
        packets
    }
}

impl Flow {
    /// Both together, as far as known.
    fn plus(self, other: Self) -> Self {
        let sum = |one: Option<f64>, other: Option<f64>| match (one, other) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or_default() + other.unwrap_or_default()),
        };
        Self {
            connections: sum(self.connections, other.connections),
            packets_in: sum(self.packets_in, other.packets_in),
            packets_out: sum(self.packets_out, other.packets_out),
            bytes: sum(self.bytes, other.bytes),
            dropped: sum(self.dropped, other.dropped),
        }
    }
}

/// A rate in four digits and a letter; `-` if it is not known.
pub(super) fn short(rate: Option<f64>) -> String {
    let Some(rate) = rate else {
        return "-".to_owned();
    };
    let mut value = rate;
    for unit in ["", "k", "M", "G"] {
        if value < 999.5 || unit == "G" {
            let decimals =
                usize::from(value < 99.95 && (!unit.is_empty() || value.fract() >= 0.05));
            return format!("{value:.decimals$}{unit}");
        }
        value /= 1000.0;
    }
    format!("{rate:.0}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{later, sample};
    use super::*;

    #[test]
    fn rates_are_differences_in_time() {
        let (before, now) = (sample(), later());
        let between = Between::new(Some(&before), &now);
        let flow = between.real(0, "10.1.0.21:8080");
        // Two seconds passed.
        assert_eq!(flow.connections, Some(6.0));
        assert_eq!(flow.packets_in, Some(600.0));
        assert_eq!(between.service(0).connections, Some(6.0));
        assert_eq!(between.all().packets_in, Some(600.0));
        let packets = between.packets();
        assert_eq!(packets.forwarded, Some(1200.0));
        assert_eq!(packets.dropped, Some(9.0));
        assert_eq!(packets.reasons.len(), 2);
        assert!(packets.reasons[0].1 > packets.reasons[1].1);
    }

    #[test]
    fn an_advertisement_for_the_election_is_not_dropped() {
        let (before, mut now) = (sample(), later());
        let delivered = |sample: &mut Sample| {
            let mut counters = sample.counters.counters.iter_mut();
            let name = Reason::CarpDelivered.as_str();
            counters.find(|counter| counter.name == name).unwrap().value += 20;
        };
        let dropped = |now: &Sample| Between::new(Some(&before), now).packets().dropped;
        let without = dropped(&now);
        delivered(&mut now);
        assert_eq!(dropped(&now), without);
    }

    #[test]
    fn what_began_anew_has_no_rate() {
        let (before, now) = (sample(), later());
        let backwards = Between::new(Some(&now), &before);
        assert_eq!(backwards.real(0, "10.1.0.21:8080"), Flow::default());
        let alone = Between::new(None, &now);
        assert_eq!(alone.all(), Flow::default());
        assert_eq!(alone.packets(), Packets::default());
        assert_eq!(
            Between::new(Some(&before), &now).real(0, "10.9.9.9:1"),
            Flow::default()
        );
        assert_eq!(
            Between::new(Some(&before), &now).service(9),
            Flow::default()
        );
    }

    #[test]
    fn numbers_are_short() {
        for (rate, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (12.0, "12"),
            (99.5, "99.5"),
            (123.4, "123"),
            (999.0, "999"),
            (1000.0, "1.0k"),
            (12_345.0, "12.3k"),
            (999_600.0, "1.0M"),
            (4.2e9, "4.2G"),
            (5e12, "5000G"),
        ] {
            assert_eq!(short(Some(rate)), text);
        }
        assert_eq!(short(None), "-");
    }
}
