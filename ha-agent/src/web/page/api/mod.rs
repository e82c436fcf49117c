//! The same for programs: `/api/v1`, JSON over HTTP. Pages and API call the same functions; what the one may not do,
//! the other may not.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::change::may;
use super::operate::Deed;
use super::rates::Rate;
use super::visitor::{Caller, Visitor};
use super::{Page, Shared, Shown};
use super::{backup, connections, diagnosis, live, reset as factory};
use crate::config::edit::EDITS_MAX;
use crate::control::edits::{Apply, Wanted};
use crate::control::{Refusal, Reply};
use crate::events::{EventQuery, PAGE_MAX};
use crate::status::model::{ConnectionQuery, SCHEMA_VERSION};

/// What there is, as an `OpenAPI` document.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

macro_rules! operations {
    ($($path:literal $method:ident $handler:path;)+) => {
        /// Method and path of everything there is, as the router has it.
        #[cfg(test)]
        pub(super) const OPERATIONS: &[(&str, &str)] = &[$((stringify!($method), $path),)+];

        /// The routes.
        pub(super) fn routes<S: Shown>() -> Router<Arc<Page<S>>> {
            Router::new()$(.route($path, $method($handler)))+
        }
    };
}

operations! {
    "/api/v1/openapi.json" get document::<S>;
    "/api/v1/status" get status::<S>;
    "/api/v1/services" get services::<S>;
    "/api/v1/rates" get rates::<S>;
    "/api/v1/counters" get counters::<S>;
    "/api/v1/connections" get list_connections::<S>;
    "/api/v1/events" get events::<S>;
    "/api/v1/live" get live::live::<S>;
    "/api/v1/config" get config::<S>;
    "/api/v1/config/preview" post preview::<S>;
    "/api/v1/config/apply" post apply::<S>;
    "/api/v1/backup" get download::<S>;
    "/api/v1/doctor" get doctor::<S>;
    "/api/v1/ping" post ping::<S>;
    "/api/v1/failover" post failover::<S>;
    "/api/v1/maintenance" post maintenance::<S>;
    "/api/v1/resume" post resume::<S>;
    "/api/v1/push" post push::<S>;
    "/api/v1/node/reboot" post reboot::<S>;
    "/api/v1/node/shutdown" post shutdown::<S>;
    "/api/v1/node/reset" post reset::<S>;
}

/// An answer that says why not.
pub(super) fn complaint(code: StatusCode, refusal: &Refusal) -> Response {
    #[derive(Serialize)]
    struct Complaint<'a> {
        error: &'a Refusal,
    }
    (code, Json(Complaint { error: refusal })).into_response()
}

/// Something that can be sent, or why it was not done.
struct Answer<T>(Reply<T>);

impl<T: Serialize> Answer<T> {
    fn respond(self) -> Response {
        match self.0 {
            Ok(value) => Json(value).into_response(),
            Err(refusal) => complaint(StatusCode::CONFLICT, &refusal),
        }
    }
}

fn forbidden(refusal: &Refusal) -> Response {
    complaint(StatusCode::FORBIDDEN, refusal)
}

/// A request's body, as what it must be.
#[expect(
    clippy::result_large_err,
    reason = "the error is the answer, and is sent at once"
)]
fn body<T: DeserializeOwned>(bytes: Result<Bytes, BytesRejection>) -> Result<T, Response> {
    let refuse = |code, what: String| {
        let refusal = Refusal::new(what, "see /api/v1/openapi.json");
        complaint(code, &refusal)
    };
    let bytes = bytes.map_err(|refused| refuse(refused.status(), refused.to_string()))?;
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    // A list would be taken for an object's fields in their order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "not a JSON object".to_owned(),
        ));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn document<S: Shown>(State(_): Shared<S>, _caller: Caller) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

async fn status<S: Shown>(State(page): Shared<S>, _caller: Caller) -> Response {
    Answer(page.shown.status().await).respond()
}

async fn services<S: Shown>(State(page): Shared<S>, Caller(visitor): Caller) -> Response {
    if let Err(refusal) = visitor.reaches_pair() {
        return forbidden(&refusal);
    }
    Answer(
        page.blocking(|shown| async move { shown.services().await })
            .await,
    )
    .respond()
}

