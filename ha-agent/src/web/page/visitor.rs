//! Who asks: a user with a session, or a script with a token; and what a form brings.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Form, FromRequest, FromRequestParts, Request};
use axum::http::header::{self, HeaderMap};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};

use super::api::complaint;
use super::gate::plain;
use super::sessions::{self, Session};
use super::users::Access;
use super::{Page, Reach, Shown};
use crate::control::Refusal;
use crate::shell::clock;
use crate::web::listen::At;

/// The cookie of a session. The prefix makes browsers keep it to this host, and to TLS.
pub(super) const COOKIE: &str = "__Host-ha-agent";

/// Somebody who may look.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    /// Name of the user, or of the token.
    pub(super) name: String,
    /// What it may do.
    pub(super) access: Access,
    /// From where.
    pub(super) place: IpAddr,
    /// What the address it came to is for.
    pub(super) reach: Reach,
    /// The session, unless it is a token.
    pub(super) session: Option<Session>,
}

impl Visitor {
    /// As the history names it.
    pub(super) fn who(&self) -> String {
        let kind = if self.session.is_some() {
            "web user"
        } else {
            "token"
        };
        format!("{kind} {} at {}", self.name, self.place.to_canonical())
    }

    /// What forms must bring.
    pub(super) fn csrf(&self) -> &str {
        self.session.as_ref().map_or("", |session| &session.csrf)
    }

    /// Whether it may change something.
    pub(super) fn operates(&self) -> Result<(), Refusal> {
        match self.access {
            Access::Operator => Ok(()),
            Access::Viewer => Err(Refusal::new(
                format!("{} may look, and change nothing", self.name),
                "log in as an operator",
            )),
        }
    }

    /// Whether this is about the pair.
    pub(super) fn reaches_pair(&self) -> Result<(), Refusal> {
        match self.reach {
            Reach::Pair => Ok(()),
            Reach::Node => Err(Refusal::new(
                "at a node's own address there is what concerns this node only",
                "use a shared address of the pair",
            )),
        }
    }

    fn find<S: Shown>(page: &Page<S>, parts: &Parts) -> Option<Self> {
        let from = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let at = parts.extensions.get::<At>();
        let place = from.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |from| from.0.ip());
        let reach = match at {
            Some(at) => page.shown.reach(at.0.ip().to_canonical())?,
            // Nobody says where it came to.
            None => Reach::Node,
        };
        let door = page.shown.door();
        if let Some(token) = bearer(&parts.headers) {
            let (name, access) = door.tokens.find(token)?;
            return Some(Self {
                name,
                access,
                place,
                reach,
                session: None,
            });
        }
        let session = door.sessions.find(clock::now(), cookie(&parts.headers)?)?;
        Some(Self {
            name: session.user.clone(),
            access: session.access,
            place,
            reach,
            session: Some(session),
        })
    }
}

/// Of pages: who is not logged in is led to where one does that.
impl<S: Shown> FromRequestParts<Arc<Page<S>>> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        page: &Arc<Page<S>>,
    ) -> Result<Self, Self::Rejection> {
        let visitor = Self::find(page, parts).filter(|visitor| visitor.session.is_some());
        visitor.ok_or_else(|| Redirect::to("/login").into_response())
    }
}

/// The same, of the API: a session or a token. What changes something comes with a proof that no other site sent it,
/// if it comes with a cookie.
#[derive(Debug)]
pub(super) struct Caller(pub(super) Visitor);

impl<S: Shown> FromRequestParts<Arc<Page<S>>> for Caller {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        page: &Arc<Page<S>>,
    ) -> Result<Self, Self::Rejection> {
        let Some(visitor) = Visitor::find(page, parts) else {
            return Err(complaint(
                StatusCode::UNAUTHORIZED,
                &Refusal::new("nobody is logged in", "log in, or send a token"),
            ));
        };
        let safe = matches!(parts.method, Method::GET | Method::HEAD);
        let sent = parts.headers.get("x-csrf-token");
        let sent = sent.and_then(|value| value.to_str().ok()).unwrap_or("");
        if let (false, Some(session)) = (safe, &visitor.session)
            && !sessions::same(&session.csrf, sent)
        {
            return Err(complaint(
                StatusCode::FORBIDDEN,
                &Refusal::new(
                    "the header X-CSRF-Token is not that of this session",
                    "load the page anew",
                ),
            ));
        }
        Ok(Self(visitor))
    }
}

/// A form that was sent from a page of this session.
#[derive(Debug)]
pub(super) struct Posted {
    /// By whom.
    pub(super) visitor: Visitor,
    fields: Vec<(String, String)>,
}

impl Posted {
    /// A field; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        let mut fields = self.fields.iter();
        let found = fields.find(|(field, _)| field == name);
        found.map_or("", |(_, value)| value.trim())
    }

    /// All values of a field.
    pub(super) fn all<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> {
        let fields = self.fields.iter();
        fields
            .filter(move |(field, _)| field == name)
            .map(|(_, value)| value.trim())
    }
}

impl<S: Shown> FromRequest<Arc<Page<S>>> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, page: &Arc<Page<S>>) -> Result<Self, Self::Rejection> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, page).await?;
        let request = Request::from_parts(parts, body);
        let form = Form::<Vec<(String, String)>>::from_request(request, page).await;
        let Form(fields) = form
            .map_err(|refused| plain(refused.status(), &format!("this is no form: {refused}")))?;
        let posted = Self { visitor, fields };
        let session = posted.visitor.session.as_ref();
        if session.is_some_and(|session| sessions::same(&session.csrf, posted.get("csrf"))) {
            return Ok(posted);
        }
        let text = "the form is not of this session; go back and load the page anew";
        Err(plain(StatusCode::FORBIDDEN, text))
    }
}

/// The secret in the cookie.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter();
    let pairs = cookies
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
