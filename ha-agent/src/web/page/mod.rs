//! The web page of a node: the pair at a glance, over TLS, for users who log in.
//!
//! Everything is rendered here ([`view`] says what, the templates how), so the page can be read without scripting;
//! a small script brings it up to date by server-sent events. It asks nothing of any other server.
//!
//! [`users`] keeps who may log in, [`sessions`] who is, [`tls`] the certificate. There is no default password: as
//! long as there is no user, the log has a link by which one person makes the first.

pub mod sessions;
#[cfg(test)]
mod tests;
mod tls;
pub mod users;
pub mod view;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use askama::Template;
use axum::extract::{ConnectInfo, Form, Query, Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

use self::sessions::{Session, Sessions};
pub use self::tls::acceptor;
use self::users::{Access, Users};
use self::view::{Place, View};
use crate::events::{Entry, Event, Kind};
use crate::shell::clock;
use crate::status::model::{Counters, Services, Status};

/// The cookie of a session. The prefix makes browsers keep it to this host, and to TLS.
const COOKIE: &str = "__Host-ha-agent";
/// How often a page that is looked at is drawn anew.
const DRAW: Duration = Duration::from_millis(250);
/// Events on the page.
const EVENTS: usize = 12;
/// What browsers may do with the page: nothing but show it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Who may come in, and who has.
#[derive(Debug)]
pub struct Door {
    /// Who may.
    pub users: Users,
    /// Who has.
    pub sessions: Sessions,
}

impl Door {
    /// For the users in this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            users: Users::new(state_dir),
            sessions: Sessions::default(),
        }
    }
}

/// What the page shows, and whom it tells what was done.
pub trait Shown: Send + Sync + 'static {
    /// Who may look.
    fn door(&self) -> &Door;
    /// State of node and pair.
    fn status(&self) -> Status;
    /// Virtual services. Reads maps: not for a thread that others wait for.
    fn services(&self) -> Result<Services, String>;
    /// Counters of the data plane. Reads a map.
    fn counters(&self) -> Result<Counters, String>;
    /// The newest events, oldest first.
    fn events(&self, count: usize) -> Vec<Event>;
    /// The machine, and where the partner's page is.
    fn place(&self) -> Place;
    /// Takes note of something.
    fn record(&self, entry: Entry);
}

/// The page of a node.
pub struct Page<S> {
    shown: Arc<S>,
    /// By which the first user is made, as long as there is none.
    setup: Mutex<Option<String>>,
    /// Hashing a password takes time and memory: one at a time.
    hashing: Semaphore,
    /// The part of the page that changes, as it was last drawn.
    drawn: watch::Sender<Arc<str>>,
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
            drawn: watch::Sender::new("".into()),
        })
    }

    /// The path by which the first user is made; none if there is a user.
    pub fn setup_path(&self) -> Option<String> {
        let setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        setup.as_ref().map(|token| format!("/setup?token={token}"))
    }

    /// Its resources.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/", get(home))
            .route("/login", get(login_form).post(login))
            .route("/logout", post(logout))
            .route("/setup", get(setup_form).post(setup))
            .route("/api/v1/status", get(api_status))
            .route("/api/v1/services", get(api_services))
            .route("/api/v1/counters", get(api_counters))
            .route("/api/v1/events", get(api_events))
            .route("/api/v1/live", get(live))
            .route(
                "/assets/style.css",
                get(|| asset("text/css", include_str!("assets/style.css"))),
            )
            .route(
                "/assets/live.js",
                get(|| asset("text/javascript", include_str!("assets/live.js"))),
            )
            .route(
                "/assets/icon.svg",
                get(|| asset("image/svg+xml", include_str!("assets/icon.svg"))),
            )
            .fallback(|| async { plain(StatusCode::NOT_FOUND, "there is nothing here") })
            .layer(middleware::from_fn(same_origin))
            .layer(middleware::from_fn(headers))
            .with_state(Arc::clone(self))
    }

    /// Draws the page anew as long as somebody looks at it, until the future is dropped.
    pub async fn draw(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(DRAW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.drawn.receiver_count() == 0 {
                continue;
            }
            if let Ok(text) = (Live { view: self.view() }).render() {
                self.drawn.send_if_modified(|drawn| {
                    let news = **drawn != *text;
                    if news {
                        *drawn = text.into();
                    }
                    news
                });
            }
        }
    }

    fn view(&self) -> View {
        let events = self.shown.events(EVENTS);
        View::of(&self.shown.status(), &self.shown.place(), &events)
    }

    fn sessions(&self) -> &Sessions {
        &self.shown.door().sessions
    }

    fn session(&self, headers: &HeaderMap) -> Option<Session> {
        self.sessions().find(clock::now(), cookie(headers)?)
    }

    fn note(&self, kind: Kind, who: &str, place: IpAddr, what: &str) {
        let who = format!("web user {who} at {}", place.to_canonical());
        self.shown
            .record(Entry::new(kind, who, what).with("command", what));
    }
}

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    view: View,
    user: String,
    access: &'static str,
    csrf: String,
}

