//! Records that are no connections ([`crate::proto::records`]): who writes them, who is told.
//!
//! The table belongs to the replication thread. [`Handle`] asks that thread to read and write, [`Desk`] is
//! the thread's end, which also brings the partner's word about clients and real servers to where it
//! counts; [`clients`] tells what the data plane remembers of persistent clients; [`api`] and [`http`] let
//! an application-level proxy in.

pub mod api;
pub mod clients;
mod desk;
pub mod http;
mod log;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tokio::sync::oneshot;

pub use desk::{Desk, DeskParts, DeskSnapshot};
pub use log::Log;

use super::wake::Wake;
use crate::proto::records::{Put, Refusal, Stamp, View};

/// Requests that may wait.
const QUEUE: usize = 256;

/// A write of the agent itself, which nobody waits for.
#[derive(Debug)]
pub enum Write {
    /// A record is now this.
    Put(Put),
    /// A record is gone.
    Delete {
        /// Where.
        namespace: &'static str,
        /// Which.
        key: Vec<u8>,
    },
}

/// What the replication thread is asked to do with records.
#[derive(Debug)]
enum Request {
    Get(String, Vec<u8>, oneshot::Sender<Option<View>>),
    Put(Put, oneshot::Sender<Result<Stamp, Refusal>>),
    Delete(String, Vec<u8>, oneshot::Sender<Result<bool, Refusal>>),
    List(ListRequest, oneshot::Sender<Option<Vec<View>>>),
    Write(Vec<Write>),
}

#[derive(Debug)]
struct ListRequest {
    namespace: String,
    after: Option<Vec<u8>>,
    limit: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Too many requests wait.
    #[error("{QUEUE} requests wait already")]
    Busy,
    /// The thread has ended.
    #[error("replication has ended")]
    Ended,
}

/// The way to the records.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: SyncSender<Request>,
    wake: Wake,
    /// What changed.
    pub log: Arc<Log>,
}

/// Makes both ends.
pub fn open(parts: DeskParts, wake: Wake) -> (Handle, Desk) {
    let (requests, queue): (_, Receiver<Request>) = sync_channel(QUEUE);
    let log = Arc::new(Log::default());
    let handle = Handle {
        requests,
        wake,
        log: Arc::clone(&log),
    };
    (handle, Desk::new(queue, log, parts))
}

impl Handle {
    /// A record.
    pub async fn get(&self, namespace: &str, key: Vec<u8>) -> Result<Option<View>, Unanswered> {
        let namespace = namespace.to_owned();
        self.ask(|answer| Request::Get(namespace, key, answer))
            .await
    }

    /// Writes a record.
    pub async fn put(&self, put: Put) -> Result<Result<Stamp, Refusal>, Unanswered> {
        self.ask(|answer| Request::Put(put, answer)).await
    }

    /// Deletes a record; whether it was there.
    pub async fn delete(
        &self,
        namespace: &str,
        key: Vec<u8>,
    ) -> Result<Result<bool, Refusal>, Unanswered> {
        let namespace = namespace.to_owned();
        self.ask(|answer| Request::Delete(namespace, key, answer))
            .await
    }

    /// Records of a namespace behind a key; `None` if there is no such namespace.
    pub async fn list(
        &self,
        namespace: &str,
        after: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Option<Vec<View>>, Unanswered> {
        let wanted = ListRequest {
            namespace: namespace.to_owned(),
            after,
            limit,
        };
        self.ask(|answer| Request::List(wanted, answer)).await
    }

    /// Hands in writes of the agent itself; they come back if they could not be taken now.
    pub fn offer(&self, writes: Vec<Write>) -> Result<(), Vec<Write>> {
        let sent = self.requests.try_send(Request::Write(writes));
        self.wake.signal();
        sent.map_err(|error| match error {
            TrySendError::Full(back) | TrySendError::Disconnected(back) => match back {
                Request::Write(writes) => writes,
                Request::Get(..) | Request::Put(..) | Request::Delete(..) | Request::List(..) => {
                    Vec::new()
                }
            },
        })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.send(request(answer))?;
        answered.await.map_err(|_dropped| Unanswered::Ended)
    }

    fn send(&self, request: Request) -> Result<(), Unanswered> {
        let sent = self
            .requests
            .try_send(request)
            .map_err(|error| match error {
                TrySendError::Full(_) => Unanswered::Busy,
                TrySendError::Disconnected(_) => Unanswered::Ended,
            });
        self.wake.signal();
        sent
    }
}