#[derive(Serialize)]
struct Hour {
    schema_version: u32,
    /// Now.
    now: Rate,
    /// Seconds between two points of the hour.
    step_seconds: u32,
    /// The last hour, oldest first.
    #[serde(rename = "hour")]
    points: Vec<Rate>,
}

async fn rates<S: Shown>(State(page): Shared<S>, _caller: Caller) -> Response {
    let rates = page.meter.read();
    let hour = Hour {
        schema_version: SCHEMA_VERSION,
        now: rates.all,
        step_seconds: 30,
        points: rates.hour.iter().copied().collect(),
    };
    Answer(Ok(hour)).respond()
}

async fn counters<S: Shown>(State(page): Shared<S>, _caller: Caller) -> Response {
    Answer(
        page.blocking(|shown| async move { shown.counters().await })
            .await,
    )
    .respond()
}

/// A query's parameters, or why they are none.
#[expect(
    clippy::result_large_err,
    reason = "the error is the answer, and is sent at once"
)]
fn parameters<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Response> {
    query.map(|Query(wanted)| wanted).map_err(|refused| {
        let refusal = Refusal::new(refused.body_text(), "see /api/v1/openapi.json");
        complaint(StatusCode::BAD_REQUEST, &refusal)
    })
}

/// How many are wanted, of which there may be so many.
fn at_most(most: usize, wanted: Option<usize>, unless: usize) -> Result<usize, Refusal> {
    let wanted = wanted.unwrap_or(unless);
    if wanted <= most {
        return Ok(wanted);
    }
    Err(Refusal::new(
        format!("limit: {wanted} are more than there are at once: {most}"),
        "ask for them page by page",
    ))
}

/// Connections in an answer.
const CONNECTIONS_MAX: usize = 10_000;

/// Which connections.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Connections {
    service: Option<String>,
    client: Option<std::net::IpAddr>,
    real: Option<std::net::IpAddr>,
    state: Option<String>,
    limit: Option<usize>,
    from: u64,
}

async fn list_connections<S: Shown>(
    State(page): Shared<S>,
    Caller(visitor): Caller,
    query: Result<Query<Connections>, QueryRejection>,
) -> Response {
    if let Err(refusal) = visitor.reaches_pair() {
        return forbidden(&refusal);
    }
    let wanted = match parameters(query) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    let limit = match at_most(CONNECTIONS_MAX, wanted.limit, connections::PAGE) {
        Ok(limit) => limit,
        Err(refusal) => return complaint(StatusCode::BAD_REQUEST, &refusal),
    };
    let query = ConnectionQuery {
        service: wanted.service,
        client: wanted.client,
        real: wanted.real,
        state: wanted.state,
        limit,
        offset: 0,
        from: Some(wanted.from),
        look: Some(connections::LOOK),
    };
    Answer(connections::read(&page, query).await).respond()
}

/// Events in an answer, unless a number is given.
const EVENTS: usize = 100;

/// Which events.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Events {
    since: Option<Timestamp>,
    after: Option<u64>,
    kind: Option<String>,
    limit: Option<usize>,
}

async fn events<S: Shown>(
    State(page): Shared<S>,
    _caller: Caller,
    query: Result<Query<Events>, QueryRejection>,
) -> Response {
    let wanted = match parameters(query) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    let limit = match at_most(PAGE_MAX, wanted.limit, EVENTS) {
        Ok(limit) => limit,
        Err(refusal) => return complaint(StatusCode::BAD_REQUEST, &refusal),
    };
    let query = EventQuery {
        since: wanted.since,
        after: wanted.after,
        kind: wanted.kind,
        limit,
    };
    Answer(page.shown.events(query).await).respond()
}

#[derive(Serialize)]
struct Written {
    schema_version: u32,
    /// Number of the version in force.
    generation: u64,
    /// Fingerprint of the file in place.
    base: String,
    /// The file in place.
    text: String,
}

async fn config<S: Shown>(State(page): Shared<S>, Caller(visitor): Caller) -> Response {
    if let Err(refusal) = visitor.operates() {
        return forbidden(&refusal);
    }
    let written = page.blocking(|shown| async move {
        let generation = shown.show_config().await?.generation;
        let (text, base) = shown.written()?;
        Ok(Written {
            schema_version: SCHEMA_VERSION,
            generation,
            base,
            text,
        })
    });
    Answer(written.await).respond()
}

