//! What the control socket and HTTP have in common: who may read and write what.

use std::time::Duration;

use super::log::millis;
use super::{Handle, Unanswered};
use crate::control::{Blob, PAGE_MAX, RecordStatus, RecordsReply, RecordsRequest};
use crate::proto::records::{Put, RESERVED, Refusal, Stamp, View};

/// How long a watch waits for something to happen: less than a command may take.
const WATCH: Duration = Duration::from_secs(20);

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The table said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent writes there, nobody else.
    #[error("the agent itself writes `{0}`, and nobody else does")]
    Reserved(String),
    /// Nobody answers.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

impl Denied {
    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Refused(Refusal::NotActive) => {
                "write on the active node; this one hears of it within a millisecond"
            }
            Self::Refused(Refusal::NoNamespace(_)) => {
                "write it into `records.namespaces` of the configuration on both nodes"
            }
            Self::Refused(Refusal::KeyLength(_) | Refusal::TooLong(_)) => {
                "keep the content elsewhere and its address here, or use a hash as the key"
            }
            Self::Refused(Refusal::Ttl) => {
                "write for example 30s, or nothing for a record that stays"
            }
            Self::Refused(Refusal::Records { .. } | Refusal::Bytes { .. }) => {
                "let records end sooner, delete some, or raise the quota in the configuration"
            }
            Self::Reserved(_) => "choose another namespace",
            Self::Unanswered(Unanswered::Busy) => "try again",
            Self::Unanswered(Unanswered::Ended) => "look at the agent's log",
        }
    }
}

/// Carries out a request.
pub async fn carry_out(records: &Handle, request: RecordsRequest) -> Result<RecordsReply, Denied> {
    match request {
        RecordsRequest::Get { namespace, key } => {
            let found = records.get(&namespace, key.0).await?;
            Ok(found.map_or(RecordsReply::Absent, |view| {
                RecordsReply::Record(status(&view))
            }))
        }
        RecordsRequest::Put {
            namespace,
            key,
            value,
            ttl_ms,
        } => {
            let put = Put {
                namespace: writable(namespace)?,
                key: key.0,
                value: value.0,
                ttl: ttl_ms.map(Duration::from_millis),
                age: Duration::ZERO,
            };
            let stamp = records.put(put).await??;
            Ok(RecordsReply::Written {
                term: stamp.term,
                version: stamp.version,
            })
        }
        RecordsRequest::Delete { namespace, key } => {
            let namespace = writable(namespace)?;
            let found = records.delete(&namespace, key.0).await??;
            Ok(if found {
                RecordsReply::Deleted
            } else {
                RecordsReply::Absent
            })
        }
        RecordsRequest::List {
            namespace,
            after,
            limit,
        } => {
            let limit = limit.clamp(1, PAGE_MAX);
            let after = after.map(|after| after.0);
            // One more tells whether there are more.
            let found = records.list(&namespace, after, limit + 1).await?;
            let found = found.ok_or(Refusal::NoNamespace(namespace))?;
            Ok(RecordsReply::Page {
                records: found.iter().take(limit).map(status).collect(),
                more: found.len() > limit,
            })
        }
        RecordsRequest::Watch { namespace, from } => {
            let known = records.list(&namespace, None, 1).await?;
            if known.is_none() {
                return Err(Refusal::NoNamespace(namespace).into());
            }
            let changes = records.log.watch(&namespace, from, WATCH).await;
            Ok(RecordsReply::Changes(changes))
        }
    }
}

/// All records of a namespace, as far as they can be read.
pub async fn all(records: &Handle, namespace: &str) -> Vec<RecordStatus> {
    let mut all: Vec<RecordStatus> = Vec::new();
    loop {
        let after = all.last().map(|last| last.key.0.clone());
        match records.list(namespace, after, PAGE_MAX).await {
            Ok(Some(page)) if !page.is_empty() => all.extend(page.iter().map(status)),
            Ok(_) | Err(_) => return all,
        }
    }
}

/// Records that the program before this one has left, `ago` before now.
pub fn inherit(
    namespace: &str,
    records: Vec<RecordStatus>,
    ago: Duration,
) -> impl Iterator<Item = (Put, Stamp)> {
    records.into_iter().map(move |record| {
        let ttl = record.ttl_ms.map(Duration::from_millis);
        let left = record.left_ms.map(Duration::from_millis);
        let lived = ttl
            .unwrap_or_default()
            .saturating_sub(left.unwrap_or_default());
        let put = Put {
            namespace: namespace.to_owned(),
            key: record.key.0,
            value: record.value.0,
            ttl,
            age: lived + ago,
        };
        let stamp = Stamp {
            term: record.term,
            version: record.version,
        };
        (put, stamp)
    })
}

fn writable(namespace: String) -> Result<String, Denied> {
    if RESERVED.contains(&&*namespace) {
        return Err(Denied::Reserved(namespace));
    }
    Ok(namespace)
}

fn status(view: &View) -> RecordStatus {
    RecordStatus {
        key: Blob::from(&*view.key),
        value: Blob::from(&*view.value),
        term: view.stamp.term,
        version: view.stamp.version,
        ttl_ms: view.ttl.map(millis),
        left_ms: view.left.map(millis),
    }
}
