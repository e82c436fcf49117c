//! `ha-agent records`: what a person or a script reads and writes of them.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::Subcommand;

use super::{Exit, complain, print, print_json};
use crate::config::read_duration;
use crate::control::{
    Blob, Client, ClientError, PAGE_MAX, RecordChange, RecordStatus, RecordsReply, RecordsRequest,
    Request,
};

/// What to do with records.
#[derive(Debug, Subcommand)]
pub enum Records {
    /// Print the value of a record
    Get {
        /// Namespace
        namespace: String,
        /// Key
        key: String,
    },
    /// Write a record: only on the active node
    Put {
        /// Namespace
        namespace: String,
        /// Key
        key: String,
        /// Value
        value: String,
        /// How long it lives, for example 30s [default: until it is deleted]
        #[arg(long, value_name = "DURATION", value_parser = ttl)]
        ttl: Option<Duration>,
    },
    /// Delete a record: only on the active node
    Delete {
        /// Namespace
        namespace: String,
        /// Key
        key: String,
    },
    /// Show the records of a namespace, in the order of their keys
    List {
        /// Namespace
        namespace: String,
    },
    /// Show changes of a namespace as they happen, until interrupted
    Watch {
        /// Namespace
        namespace: String,
    },
}

fn ttl(text: &str) -> Result<Duration, &'static str> {
    read_duration(text).ok_or("a whole number and a unit: ms, s, m or h, for example 30s")
}

/// Carries out the command.
pub(super) fn records(
    client: &mut Client,
    action: &Records,
    json: bool,
) -> Result<Exit, ClientError> {
    let blob = |text: &String| Blob(text.clone().into_bytes());
    let request = match action {
        Records::Get { namespace, key } => RecordsRequest::Get {
            namespace: namespace.clone(),
            key: blob(key),
        },
        Records::Put {
            namespace,
            key,
            value,
            ttl,
        } => RecordsRequest::Put {
            namespace: namespace.clone(),
            key: blob(key),
            value: blob(value),
            ttl_ms: ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        },
        Records::Delete { namespace, key } => RecordsRequest::Delete {
            namespace: namespace.clone(),
            key: blob(key),
        },
        Records::List { namespace } => return list(client, namespace, json),
        Records::Watch { namespace } => return watch(client, namespace, json),
    };
    let reply = ask(client, request)?;
    if reply == RecordsReply::Absent {
        complain(
            "there is no such record",
            "it was never written, was deleted, or its time is over",
        );
        return Ok(Exit::Failed);
    }
    Ok(match &reply {
        RecordsReply::Record(record) if json => print_json(record),
        RecordsReply::Record(record) => print(&format!("{}\n", record.value.shown())),
        reply if json => print_json(reply),
        RecordsReply::Written { .. }
        | RecordsReply::Deleted
        | RecordsReply::Absent
        | RecordsReply::Page { .. }
        | RecordsReply::Changes(_) => Exit::Ok,
    })
}

fn ask(client: &mut Client, request: RecordsRequest) -> Result<RecordsReply, ClientError> {
    client.request(&Request::Records(request))
}

/// All pages, one after the other.
fn list(client: &mut Client, namespace: &str, json: bool) -> Result<Exit, ClientError> {
    let mut all: Vec<RecordStatus> = Vec::new();
    loop {
        let request = RecordsRequest::List {
            namespace: namespace.to_owned(),
            after: all.last().map(|last| last.key.clone()),
            limit: PAGE_MAX,
        };
        let RecordsReply::Page { records, more } = ask(client, request)? else {
            return Ok(Exit::Failed);
        };
        all.extend(records);
        if !more {
            break;
        }
    }
    if json {
        return Ok(print_json(&all));
    }
    let lines = all.iter().map(|record| {
        let left = record.left_ms.map_or_else(String::new, |left| {
            format!("  {:.1} s left", Duration::from_millis(left).as_secs_f64())
        });
        format!("{}  {}{left}\n", record.key.shown(), record.value.shown())
    });
    Ok(print(&lines.collect::<String>()))
}

/// Changes, a line each; with `--json` an object a line.
fn watch(client: &mut Client, namespace: &str, json: bool) -> Result<Exit, ClientError> {
    let mut from = None;
    loop {
        let request = RecordsRequest::Watch {
            namespace: namespace.to_owned(),
            from,
        };
        let RecordsReply::Changes(changes) = ask(client, request)? else {
            return Ok(Exit::Failed);
        };
        from = Some(changes.next);
        let mut lines = String::new();
        if changes.lost {
            complain(
                "more changed than was kept",
                "list the namespace to see how it is now",
            );
        }
        for change in &changes.changes {
            lines.push_str(&line(change, json)?);
            lines.push('\n');
        }
        let mut out = io::stdout().lock();
        if out
            .write_all(lines.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            // A reader that has seen enough.
            return Ok(Exit::Ok);
        }
    }
}

fn line(change: &RecordChange, json: bool) -> Result<String, ClientError> {
    if json {
        return Ok(serde_json::to_string(change)?);
    }
    let value = change
        .value
        .as_ref()
        .map_or_else(String::new, |value| format!("  {}", value.shown()));
    Ok(format!("{}  {}{value}", change.change, change.key.shown()))
}
