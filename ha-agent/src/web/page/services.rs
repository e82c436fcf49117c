//! Virtual services: how they are, and their forms.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::change::{Document, propose, worse_than_that};
use super::forms::Field;
use super::forms::service::{Form, Group};
use super::frame::{Frame, answer, refused};
use super::rates::Rates;
use super::view::{amount, number};
use super::visitor::{Posted, Visitor};
use super::{Page, Shared, Shown};
use crate::config::edit::Edit;
use crate::config::model::{Config, VirtualService};
use crate::control::Refusal;
use crate::control::edits::Wanted;
use crate::status::model::{RealServerState, ServiceStatus};

/// A real server as it is shown.
struct Server {
    /// Where it is.
    address: String,
    /// Its place in the file; none if it is only draining there, or the last resort.
    index: Option<usize>,
    weight: u32,
    state: &'static str,
    class: &'static str,
    /// Why it is down, or what else is to be known.
    note: String,
    connections: String,
    new: String,
    packets: String,
}

/// A service as it is shown.
struct Row {
    name: String,
    listen: String,
    how: String,
    enabled: bool,
    state: &'static str,
    class: &'static str,
    connections: String,
    new: String,
    packets: String,
    servers: Vec<Server>,
}

#[derive(Template)]
#[template(path = "services.html")]
struct ServicesPage {
    frame: Frame,
    rows: Vec<Row>,
}

/// `GET /services`.
pub(super) async fn list<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    if let Err(refusal) = visitor.reaches_pair() {
        return refused(&page, &visitor, "services", StatusCode::FORBIDDEN, refusal).await;
    }
    let services = page.blocking(|shown| async move { shown.services().await });
    let (frame, services, file) = (
        Frame::of(&page, &visitor, "services").await,
        services.await,
        Document::read(&page).await.ok(),
    );
    let (frame, services) = match (frame, services) {
        (Ok(frame), Ok(services)) => (frame, services),
        (Err(worse), _) | (_, Err(worse)) => return worse_than_that(&worse),
    };
    let rates = page.meter.read();
    let config = file.map(|file| file.config);
    let mut rows: Vec<Row> = services
        .services
        .iter()
        .map(|service| Row::of(service, config.as_ref(), &rates))
        .collect();
    let disabled = config.iter().flat_map(|config| &config.disabled_services);
    rows.extend(disabled.map(Row::disabled));
    answer(StatusCode::OK, &ServicesPage { frame, rows })
}

impl Row {
    fn of(service: &ServiceStatus, config: Option<&Config>, rates: &Rates) -> Self {
        let rate = rates.of(&service.name, None);
        let written = config.and_then(|config| {
            let mut all = config.virtual_services.iter();
            all.find(|written| written.name == service.name)
        });
        let servers: Vec<Server> = service
            .real_servers
            .iter()
            .map(|real| {
                let rate = rates.of(&service.name, Some(&real.address));
                let place = written.and_then(|written| {
                    let mut servers = written.real_servers.iter();
                    servers.position(|server| at(written, server) == real.address)
                });
                let (state, class) = match real.state {
                    RealServerState::Up => ("up", "good"),
                    RealServerState::Draining => ("draining", "fair"),
                    RealServerState::Down => ("down", "bad"),
                };
                let mut notes: Vec<String> = real.reason.iter().cloned().collect();
                notes.extend(
                    real.own_check
                        .iter()
                        .map(|own| format!("this node finds: {own}")),
                );
                notes.extend(real.last_resort.then(|| "last resort".to_owned()));
                Server {
                    address: real.address.clone(),
                    index: place.filter(|_| !real.last_resort),
                    weight: real.weight,
                    state,
                    class,
                    note: notes.join("; "),
                    connections: number(real.connections),
                    new: amount(rate.connections),
                    packets: amount(rate.packets),
                }
            })
            .collect();
        let up = servers
            .iter()
            .filter(|server| server.class == "good")
            .count();
        let (state, class) = match up {
            0 => ("nobody takes connections", "bad"),
            up if up < servers.len() => ("some real servers do not take connections", "fair"),
            _ => ("all real servers are up", "good"),
        };
        Self {
            name: service.name.clone(),
            listen: service.listen.clone(),
            how: format!(
                "{}, {}, {}",
                service.protocol, service.forwarding, service.scheduler
            ),
            enabled: true,
            state,
            class,
            connections: number(service.connections),
            new: amount(rate.connections),
            packets: amount(rate.packets),
            servers,
        }
    }

    fn disabled(service: &VirtualService) -> Self {
        Self {
            name: service.name.clone(),
            listen: format!("{} port {}", service.address, service.ports),
            how: format!(
                "{}, {}, {}",
                service.protocol.as_str(),
                service.forwarding.as_str(),
                service.scheduler.as_str()
            ),
            enabled: false,
            state: "disabled",
            class: "off",
            connections: number(0),
            new: amount(0.0),
            packets: amount(0.0),
            servers: Vec::new(),
        }
    }
}

/// A real server as the data plane names it.
fn at(service: &VirtualService, server: &crate::config::model::RealServer) -> String {
    match service.port_of(server) {
        Some(port) => std::net::SocketAddr::new(server.address, port).to_string(),
        None => server.address.to_string(),
    }
}

