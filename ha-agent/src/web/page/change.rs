//! Changes of the configuration from a page: a form, what it would do, and then the change itself.

use std::path::Path;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};

use super::forms::{self, Field, ha, interfaces};
use super::frame::{Frame, LINKS, answer, refused};
use super::shown::Hardware;
use super::visitor::{Posted, Visitor};
use super::{Page, Shared, Shown};
use crate::config::edit::{self, Edit, Written};
use crate::config::lines::{Fate, Line};
use crate::config::model::Config;
use crate::control::Refusal;
use crate::control::edits::{Apply, Preview, Wanted};
use crate::status::model::InterfaceStatus;

/// The file in place.
pub(super) struct Document {
    /// What it says.
    pub(super) says: Written,
    /// What that means.
    pub(super) config: Config,
    /// Its fingerprint.
    pub(super) base: String,
}

impl Document {
    /// Reads it.
    pub(super) async fn read<S: Shown>(page: &Page<S>) -> Result<Self, Refusal> {
        page.blocking(|shown| async move {
            let (text, base) = shown.written()?;
            let broken = |problems| Refusal {
                problems,
                ..Refusal::new(
                    "the configuration file in place has errors, so there is nothing to fill a form with",
                    "mend the file",
                )
            };
            let loaded = Config::parse(Path::new("(in place)"), text.clone().into_bytes());
            let config = loaded.map_err(broken)?.config;
            let says = edit::read(&text).map_err(|_errors| broken(Vec::new()))?;
            Ok(Self { says, config, base })
        })
        .await
    }

    /// Refuses a form that was made of another file: what its fields say would undo what was changed since.
    pub(super) fn unchanged_since(&self, posted: &Posted) -> Result<(), Refusal> {
        if posted.get("base") == self.base {
            return Ok(());
        }
        Err(Refusal::new(
            "the file was changed since this form was made",
            "nothing was done; see whether the form still says what you mean, and send it again",
        ))
    }
}

#[derive(Template)]
#[template(path = "ha.html")]
struct HaPage {
    frame: Frame,
    base: String,
    own: Vec<Field>,
    pair: Vec<Field>,
    refusal: Option<Refusal>,
}

/// `GET /ha`.
pub(super) async fn ha<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    match Document::read(&page).await {
        Ok(file) => {
            let form = ha::Form::of(&file.says, &file.config);
            ha_form(&page, &visitor, file.base, form, None).await
        }
        Err(refusal) => refused(&page, &visitor, "ha", StatusCode::CONFLICT, refusal).await,
    }
}

async fn ha_form<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    base: String,
    form: ha::Form,
    refusal: Option<Refusal>,
) -> Response {
    let code = code_of(refusal.as_ref());
    match Frame::of(page, visitor, "ha").await {
        Ok(frame) => answer(
            code,
            &HaPage {
                frame,
                base,
                own: form.own,
                pair: form.pair,
                refusal,
            },
        ),
        Err(worse) => worse_than_that(&worse),
    }
}

/// `POST /ha`: what the change would do.
pub(super) async fn change_ha<S: Shown>(State(page): Shared<S>, posted: Posted) -> Response {
    let file = match Document::read(&page).await {
        Ok(file) => file,
        Err(refusal) => {
            return refused(&page, &posted.visitor, "ha", StatusCode::CONFLICT, refusal).await;
        }
    };
    let mut form = ha::Form::of(&file.says, &file.config);
    let mut edits = forms::take(&mut form.own, &posted);
    edits.extend(forms::take(&mut form.pair, &posted));
    let proposed = match file.unchanged_since(&posted) {
        Ok(()) => propose(&page, &posted.visitor, "ha", Wanted::Edits(edits)).await,
        Err(refusal) => Err(refusal),
    };
    match proposed {
        Ok(response) => response,
        Err(refusal) => ha_form(&page, &posted.visitor, file.base, form, Some(refusal)).await,
    }
}

