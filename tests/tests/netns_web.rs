//! The web page's API on a live pair: who is asked where, what a change does to both nodes, a failover.

#![expect(
    clippy::indexing_slicing,
    reason = "serde_json gives null for what is not there, which no check here takes"
)]

mod common;

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::status::model::Role;
use ha_tests::clock::{PATIENCE, until};
use ha_tests::rig::config::{self, PairConfig, SHARED_FRONT};
use ha_tests::rig::pair::{Node, Pair};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PORT: u16 = 8443;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft", "curl"],
        &["ha-agent"],
        &[
            ("a_script_looks_changes_and_fails_over", scripts),
            ("a_reset_is_refused_or_whole", reset),
        ],
    )
}

/// What is asked at an address, from the client: status and answer.
fn ask(
    pair: &Pair,
    at: &str,
    path: &str,
    token: &str,
    body: Option<&Value>,
) -> Result<(u16, String)> {
    let url = format!("https://{at}:{PORT}{path}");
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--max-time",
        "20",
        "--write-out",
        "\n%{http_code}",
    ]);
    curl.args(["--header", &format!("Authorization: Bearer {token}")]);
    if let Some(body) = body {
        curl.args(["--data-binary", &body.to_string()]);
    }
    let said = pair.client.output(curl.arg(url))?;
    let (text, code) = said.rsplit_once('\n').context("a status")?;
    Ok((code.trim().parse()?, text.to_owned()))
}

fn json_of((code, text): (u16, String)) -> Result<Value> {
    ensure!(code == 200, "{code}: {text}");
    Ok(serde_json::from_str(&text)?)
}

/// A token for the API of a node.
fn token(node: &Node) -> Result<String> {
    let said = node.command(&["web", "add-token", "test", "--access", "operator"])?;
    Ok(said.lines().next().context("a token")?.to_owned())
}

/// A pair with pages.
fn whole() -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        node: vec!["web: { listen: '[::]:8443' }"],
        ..PairConfig::default()
    })?;
    pair.start()?;
    Ok(pair)
}

fn scripts() -> Result<()> {
    let pair = whole()?;
    let first = pair.active()?;
    let tokens = [token(&pair.nodes[0])?, token(&pair.nodes[1])?];
    let shared = SHARED_FRONT.to_string();
    let own = [1, 2].map(|node| config::front(node).to_string());

    // Nobody knows strangers; the log has a link for the first user.
    let [one, other] = &own;
    for address in [&shared, one, other] {
        until("the page is served", || {
            Ok(ask(&pair, address, "/login", "", None).is_ok())
        })?;
    }
    ensure!(ask(&pair, &shared, "/api/v1/status", "00", None)?.0 == 401);
    ensure!(pair.nodes[first].log().contains("/setup?token="));

    // At the shared address there is the active node.
    let status = json_of(ask(&pair, &shared, "/api/v1/status", &tokens[first], None)?)?;
    ensure!(
        status["role"] == "active" && status["square"] == "green",
        "{status}"
    );
    let other = 1 - first;
    let refused = ask(&pair, &own[other], "/api/v1/services", &tokens[other], None)?;
    ensure!(
        refused.0 == 403 && refused.1.contains("shared address"),
        "{refused:?}"
    );

    // A change is looked at, made, and taken over by the partner, with everything else of the file as it was.
    let wanted = json!({ "edits": [
        { "path": ["ha", "hold_down"], "value": "2s" },
        { "path": ["virtual_services", "0", "real_servers", "0", "weight"], "value": 0 },
    ] });
    let preview = json_of(ask(
        &pair,
        &shared,
        "/api/v1/config/preview",
        &tokens[first],
        Some(&wanted),
    )?)?;
    ensure!(
        preview["refused"].is_null() && preview["restart"] == json!([]),
        "{preview}"
    );
    ensure!(
        preview["changes"]
            .as_array()
            .is_some_and(|changes| changes.len() == 2),
        "{preview}"
    );
    let before = std::fs::read_to_string(pair.nodes[first].config_file())?;
    let order = json!({ "base": preview["base"], "wanted": wanted });
    let at_standby = ask(
        &pair,
        &own[other],
        "/api/v1/config/apply",
        &tokens[other],
        Some(&order),
    )?;
    ensure!(at_standby.0 == 403, "{at_standby:?}");
    let applied = json_of(ask(
        &pair,
        &shared,
        "/api/v1/config/apply",
        &tokens[first],
        Some(&order),
    )?)?;
    let again = ask(
        &pair,
        &shared,
        "/api/v1/config/apply",
        &tokens[first],
        Some(&order),
    )?;
    ensure!(
        again.0 == 409 && again.1.contains("was changed since"),
        "{again:?}"
    );
    for node in &pair.nodes {
        until("both nodes have the change", || {
            let status = node.status()?;
            let drained = node.services()?.services[0].real_servers[0].weight == 0;
            Ok(drained && json!(status.config_generation) == applied["generation"])
        })?;
    }
    let after = std::fs::read_to_string(pair.nodes[first].config_file())?;
    let kept = before
        .lines()
        .filter(|line| after.lines().any(|other| other == *line))
        .count();
    ensure!(before.lines().count() - kept <= 2, "{before}\n{after}");

    // A standby says that it is one, and takes what is its own.
    let pairs = json!({ "edits": [{ "path": ["ha", "hold_down"], "value": "3s" }] });
    let preview = json_of(ask(
        &pair,
        &own[other],
        "/api/v1/config/preview",
        &tokens[other],
        Some(&pairs),
    )?)?;
    ensure!(
        preview["refused"]["what"]
            .as_str()
            .is_some_and(|what| what.contains("not active")),
        "{preview}"
    );
    let bad = json!({ "edits": [{ "path": ["ha", "timeout"], "value": "soon" }] });
    let refused = ask(
        &pair,
        &shared,
        "/api/v1/config/preview",
        &tokens[first],
        Some(&bad),
    )?;
    ensure!(
        refused.0 == 409 && refused.1.contains("`soon` is not a duration"),
        "{refused:?}"
    );
    let mine = json!({ "edits": [{ "path": ["node", "web", "interfaces"], "value": ["back"] }] });
    let preview = json_of(ask(
        &pair,
        &own[other],
        "/api/v1/config/preview",
        &tokens[other],
        Some(&mine),
    )?)?;
    let order = json!({ "base": preview["base"], "wanted": mine });
    json_of(ask(
        &pair,
        &own[other],
        "/api/v1/config/apply",
        &tokens[other],
        Some(&order),
    )?)?;
    ensure!(
        ask(&pair, &own[other], "/login", "", None).is_err(),
        "the front may not be used any more"
    );

    // Tests, checks and a failover, and who wanted it.
    let found = json_of(ask(&pair, &shared, "/api/v1/doctor", &tokens[first], None)?)?;
    ensure!(
        found["findings"]
            .as_array()
            .is_some_and(|findings| findings.len() > 20),
        "{found}"
    );
    json_of(ask(
        &pair,
        &shared,
        "/api/v1/failover",
        &tokens[first],
        Some(&json!({})),
    )?)?;
    pair.nodes[other].wait_role(Role::Active, PATIENCE)?;
    until("the history says who wanted it", || {
        let told = pair.nodes[first].command(&["events", "--limit", "50"])?;
        Ok(told.contains("failover") && told.contains("token test at"))
    })?;

    // Off is off, also for who has a token.
    pair.nodes[first].command(&["web", "off"])?;
    until("the page is closed", || {
        Ok(ask(&pair, &own[first], "/login", "", None).is_err())
    })?;
    pair.nodes[first].command(&["web", "on"])?;
    until("the page is open", || {
        Ok(ask(&pair, &own[first], "/login", "", None).is_ok())
    })
}

