//! What `node` says about who may look on: metrics, the web page, notify hooks.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::super::model::{Notify, Web};
use super::super::values::{self, Fault, Parsed, Scalar};
use super::super::walk::{At, Field, Items, Section, Walk};
use super::optional;

/// Whom a hook runs as unless configured otherwise.
const USER: &str = "nobody";
/// How long it may take unless configured otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pair's name in a hook's arguments unless configured otherwise.
const INSTANCE: &str = "ha-agent";

/// `node.metrics`.
pub(crate) struct MetricsDraft {
    listen: Items<At<SocketAddr>>,
}

/// `node.web`.
pub(crate) struct WebDraft {
    listen: Items<At<SocketAddr>>,
    pub(crate) interfaces: Items<At<String>>,
    /// Whether `interfaces` is there at all.
    limited: bool,
    certificate: Field<PathBuf>,
    key: Field<PathBuf>,
}

/// `node.notify`.
pub(crate) struct NotifyDraft {
    command: Field<PathBuf>,
    user: Field<String>,
    timeout: Field<Duration>,
    instance: Field<String>,
}

pub(crate) fn metrics(walk: &mut Walk<'_>, node: &Section<'_>) -> Field<MetricsDraft> {
    section(walk, node, "metrics", &["listen"], |walk, section| {
        MetricsDraft {
            listen: listen(walk, section, "127.0.0.1:9573"),
        }
    })
}

pub(crate) fn web(walk: &mut Walk<'_>, node: &Section<'_>) -> Field<WebDraft> {
    let keys = &["listen", "certificate", "key", "interfaces"];
    section(walk, node, "web", keys, |walk, section| {
        let interfaces = walk.one_or_more(section, "interfaces", values::name);
        let draft = WebDraft {
            listen: listen(walk, section, "\"[::]:8443\""),
            limited: section.has("interfaces"),
            interfaces,
            certificate: walk.value(section, "certificate", values::path),
            key: walk.value(section, "key", values::path),
        };
        let alone = match (&draft.certificate, &draft.key) {
            (Field::Given(at), Field::Absent) => Some((at.span, "key")),
            (Field::Absent, Field::Given(at)) => Some((at.span, "certificate")),
            _ => None,
        };
        if let Some((span, other)) = alone {
            let what = format!("a certificate and its key belong together: there is no `{other}`");
            let remedy = "give both, or neither: the agent then makes a certificate of its own";
            walk.error(span, what, remedy);
        }
        draft
    })
}

pub(crate) fn notify(walk: &mut Walk<'_>, node: &Section<'_>) -> Field<NotifyDraft> {
    let keys = &["command", "user", "timeout", "instance"];
    section(walk, node, "notify", keys, |walk, section| NotifyDraft {
        command: walk.required(section, "command", "/etc/ha-agent/notify", values::path),
        user: walk.value(section, "user", values::name),
        timeout: walk.value(section, "timeout", |v| {
            values::duration(v, Duration::from_millis(100), Duration::from_mins(5))
        }),
        instance: walk.value(section, "instance", values::name),
    })
}

/// Reads a section, if there is one.
fn section<T>(
    walk: &mut Walk<'_>,
    node: &Section<'_>,
    key: &'static str,
    keys: &[&'static str],
    read: impl FnOnce(&mut Walk<'_>, &Section<'_>) -> T,
) -> Field<T> {
    match walk.map(node, key) {
        Field::Given(at) => match walk.section(at.value, &format!("`node.{key}`"), keys) {
            Some(section) => Field::Given(At {
                value: read(walk, &section),
                span: at.span,
            }),
            None => Field::Bad,
        },
        Field::Absent => Field::Absent,
        Field::Bad => Field::Bad,
    }
}

/// An address and a port to listen at.
fn address(scalar: Scalar<'_>) -> Parsed<SocketAddr> {
    let remedy = "write `127.0.0.1:9573`, or `\"[::]:9573\"` for all addresses of this node";
    match scalar.text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(Fault::new("port 0 is no port", remedy)),
        Ok(address) => Ok(address),
        Err(_no_address) => Err(Fault::new("not an address with a port", remedy)),
    }
}

/// Where to listen: at least at one address.
fn listen(walk: &mut Walk<'_>, section: &Section<'_>, example: &str) -> Items<At<SocketAddr>> {
    let listen = walk.one_or_more(section, "listen", address);
    if listen.known && listen.list.is_empty() {
        walk.missing(section, "listen", example);
    }
    for (index, at) in listen.list.iter().enumerate() {
        let mut earlier = listen.list.iter().take(index);
        if earlier.any(|earlier| earlier.value == at.value) {
            let what = format!("{} is given twice", at.value);
            walk.error(at.span, what, "each must occur once");
        }
    }
    listen
}

/// The addresses of a list; none if one was refused.
fn all(items: Items<At<SocketAddr>>) -> Option<Vec<SocketAddr>> {
    let values = items.list.into_iter().map(|at| at.value);
    items.known.then(|| values.collect())
}

impl MetricsDraft {
    pub(super) fn build(self) -> Option<Vec<SocketAddr>> {
        all(self.listen)
    }
}

impl WebDraft {
    /// Ports of the page at an address of the interface of this name.
    pub(crate) fn ports_at(&self, address: IpAddr, interface: &str) -> impl Iterator<Item = u16> {
        let mut names = self.interfaces.list.iter();
        let admitted = !self.limited || names.any(|name| name.value == interface);
        let all = self.listen.list.iter().map(|at| at.value);
        let here = all.filter(move |at| match at.ip() {
            // A socket at `[::]` takes what comes to IPv4 addresses, too.
            IpAddr::V6(any) if any.is_unspecified() => true,
            IpAddr::V4(any) if any.is_unspecified() => address.is_ipv4(),
            one @ (IpAddr::V4(_) | IpAddr::V6(_)) => one == address,
        });
        here.filter(move |_| admitted).map(|at| at.port())
    }

    pub(super) fn build(self) -> Option<Web> {
        Some(Web {
            listen: all(self.listen)?,
            certificate: optional(self.certificate)?.zip(optional(self.key)?),
            interfaces: if self.limited {
                let names = self.interfaces.list.into_iter().map(|at| at.value);
                Some(self.interfaces.known.then(|| names.collect())?)
            } else {
                None
            },
        })
    }
}

impl NotifyDraft {
    pub(super) fn build(self) -> Option<Notify> {
        Some(Notify {
            command: self.command.given()?.value.clone(),
            user: self.user.or(|| USER.to_owned())?,
            timeout: self.timeout.or(|| TIMEOUT)?,
            instance: self.instance.or(|| INSTANCE.to_owned())?,
        })
    }
}