#[derive(Template)]
#[template(path = "live.html")]
struct Live {
    view: View,
}

#[derive(Template)]
#[template(path = "entry.html")]
struct Entrance<'a> {
    node: String,
    title: &'a str,
    intro: &'a str,
    problem: String,
    form: bool,
    action: &'a str,
    token: &'a str,
    autocomplete: &'a str,
}

fn answer(code: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (code, Html(text)).into_response(),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn home<S: Shown>(State(page): Shared<S>, headers: HeaderMap) -> Response {
    let Some(session) = page.session(&headers) else {
        return Redirect::to("/login").into_response();
    };
    let home = Home {
        view: page.view(),
        user: session.user,
        access: session.access.as_str(),
        csrf: session.csrf,
    };
    answer(StatusCode::OK, &home)
}

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
    #[serde(default)]
    token: String,
}

fn entrance<S: Shown>(page: &Page<S>, code: StatusCode, problem: &str) -> Response {
    // As it was when the page was opened, and since somebody used the link.
    let none = page.setup_path().is_some();
    let entrance = Entrance {
        node: page.shown.status().node.name,
        title: "Log in",
        intro: if none {
            "Nobody can log in yet. The agent's log has a link by which the first user is made."
        } else {
            "Log in to look at this node."
        },
        problem: problem.to_owned(),
        form: !none,
        action: "/login",
        token: "",
        autocomplete: "current-password",
    };
    answer(code, &entrance)
}

async fn login_form<S: Shown>(State(page): Shared<S>, headers: HeaderMap) -> Response {
    if page.session(&headers).is_some() {
        return Redirect::to("/").into_response();
    }
    entrance(&page, StatusCode::OK, "")
}

async fn login<S: Shown>(
    State(page): Shared<S>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Form(given): Form<Credentials>,
) -> Response {
    let place = from.ip();
    let Ok(_turn) = page.hashing.acquire().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the agent ends");
    };
    if !page.sessions().may_try(clock::now(), place) {
        let problem = "Too many wrong passwords. Wait five minutes.";
        return entrance(&page, StatusCode::TOO_MANY_REQUESTS, problem);
    }
    let (asked, name) = (Arc::clone(&page), given.name.clone());
    let verified = spawn_blocking(move || {
        asked
            .shown
            .door()
            .users
            .verify(&given.name, &given.password)
    })
    .await;
    let Ok(Ok(Some(access))) = verified else {
        page.sessions().failed(clock::now(), place);
        let name: String = name.chars().filter(|c| !c.is_control()).take(32).collect();
        page.note(Kind::CommandRefused, &name, place, "log in");
        return entrance(
            &page,
            StatusCode::UNAUTHORIZED,
            "Name or password is wrong.",
        );
    };
    page.note(Kind::Command, &name, place, "log in");
    enter(&page, &name, access)
}

/// Begins a session and shows the page.
fn enter<S: Shown>(page: &Page<S>, name: &str, access: Access) -> Response {
    let Some(token) = page.sessions().begin(clock::now(), name, access) else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers");
    };
    with_cookie(&format!(
        "{token}; Path=/; Secure; HttpOnly; SameSite=Strict"
    ))
}

