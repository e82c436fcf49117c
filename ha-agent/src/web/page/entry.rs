//! Coming in and going out: logging in, making the first user, logging out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use askama::Template;
use axum::extract::{ConnectInfo, Form, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::frame::answer;
use super::gate::plain;
use super::sessions;
use super::users::Access;
use super::visitor::{COOKIE, Posted, Visitor, cookie};
use super::{Page, Shared, Shown};
use crate::events::{Entry, Kind};
use crate::shell::clock;

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

/// What is typed.
#[derive(Deserialize)]
pub(super) struct Credentials {
    name: String,
    password: String,
    #[serde(default)]
    token: String,
}

async fn name_of<S: Shown>(page: &Page<S>) -> String {
    let status = page.shown.status().await;
    status.map_or_else(|_| String::new(), |status| status.node.name)
}

async fn entrance<S: Shown>(page: &Page<S>, code: StatusCode, problem: &str) -> Response {
    // As it was when the page was opened, and since somebody used the link.
    let none = page.setup_path().is_some();
    let entrance = Entrance {
        node: name_of(page).await,
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

/// `GET /login`.
pub(super) async fn login_form<S: Shown>(
    State(page): Shared<S>,
    visitor: Result<Visitor, Response>,
) -> Response {
    if visitor.is_ok() {
        return Redirect::to("/").into_response();
    }
    entrance(&page, StatusCode::OK, "").await
}

/// `POST /login`.
pub(super) async fn login<S: Shown>(
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
        return entrance(&page, StatusCode::TOO_MANY_REQUESTS, problem).await;
    }
    let (asked, name) = (Arc::clone(&page), given.name.clone());
    let verified = spawn_blocking(move || {
        let users = &asked.shown.door().users;
        users.verify(&given.name, &given.password)
    })
    .await;
    let Ok(Ok(Some(access))) = verified else {
        page.sessions().failed(clock::now(), place);
        let name: String = name.chars().filter(|c| !c.is_control()).take(32).collect();
        note(&page, Kind::CommandRefused, &name, place, "log in");
        let problem = "Name or password is wrong.";
        return entrance(&page, StatusCode::UNAUTHORIZED, problem).await;
    };
    note(&page, Kind::Command, &name, place, "log in");
    enter(&page, &name, access)
}

fn note<S: Shown>(page: &Page<S>, kind: Kind, who: &str, place: IpAddr, what: &str) {
    let who = format!("web user {who} at {}", place.to_canonical());
    let entry = Entry::new(kind, who, what).with("command", what);
    page.shown.note(entry);
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

/// `POST /logout`.
pub(super) async fn logout<S: Shown>(
    State(page): Shared<S>,
    headers: HeaderMap,
    _posted: Posted,
) -> Response {
    if let Some(token) = cookie(&headers) {
        page.sessions().end(token);
    }
    with_cookie("; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0")
}

/// What the link brings.
#[derive(Deserialize)]
pub(super) struct Invitation {
    #[serde(default)]
    token: String,
}

async fn invitation<S: Shown>(
    page: &Page<S>,
    code: StatusCode,
    token: &str,
    problem: &str,
) -> Response {
    let entrance = Entrance {
        node: name_of(page).await,
        title: "Make the first user",
        intro: "An operator, who may change everything. The password has at least 12 characters. It is kept by \
                this node alone.",
        problem: problem.to_owned(),
        form: true,
        action: "/setup",
        token,
        autocomplete: "new-password",
    };
    answer(code, &entrance)
}

fn invited<S>(page: &Page<S>, token: &str) -> bool {
    let setup = sessions::held(&page.setup);
    setup
        .as_ref()
        .is_some_and(|setup| sessions::same(setup, token))
}

async fn used<S: Shown>(page: &Page<S>) -> Response {
    let problem = "This link is not good, or was used.";
    entrance(page, StatusCode::FORBIDDEN, problem).await
}

/// `GET /setup`.
pub(super) async fn setup_form<S: Shown>(
    State(page): Shared<S>,
    Query(given): Query<Invitation>,
) -> Response {
    if !invited(&page, &given.token) {
        return used(&page).await;
    }
    invitation(&page, StatusCode::OK, &given.token, "").await
}

/// `POST /setup`.
pub(super) async fn setup<S: Shown>(
    State(page): Shared<S>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Form(given): Form<Credentials>,
) -> Response {
    let Ok(_turn) = page.hashing.acquire().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the agent ends");
    };
    if !invited(&page, &given.token) {
        return used(&page).await;
    }
    let (asked, name, token) = (Arc::clone(&page), given.name.clone(), given.token.clone());
    let made = spawn_blocking(move || {
        let users = &asked.shown.door().users;
        users.add_first(&given.name, Access::Operator, &given.password)
    });
    let problem = match made.await {
        Ok(Ok(())) => {
            *sessions::held(&page.setup) = None;
            note(&page, Kind::Command, &name, from.ip(), "first user made");
            return enter(&page, &name, Access::Operator);
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    invitation(&page, StatusCode::BAD_REQUEST, &token, &problem).await
}
