//! What is wrong with node, network and pair; and echoes of other hosts.

use std::net::IpAddr;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::change::worse_than_that;
use super::frame::{Frame, answer};
use super::shown::Pinged;
use super::visitor::{Posted, Visitor};
use super::{Page, Shared, Shown};
use crate::control::Refusal;
use crate::doctor::{self, Finding, Verdict};

/// What the checks found.
struct Examined {
    verdict: &'static str,
    class: &'static str,
    /// The worst first.
    findings: Vec<(&'static str, Finding)>,
}

impl Examined {
    fn of(mut findings: Vec<Finding>) -> Self {
        let worst = doctor::worst(&findings);
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
        let findings = findings.into_iter();
        Self {
            verdict: match worst {
                Verdict::Fail => "Something does not work.",
                Verdict::Warn => "Something should be looked at.",
                Verdict::Pass | Verdict::Skip => "All is well.",
            },
            class: class(worst),
            findings: findings
                .map(|finding| (class(finding.verdict), finding))
                .collect(),
        }
    }
}

const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Fail => "bad",
        Verdict::Warn => "fair",
        Verdict::Pass => "good",
        Verdict::Skip => "off",
    }
}

#[derive(Template)]
#[template(path = "diagnosis.html")]
struct DiagnosisPage {
    frame: Frame,
    interfaces: Vec<String>,
    examined: Option<Examined>,
    host: String,
    interface: String,
    /// Of each request: what came of it.
    pinged: Vec<String>,
    refusal: Option<Refusal>,
}

async fn show<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    fill: impl FnOnce(&mut DiagnosisPage),
) -> Response {
    let (frame, status) = (
        Frame::of(page, visitor, "diagnosis").await,
        page.shown.status().await,
    );
    let (frame, status) = match (frame, status) {
        (Ok(frame), Ok(status)) => (frame, status),
        (Err(worse), _) | (_, Err(worse)) => return worse_than_that(&worse),
    };
    let mut shown = DiagnosisPage {
        frame,
        interfaces: status
            .interfaces
            .into_iter()
            .map(|interface| interface.name)
            .collect(),
        examined: None,
        host: String::new(),
        interface: String::new(),
        pinged: Vec::new(),
        refusal: None,
    };
    fill(&mut shown);
    let code = if shown.refusal.is_some() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::OK
    };
    answer(code, &shown)
}

/// `GET /diagnosis`.
pub(super) async fn form<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    show(&page, &visitor, |_| {}).await
}

/// Checks everything; one at a time, since each sends packets.
pub(super) async fn examine<S: Shown>(page: &Page<S>) -> Result<Vec<Finding>, Refusal> {
    let Ok(_turn) = page.looking.acquire().await else {
        return Err(Refusal::new("the agent ends", "ask the partner"));
    };
    page.blocking(|shown| async move { Ok(shown.examine().await) })
        .await
}

/// `POST /diagnosis/checks`.
pub(super) async fn checks<S: Shown>(State(page): Shared<S>, posted: Posted) -> Response {
    let found = examine(&page).await;
    show(&page, &posted.visitor, |shown| match found {
        Ok(findings) => shown.examined = Some(Examined::of(findings)),
        Err(refusal) => shown.refusal = Some(refusal),
    })
    .await
}

/// Asks a host for echoes; one at a time.
pub(super) async fn echo<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    host: &str,
    interface: &str,
) -> Result<Pinged, Refusal> {
    visitor.operates()?;
    let host: IpAddr = host.parse().map_err(|_no_address| {
        Refusal::new("not an IP address", "write it as 192.0.2.1 or 2001:db8::1")
    })?;
    let interface = Some(interface).filter(|name| !name.is_empty());
    let Ok(_turn) = page.looking.acquire().await else {
        return Err(Refusal::new("the agent ends", "ask the partner"));
    };
    page.shown.ping(host, interface).await
}

/// `POST /diagnosis/ping`.
pub(super) async fn ping<S: Shown>(State(page): Shared<S>, posted: Posted) -> Response {
    let (host, interface) = (posted.get("host"), posted.get("interface"));
    let found = echo(&page, &posted.visitor, host, interface).await;
    show(&page, &posted.visitor, |shown| {
        host.clone_into(&mut shown.host);
        interface.clone_into(&mut shown.interface);
        match found {
            Ok(pinged) => {
                let times = pinged.times_ms.into_iter();
                let words = times.map(|time| {
                    time.map_or_else(
                        || "no answer within a second".to_owned(),
                        |ms| format!("{ms:.3} ms"),
                    )
                });
                shown.pinged = words.collect();
            }
            Err(refusal) => shown.refusal = Some(refusal),
        }
    })
    .await
}
