//! A real browser inside a namespace: headless Chromium, driven over `WebDriver`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use fantoccini::elements::Element;
use fantoccini::error::CmdError;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::netns::Netns;
use super::process::Process;
use crate::clock::now_ns;

/// Port of the driver, which no other program of the namespace has.
const PORT: u16 = 9515;
/// How long the driver may take to answer, and a page to be what it is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at a page.
const GLANCE: Duration = Duration::from_millis(10);

/// How the page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// A browser with one window. All of it ends when the value is dropped.
pub struct Browser {
    runtime: Runtime,
    client: Client,
    netns: Netns,
    _driver: Process,
    _profile: TempDir,
}

impl Browser {
    /// Whether the programs are installed.
    pub fn installed() -> bool {
        ["chromium", "chromedriver"]
            .into_iter()
            .all(super::process::installed)
    }

    /// Starts one in `netns`. It takes any certificate; `log` is where the driver writes.
    pub fn start(netns: &Netns, log: &Path) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut command = Command::new("chromedriver");
        command
            .arg(format!("--port={PORT}"))
            .env("HOME", profile.path());
        let driver = Process::start("chromedriver", netns, &mut command, log)?;
        let (runtime, client) = netns.run(|| {
            // Its sockets belong to the namespace of the thread that makes them: this one.
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let client = runtime.block_on(connect(profile.path()))?;
            Ok((runtime, client))
        })?;
        Ok(Self {
            runtime,
            client,
            netns: netns.clone(),
            _driver: driver,
            _profile: profile,
        })
    }

    fn wait<T: Send>(&self, work: impl Future<Output = Result<T, CmdError>> + Send) -> Result<T> {
        // The pooled connection is there already, or a new one is made in the namespace.
        self.netns.run(|| Ok(self.runtime.block_on(work)?))
    }

    /// Loads a page.
    pub fn goto(&self, url: &str) -> Result<()> {
        self.wait(self.client.goto(url))
            .with_context(|| format!("cannot load {url}"))
    }

    /// Where it is.
    pub fn url(&self) -> Result<String> {
        Ok(self.wait(self.client.current_url())?.to_string())
    }

    /// The page's source as the browser has it.
    pub fn source(&self) -> Result<String> {
        self.wait(self.client.source())
    }

    /// What a script returns.
    pub fn script(&self, script: &str, args: Vec<Value>) -> Result<Value> {
        self.wait(self.client.execute(script, args))
            .with_context(|| format!("the script fails: {script}"))
    }

    /// Text of the first element that a CSS selector finds, as it is shown; none if there is none.
    pub fn text(&self, css: &str) -> Result<Option<String>> {
        let script = "const e = document.querySelector(arguments[0]); return e && e.innerText;";
        let text = self.script(script, vec![json!(css)])?;
        Ok(text.as_str().map(str::to_owned))
    }

    /// Waits until what is shown there pleases; how long it took, in nanoseconds.
    pub fn until(&self, css: &str, pleases: impl Fn(&str) -> bool) -> Result<u64> {
        let from = now_ns();
        let end = from + u64::try_from(PATIENCE.as_nanos())?;
        loop {
            let text = self.text(css).unwrap_or_default();
            if text.as_deref().is_some_and(&pleases) {
                return Ok(now_ns() - from);
            }
            if now_ns() > end {
                let page = self.text("body")?.unwrap_or_default();
                bail!(
                    "{css} is {text:?} after {PATIENCE:?}, on {}:\n{page}",
                    self.url()?
                );
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// The element, as soon as the page has it: a page is shown before all of it has come.
    async fn find(&self, css: &str) -> Result<Element, CmdError> {
        let wait = self.client.wait().at_most(PATIENCE / 2).every(GLANCE);
        wait.for_element(Locator::Css(css)).await
    }

    /// Clicks an element.
    pub fn click(&self, css: &str) -> Result<()> {
        let work = async {
            let element = self.find(css).await?;
            element.click().await
        };
        self.wait(work)
            .with_context(|| format!("cannot click {css}"))
    }

    /// Writes into an element that was empty, or replaces what is there.
    pub fn fill(&self, css: &str, text: &str) -> Result<()> {
        let work = async {
            let element = self.find(css).await?;
            element.clear().await?;
            element.send_keys(text).await
        };
        self.wait(work)
            .with_context(|| format!("cannot fill {css}"))
    }

    /// How pages are shown from now on, which takes another start of the page.
    pub fn theme(&self, theme: Theme) -> Result<()> {
        let value = match theme {
            Theme::Light => "light",
            Theme::Dark => "dark",
        };
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({"features": [{"name": "prefers-color-scheme", "value": value}]}),
        )
    }

    /// Width and height of the window's inside.
    pub fn size(&self, width: u32, height: u32) -> Result<()> {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}),
        )
    }

    /// Whether pages may run scripts.
    pub fn scripting(&self, allowed: bool) -> Result<()> {
        self.devtools(
            "Emulation.setScriptExecutionDisabled",
            &json!({"value": !allowed}),
        )
    }

    fn devtools(&self, command: &str, params: &Value) -> Result<()> {
        let body = json!({"cmd": command, "params": params});
        let work = self.client.issue_cmd(Devtools(body));
        self.wait(work)
            .with_context(|| format!("the browser refuses {command}"))?;
        Ok(())
    }

    /// A picture of the window, as PNG.
    pub fn picture(&self, path: &Path) -> Result<()> {
        let png = self.wait(self.client.screenshot())?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        Ok(fs::write(path, png)?)
    }

    /// What axe finds wrong of at least serious impact: rule and the first element of each. `axe` is its
    /// script.
    pub fn inaccessible(&self, axe: &str) -> Result<Vec<String>> {
        self.script(axe, Vec::new())?;
        let script = "const done = arguments[arguments.length - 1];
            axe.run().then(r => done(r.violations
              .filter(v => v.impact === 'serious' || v.impact === 'critical')
              .map(v => v.id + ': ' + v.help + ' at ' + v.nodes[0].target.join(' '))),
            e => done(['axe failed: ' + e]));";
        let found = self.wait(self.client.execute_async(script, Vec::new()))?;
        let found = found.as_array().context("axe returned no list")?;
        Ok(found
            .iter()
            .map(|finding| finding.as_str().unwrap_or_default().to_owned())
            .collect())
    }
}

/// Where axe's script is, if the set-up has brought it.
pub fn axe() -> Result<PathBuf> {
    let path = super::locate::tools()?.join("axe.min.js");
    ensure!(
        path.is_file(),
        "no {}: run `cargo xtask setup`",
        path.display()
    );
    Ok(path)
}

/// A command of Chromium's own protocol.
#[derive(Debug)]
struct Devtools(Value);

impl fantoccini::wd::WebDriverCompatibleCommand for Devtools {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/goog/cdp/execute",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _url: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.0.to_string()))
    }
}

async fn connect(profile: &Path) -> Result<Client> {
    let options = json!({
        "acceptInsecureCerts": true,
        "goog:chromeOptions": {
            "binary": "/usr/bin/chromium",
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--window-size=1280,900",
                format!("--user-data-dir={}", profile.join("profile").display()),
            ],
        },
    });
    let Value::Object(capabilities) = options else {
        return Err(anyhow!("capabilities are an object"));
    };
    let mut builder = ClientBuilder::new(HttpConnector::new());
    builder.capabilities(capabilities);
    let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
    loop {
        match builder.connect(&format!("http://127.0.0.1:{PORT}")).await {
            Ok(client) => return Ok(client),
            Err(error) if now_ns() > end => return Err(error).context("no browser"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
