//! What the records of a run mean: survived, reset, corrupted, lost, by age at the fault; and gaps.

use serde::Serialize;

use super::client::{Break, Record};
use super::udp::Probes;

/// A connection on which no checked payload arrives for this long after the fault is lost.
pub const LOST_AFTER_NS: u64 = 5_000_000_000;

/// Age of a connection at the fault, from the moment the client saw it established.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Age {
    /// Its SYN was sent, but the client did not see it established before the fault: not yet a
    /// connection, counted apart.
    #[serde(rename = "opening")]
    Opening,
    /// Less than 1 ms.
    #[serde(rename = "<1ms")]
    Newest,
    /// 1 to 10 ms.
    #[serde(rename = "1-10ms")]
    New,
    /// 10 to 100 ms.
    #[serde(rename = "10-100ms")]
    Recent,
    /// 100 ms and more.
    #[serde(rename = ">=100ms")]
    Older,
}

impl Age {
    /// All of them, youngest first.
    pub const ALL: [Self; 5] = [
        Self::Opening,
        Self::Newest,
        Self::New,
        Self::Recent,
        Self::Older,
    ];

    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "still opening",
            Self::Newest => "under 1 ms",
            Self::New => "1 to 10 ms",
            Self::Recent => "10 to 100 ms",
            Self::Older => "older",
        }
    }

    fn of(record: &Record, fault_ns: u64) -> Self {
        match record.established_ns {
            Some(at) if at <= fault_ns => match fault_ns - at {
                0..1_000_000 => Self::Newest,
                1_000_000..10_000_000 => Self::New,
                10_000_000..100_000_000 => Self::Recent,
                _ => Self::Older,
            },
            _ => Self::Opening,
        }
    }
}

/// Connections of one age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Class {
    /// Which age.
    pub age: Age,
    /// All of them.
    pub connections: usize,
    /// Checked payload went on, and nothing broke until the end.
    pub survived: usize,
    /// The client got a reset, or an end it did not ask for.
    pub reset: usize,
    /// A wrong byte arrived.
    pub corrupted: usize,
    /// No checked payload for 5 s after the fault.
    pub lost: usize,
}

impl Class {
    const fn empty(age: Age) -> Self {
        Self {
            age,
            connections: 0,
            survived: 0,
            reset: 0,
            corrupted: 0,
            lost: 0,
        }
    }

    fn count(&mut self, fate: Fate) {
        self.connections += 1;
        match fate {
            Fate::Survived => self.survived += 1,
            Fate::Reset => self.reset += 1,
            Fate::Corrupted => self.corrupted += 1,
            Fate::Lost => self.lost += 1,
        }
    }
}

#[derive(Clone, Copy)]
enum Fate {
    Survived,
    Reset,
    Corrupted,
    Lost,
}

