//! Users of this node's page, and tokens for scripts.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::change::worse_than_that;
use super::frame::{Frame, answer};
use super::users::{Access, UserError};
use super::visitor::{Posted, Visitor};
use super::{Page, Shared, Shown};
use crate::control::Refusal;
use crate::events::{Entry, Kind};

#[derive(Template)]
#[template(path = "users.html")]
struct UsersPage {
    frame: Frame,
    users: Vec<(String, &'static str)>,
    tokens: Vec<(String, &'static str)>,
    /// What can be seen once only.
    secret: String,
    done: String,
    refusal: Option<Refusal>,
}

async fn show<S: Shown>(
    page: &Arc<Page<S>>,
    visitor: &Visitor,
    done: Result<(String, String), Refusal>,
) -> Response {
    let listed = page.blocking(|shown| async move {
        let door = shown.door();
        let lists = door
            .users
            .list()
            .and_then(|users| Ok((users, door.tokens.list()?)));
        lists.map_err(|error| Refusal::new(error.to_string(), "check the disk of node.state_dir"))
    });
    let (frame, listed) = (Frame::of(page, visitor, "users").await, listed.await);
    let (frame, (users, tokens)) = match (frame, listed) {
        (Ok(frame), Ok(listed)) => (frame, listed),
        (Err(worse), _) | (_, Err(worse)) => return worse_than_that(&worse),
    };
    let (done, secret, refusal) = match done {
        Ok((done, secret)) => (done, secret, None),
        Err(refusal) => (String::new(), String::new(), Some(refusal)),
    };
    let code = match &refusal {
        None => StatusCode::OK,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let words = |list: Vec<(String, Access)>| {
        let list = list.into_iter();
        list.map(|(name, access)| (name, access.as_str())).collect()
    };
    let operator = visitor.operates().is_ok();
    let shown = UsersPage {
        frame,
        users: if operator { words(users) } else { Vec::new() },
        tokens: if operator { words(tokens) } else { Vec::new() },
        secret,
        done,
        refusal,
    };
    answer(code, &shown)
}

/// `GET /users`.
pub(super) async fn list<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    show(&page, &visitor, Ok((String::new(), String::new()))).await
}

/// `POST /users`.
pub(super) async fn change<S: Shown>(State(page): Shared<S>, posted: Posted) -> Response {
    let action = posted.get("action");
    let done = act(&page, &posted, action).await;
    let visitor = &posted.visitor;
    let deed = format!("web {action} {}", posted.get("name"));
    let (kind, why) = match &done {
        Ok(_) => (Kind::Command, String::new()),
        Err(refusal) => (Kind::CommandRefused, refusal.what.clone()),
    };
    let entry = Entry::new(kind, visitor.who(), &*deed).because(why);
    page.shown.note(entry.with("command", deed));
    show(&page, visitor, done).await
}

/// What was done, and a secret to be shown.
async fn act<S: Shown>(
    page: &Arc<Page<S>>,
    posted: &Posted,
    action: &str,
) -> Result<(String, String), Refusal> {
    let visitor = &posted.visitor;
    let name = posted.get("name").to_owned();
    let access = match posted.get("access") {
        "operator" => Access::Operator,
        _ => Access::Viewer,
    };
    if action == "password" {
        return own_password(page, posted).await;
    }
    visitor.operates()?;
    let asked = page.blocking({
        let (action, own) = (action.to_owned(), visitor.name.clone());
        let password = posted.get("password").to_owned();
        move |shown| async move {
            let door = shown.door();
            let done = match action.as_str() {
                "add-user" => door.users.add(&name, access, &password).map(|()| {
                    (
                        format!("{name} may log in as {}.", access.as_str()),
                        String::new(),
                    )
                }),
                "remove-user" if name == own => {
                    return Err(Refusal::new(
                        "you cannot remove yourself",
                        "another operator can, or `ha-agent web remove-user`",
                    ));
                }
                "remove-user" => door.users.remove(&name).map(|()| {
                    door.sessions.end_of(&name);
                    (format!("{name} is no user any more."), String::new())
                }),
                "add-token" => door.tokens.add(&name, access).map(|secret| {
                    (
                        format!("The token {name}, which is shown this once:"),
                        secret,
                    )
                }),
                "remove-token" => door.tokens.remove(&name).map(|()| {
                    (
                        format!("The token {name} is good for nothing any more."),
                        String::new(),
                    )
                }),
                _ => {
                    return Err(Refusal::new(
                        "there is no such thing to do",
                        "use the buttons",
                    ));
                }
            };
            done.map_err(|error| refusal(&error))
        }
    });
    let Ok(_turn) = page.hashing.acquire().await else {
        return Err(Refusal::new("the agent ends", "ask the partner"));
    };
    asked.await
}

/// Gives somebody who knows the old password a new one; other sessions of the same user end.
async fn own_password<S: Shown>(
    page: &Arc<Page<S>>,
    posted: &Posted,
) -> Result<(String, String), Refusal> {
    let visitor = &posted.visitor;
    let now = crate::shell::clock::now();
    let Ok(_turn) = page.hashing.acquire().await else {
        return Err(Refusal::new("the agent ends", "ask the partner"));
    };
    if !page.sessions().may_try(now, visitor.place) {
        return Err(Refusal::new(
            "too many wrong passwords",
            "wait five minutes",
        ));
    }
    let (name, session) = (visitor.name.clone(), visitor.session.clone());
    let (old, new) = (
        posted.get("old").to_owned(),
        posted.get("password").to_owned(),
    );
    let changed = page.blocking(move |shown| async move {
        let door = shown.door();
        let known = door.users.verify(&name, &old);
        if !known.is_ok_and(|known| known.is_some()) {
            return Ok(false);
        }
        door.users
            .set_password(&name, &new)
            .map_err(|error| refusal(&error))?;
        door.sessions.end_others(&name, session.as_ref());
        Ok(true)
    });
    if changed.await? {
        return Ok(("Your password was changed.".to_owned(), String::new()));
    }
    page.sessions().failed(now, visitor.place);
    Err(Refusal::new("the old password is wrong", "try again"))
}

fn refusal(error: &UserError) -> Refusal {
    Refusal::new(error.to_string(), "nothing was changed")
}
