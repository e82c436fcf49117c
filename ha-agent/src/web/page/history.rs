//! What has happened, newest first.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::change::worse_than_that;
use super::frame::{Frame, answer};
use super::view::Happened;
use super::visitor::Visitor;
use super::{Shared, Shown};
use crate::events::{EventQuery, Kind};

/// Events on a page.
const PAGE: usize = 200;

/// Which events.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    kind: String,
}

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    frame: Frame,
    /// Name, words, whether it is chosen.
    kinds: Vec<(&'static str, String, bool)>,
    events: Vec<(String, Happened)>,
    unreadable: u64,
}

/// `GET /events`.
pub(super) async fn list<S: Shown>(
    State(page): Shared<S>,
    visitor: Visitor,
    Query(wanted): Query<Wanted>,
) -> Response {
    let kind = Kind::ALL.iter().find(|kind| kind.as_str() == wanted.kind);
    let query = EventQuery {
        kind: kind.map(|kind| kind.as_str().to_owned()),
        limit: PAGE,
        ..EventQuery::default()
    };
    let found = page.shown.events(query).await;
    let (frame, found) = match (Frame::of(&page, &visitor, "events").await, found) {
        (Ok(frame), Ok(found)) => (frame, found),
        (Err(worse), _) | (_, Err(worse)) => return worse_than_that(&worse),
    };
    let kinds = Kind::ALL.iter().map(|known| {
        let words = known.as_str().replace('_', " ");
        (known.as_str(), words, Some(known) == kind)
    });
    let events = found.events.iter().rev();
    let shown = EventsPage {
        frame,
        kinds: kinds.collect(),
        events: events
            .map(|event| (event.event.replace('_', " "), Happened::of(event)))
            .collect(),
        unreadable: found.unreadable,
    };
    answer(StatusCode::OK, &shown)
}
