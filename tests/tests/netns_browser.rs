//! The web page in a real browser: what an operator sees while things happen, and what the pair does when he
//! clicks. Pictures of every page are left in `target/screens`.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::Role;
use ha_tests::clock::{now_ns, until};
use ha_tests::demo::SERVICE;
use ha_tests::rig::browser::{self, Theme};
use ha_tests::rig::config::SHARED_FRONT;
use ha_tests::rig::desk::{Desk, own, url};
use ha_tests::rig::locate;
use ha_tests::traffic::load::Load;

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
            ("a_failover_by_a_click_loses_nothing", failover),
            ("an_edit_in_the_page_reaches_the_partner", edit),
            ("every_page_is_fit_to_be_used", pages),
            ("pages_do_without_scripting", without_scripting),
            ("a_node_is_reset_on_its_own_page", reset),
        ],
    )
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
    let desk = Desk::set_up()?;
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
    // It comes after what is to be looked at.
    browser.until("#service-preview", |_text| true)?;
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
    let there = own(1 - active);
    desk.log_in(there, 1 - active)?;
    browser.until("#own-address", |text| text.contains("own address"))?;
    browser.goto(&url(there, "/services/edit/web"))?;
    let form = browser.text("#service-preview")?;
    ensure!(
        form.is_none(),
        "services can be edited at a node's own address"
    );
    ensure!(partner.command(&["config", "show"])?.contains("weight: 7"));

    // Its interfaces are its own: another one, as soon as the agent is started again.
    browser.goto(&url(there, "/interfaces"))?;
    browser.fill("#new-name", "side")?;
    browser.fill("#new-device", "side0")?;
    browser.click("#interfaces-preview")?;
    browser.until("#diff", |text| text.contains("name: side"))?;
    browser.click("#restart-agreed")?;
    browser.click("#apply")?;
    browser.until("#notice", |text| text.contains("after a restart"))?;
    browser.until("#interface-side", |_text| true)?;
    let file = std::fs::read_to_string(partner.config_file())?;
    ensure!(file.contains("device: side0"), "{file}");
    Ok(())
}

fn reset() -> Result<()> {
    let mut desk = Desk::set_up()?;
    let standby = 1 - desk.pair.active()?;
    let screens = screens()?;
    desk.log_in(own(standby), standby)?;
    let browser = &desk.browser;
    browser.goto(&url(own(standby), "/backup"))?;
    browser.click("#do-reset")?;
    browser.until("#consequences", |text| {
        text.contains("connections are not touched")
    })?;
    browser.until("#belongings", |text| text.contains("pair.key"))?;
    browser.picture(&screens.join("reset.png"))?;
    let found = browser.inaccessible(&std::fs::read_to_string(browser::axe()?)?)?;
    ensure!(found.is_empty(), "{found:?}");
    let node = desk.pair.nodes.get_mut(standby).context("two nodes")?;
    ensure!(node.role() == Some(Role::Standby), "it was asked only");
    browser.fill("#reset-node", &format!("lb{}", node.number))?;
    browser.click("#confirm")?;
    browser.until("#done", |text| text.contains("go with it"))?;
    browser.picture(&screens.join("reset-done.png"))?;
    let agent = node.agent.as_mut().context("no agent")?;
    ensure!(agent.wait(PATIENCE)?.success(), "not in order");
    ensure!(!node.config_file().exists() && !node.dir().join("pair.key").exists());
    ensure!(
        std::fs::read_dir(node.dir().join("state"))?
            .next()
            .is_none()
    );
    let other = desk.pair.nodes.get(1 - standby).context("two nodes")?;
    ensure!(other.role() == Some(Role::Active));
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
    until("it says what would happen", || {
        Ok(browser.source()?.contains("id=\"consequences\""))
    })?;
    browser.click("#cancel")?;
    Ok(())
}

/// Where pictures go.
fn screens() -> Result<PathBuf> {
    Ok(locate::tools()?.with_file_name("screens"))
}
