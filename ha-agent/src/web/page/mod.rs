//! The web page of a node: the pair at a glance and everything one does with it, over TLS, for users who log in.
//!
//! Everything is rendered here (the templates are in `ha-agent/templates`), so each page can be read and used without
//! scripting; a small script brings it up to date by server-sent events ([`live`]). It asks nothing of any other server.
//! Pages and the [`api`] call the same functions of the node, which [`Shown`] lists.
//!
//! [`users`] and [`tokens`] keep who may come in, [`sessions`] who has, [`tls`] the certificate; [`visitor`] tells who
//! asks, and [`gate`] holds for every request. There is no default password: as long as there is no user, the log has a
//! link by which one person makes the first.

mod accounts;
mod api;
mod backup;
mod change;
mod chart;
mod connections;
mod diagnosis;
mod entry;
mod forms;
mod frame;
mod gate;
mod history;
mod live;
mod operate;
mod rates;
mod reset;
mod services;
pub mod sessions;
mod shown;
#[cfg(test)]
mod tests;
mod tls;
pub mod tokens;
pub mod users;
mod view;
mod visitor;

use std::path::Path;
use std::sync::{Arc, Mutex};

use askama::Template;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, watch};

use self::frame::{Frame, answer};
use self::live::Drawn;
use self::rates::Meter;
use self::sessions::{Sessions, held};
pub use self::shown::{Hardware, Pinged, Place, Power, Reach, Shown};
pub use self::tls::acceptor;
use self::tokens::Tokens;
use self::users::Users;
use self::view::View;
use self::visitor::Visitor;
use crate::control::Refusal;

/// Events that the home page looks through.
const EVENTS: usize = 200;
/// Pages that are brought up to date at the same time.
const WATCHERS: usize = 64;
/// Longest body of a request, in bytes.
const BODY_MAX: usize = 64 << 10;
/// The same where a whole configuration may be in it.
const CONFIG_MAX: usize = 4 << 20;

/// Who may come in, and who has.
#[derive(Debug)]
pub struct Door {
    /// Who may.
    pub users: Users,
    /// Which scripts may.
    pub tokens: Tokens,
    /// Who has.
    pub sessions: Sessions,
}

impl Door {
    /// For those in this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            users: Users::new(state_dir),
            tokens: Tokens::new(state_dir),
            sessions: Sessions::default(),
        }
    }
}

/// The page of a node.
pub struct Page<S> {
    shown: Arc<S>,
    /// By which the first user is made, as long as there is none.
    setup: Mutex<Option<String>>,
    /// Hashing a password takes time and memory: one at a time.
    hashing: Semaphore,
    /// Reading a part of the connection table: one at a time.
    scanning: Semaphore,
    /// Checks and echoes: one at a time.
    looking: Semaphore,
    /// Those who are told of changes.
    watchers: Arc<Semaphore>,
    /// What they are told.
    drawn: watch::Sender<Arc<Drawn>>,
    meter: Meter,
}

type Shared<S> = State<Arc<Page<S>>>;

impl<S: Shown> Page<S> {
    /// A page. Looks for users, so it may wait for a disk.
    pub fn new(shown: Arc<S>) -> Arc<Self> {
        let setup = shown.door().users.is_empty().then(sessions::secret);
        let setup = setup.flatten();
        Arc::new(Self {
            shown,
            setup: Mutex::new(setup),
            hashing: Semaphore::new(1),
            scanning: Semaphore::new(1),
            looking: Semaphore::new(1),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
            drawn: watch::Sender::default(),
            meter: Meter::default(),
        })
    }

    /// The path by which the first user is made; none if there is a user.
    pub fn setup_path(&self) -> Option<String> {
        let mut setup = held(&self.setup);
        // Somebody may have made a user by the command. The small file is read only as long as there was none.
        if setup.is_some() && !self.shown.door().users.is_empty() {
            *setup = None;
        }
        setup.as_ref().map(|token| format!("/setup?token={token}"))
    }

    /// Its resources.
    pub fn router(self: &Arc<Self>) -> Router {
        let large = || DefaultBodyLimit::max(CONFIG_MAX);
        Router::new()
            .route("/", get(home))
            .route("/login", get(entry::login_form).post(entry::login))
            .route("/logout", post(entry::logout))
            .route("/setup", get(entry::setup_form).post(entry::setup))
            .route("/ha", get(change::ha).post(change::change_ha))
            .route(
                "/interfaces",
                get(change::interfaces).post(change::change_interfaces),
            )
            .route("/change", post(change::apply).layer(large()))
            .route("/services", get(services::list))
            .route("/services/new", get(services::new).post(services::add))
            .route("/services/quick", post(services::quick))
            .route(
                "/services/edit/{name}",
                get(services::edit).post(services::update),
            )
            .route("/connections", get(connections::list))
            .route("/operate", get(operate::list))
            .route("/operate/{deed}", post(operate::act))
            .route("/diagnosis", get(diagnosis::form))
            .route("/diagnosis/checks", post(diagnosis::checks))
            .route("/diagnosis/ping", post(diagnosis::ping))
            .route("/events", get(history::list))
            .route("/backup", get(backup::form))
            .route("/backup/file", get(backup::download))
            .route("/backup/restore", post(backup::restore).layer(large()))
            .route("/reset", post(reset::act))
            .route("/users", get(accounts::list).post(accounts::change))
            .merge(api::routes().layer(large()))
            .merge(assets())
            .fallback(|| async { gate::plain(StatusCode::NOT_FOUND, "there is nothing here") })
            .layer(DefaultBodyLimit::max(BODY_MAX))
            .layer(middleware::from_fn(gate::same_origin))
            .layer(middleware::from_fn(gate::headers))
            .with_state(Arc::clone(self))
    }

    /// What the home page shows.
    async fn view(&self) -> Result<View, Refusal> {
        let status = self.shown.status().await?;
        let events = self.shown.recent(EVENTS);
        let rates = self.meter.read();
        Ok(View::of(&status, &self.shown.place(), &events, &rates))
    }

    fn sessions(&self) -> &Sessions {
        &self.shown.door().sessions
    }
}

/// Style and script: the same for everybody, also for who is not logged in.
fn assets<S: Shown>() -> Router<Arc<Page<S>>> {
    let asset = |kind: &'static str, text: &'static str| {
        get(move || async move {
            let headers = [
                (header::CONTENT_TYPE, kind),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, text).into_response()
        })
    };
    Router::new()
        .route(
            "/assets/style.css",
            asset("text/css; charset=utf-8", include_str!("assets/style.css")),
        )
        .route(
            "/assets/live.js",
            asset(
                "text/javascript; charset=utf-8",
                include_str!("assets/live.js"),
            ),
        )
        .route(
            "/assets/icon.svg",
            asset("image/svg+xml", include_str!("assets/icon.svg")),
        )
}

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    frame: Frame,
    view: View,
}

/// `GET /`.
async fn home<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    match page.view().await {
        Ok(view) => {
            let frame = Frame::around(&page, &visitor, "home", &view);
            answer(StatusCode::OK, &Home { frame, view })
        }
        Err(worse) => change::worse_than_that(&worse),
    }
}
