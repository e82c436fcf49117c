//! The load of a measurement: standing connections, new ones up to the fault, probes beside.

use std::net::SocketAddr;
use std::ops::Range;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};

use super::client::{Client, Control};
use super::report::{self, LOST_AFTER_NS, TcpReport, UdpReport};
use super::udp::Prober;
use crate::clock::now_ns;
use crate::rig::netns::Netns;

/// At what rate the standing connections are opened.
const STANDING_RATE: u64 = 2_000;
/// Rate of the burst in which the fault falls: several connections in each millisecond.
const BURST_RATE: u64 = 4_000;
const BURST: Duration = Duration::from_millis(60);
/// Ages of connections that must exist when the fault comes: well inside the classes by which they
/// are judged.
const AGES: [Range<u64>; 3] = [0..700_000, 2_000_000..9_000_000, 15_000_000..80_000_000];
/// Beyond the time after which a silent connection is lost.
const MARGIN: Duration = Duration::from_millis(500);

/// Clients under way.
#[derive(Debug)]
pub struct Load {
    client: Client,
    prober: Prober,
}

impl Load {
    /// Opens this many connections from `netns` to `service` and starts probing it.
    pub fn start(
        netns: &Netns,
        service: impl Into<SocketAddr>,
        connections: usize,
    ) -> Result<Self> {
        let service = service.into();
        let load = Self {
            client: Client::start(netns, service)?,
            prober: Prober::start(netns, service)?,
        };
        load.control().open(connections, STANDING_RATE);
        let end = now_ns() + 30_000_000_000;
        while load.control().established() < connections {
            let control = load.control();
            if control.failed() > 0 || load.client.ended() || now_ns() > end {
                bail!(
                    "only {} of {connections} connections could be opened ({} broke)",
                    control.established(),
                    control.failed()
                );
            }
            sleep(Duration::from_millis(10));
        }
        // By then each has spoken.
        sleep(Duration::from_millis(500));
        Ok(load)
    }

    /// Goes on opening connections at this rate for a while; returns the rate that was reached.
    pub fn open(&self, rate: u64, time: Duration) -> f64 {
        let (from, count) = (now_ns(), self.control().established());
        self.control().open(usize::MAX, rate);
        sleep(time);
        let seconds = (now_ns() - from) as f64 / 1e9;
        (self.control().established() - count) as f64 / seconds
    }

    /// Opens connections faster still and returns in the midst of it, when there are some of every
    /// age. The generator does not care, so waiting only keeps the fault from falling into a stall
    /// of the machine, when there would be nothing young to judge.
    pub fn burst(&self) {
        self.control().open(usize::MAX, BURST_RATE);
        sleep(BURST + random_below(BURST));
        let end = now_ns() + 1_000_000_000;
        while now_ns() < end && !self.control().has_ages(&AGES) {
            sleep(Duration::from_micros(100));
        }
    }

    /// Tells when the fault was injected; no more connections are opened.
    pub fn fault_at(&self, ns: u64) {
        self.control().fault_at(ns);
    }

    /// Waits until every connection can be judged, and judges.
    pub fn finish(self, fault_ns: u64, timeout: Duration) -> Result<(TcpReport, UdpReport)> {
        self.finish_after(
            Duration::from_nanos(LOST_AFTER_NS) + MARGIN,
            fault_ns,
            timeout,
        )
    }

    /// Judges so long after the fault, if that is less: what has not gone on by then is lost.
    pub fn finish_after(
        self,
        time: Duration,
        fault_ns: u64,
        timeout: Duration,
    ) -> Result<(TcpReport, UdpReport)> {
        let end = fault_ns + u64::try_from(time.as_nanos())?;
        sleep(Duration::from_nanos(end.saturating_sub(now_ns())));
        let tcp = report::tcp(&self.client.finish()?, fault_ns);
        let within = u64::try_from(timeout.as_nanos())? + 1_000_000_000;
        let udp = report::udp(&self.prober.finish()?, fault_ns, within);
        Ok((tcp, udp))
    }

    fn control(&self) -> &Control {
        self.client.control()
    }
}

/// A random time, so that faults fall on every phase of whatever is periodic.
pub fn random_below(limit: Duration) -> Duration {
    let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(now_ns() % limit)
}
