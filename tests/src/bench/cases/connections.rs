//! Connections that stand and talk during all runs of a case, and what became of them.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Subject;
use crate::clock::now_ns;
use crate::demo::SERVICE;
use crate::rig::netns::Netns;
use crate::traffic::client::Client;
use crate::traffic::report::{self, LOST_AFTER_NS};

/// A second.
const RATE: u64 = 1_000;
const PATIENCE_NS: u64 = 20_000_000_000;

/// The connections and their client.
pub(super) struct Connections {
    client: Client,
    netns: Netns,
    count: usize,
}

impl Connections {
    /// Opens this many.
    pub(super) fn open(subject: &dyn Subject, count: usize) -> Result<Self> {
        let netns = subject.pair().client.clone();
        let client = Client::start(&netns, SERVICE)?;
        client.control().open(count, RATE);
        let end = now_ns() + PATIENCE_NS;
        while client.control().established() < count {
            ensure!(now_ns() < end, "the connections could not be opened");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self {
            client,
            netns,
            count,
        })
    }

    /// Retransmission timeouts of their client's host so far: `TCPTimeouts` of its `netstat`.
    pub(super) fn timeouts(&self) -> Result<u64> {
        let read = || Ok(fs::read_to_string("/proc/thread-self/net/netstat")?);
        let text = self.netns.run(read)?;
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next(), lines.next());
        let (names, values) = names.zip(values).context("no TcpExt in netstat")?;
        let pair = names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(name, _)| *name == "TCPTimeouts");
        Ok(pair.context("no TCPTimeouts in netstat")?.1.parse()?)
    }

    /// How many were lost: what a connection gets after the last fault shows that it survived all of
    /// them.
    pub(super) fn lost(self) -> Result<usize> {
        let judged = now_ns();
        self.client.control().fault_at(judged);
        std::thread::sleep(Duration::from_nanos(LOST_AFTER_NS) + Duration::from_millis(500));
        let tcp = report::tcp(&self.client.finish()?, judged);
        ensure!(tcp.connections + tcp.broken_before >= self.count, "{tcp:?}");
        Ok(tcp.connections - tcp.survived + tcp.broken_before)
    }
}