/// An interface as the page shows it.
struct Card {
    form: interfaces::Interface,
    /// What is known of it now.
    facts: Vec<(&'static str, String)>,
}

#[derive(Template)]
#[template(path = "interfaces.html")]
struct InterfacesPage {
    frame: Frame,
    base: String,
    interfaces: Vec<Card>,
    /// One that is not there yet.
    fresh: interfaces::Interface,
    refusal: Option<Refusal>,
}

/// `GET /interfaces`.
pub(super) async fn interfaces<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    match Document::read(&page).await {
        Ok(file) => {
            let form = interfaces::Form::of(&file.says);
            interfaces_form(&page, &visitor, file.base, form, None).await
        }
        Err(refusal) => refused(&page, &visitor, "interfaces", StatusCode::CONFLICT, refusal).await,
    }
}

async fn interfaces_form<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    base: String,
    form: interfaces::Form,
    refusal: Option<Refusal>,
) -> Response {
    let code = code_of(refusal.as_ref());
    let facts = page.blocking(|shown| async move {
        let hardware = shown.hardware();
        Ok((shown.status().await?.interfaces, hardware))
    });
    let (frame, facts) = (Frame::of(page, visitor, "interfaces").await, facts.await);
    let (frame, (states, hardware)) = match (frame, facts) {
        (Ok(frame), Ok(facts)) => (frame, facts),
        (Err(worse), _) | (_, Err(worse)) => return worse_than_that(&worse),
    };
    let shown = form.interfaces.into_iter().map(|form| {
        let state = states.iter().find(|state| state.name == form.name);
        let hardware = hardware.iter().find(|(name, _)| *name == form.name);
        let facts = state.map(|state| facts_of(state, hardware.map(|(_, hardware)| hardware)));
        Card {
            facts: facts.unwrap_or_default(),
            form,
        }
    });
    answer(
        code,
        &InterfacesPage {
            frame,
            base,
            interfaces: shown.collect(),
            fresh: form.fresh,
            refusal,
        },
    )
}

fn facts_of(state: &InterfaceStatus, hardware: Option<&Hardware>) -> Vec<(&'static str, String)> {
    let unknown = || "not known".to_owned();
    let hardware = hardware.cloned().unwrap_or_default();
    let speed = hardware.speed.map(|speed| match hardware.duplex {
        Some(duplex) => format!("{speed} Mbit/s, {duplex} duplex"),
        None => format!("{speed} Mbit/s"),
    });
    let gateway = match state.gateway_reachable {
        Some(true) => "answers",
        Some(false) => "does not answer",
        None => "none, or not known yet",
    };
    vec![
        ("Link", if state.carrier { "up" } else { "down" }.to_owned()),
        ("Speed", speed.unwrap_or_else(unknown)),
        (
            "MTU",
            hardware.mtu.map_or_else(unknown, |mtu| mtu.to_string()),
        ),
        ("XDP", state.xdp_mode.as_str().to_owned()),
        ("Gateway", gateway.to_owned()),
    ]
}

/// `POST /interfaces`: what the change would do.
pub(super) async fn change_interfaces<S: Shown>(
    State(page): Shared<S>,
    posted: Posted,
) -> Response {
    let file = match Document::read(&page).await {
        Ok(file) => file,
        Err(refusal) => {
            let code = StatusCode::CONFLICT;
            return refused(&page, &posted.visitor, "interfaces", code, refusal).await;
        }
    };
    let mut form = interfaces::Form::of(&file.says);
    let edits = form.take(&posted);
    let proposed = match file.unchanged_since(&posted) {
        Ok(()) => propose(&page, &posted.visitor, "interfaces", Wanted::Edits(edits)).await,
        Err(refusal) => Err(refusal),
    };
    match proposed {
        Ok(response) => response,
        Err(refusal) => {
            interfaces_form(&page, &posted.visitor, file.base, form, Some(refusal)).await
        }
    }
}

