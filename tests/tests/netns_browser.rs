//! The web page in a real browser: what an operator sees while things happen, and what the pair does when he
//! clicks. Pictures of every page are left in `target/screens`.

mod common;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::Role;
use ha_tests::clock::{now_ns, until};
use ha_tests::demo::SERVICE;
use ha_tests::rig::browser::{self, Browser, Theme};
use ha_tests::rig::config::{self, PairConfig, SHARED_FRONT};
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::rig::switch::Cut;
use ha_tests::traffic::load::Load;

const PORT: u16 = 8443;
const PATIENCE: Duration = Duration::from_secs(20);
/// Pages, by their name in the navigation.
const PAGES: [(&str, &str); 10] = [
    ("home", "/"),
    ("services", "/services"),
    ("connections", "/connections"),
    ("ha", "/ha"),
    ("interfaces", "/interfaces"),
    ("operate", "/operate"),
    ("diagnosis", "/diagnosis"),
    ("events", "/events"),
    ("backup", "/backup"),
    ("users", "/users"),
];
const CONNECTIONS: usize = 200;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft", "chromium", "chromedriver"],
        &["ha-agent"],
        &[
            ("squares_follow_what_happens", squares),
            ("a_failover_by_a_click_loses_nothing", failover),
            ("an_edit_in_the_page_reaches_the_partner", edit),
            ("every_page_is_fit_to_be_used", pages),
            ("pages_do_without_scripting", without_scripting),
        ],
    )
}

/// A pair with pages, an operator on both nodes, and a browser beside the client.
struct Desk {
    // Ends before the pair does.
    browser: Browser,
    passwords: [String; 2],
    pair: Pair,
}