impl Fate {
    fn of(record: &Record, fault_ns: u64) -> Self {
        match record.broken {
            Some((Break::Corrupted, _)) => Self::Corrupted,
            Some((Break::Reset, _)) => Self::Reset,
            Some((Break::TimedOut, _)) => Self::Lost,
            None => match record.recovered_ns {
                Some(at) if at <= fault_ns + LOST_AFTER_NS => Self::Survived,
                _ => Self::Lost,
            },
        }
    }
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Quantiles {
    /// Of nanoseconds; `None` of nothing.
    pub fn of(mut values: Vec<u64>) -> Option<Self> {
        values.sort_unstable();
        let at = |per_cent: usize| {
            // The nearest rank: the smallest value that so many per cent do not exceed.
            let rank = (values.len() * per_cent).div_ceil(100).max(1);
            values.get(rank - 1).map(|ns| *ns as f64 / 1e6)
        };
        Some(Self {
            p50: at(50)?,
            p99: at(99)?,
            max: at(100)?,
        })
    }
}

/// What the TCP connections went through.
#[derive(Clone, Debug, Serialize)]
pub struct TcpReport {
    /// By age at the fault, youngest first.
    pub classes: Vec<Class>,
    /// All that were established before the fault.
    pub connections: usize,
    /// Of these, how many survived.
    pub survived: usize,
    /// Of these, how many were reset.
    pub reset: usize,
    /// Of these, how many got a wrong byte.
    pub corrupted: usize,
    /// Of these, how many are lost.
    pub lost: usize,
    /// Connections that broke before the fault.
    pub broken_before: usize,
    /// From the fault to the first checked byte that answers one sent after it.
    pub gap_ms: Option<Quantiles>,
}

/// Judges the client's records.
pub fn tcp(records: &[Record], fault_ns: u64) -> TcpReport {
    let mut classes = Age::ALL.map(Class::empty);
    let mut gaps = Vec::new();
    let mut broken_before = 0;
    for record in records {
        if record.broken.is_some_and(|(_, at)| at < fault_ns) {
            broken_before += 1;
            continue;
        }
        let age = Age::of(record, fault_ns);
        if let Some(class) = classes.iter_mut().find(|class| class.age == age) {
            class.count(Fate::of(record, fault_ns));
        }
        if age != Age::Opening
            && let Some(at) = record.recovered_ns
        {
            gaps.push(at - fault_ns);
        }
    }
    let sum = |of: fn(&Class) -> usize| {
        let counted = classes.iter().filter(|class| class.age != Age::Opening);
        counted.map(of).sum()
    };
    TcpReport {
        connections: sum(|class| class.connections),
        survived: sum(|class| class.survived),
        reset: sum(|class| class.reset),
        corrupted: sum(|class| class.corrupted),
        lost: sum(|class| class.lost),
        broken_before,
        gap_ms: Quantiles::of(gaps),
        classes: classes.to_vec(),
    }
}

/// What the UDP flows went through.
#[derive(Clone, Debug, Serialize)]
pub struct UdpReport {
    /// Flows that were probed.
    pub flows: usize,
    /// Flows that were never answered again.
    pub lost_flows: usize,
    /// Flows that another server answered than before.
    pub moved_flows: usize,
    /// Answers that were not what they should be.
    pub wrong_answers: usize,
    /// Probes without an answer, from the fault until service was back for good.
    pub probes_lost: usize,
    /// The longest silence of each flow around the fault.
    pub gap_ms: Option<Quantiles>,
}

/// Judges the probes: the gap of a flow is its longest time between two answers of which the later
/// came after the fault, and the earlier before `fault_ns + within_ns` (so that a later stall of the
/// machine is not taken for the fault's gap).
pub fn udp(probes: &Probes, fault_ns: u64, within_ns: u64) -> UdpReport {
    let mut gaps = Vec::new();
    let (mut lost_flows, mut probes_lost) = (0, 0);
    for flow in &probes.flows {
        let mut answers: Vec<u64> = flow.iter().filter_map(|(_, answer)| *answer).collect();
        answers.sort_unstable();
        let gap = answers
            .iter()
            .zip(answers.iter().skip(1))
            .filter(|(before, after)| **after > fault_ns && **before < fault_ns + within_ns)
            .map(|(before, after)| after - before)
            .max();
        match gap {
            Some(gap) => gaps.push(gap),
            None => lost_flows += 1,
        }
        // Probes sent just before the fault may have been under way.
        let window = fault_ns.saturating_sub(5_000_000)..fault_ns + within_ns;
        probes_lost += flow
            .iter()
            .filter(|(sent, answer)| answer.is_none() && window.contains(sent))
            .count();
    }
    UdpReport {
        flows: probes.flows.len(),
        lost_flows,
        moved_flows: probes.moved.len(),
        wrong_answers: probes.wrong,
        probes_lost,
        gap_ms: Quantiles::of(gaps),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: u64 = 10_000_000_000;

    fn record(age_ns: u64, recovered_after: Option<u64>) -> Record {
        Record {
            established_ns: Some(FAULT - age_ns),
            recovered_ns: recovered_after.map(|ns| FAULT + ns),
            ..Record::default()
        }
    }

    #[test]
    fn fates_are_counted_by_age() {
        let mut reset = record(5_000_000, Some(1));
        reset.broken = Some((Break::Reset, FAULT + 2_000_000));
        let mut corrupted = record(50_000_000, None);
        corrupted.broken = Some((Break::Corrupted, FAULT + 1));
        let mut earlier = record(1, None);
        earlier.broken = Some((Break::Reset, FAULT - 1));
        let opening = Record::default();
        let records = [
            record(0, Some(300_000_000)),
            reset,
            corrupted,
            record(1_000_000_000, Some(LOST_AFTER_NS + 1)),
            record(1_000_000_000, None),
            record(1_000_000_000, Some(100_000_000)),
            earlier,
            opening,
        ];
        let report = tcp(&records, FAULT);
        let found: Vec<_> = report
            .classes
            .iter()
            .map(|c| (c.connections, c.survived, c.reset, c.corrupted, c.lost))
            .collect();
        assert_eq!(
            found,
            [
                (1, 0, 0, 0, 1),
                (1, 1, 0, 0, 0),
                (1, 0, 1, 0, 0),
                (1, 0, 0, 1, 0),
                (3, 1, 0, 0, 2),
            ]
        );
        assert_eq!((report.connections, report.survived), (6, 2));
        assert_eq!((report.reset, report.corrupted, report.lost), (1, 1, 2));
        assert_eq!(report.broken_before, 1);
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let quantiles = Quantiles::of((1..=200).map(|i| i * 1_000_000).collect()).unwrap();
        assert_eq!(
            (quantiles.p50, quantiles.p99, quantiles.max),
            (100.0, 198.0, 200.0)
        );
        assert_eq!(Quantiles::of(Vec::new()), None);
    }

    #[test]
    fn udp_gap_is_the_longest_silence_around_the_fault() {
        let ms = 1_000_000;
        let answered = |at: u64| (at - ms, Some(at));
        let flow = vec![
            answered(FAULT - 10 * ms),
            answered(FAULT - 2 * ms),
            (FAULT + 6 * ms, None),
            answered(FAULT + 148 * ms),
            answered(FAULT + 156 * ms),
            // A stall of the machine much later.
            answered(FAULT + 9_000 * ms),
            answered(FAULT + 9_500 * ms),
        ];
        let probes = Probes {
            flows: vec![flow, vec![answered(FAULT - ms)]],
            ..Probes::default()
        };
        let report = udp(&probes, FAULT, 100 * ms);
        assert_eq!(report.gap_ms.map(|gap| gap.max), Some(150.0));
        assert_eq!(report.lost_flows, 1);
        assert_eq!(report.probes_lost, 1);
    }
}
