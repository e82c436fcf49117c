//! What every page has around it: squares, links, who is logged in, what came of the last form.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};

use super::gate::plain;
use super::view::{Mark, View};
use super::visitor::Visitor;
use super::{Page, Reach, Shown};
use crate::control::Refusal;

/// A page among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Where.
    pub(super) href: &'static str,
    /// Name of the element.
    pub(super) id: &'static str,
    /// In words.
    pub(super) text: &'static str,
    /// What of the pair it is about; else it is there at a node's own address, too.
    pair: bool,
}

/// All pages, in the order of the navigation.
pub(super) const LINKS: [Link; 10] = [
    link("/", "home", "Home", false),
    link("/services", "services", "Virtual services", true),
    link("/connections", "connections", "Connections", true),
    link("/ha", "ha", "HA parameters", false),
    link("/interfaces", "interfaces", "Interfaces", false),
    link("/operate", "operate", "Operate", false),
    link("/diagnosis", "diagnosis", "Diagnosis", false),
    link("/events", "events", "Events", false),
    link("/backup", "backup", "Backup", false),
    link("/users", "users", "Users", false),
];

const fn link(href: &'static str, id: &'static str, text: &'static str, pair: bool) -> Link {
    Link {
        href,
        id,
        text,
        pair,
    }
}

/// What is around a page.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// The node's name.
    pub(super) node: String,
    /// Which of the links this is.
    pub(super) current: &'static str,
    /// Its name.
    pub(super) title: &'static str,
    /// The pages there are here.
    pub(super) links: Vec<Link>,
    /// The status squares.
    pub(super) squares: Vec<Mark>,
    /// Who is logged in.
    pub(super) user: String,
    /// As what.
    pub(super) access: &'static str,
    /// Whether that is somebody who may change something.
    pub(super) operator: bool,
    /// What forms bring.
    pub(super) csrf: String,
    /// Where the page of the pair is, if this is not it.
    pub(super) pair: String,
    /// What came of the last form.
    pub(super) notice: String,
}

impl Frame {
    /// Around the page of this link.
    pub(super) async fn of<S: Shown>(
        page: &Page<S>,
        visitor: &Visitor,
        current: &'static str,
    ) -> Result<Self, Refusal> {
        let view = page.view().await?;
        Ok(Self::around(page, visitor, current, &view))
    }

    /// The same, with the squares of a view.
    pub(super) fn around<S: Shown>(
        page: &Page<S>,
        visitor: &Visitor,
        current: &'static str,
        view: &View,
    ) -> Self {
        let whole = visitor.reach == Reach::Pair;
        let session = visitor.session.as_ref();
        let title = LINKS.iter().find(|link| link.id == current);
        let pair = page.shown.place().pair.filter(|_| !whole);
        Self {
            node: view.node.clone(),
            current,
            title: title.map_or("", |link| link.text),
            links: LINKS
                .iter()
                .filter(|link| whole || !link.pair)
                .copied()
                .collect(),
            squares: view.squares.clone(),
            user: visitor.name.clone(),
            access: visitor.access.as_str(),
            operator: visitor.operates().is_ok(),
            csrf: visitor.csrf().to_owned(),
            pair: pair.map_or_else(String::new, |at| format!("https://{at}/")),
            notice: session.map_or_else(String::new, |session| page.sessions().notice(session)),
        }
    }
}

/// A page that was made of a template.
pub(super) fn answer(code: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (code, Html(text)).into_response(),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

#[derive(Template)]
#[template(path = "refused.html")]
struct Refused {
    frame: Frame,
    refusal: Refusal,
}

/// A page that says why something was not done.
pub(super) async fn refused<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    current: &'static str,
    code: StatusCode,
    refusal: Refusal,
) -> Response {
    match Frame::of(page, visitor, current).await {
        Ok(frame) => answer(code, &Refused { frame, refusal }),
        Err(worse) => plain(StatusCode::INTERNAL_SERVER_ERROR, &worse.what),
    }
}