impl Desk {
    fn set_up() -> Result<Self> {
        let mut pair = Pair::build(PairConfig {
            timeout: Duration::from_millis(500),
            node: vec!["web: { listen: '[::]:8443' }"],
            ..PairConfig::default()
        })?;
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
    fn log_in(&self, address: Ipv4Addr, node: usize) -> Result<()> {
        let password = self.passwords.get(node).context("no such node")?;
        self.browser.goto(&url(address, "/login"))?;
        self.browser.until("#entry-form", |_text| true)?;
        self.browser.fill("#name", "carol")?;
        self.browser.fill("#password", password)?;
        self.browser.click("#enter")?;
        self.browser
            .until("#user", |user| user.contains("carol (operator)"))?;
        Ok(())
    }

    /// Waits until the first and the second square are so: colour, and the letter in it.
    fn squares(&self, wanted: [&str; 2]) -> Result<u64> {
        let from = now_ns();
        let script = "return [...document.querySelectorAll('#squares .square')]
            .map(e => (e.dataset.colour + ' ' + e.textContent).trim()).join(', ');";
        let wanted = wanted.join(", ");
        loop {
            let shown = self.browser.script(script, Vec::new()).unwrap_or_default();
            if shown.as_str() == Some(&wanted) {
                return Ok(now_ns() - from);
            }
            let waited = Duration::from_nanos(now_ns() - from);
            ensure!(waited < PATIENCE, "squares are {shown}, not {wanted}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn nodes(&mut self) -> Result<(&mut Node, &mut Node)> {
        self.pair.active_and_standby()
    }
}

fn url(address: Ipv4Addr, path: &str) -> String {
    format!("https://{address}:{PORT}{path}")
}

/// The page is open at the second node's own address all the time, and nobody reloads it.
fn squares() -> Result<()> {
    let mut desk = Desk::set_up()?;
    // Whichever was quicker to start.
    if desk.pair.active()? != 0 {
        desk.pair.nodes[1].failover()?;
        desk.pair.nodes[0].wait_role(Role::Active, PATIENCE)?;
        desk.pair.wait_whole()?;
    }
    desk.log_in(config::front(2), 1)?;
    desk.squares(["green A", "green"])?;
    desk.browser.until("#squares", |text| {
        text.contains("lb1") && text.contains("active") && text.contains("standby")
    })?;

    let at = now_ns();
    desk.pair.nodes[0].failover()?;
    desk.squares(["green", "green A"])?;
    let seen = Duration::from_nanos(now_ns() - at);
    println_figure("a failover was on the page", seen);
    desk.pair.nodes[1].failover()?;
    desk.squares(["green A", "green"])?;

    // A node that is off.
    desk.pair.nodes[0].cut(Cut::Both);
    desk.pair.nodes[0].kill()?;
    let at = now_ns();
    desk.pair.nodes[1].wait_role(Role::Active, PATIENCE)?;
    // The way to the page went with no port: it is the other node's.
    desk.squares(["red", "green A"])?;
    println_figure("a dead node was red", Duration::from_nanos(now_ns() - at));
    desk.browser
        .until("#unguarded", |text| text.contains("lb1 is not heard"))?;
    desk.pair.nodes[0].cut(Cut::Nothing);
    desk.pair.nodes[0].start()?;
    desk.squares(["green", "green A"])?;

    // Put aside by a person.
    desk.pair.nodes[0].command(&["maintenance", "on"])?;
    desk.squares(["blue", "green A"])?;
    desk.pair.nodes[0].command(&["resume"])?;
    desk.squares(["green", "green A"])?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a figure for whoever runs the test")]
fn println_figure(what: &str, after: Duration) {
    println!("{what} after {after:?}");
}

fn failover() -> Result<()> {
    let desk = Desk::set_up()?;
    let active = desk.pair.active()?;
    desk.log_in(SHARED_FRONT, active)?;
    let load = Load::start(&desk.pair.client, SERVICE, CONNECTIONS)?;
    let browser = &desk.browser;
    browser.click("#nav-operate")?;
    browser.click("#do-failover")?;
    // Nothing has happened yet, and it says what will.
    browser.until("#consequences", |text| text.contains("becomes active"))?;
    ensure!(
        desk.pair.active()? == active,
        "it did not wait for the answer"
    );
    browser.click("#confirm")?;
    let other = desk.pair.nodes.get(1 - active).context("two nodes")?;
    other.wait_role(Role::Active, PATIENCE)?;
    // What was open before it goes on after it.
    let at = now_ns();
    load.fault_at(at);
    let (tcp, _udp) = load.finish(at, PATIENCE)?;
    ensure!(
        tcp.connections >= CONNECTIONS && tcp.survived == tcp.connections,
        "{tcp:?}"
    );
    // The history of the node that he clicked at names him.
    let clicked = desk.pair.nodes.get(active).context("two nodes")?;
    until("the history names him", || {
        let text = clicked.command(&["events", "--json", "--limit", "200"])?;
        Ok(text.contains("carol") && text.contains("failover"))
    })
}

fn edit() -> Result<()> {
    let mut desk = Desk::set_up()?;
    let active = desk.pair.active()?;
    desk.log_in(SHARED_FRONT, active)?;
    let browser = &desk.browser;
    let partner = desk.pair.nodes.get(1 - active).context("two nodes")?;

    // A bad value is refused with the file's own words, and stays in the form.
    browser.goto(&url(SHARED_FRONT, "/services/edit/web"))?;
    let before = partner.command(&["config", "show"])?;
    browser.fill("#f-real-0-weight", "heavy")?;
    browser.click("#service-preview")?;
    browser.until("#refusal", |text| text.contains("heavy"))?;
    let kept = browser.script(
        "return document.querySelector('#f-real-0-weight').value;",
        Vec::new(),
    )?;
    ensure!(kept == "heavy", "the form forgot what was typed: {kept}");
    ensure!(partner.command(&["config", "show"])? == before);

    // A good one: first what it changes, then the change, then the partner has it.
    browser.fill("#f-real-0-weight", "7")?;
    browser.click("#service-preview")?;
    browser.until("#diff", |text| text.contains("weight: 7"))?;
    ensure!(
        partner.command(&["config", "show"])? == before,
        "a preview changed something"
    );
    browser.click("#apply")?;
    browser.until("#notice", |text| !text.is_empty())?;
    let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
    while !partner.command(&["config", "show"])?.contains("weight: 7") {
        ensure!(now_ns() < end, "the partner has not taken it");
        std::thread::sleep(Duration::from_millis(50));
    }
    desk.pair.wait_in_sync()?;

    // At the standby's own address nothing of the pair can be changed.
    desk.log_in(front_of(1 - active), 1 - active)?;
    desk.browser
        .until("#own-address", |text| text.contains("own address"))?;
    desk.browser
        .goto(&url(front_of(1 - active), "/services/edit/web"))?;
    let form = desk.browser.text("#service-preview")?;
    ensure!(
        form.is_none(),
        "services can be edited at a node's own address"
    );
    let (active, _standby) = desk.nodes()?;
    ensure!(active.command(&["config", "show"])?.contains("weight: 7"));
    Ok(())
}

/// In both themes and at a phone's width: a picture, nothing that somebody could not use, nothing from
/// elsewhere, nothing wider than the window.
fn pages() -> Result<()> {
    let desk = Desk::set_up()?;
    let active = desk.pair.active()?;
    let axe = std::fs::read_to_string(browser::axe()?)?;
    desk.log_in(SHARED_FRONT, active)?;
    let screens = screens()?;
    let browser = &desk.browser;
    let mut faults = Vec::new();
    for theme in [Theme::Light, Theme::Dark] {
        browser.theme(theme)?;
        for (name, path) in PAGES {
            for (width, height) in [(1280, 900), (390, 844)] {
                browser.size(width, height)?;
                browser.goto(&url(SHARED_FRONT, path))?;
                browser.until("#squares", |text| text.contains("active"))?;
                let shade = if theme == Theme::Light {
                    "light"
                } else {
                    "dark"
                };
                browser.picture(&screens.join(format!("{name}-{shade}-{width}.png")))?;
                for finding in browser.inaccessible(&axe)? {
                    faults.push(format!("{name}, {theme:?}, {width}: {finding}"));
                }
                let wide = browser.script(
                    "return document.documentElement.scrollWidth - innerWidth;",
                    Vec::new(),
                )?;
                if wide.as_i64().is_none_or(|wide| wide > 0) {
                    faults.push(format!("{name}, {theme:?}, {width}: {wide} px too wide"));
                }
                let foreign = browser.script(
                    "return performance.getEntriesByType('resource').map(e => e.name)
                        .filter(name => !name.startsWith(location.origin + '/'));",
                    Vec::new(),
                )?;
                if foreign != serde_json::json!([]) {
                    faults.push(format!("{name}: asks for {foreign}"));
                }
            }
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    // What is there at the door.
    browser.goto(&url(SHARED_FRONT, "/"))?;
    browser.click("#logout")?;
    browser.until("#entry-form", |text| text.contains("Name"))?;
    browser.picture(&screens.join("login.png"))?;
    let found = browser.inaccessible(&axe)?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

fn without_scripting() -> Result<()> {
    let desk = Desk::set_up()?;
    let active = desk.pair.active()?;
    let browser = &desk.browser;
    desk.log_in(SHARED_FRONT, active)?;
    browser.scripting(false)?;
    for (name, path) in PAGES {
        browser.goto(&url(SHARED_FRONT, path))?;
        // WebDriver's own words, since no script runs.
        let shown = browser.source()?;
        ensure!(
            shown.contains("id=\"squares\"") && shown.contains("green"),
            "{name}: {shown}"
        );
    }
    browser.goto(&url(SHARED_FRONT, "/operate"))?;
    browser.click("#do-maintenance")?;
    ensure!(browser.source()?.contains("id=\"consequences\""));
    browser.click("#cancel")?;
    Ok(())
}

/// Where pictures go.
fn screens() -> Result<PathBuf> {
    Ok(locate::tools()?.with_file_name("screens"))
}

fn front_of(node: usize) -> Ipv4Addr {
    config::front(if node == 0 { 1 } else { 2 })
}