/// A real server in the form.
struct FormRow {
    number: usize,
    /// The same for people, who begin at 1.
    nth: usize,
    /// Whether it is in the file.
    known: bool,
    fields: Vec<Field>,
}

#[derive(Template)]
#[template(path = "service.html")]
struct ServicePage {
    frame: Frame,
    base: String,
    /// Its name; empty if it is new.
    service: String,
    groups: Vec<Group>,
    servers: Vec<FormRow>,
    refusal: Option<Refusal>,
}

async fn form<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    (form, base): (Form, String),
    refusal: Option<Refusal>,
) -> Response {
    let frame = match Frame::of(page, visitor, "services").await {
        Ok(frame) => frame,
        Err(worse) => return worse_than_that(&worse),
    };
    let code = match &refusal {
        None => StatusCode::OK,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let known = form.known;
    let servers = form.servers.into_iter().enumerate();
    let servers = servers.map(|(number, fields)| FormRow {
        number,
        nth: number + 1,
        known: number < known,
        fields,
    });
    let page = ServicePage {
        frame,
        base,
        service: form.service.unwrap_or_default(),
        groups: form.groups,
        servers: servers.collect(),
        refusal,
    };
    answer(code, &page)
}

/// The form of a service, or of a new one.
async fn find<S: Shown>(
    page: &Page<S>,
    visitor: &Visitor,
    name: Option<&str>,
) -> Result<(Form, Document), (StatusCode, Refusal)> {
    visitor
        .reaches_pair()
        .map_err(|refusal| (StatusCode::FORBIDDEN, refusal))?;
    let file = Document::read(page)
        .await
        .map_err(|refusal| (StatusCode::CONFLICT, refusal))?;
    if let Some(name) = name {
        let services = file.says.get(&["virtual_services"]).items();
        if !services
            .iter()
            .any(|service| service.get(&["name"]).text() == name)
        {
            let refusal = Refusal::new(
                "there is no virtual service of this name in the file",
                "see the list of those that there are",
            );
            return Err((StatusCode::NOT_FOUND, refusal));
        }
    }
    Ok((Form::of(&file.says, name), file))
}

/// `GET /services/new`.
pub(super) async fn new<S: Shown>(State(page): Shared<S>, visitor: Visitor) -> Response {
    match find(&page, &visitor, None).await {
        Ok((found, file)) => form(&page, &visitor, (found, file.base), None).await,
        Err((code, refusal)) => refused(&page, &visitor, "services", code, refusal).await,
    }
}

/// `GET /services/edit/{name}`.
pub(super) async fn edit<S: Shown>(
    State(page): Shared<S>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Response {
    match find(&page, &visitor, Some(&name)).await {
        Ok((found, file)) => form(&page, &visitor, (found, file.base), None).await,
        Err((code, refusal)) => refused(&page, &visitor, "services", code, refusal).await,
    }
}

/// `POST /services/new` and `POST /services/edit/{name}`: what the change would do.
async fn change<S: Shown>(page: &Page<S>, posted: &Posted, name: Option<&str>) -> Response {
    let visitor = &posted.visitor;
    let (mut found, file) = match find(page, visitor, name).await {
        Ok(found) => found,
        Err((code, refusal)) => return refused(page, visitor, "services", code, refusal).await,
    };
    let edits = found.take(posted);
    let proposed = match file.unchanged_since(posted) {
        Ok(()) => propose(page, visitor, "services", Wanted::Edits(edits)).await,
        Err(refusal) => Err(refusal),
    };
    match proposed {
        Ok(response) => response,
        Err(refusal) => form(page, visitor, (found, file.base), Some(refusal)).await,
    }
}

/// `POST /services/new`.
pub(super) async fn add<S: Shown>(State(page): Shared<S>, posted: Posted) -> Response {
    change(&page, &posted, None).await
}

/// `POST /services/edit/{name}`.
pub(super) async fn update<S: Shown>(
    State(page): Shared<S>,
    Path(name): Path<String>,
    posted: Posted,
) -> Response {
    change(&page, &posted, Some(&name)).await
}

/// `POST /services/quick`: one of the buttons of the list; what it would do.
pub(super) async fn quick<S: Shown>(State(page): Shared<S>, posted: Posted) -> Response {
    let visitor = &posted.visitor;
    let (service, server) = (posted.get("service"), posted.get("server"));
    let server = ["virtual_services", service, "real_servers", server];
    let weight = [&server[..], &["weight"]].concat();
    let enabled = ["virtual_services", service, "enabled"];
    let edit = match posted.get("action") {
        "drain" => Edit::new(&weight, 0),
        "undrain" => Edit::new(&weight, 1),
        "remove-server" => Edit::new(&server, serde_json::Value::Null),
        "disable" => Edit::new(&enabled, false),
        "enable" => Edit::new(&enabled, serde_json::Value::Null),
        "remove" => Edit::new(&["virtual_services", service], serde_json::Value::Null),
        other => {
            let refusal = Refusal::new(format!("nothing is called `{other}`"), "use the buttons");
            return refused(&page, visitor, "services", StatusCode::BAD_REQUEST, refusal).await;
        }
    };
    match propose(&page, visitor, "services", Wanted::Edits(vec![edit])).await {
        Ok(response) => response,
        Err(refusal) => refused(&page, visitor, "services", StatusCode::CONFLICT, refusal).await,
    }
}
