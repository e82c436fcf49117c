//! What the web page costs a node whose table is full: time for the first page, processor time for pages that are
//! open, and whether the election is ever late for them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::million::{load, note};
use crate::bench::{Promise, Report, say};
use crate::rig::config::CLIENT;
use crate::rig::netns::Netns;
use crate::rig::pair::Node;
use crate::rig::process::Process;

/// Keys of the section `node` for it.
pub(super) const KEYS: [&str; 2] = [
    "web: { listen: '[::]:8443' }",
    "metrics: { listen: '[::]:9573' }",
];
/// Requests for the first page.
const REQUESTS: usize = 30;
/// Pages that are open and that nobody touches.
const OPEN: usize = 50;

/// A node's page, and somebody who looks.
struct Page<'a> {
    client: &'a Netns,
    node: &'a Node,
    address: Ipv4Addr,
    cookies: PathBuf,
}

/// Measures it at the node's own address.
pub(super) fn measure(
    report: &mut Report,
    client: &Netns,
    node: &Node,
    address: Ipv4Addr,
) -> Result<()> {
    say("the web page");
    let page = Page {
        client,
        node,
        address,
        cookies: node.dir().join("cookies"),
    };
    page.log_in()?;
    for _ in 0..REQUESTS {
        let ms = page.home()?;
        note(
            report,
            "home page, from request to its end",
            "ms",
            Promise::MedianAtMost(50.0),
            ms,
        );
    }
    let (alone, late) = (load(node)?, page.late()?);
    let mut open = Vec::new();
    for number in 0..OPEN {
        open.push(page.open(number)?);
    }
    thread::sleep(Duration::from_secs(2));
    let late_before = page.late()?;
    let watched = load(node)?;
    let late_after = page.late()?;
    for process in &mut open {
        ensure!(
            process.ended()?.is_none(),
            "a page was closed: {}",
            process.log()
        );
    }
    let each = (watched - alone).max(0.0) / OPEN as f64;
    note(
        report,
        "an open page",
        "% of a core",
        Promise::MedianAtMost(1.0),
        each,
    );
    note(
        report,
        "election late, nobody looking",
        "timers",
        Promise::Nothing,
        late,
    );
    note(
        report,
        "election late, 50 pages open",
        "timers",
        Promise::Nothing,
        late_after - late_before,
    );
    Ok(())
}

impl Page<'_> {
    fn url(&self, path: &str) -> String {
        format!("https://{}:8443{path}", self.address)
    }

    fn curl(&self) -> Command {
        let mut curl = Command::new("curl");
        // A certificate of the agent's own.
        curl.args(["--insecure", "--silent", "--show-error", "--fail"]);
        curl.arg("--cookie").arg(&self.cookies);
        curl
    }

    fn log_in(&self) -> Result<()> {
        let said = self.node.command(&["web", "add-user", "bench"])?;
        let password = said.split_whitespace().last().context("no password")?;
        let mut curl = self.curl();
        curl.arg("--cookie-jar")
            .arg(&self.cookies)
            .arg("--header")
            .arg(format!("Origin: https://{}:8443", self.address))
            .args(["--data-urlencode", "name=bench", "--data-urlencode"])
            .arg(format!("password={password}"))
            .arg(self.url("/login"));
        self.client.output(&mut curl)?;
        let jar = fs::read_to_string(&self.cookies)?;
        ensure!(jar.contains(&self.address.to_string()), "no session: {jar}");
        Ok(())
    }

    /// Milliseconds from the request, on a connection that stands, to the end of the answer.
    fn home(&self) -> Result<f64> {
        let mut curl = self.curl();
        curl.args(["--output", "/dev/null", "--write-out"])
            .arg("%{time_pretransfer} %{time_total}")
            .arg(self.url("/"));
        let said = self.client.output(&mut curl)?;
        let (from, to) = said.split_once(' ').context("no times")?;
        let (from, to): (f64, f64) = (from.parse()?, to.trim().parse()?);
        Ok((to - from) * 1e3)
    }

    /// A page that is told of changes, and shows them to nobody.
    fn open(&self, number: usize) -> Result<Process> {
        let mut curl = self.curl();
        curl.args(["--no-buffer", "--output", "/dev/null"])
            .arg(self.url("/api/v1/live"))
            .stdin(Stdio::null());
        let log = self.node.dir().join(format!("page-{number}.log"));
        Process::start("page", self.client, &mut curl, &log)
    }

    /// Timers of the election so far that fired late.
    fn late(&self) -> Result<f64> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail"])
            .arg(format!("http://{}:9573/metrics", self.address));
        let text = self.client.output(&mut curl)?;
        let late = text
            .lines()
            .find_map(|line| line.strip_prefix("ha_agent_election_timers_late_total "));
        Ok(late
            .with_context(|| format!("{CLIENT} sees no late timers in the metrics"))?
            .parse()?)
    }
}
