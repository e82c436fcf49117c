//! Backups of the configuration, and putting one back.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::change::{propose, worse_than_that};
use super::frame::{Frame, answer, refused};
use super::visitor::{Posted, Visitor};
use super::{Page, Reach, Shared, Shown, reset};
use crate::config::backup::Part;
use crate::control::Refusal;
use crate::control::edits::Wanted;

#[derive(Template)]
#[template(path = "backup.html")]
struct BackupPage {
    frame: Frame,
    /// Name, words, whether it is chosen.
    parts: Vec<(&'static str, &'static str, bool)>,
    backup: String,
    /// Whether this is where the node is reset.
    reset: bool,
    refusal: Option<Refusal>,
}

/// Name of a part, what it is, and what it is in the form.
const PARTS: [(Part, &str, &str); 3] = [
    (Part::Node, "node", "This node: interfaces, files, the page"),
    (
        Part::Pair,
        "pair",
        "The pair: HA parameters, shared addresses, limits",
    ),
    (Part::Services, "services", "Virtual services"),
];

async fn show<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    backup: String,
    refusal: Option<Refusal>,
) -> Response {
    let frame = match Frame::of(page, visitor, "backup").await {
        Ok(frame) => frame,
        Err(worse) => return worse_than_that(&worse),
    };
    let code = match &refusal {
        None => StatusCode::OK,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    // What a node's own address is for, and what is the same on both nodes.
    let parts = PARTS
        .iter()
        .filter(|(part, ..)| visitor.reach == Reach::Pair || *part == Part::Node);
    let chosen = |part: Part| (part == Part::Node) == (visitor.reach == Reach::Node);
    let shown = BackupPage {
        frame,
        parts: parts
            .map(|(part, name, words)| (*name, *words, chosen(*part)))
            .collect(),
        backup,
        reset: reset::may(page, visitor).await.is_ok(),
        refusal,
    };
    answer(code, &shown)
}

/// `GET /backup`.
pub(super) async fn form<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    show(&page, &visitor, String::new(), None).await
}

/// A backup as a file.
pub(super) async fn file<S: Shown>(page: &Page<S>, visitor: &Visitor) -> Result<Response, Refusal> {
    visitor.operates()?;
    let text = page.blocking(|shown| async move { shown.backup() }).await?;
    let node = page.shown.status().await?.node.name;
    let name: String = node
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .collect();
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"ha-agent-{name}.backup\""),
        ),
    ];
    Ok((headers, text).into_response())
}

/// `GET /backup/file`.
pub(super) async fn download<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    match file(&page, &visitor).await {
        Ok(response) => response,
        Err(refusal) => refused(&page, &visitor, "backup", StatusCode::FORBIDDEN, refusal).await,
    }
}

/// `POST /backup/restore`: what a restore would do.
pub(super) async fn restore<S: Shown>(State(page): Shared<S>, posted: Posted) -> Response {
    let names: Vec<&str> = posted.all("part").collect();
    let parts = PARTS.iter().filter(|(_, name, _)| names.contains(name));
    let parts: Vec<Part> = parts.map(|(part, ..)| *part).collect();
    let backup = posted.get("backup").to_owned() + "\n";
    let problem = if parts.is_empty() {
        Err(Refusal::new("no part was chosen", "choose what to restore"))
    } else {
        let wanted = Wanted::Restore {
            backup: backup.clone(),
            parts,
        };
        propose(&page, &posted.visitor, "backup", wanted).await
    };
    match problem {
        Ok(response) => response,
        Err(refusal) => show(&page, &posted.visitor, backup, Some(refusal)).await,
    }
}
