//! Section `records`: what an application-level proxy may keep in the pair.

use std::path::PathBuf;

use super::super::model::{Records, RecordsListen, RecordsNamespace};
use super::super::tree::NodeId;
use super::super::values::{self, Fault, Parsed, Scalar};
use super::super::walk::{At, Field, Items, Section, Walk};
use super::node::SOCKET_PATH_MAX;
use super::optional;
use crate::proto::records::{CONFIGURED_MAX, NAMESPACE_MAX, Quota, RESERVED, is_namespace};

/// Most namespaces: a partner's, those of the agent itself and those that were configured before fit
/// beside them.
const NAMESPACES_MAX: usize = 16;
/// What a namespace holds unless configured otherwise.
const QUOTA: Quota = Quota {
    records: 10_000,
    bytes: 4 << 20,
};
/// Most bytes of a namespace.
const BYTES_MAX: u64 = 256 << 20;

pub(crate) struct RecordsDraft {
    /// Where the section is; none if there is none.
    pub(crate) given: Option<At<()>>,
    listen: Field<RecordsListen>,
    namespaces: Items<NamespaceDraft>,
}

struct NamespaceDraft {
    name: Field<String>,
    records: Field<u32>,
    bytes: Field<u64>,
}

pub(crate) fn read(walk: &mut Walk<'_>, top: &Section<'_>) -> RecordsDraft {
    let (section, given) = match walk.map(top, "records") {
        Field::Given(at) => {
            let given = At {
                value: (),
                span: at.span,
            };
            let keys = &["listen", "namespaces"];
            (walk.section(at.value, "`records`", keys), Some(given))
        }
        Field::Absent | Field::Bad => (None, None),
    };
    let Some(section) = section else {
        return RecordsDraft {
            given,
            listen: Field::Absent,
            namespaces: Items {
                list: Vec::new(),
                known: given.is_none(),
                span: top.place("records"),
            },
        };
    };
    let draft = RecordsDraft {
        given,
        listen: walk.value(&section, "listen", listen),
        namespaces: walk.items(&section, "namespaces", namespace),
    };
    draft.check(walk);
    draft
}

fn namespace(walk: &mut Walk<'_>, id: NodeId) -> Option<NamespaceDraft> {
    let section = walk.section(id, "this namespace", &["name", "records", "bytes"])?;
    Some(NamespaceDraft {
        name: walk.required(&section, "name", "sessions", name),
        records: walk.value(&section, "records", |v| {
            values::number(v, 1, CONFIGURED_MAX)
        }),
        bytes: walk.value(&section, "bytes", |v| values::number(v, 1, BYTES_MAX)),
    })
}

fn name(scalar: Scalar<'_>) -> Parsed<String> {
    if !is_namespace(scalar.text) {
        return Err(Fault::new(
            "not a name for a namespace",
            format!("write 1 to {NAMESPACE_MAX} lower-case letters, digits, `-` or `_`"),
        ));
    }
    if RESERVED.contains(&scalar.text) {
        return Err(Fault::new(
            format!("the agent itself keeps its records in `{}`", scalar.text),
            "choose another name",
        ));
    }
    Ok(scalar.text.to_owned())
}

/// A name in `node.run_dir`, which may be another directory on each node.
fn is_socket_name(scalar: Scalar<'_>) -> bool {
    values::name(scalar).is_ok() && scalar.text.strip_suffix(".sock").is_some()
}

/// A path, or a loopback address and port: whoever can connect may write.
fn listen(scalar: Scalar<'_>) -> Parsed<RecordsListen> {
    const REMEDY: &str = "write `127.0.0.1:6975`, `[::1]:6975`, a path like `/run/ha-agent/records.sock`, or a name in \
         node.run_dir like `records.sock`";
    if scalar.text.starts_with('/') || is_socket_name(scalar) {
        if scalar.text.len() > SOCKET_PATH_MAX {
            return Err(Fault::new(
                format!("a socket's path has at most {SOCKET_PATH_MAX} bytes"),
                "choose a shorter one",
            ));
        }
        return Ok(RecordsListen::Path(PathBuf::from(scalar.text)));
    }
    match scalar.text.parse::<std::net::SocketAddr>() {
        Ok(address) if !address.ip().is_loopback() => Err(Fault::new(
            format!(
                "{} can be reached by others, and whoever reaches it may write",
                address.ip()
            ),
            REMEDY,
        )),
        Ok(address) if address.port() == 0 => Err(Fault::new("port 0 is no port", REMEDY)),
        Ok(address) => Ok(RecordsListen::Address(address)),
        Err(_no_address) => Err(Fault::new(
            "neither an address with a port nor a path",
            REMEDY,
        )),
    }
}

impl RecordsDraft {
    fn check(&self, walk: &mut Walk<'_>) {
        let list = &self.namespaces.list;
        let mut total = 0;
        for (index, namespace) in list.iter().enumerate() {
            let earlier = list.iter().take(index);
            if let Some(name) = namespace.name.given()
                && earlier
                    .filter_map(|one| one.name.value())
                    .any(|one| *one == name.value)
            {
                let what = format!("the namespace {} is given twice", name.value);
                walk.error(name.span, what, "keep one of the two");
            }
            total += u64::from(namespace.records.or_default(QUOTA.records).unwrap_or(0));
        }
        if list.len() > NAMESPACES_MAX {
            let what = format!("{} namespaces; there may be {NAMESPACES_MAX}", list.len());
            walk.error(self.namespaces.span, what, "put several uses into one");
        }
        if total > u64::from(CONFIGURED_MAX) {
            let what = format!("the namespaces may hold {total} records together");
            let remedy = format!("reduce `records` until they add up to {CONFIGURED_MAX} or less");
            walk.error(self.namespaces.span, what, remedy);
        }
    }

    pub(super) fn build(self) -> Option<Records> {
        let build = |namespace: NamespaceDraft| {
            Some(RecordsNamespace {
                name: namespace.name.or(String::new)?,
                quota: Quota {
                    records: namespace.records.or(|| QUOTA.records)?,
                    bytes: namespace.bytes.or(|| QUOTA.bytes)?,
                },
            })
        };
        if !self.namespaces.known {
            return None;
        }
        Some(Records {
            listen: optional(self.listen)?,
            namespaces: (self.namespaces.list.into_iter().map(build)).collect::<Option<_>>()?,
        })
    }
}