fn with_cookie(value: &str) -> Response {
    let mut response = Redirect::to("/").into_response();
    if let Ok(cookie) = HeaderValue::from_str(&format!("{COOKIE}={value}")) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

#[derive(Deserialize)]
struct Signed {
    csrf: String,
}

async fn logout<S: Shown>(
    State(page): Shared<S>,
    headers: HeaderMap,
    Form(given): Form<Signed>,
) -> Response {
    let Some(session) = page.session(&headers) else {
        return Redirect::to("/login").into_response();
    };
    if !sessions::same(&session.csrf, &given.csrf) {
        return plain(
            StatusCode::FORBIDDEN,
            "the form is not of this session; load the page anew",
        );
    }
    if let Some(token) = cookie(&headers) {
        page.sessions().end(token);
    }
    with_cookie("; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0")
}

#[derive(Deserialize)]
struct Invitation {
    #[serde(default)]
    token: String,
}

fn invitation<S: Shown>(page: &Page<S>, code: StatusCode, token: &str, problem: &str) -> Response {
    let entrance = Entrance {
        node: page.shown.status().node.name,
        title: "Make the first user",
        intro: "An operator, who may change everything. The password has at least 12 characters. It is kept by this node alone.",
        problem: problem.to_owned(),
        form: true,
        action: "/setup",
        token,
        autocomplete: "new-password",
    };
    answer(code, &entrance)
}

fn invited<S>(page: &Page<S>, token: &str) -> bool {
    let setup = page.setup.lock().unwrap_or_else(PoisonError::into_inner);
    setup
        .as_ref()
        .is_some_and(|setup| sessions::same(setup, token))
}

async fn setup_form<S: Shown>(State(page): Shared<S>, Query(given): Query<Invitation>) -> Response {
    if !invited(&page, &given.token) {
        return entrance(
            &page,
            StatusCode::FORBIDDEN,
            "This link is not good, or was used.",
        );
    }
    invitation(&page, StatusCode::OK, &given.token, "")
}

async fn setup<S: Shown>(
    State(page): Shared<S>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Form(given): Form<Credentials>,
) -> Response {
    let Ok(_turn) = page.hashing.acquire().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the agent ends");
    };
    if !invited(&page, &given.token) {
        return entrance(
            &page,
            StatusCode::FORBIDDEN,
            "This link is not good, or was used.",
        );
    }
    let (asked, name, token) = (Arc::clone(&page), given.name.clone(), given.token.clone());
    let made = spawn_blocking(move || {
        let users = &asked.shown.door().users;
        users.add_first(&given.name, Access::Operator, &given.password)
    });
    let problem = match made.await {
        Ok(Ok(())) => {
            *page.setup.lock().unwrap_or_else(PoisonError::into_inner) = None;
            page.note(Kind::Command, &name, from.ip(), "first user made");
            return enter(&page, &name, Access::Operator);
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    invitation(&page, StatusCode::BAD_REQUEST, &token, &problem)
}

/// A JSON answer for who is logged in.
async fn api<S: Shown, T: Serialize + Send + 'static>(
    page: Arc<Page<S>>,
    headers: &HeaderMap,
    read: impl FnOnce(&S) -> Result<T, String> + Send + 'static,
) -> Response {
    if page.session(headers).is_none() {
        return complaint(StatusCode::UNAUTHORIZED, "log in first");
    }
    match spawn_blocking(move || read(&page.shown)).await {
        Ok(Ok(value)) => Json(value).into_response(),
        Ok(Err(problem)) => complaint(StatusCode::INTERNAL_SERVER_ERROR, &problem),
        Err(error) => complaint(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn api_status<S: Shown>(State(page): Shared<S>, headers: HeaderMap) -> Response {
    api(page, &headers, |shown: &S| Ok(shown.status())).await
}

async fn api_services<S: Shown>(State(page): Shared<S>, headers: HeaderMap) -> Response {
    api(page, &headers, S::services).await
}

async fn api_counters<S: Shown>(State(page): Shared<S>, headers: HeaderMap) -> Response {
    api(page, &headers, S::counters).await
}

#[derive(Serialize)]
struct Events {
    schema_version: u32,
    events: Vec<Event>,
}

async fn api_events<S: Shown>(State(page): Shared<S>, headers: HeaderMap) -> Response {
    let read = |shown: &S| {
        Ok(Events {
            schema_version: crate::status::model::SCHEMA_VERSION,
            events: shown.events(crate::events::PAGE_MAX),
        })
    };
    api(page, &headers, read).await
}

/// The page as it changes. Ends when the session does.
async fn live<S: Shown>(State(page): Shared<S>, headers: HeaderMap) -> Response {
    if page.session(&headers).is_none() {
        return complaint(StatusCode::UNAUTHORIZED, "log in first");
    }
    let mut news = page.drawn.subscribe();
    // Also if it is as it was when somebody looked last.
    news.mark_changed();
    let stream = futures_util::stream::unfold((news, page, headers), |state| async {
        let (mut news, page, headers) = state;
        loop {
            news.changed().await.ok()?;
            page.session(&headers)?;
            let text = Arc::clone(&news.borrow_and_update());
            if !text.is_empty() {
                let sent = Sent::default().event("page").data(&text);
                return Some((Ok::<_, Infallible>(sent), (news, page, headers)));
            }
        }
    });
    Sse::new(stream)
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter();
    let pairs = cookies
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

/// What would change something must come from a page of this very host.
async fn same_origin(request: Request, next: Next) -> Response {
    if is_foreign(&request) {
        return plain(StatusCode::FORBIDDEN, "this came from another site");
    }
    next.run(request).await
}

/// Whether a page of another host sent this, as far as browsers tell.
fn is_foreign(request: &Request) -> bool {
    if matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) {
        return false;
    }
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let host = header("host").unwrap_or("");
    header("origin").is_some_and(|origin| origin != format!("https://{host}"))
        || header("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        (
            "permissions-policy",
            "camera=(), microphone=(), geolocation=()",
        ),
        ("strict-transport-security", "max-age=31536000"),
        ("cache-control", "no-store"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn asset(form: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, form)], text).into_response()
}

fn plain(code: StatusCode, text: &str) -> Response {
    (code, format!("{text}\n")).into_response()
}

#[derive(Serialize)]
struct Complaint<'a> {
    error: &'a str,
}

fn complaint(code: StatusCode, error: &str) -> Response {
    (code, Json(Complaint { error })).into_response()
}