/// Whether this may be changed at a node's own address: what is its own, and the pair's parameters.
pub(super) fn is_local(wanted: &Wanted) -> bool {
    use crate::config::backup::Part;
    let local = |edit: &Edit| {
        let section = edit.path.first().map(String::as_str);
        matches!(section, Some("node" | "ha" | "shared_addresses"))
    };
    match wanted {
        Wanted::Edits(edits) => edits.iter().all(local),
        Wanted::Text(_) => false,
        Wanted::Restore { parts, .. } => {
            !parts.is_empty() && parts.iter().all(|part| *part == Part::Node)
        }
    }
}

/// Whether somebody may ask for a change at all.
pub(super) fn may(visitor: &Visitor, wanted: &Wanted) -> Result<(), Refusal> {
    visitor.operates()?;
    if is_local(wanted) {
        return Ok(());
    }
    visitor.reaches_pair()
}

#[derive(Template)]
#[template(path = "change.html")]
struct ChangePage {
    frame: Frame,
    preview: Preview,
    /// The change, to be sent back.
    wanted: String,
    back: &'static str,
}

impl ChangePage {
    fn sign(line: &Line) -> &'static str {
        match line.fate {
            Fate::Same => " ",
            Fate::Gone => "-",
            Fate::New => "+",
            Fate::Skipped => "⋯",
        }
    }

    fn class(line: &Line) -> &'static str {
        match line.fate {
            Fate::Same => "same",
            Fate::Gone => "gone",
            Fate::New => "new",
            Fate::Skipped => "skipped",
        }
    }
}

/// Shows what a change would do, with a button that makes it.
pub(super) async fn propose<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    current: &'static str,
    wanted: Wanted,
) -> Result<Response, Refusal> {
    may(visitor, &wanted)?;
    let text = serde_json::to_string(&wanted);
    let text = text.map_err(|error| Refusal::new(error.to_string(), "see the agent's log"))?;
    let preview = page
        .blocking(move |shown| async move { shown.preview(&wanted) })
        .await?;
    let frame = Frame::of(page, visitor, current).await?;
    let back = LINKS.iter().find(|link| link.id == current);
    Ok(answer(
        StatusCode::OK,
        &ChangePage {
            frame,
            preview,
            wanted: text,
            back: back.map_or("/", |link| link.href),
        },
    ))
}

/// `POST /change`: makes a change that was looked at.
pub(super) async fn apply<S: Shown>(State(page): Shared<S>, posted: Posted) -> Response {
    let visitor = &posted.visitor;
    let back = LINKS.iter().find(|link| link.href == posted.get("back"));
    let (href, current) = back.map_or(("/", "home"), |link| (link.href, link.id));
    match make(&page, &posted).await {
        Ok(notice) => {
            if let Some(session) = &visitor.session {
                page.sessions().tell(session, notice);
            }
            Redirect::to(href).into_response()
        }
        Err(refusal) => refused(&page, visitor, current, StatusCode::CONFLICT, refusal).await,
    }
}

async fn make<S: Shown>(page: &Page<S>, posted: &Posted) -> Result<String, Refusal> {
    let wanted: Wanted = serde_json::from_str(posted.get("wanted"))
        .map_err(|error| Refusal::new(format!("not a change: {error}"), "begin with the form"))?;
    may(&posted.visitor, &wanted)?;
    let order = Apply {
        base: posted.get("base").to_owned(),
        restart: posted.get("restart") == "yes",
        wanted,
    };
    let who = posted.visitor.who();
    let applied = page
        .blocking(move |shown| async move { shown.apply(&who, &order) })
        .await?;
    let later = if applied.restart.is_empty() {
        ""
    } else {
        " It is in force after a restart: of the standby first, then of the other node."
    };
    Ok(format!(
        "Done: version {} of the configuration.{later}",
        applied.generation
    ))
}

fn code_of(refusal: Option<&Refusal>) -> StatusCode {
    match refusal {
        None => StatusCode::OK,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// Not even a page can be made.
pub(super) fn worse_than_that(refusal: &Refusal) -> Response {
    super::gate::plain(StatusCode::INTERNAL_SERVER_ERROR, &refusal.what)
}