fn bounded(wanted: &Wanted) -> Result<(), Refusal> {
    match wanted {
        Wanted::Edits(edits) if edits.len() > EDITS_MAX => Err(Refusal::new(
            format!("more than {EDITS_MAX} changes at once"),
            "send the whole file instead",
        )),
        Wanted::Edits(_) | Wanted::Text(_) | Wanted::Restore { .. } => Ok(()),
    }
}

async fn preview<S: Shown>(
    State(page): Shared<S>,
    Caller(visitor): Caller,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let wanted: Wanted = match body(bytes) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    if let Err(refusal) = may(&visitor, &wanted).and_then(|()| bounded(&wanted)) {
        return forbidden(&refusal);
    }
    Answer(
        page.blocking(move |shown| async move { shown.preview(&wanted) })
            .await,
    )
    .respond()
}

async fn apply<S: Shown>(
    State(page): Shared<S>,
    Caller(visitor): Caller,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let order: Apply = match body(bytes) {
        Ok(order) => order,
        Err(response) => return response,
    };
    if let Err(refusal) = may(&visitor, &order.wanted).and_then(|()| bounded(&order.wanted)) {
        return forbidden(&refusal);
    }
    let who = visitor.who();
    let applied = page.blocking(move |shown| async move { shown.apply(&who, &order) });
    Answer(applied.await).respond()
}

async fn download<S: Shown>(State(page): Shared<S>, Caller(visitor): Caller) -> Response {
    match backup::file(&page, &visitor).await {
        Ok(response) => response,
        Err(refusal) => forbidden(&refusal),
    }
}

async fn doctor<S: Shown>(State(page): Shared<S>, _caller: Caller) -> Response {
    #[derive(Serialize)]
    struct Examined {
        schema_version: u32,
        verdict: crate::doctor::Verdict,
        findings: Vec<crate::doctor::Finding>,
    }
    let found = diagnosis::examine(&page).await;
    let examined = found.map(|findings| Examined {
        schema_version: SCHEMA_VERSION,
        verdict: crate::doctor::worst(&findings),
        findings,
    });
    Answer(examined).respond()
}

/// Whom to ask for echoes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ping {
    host: String,
    #[serde(default)]
    interface: String,
}

async fn ping<S: Shown>(
    State(page): Shared<S>,
    Caller(visitor): Caller,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let wanted: Ping = match body(bytes) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    if let Err(refusal) = visitor.operates() {
        return forbidden(&refusal);
    }
    Answer(diagnosis::echo(&page, &visitor, &wanted.host, &wanted.interface).await).respond()
}

/// Which node is to forget everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    node: String,
    #[serde(default)]
    force: bool,
}

async fn reset<S: Shown>(
    State(page): Shared<S>,
    Caller(visitor): Caller,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let wanted: Reset = match body(bytes) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    if let Err(refusal) = factory::may(&page, &visitor).await {
        return forbidden(&refusal);
    }
    Answer(factory::carry_out(&page, &visitor, &wanted.node, wanted.force).await).respond()
}

/// How something is done.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Manner {
    force: bool,
}

async fn act<S: Shown>(
    page: &Arc<Page<S>>,
    visitor: &Visitor,
    deed: Deed,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let manner: Manner = match body(bytes) {
        Ok(manner) => manner,
        Err(response) => return response,
    };
    if let Err(refusal) = visitor.operates() {
        return forbidden(&refusal);
    }
    Answer(deed.carry_out(page, visitor, manner.force).await).respond()
}

macro_rules! deeds {
    ($($name:ident = $deed:ident;)+) => {$(
        async fn $name<S: Shown>(
            State(page): Shared<S>,
            Caller(visitor): Caller,
            bytes: Result<Bytes, BytesRejection>,
        ) -> Response {
            act(&page, &visitor, Deed::$deed, bytes).await
        }
    )+};
}

deeds! {
    failover = Failover;
    maintenance = Maintenance;
    resume = Resume;
    push = Push;
    reboot = Reboot;
    shutdown = Shutdown;
}
