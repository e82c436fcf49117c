//! Somebody who looks at the web page: a pair with pages, an operator on both nodes, and a browser beside the client.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::browser::Browser;
use super::config::{self, PairConfig};
use super::pair::{Node, Pair};
use crate::clock::{PATIENCE, now_ns, until};

/// Port of the page.
const PORT: u16 = 8443;
/// What the squares are: colour, and the letter in them.
const SQUARES: &str = "[...document.querySelectorAll('#squares .square')]
    .map(e => (e.dataset.colour + ' ' + e.textContent).trim()).join(', ')";

/// The pair, and who looks at it.
pub struct Desk {
    /// The browser; it ends before the pair does.
    pub browser: Browser,
    passwords: [String; 2],
    /// The pair.
    pub pair: Pair,
}

/// What the squares became, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Milliseconds since 1970.
    pub at: i64,
    /// Colours and letters, the first node's first.
    pub squares: String,
}

impl Desk {
    /// A pair that is quick.
    pub fn set_up() -> Result<Self> {
        Self::at(PairConfig {
            timeout: Duration::from_millis(500),
            ..PairConfig::default()
        })
    }

    /// A pair with this configuration, and a page.
    pub fn at(mut config: PairConfig) -> Result<Self> {
        config.node.push("web: { listen: '[::]:8443' }");
        let mut pair = Pair::build(config)?;
        pair.start()?;
        let add = |node: &Node| {
            let said = node.command(&["web", "add-user", "carol", "--access", "operator"])?;
            // The password is the last word.
            let word = said.split_whitespace().last().context("no password")?;
            anyhow::Ok(word.to_owned())
        };
        let [one, other] = &pair.nodes;
        let passwords = [add(one)?, add(other)?];
        let log = one.dir().join("chromedriver.log");
        let browser = Browser::start(&pair.client, &log)?;
        Ok(Self {
            browser,
            passwords,
            pair,
        })
    }

    /// Logs in at an address that leads to the node with this index.
    pub fn log_in(&self, address: Ipv4Addr, node: usize) -> Result<()> {
        let password = self.passwords.get(node).context("no such node")?;
        // An agent that was just started serves it a moment later.
        until("the page is served", || {
            Ok(self.browser.goto(&url(address, "/login")).is_ok())
        })?;
        self.browser.until("#entry-form", |_text| true)?;
        self.browser.fill("#name", "carol")?;
        self.browser.fill("#password", password)?;
        self.browser.click("#enter")?;
        self.browser
            .until("#user", |user| user.contains("carol (operator)"))?;
        Ok(())
    }

    /// Has this node be the active one, and the pair whole.
    pub fn activate(&mut self, node: usize) -> Result<()> {
        self.pair.wait_whole()?;
        let active = self.pair.active()?;
        if active != node {
            let other = self.pair.nodes.get(active).context("no such node")?;
            other.failover()?;
        }
        self.pair.wait_whole()?;
        ensure!(self.pair.active()? == node, "the other node is active");
        Ok(())
    }

    /// Waits until the first and the second square are so: colour, and the letter in it.
    pub fn squares(&self, wanted: [&str; 2]) -> Result<()> {
        let from = now_ns();
        let wanted = wanted.join(", ");
        loop {
            let shown = self.look().unwrap_or_default();
            if shown == wanted {
                return Ok(());
            }
            let waited = Duration::from_nanos(now_ns() - from);
            ensure!(waited < PATIENCE, "squares are {shown}, not {wanted}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The squares as they are.
    pub fn look(&self) -> Result<String> {
        let shown = self
            .browser
            .script(&format!("return {SQUARES};"), Vec::new())?;
        Ok(shown.as_str().context("no text")?.to_owned())
    }

    /// Has the page that is open write down when its squares change.
    pub fn watch(&self) -> Result<()> {
        let script = format!(
            "window.sights = [];
            const look = () => {{
              const squares = {SQUARES};
              if (squares !== sights.at(-1)?.[1]) sights.push([Date.now(), squares]);
            }};
            look();
            new MutationObserver(look).observe(document.getElementById('squares'),
              {{ childList: true, subtree: true, characterData: true, attributes: true }});"
        );
        self.browser.script(&script, Vec::new())?;
        Ok(())
    }

    /// What was written down, oldest first.
    pub fn sights(&self) -> Result<Vec<Sight>> {
        let sights = self.browser.script("return window.sights;", Vec::new())?;
        let sights = sights.as_array().context("nobody watches")?.iter();
        let sights = sights.map(|sight| {
            let at = sight.get(0).and_then(Value::as_i64).context("no time")?;
            let squares = sight.get(1).and_then(Value::as_str).context("no squares")?;
            anyhow::Ok(Sight {
                at,
                squares: squares.to_owned(),
            })
        });
        sights.collect()
    }
}

/// A page at an address.
pub fn url(address: Ipv4Addr, path: &str) -> String {
    format!("https://{address}:{PORT}{path}")
}

/// The own address, on the client's network, of the node with this index.
pub fn own(node: usize) -> Ipv4Addr {
    config::front(if node == 0 { 1 } else { 2 })
}
