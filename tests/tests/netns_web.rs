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
use serde_json::{Value, json};

const PORT: u16 = 8443;

fn main() -> ExitCode {
    common::run(
        &["ip", "nft", "curl"],
        &["ha-agent"],
        &[("a_script_looks_changes_and_fails_over", scripts)],
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

fn scripts() -> Result<()> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_millis(500),
        node: vec!["web: { listen: '[::]:8443' }"],
        ..PairConfig::default()
    })?;
    pair.start()?;
    let first = pair.active()?;
    let tokens = [token(&pair.nodes[0])?, token(&pair.nodes[1])?];
    let shared = SHARED_FRONT.to_string();
    let own = [1, 2].map(|node| config::front(node).to_string());

    // Nobody knows strangers; the log has a link for the first user.
    until("the page is served", || {
        Ok(ask(&pair, &shared, "/login", "", None).is_ok())
    })?;
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
