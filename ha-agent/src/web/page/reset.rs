//! Factory settings: a node forgets what is its own, and ends.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::change::worse_than_that;
use super::frame::{Frame, answer, refused};
use super::operate::{hand_over, note};
use super::visitor::{Posted, Visitor};
use super::{Page, Reach, Shared, Shown};
use crate::control::{Done, Refusal};
use crate::status::model::{Role, Status};

/// The state of the node that somebody may reset here: at a shared address nobody says which of the two is meant.
pub(super) async fn may<S: Shown>(page: &Page<S>, visitor: &Visitor) -> Result<Status, Refusal> {
    visitor.operates()?;
    let status = page.shown.status().await?;
    if status.partner.is_none() || visitor.reach == Reach::Node {
        return Ok(status);
    }
    Err(Refusal::new(
        "a node of a pair is reset at its own address, not at a shared one",
        "use the page of the node that is meant",
    ))
}

/// Does it for somebody who wrote the node's name, and takes note of that.
pub(super) async fn carry_out<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    named: &str,
    force: bool,
) -> Result<Done, Refusal> {
    let done = attempt(page, may(page, visitor).await?, named, force).await;
    note(page, visitor.who(), "reset", force, &done);
    done
}

async fn attempt<S: Shown>(
    page: &Page<S>,
    status: Status,
    named: &str,
    force: bool,
) -> Result<Done, Refusal> {
    let name = &status.node.name;
    if named != name {
        return Err(Refusal::new(
            format!("nothing was done: this is {name}, not `{named}`"),
            "write the name of the node that is to forget everything",
        ));
    }
    // Whether that can be told at all, before the role is given up.
    page.blocking(|shown| async move { shown.belongings() })
        .await?;
    hand_over(page, &status, force).await?;
    page.blocking(|shown| async move { shown.reset() }).await?;
    Ok(Done::new(format!(
        "the agent of {name} ends, and configuration, keys and state of this node go with it"
    )))
}

/// What will happen, on a node that is like this.
fn consequences(status: &Status) -> Vec<String> {
    let node = &status.node.name;
    let mut all = Vec::new();
    match &status.partner {
        None => all.push(format!("All connections through {node} end.")),
        Some(partner) => {
            let other = partner.name.as_deref().unwrap_or("the partner");
            all.push(if status.role == Role::Active {
                format!(
                    "{other} becomes active and takes the shared addresses. Connections go on; if {other} cannot take over, nothing is done."
                )
            } else {
                format!("{node} is not active, so connections are not touched.")
            });
            all.push(format!(
                "Nobody takes over if {other} fails, until {node} is set up anew."
            ));
        }
    }
    all.push(format!(
        "The agent of {node} ends. This page, its users and its certificate go with it: after that there is the machine's own console."
    ));
    all.push("Nothing of this can be taken back. Make a backup before, and see that the key of the pair is on the other node or kept elsewhere.".to_owned());
    all
}

#[derive(Template)]
#[template(path = "reset.html")]
struct ResetPage {
    frame: Frame,
    consequences: Vec<String>,
    /// What goes.
    paths: Vec<String>,
    /// Whether there is somebody to hand over to.
    paired: bool,
}

#[derive(Template)]
#[template(path = "reset-done.html")]
struct DonePage {
    node: String,
    message: String,
}

/// `POST /reset`: asks; and with the node's name as the answer, does it.
pub(super) async fn act<S: Shown>(State(page): Shared<S>, posted: Posted) -> Response {
    let visitor = &posted.visitor;
    let done = if posted.get("confirmed") == "yes" {
        let force = posted.get("force") == "yes";
        let done = carry_out(&page, visitor, posted.get("node"), force).await;
        done.map(|done| {
            let (node, message) = (posted.get("node").to_owned(), done.message);
            answer(StatusCode::OK, &DonePage { node, message })
        })
    } else {
        ask(&page, visitor).await
    };
    match done {
        Ok(response) => response,
        Err(refusal) => refused(&page, visitor, "backup", StatusCode::CONFLICT, refusal).await,
    }
}

async fn ask<S: Shown>(page: &Page<S>, visitor: &Visitor) -> Result<Response, Refusal> {
    let status = may(page, visitor).await?;
    let paths = page
        .blocking(|shown| async move { shown.belongings() })
        .await?;
    let frame = match Frame::of(page, visitor, "backup").await {
        Ok(frame) => frame,
        Err(worse) => return Ok(worse_than_that(&worse)),
    };
    let asked = ResetPage {
        frame,
        consequences: consequences(&status),
        paths: paths
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        paired: status.partner.is_some(),
    };
    Ok(answer(StatusCode::OK, &asked))
}
