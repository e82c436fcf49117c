//! The connection table, page by page. No request reads more than a part of it.

use std::net::IpAddr;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::change::worse_than_that;
use super::frame::{Frame, answer, refused};
use super::view::{duration, number};
use super::visitor::Visitor;
use super::{Page, Shared, Shown};
use crate::control::Refusal;
use crate::status::model::{ConnectionPage, ConnectionQuery};

/// Connections of a page.
pub(super) const PAGE: usize = 100;
/// Entries of the table that one request looks at, at most.
pub(super) const LOOK: u64 = 131_072;

/// What is looked for. A number that is none is nothing that is looked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Search {
    service: String,
    client: String,
    real: String,
    state: String,
    from: String,
}

impl Search {
    fn query(&self) -> Result<ConnectionQuery, Refusal> {
        let some = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let address = |text: &str| -> Result<Option<IpAddr>, Refusal> {
            some(text)
                .map(|text| text.parse())
                .transpose()
                .map_err(|_no_address| {
                    Refusal::new(
                        "a client and a real server are found by their IP address",
                        "write it as 192.0.2.1 or 2001:db8::1, without a port",
                    )
                })
        };
        Ok(ConnectionQuery {
            service: some(&self.service),
            client: address(&self.client)?,
            state: some(&self.state),
            real: address(&self.real)?,
            limit: PAGE,
            offset: 0,
            from: Some(self.from.parse().unwrap_or(0)),
            look: Some(LOOK),
        })
    }
}

/// Reads a page of the table.
pub(super) async fn read<S: Shown>(
    page: &Page<S>,
    query: ConnectionQuery,
) -> Result<ConnectionPage, Refusal> {
    let Ok(_turn) = page.scanning.acquire().await else {
        return Err(Refusal::new("the agent ends", "ask the partner"));
    };
    page.blocking(|shown| async move { shown.connections(query).await })
        .await
}

/// A connection as it is shown.
struct Row {
    service: String,
    protocol: String,
    client: String,
    shared: String,
    real: String,
    state: String,
    age: String,
    idle: String,
    notes: &'static str,
}

#[derive(Template)]
#[template(path = "connections.html")]
struct ConnectionsPage {
    frame: Frame,
    search: Search,
    services: Vec<String>,
    established: String,
    rows: Vec<Row>,
    /// Where the next page begins; empty at the end of the table.
    next: String,
    begun: bool,
    refusal: Option<Refusal>,
}

/// `GET /connections`.
pub(super) async fn list<S: Shown>(
    State(page): Shared<S>,
    visitor: Visitor,
    Query(search): Query<Search>,
) -> Response {
    if let Err(refusal) = visitor.reaches_pair() {
        return refused(
            &page,
            &visitor,
            "connections",
            StatusCode::FORBIDDEN,
            refusal,
        )
        .await;
    }
    let found = match search.query() {
        Ok(query) => read(&page, query).await,
        Err(refusal) => Err(refusal),
    };
    let status = page.shown.status().await;
    let frame = Frame::of(&page, &visitor, "connections").await;
    let services = page.blocking(|shown| async move { shown.services().await });
    let (frame, status, services) = match (frame, status, services.await) {
        (Ok(frame), Ok(status), Ok(services)) => (frame, status, services),
        (Err(worse), ..) | (_, Err(worse), _) | (.., Err(worse)) => return worse_than_that(&worse),
    };
    let (found, refusal) = match found {
        Ok(found) => (Some(found), None),
        Err(refusal) => (None, Some(refusal)),
    };
    let next = found.as_ref().and_then(|found| found.next);
    let rows = found.into_iter().flat_map(|found| found.connections);
    let rows = rows.map(|connection| Row {
        service: connection.service.unwrap_or_default(),
        protocol: connection.protocol,
        client: connection.client.to_string(),
        shared: connection.shared.to_string(),
        real: connection.real.to_string(),
        state: connection.state,
        age: duration(connection.age_seconds),
        idle: duration(connection.idle_seconds),
        notes: match (connection.replicated, connection.reconstructed) {
            (true, _) => "from the partner",
            (false, true) => "rebuilt",
            (false, false) => "",
        },
    });
    let code = if refusal.is_some() {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::OK
    };
    let shown = ConnectionsPage {
        frame,
        begun: search.from.parse::<u64>().is_ok_and(|from| from > 0),
        search,
        services: services
            .services
            .into_iter()
            .map(|service| service.name)
            .collect(),
        established: number(status.connections.established),
        rows: rows.collect(),
        next: next.map_or_else(String::new, |next| next.to_string()),
        refusal,
    };
    answer(code, &shown)
}