fn reset() -> Result<()> {
    let mut pair = whole()?;
    let active = pair.active()?;
    let token = token(&pair.nodes[active])?;
    let shared = SHARED_FRONT.to_string();
    let own = [1, 2].map(|node| config::front(node).to_string());
    until("the page is served", || {
        Ok(ask(&pair, &shared, "/login", "", None).is_ok())
    })?;
    let path = "/api/v1/node/reset";
    let name = |node: usize| json!({ "node": format!("lb{}", node + 1) });

    // At a shared address, in another node's name, without somebody who takes over, without a file that tells.
    let refused = |pair: &Pair, at: &str, body: &Value, code: u16, words: &str| {
        let said = ask(pair, at, path, &token, Some(body))?;
        ensure!(said.0 == code && said.1.contains(words), "{said:?}");
        let node = &pair.nodes[active];
        ensure!(node.role() == Some(Role::Active) && node.config_file().exists());
        Ok(())
    };
    refused(&pair, &shared, &name(active), 403, "at its own address")?;
    refused(
        &pair,
        &own[active],
        &name(1 - active),
        409,
        "nothing was done: this is lb",
    )?;
    let file = pair.nodes[active].config_file();
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("mode:", "mood:"))?;
    refused(
        &pair,
        &own[active],
        &name(active),
        409,
        "unknown key `mood`",
    )?;
    std::fs::write(&file, &text)?;
    let partner = &mut pair.nodes[1 - active];
    partner.signal(Signal::SIGTERM)?;
    let ended = partner.agent.as_mut().context("no agent")?;
    ensure!(ended.wait(PATIENCE)?.success());
    refused(&pair, &own[active], &name(active), 409, "nothing was done")?;

    // With one it hands over and ends, with nothing left.
    pair.nodes[1 - active].start()?;
    pair.wait_whole()?;
    if pair.active()? != active {
        pair.nodes[1 - active].failover()?;
        pair.wait_whole()?;
    }
    let done = json_of(ask(&pair, &own[active], path, &token, Some(&name(active)))?)?;
    ensure!(
        done["message"]
            .as_str()
            .is_some_and(|done| done.contains("go with it"))
    );
    let node = &mut pair.nodes[active];
    let agent = node.agent.as_mut().context("no agent")?;
    // In order: a service manager that restarts on failure leaves it alone.
    ensure!(agent.wait(PATIENCE)?.success(), "{}", node.log());
    ensure!(!node.config_file().exists() && !node.dir().join("pair.key").exists());
    ensure!(
        std::fs::read_dir(node.dir().join("state"))?
            .next()
            .is_none()
    );
    ensure!(!node.bpf_dir().exists(), "pins are left");
    ensure!(node.log().contains("are gone"), "{}", node.log());
    ensure!(pair.nodes[1 - active].role() == Some(Role::Active));
    Ok(())
}
