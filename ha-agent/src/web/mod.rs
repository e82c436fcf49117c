//! What the agent serves over HTTP to who looks on: metrics and health to programs, a [`page`] to people.
//!
//! Plain HTTP, no login, nothing can be changed: `/metrics` for Prometheus, `/healthz`, `/readyz` and `/active` for
//! balancers in front of the pair. The page has TLS and users. [`listen`] bounds what clients can take; the election
//! knows nothing of them.

pub mod health;
pub mod listen;
pub mod metrics;
pub mod page;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub use health::Health;

/// What is looked at.
pub trait Watched: Send + Sync + 'static {
    /// How the node is.
    fn health(&self) -> Health;
    /// All metrics as text. Reads maps: not for a thread that others wait for.
    fn metrics(&self) -> Result<String, String>;
}

/// The resources for programs that look on.
pub fn router<W: Watched>(watched: &Arc<W>) -> Router {
    let health = |judge: fn(&Health) -> Result<String, String>| {
        let watched = Arc::clone(watched);
        get(move || async move { verdict(judge(&watched.health())) })
    };
    // One scrape at a time: what one costs is known, and more of them at once would only be slower.
    let turn = Arc::new(Semaphore::new(1));
    let measured = Arc::clone(watched);
    let metrics = get(move || async move {
        let Ok(_turn) = turn.acquire().await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "the agent ends");
        };
        match spawn_blocking(move || measured.metrics()).await {
            Ok(Ok(text)) => ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response(),
            Ok(Err(problem)) => plain(StatusCode::INTERNAL_SERVER_ERROR, problem),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    });
    Router::new()
        .route("/metrics", metrics)
        .route("/healthz", health(Health::alive))
        .route("/readyz", health(Health::ready))
        .route("/active", health(Health::active))
        .fallback(|| async {
            let known = "there are /metrics, /healthz, /readyz and /active";
            plain(StatusCode::NOT_FOUND, known)
        })
}

fn verdict(judged: Result<String, String>) -> Response {
    match judged {
        Ok(why) => plain(StatusCode::OK, why),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

fn plain(code: StatusCode, text: impl Display) -> Response {
    // A balancer's answer of a moment ago is no answer.
    let headers = [(header::CACHE_CONTROL, "no-store")];
    (code, headers, format!("{text}\n")).into_response()
}
