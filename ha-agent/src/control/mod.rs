//! The control socket: how commands reach a running agent.
//!
//! `<run_dir>/ctl.sock` takes one JSON object a line and answers each with one line. Who may write to
//! the socket file may command the agent: mode 0660, owner and group of the agent. The [`server`] is
//! generic over a [`Handler`], which knows nothing of sockets.

pub mod client;
pub mod edits;
mod peer;
pub mod protocol;
pub mod records;
pub mod seats;
pub mod server;
pub mod socket;

pub use client::{Client, ClientError};
pub use peer::Peer;
pub use protocol::{
    CaptureRequest, ConfigShown, Done, Refusal, Reloaded, Reply, Request, WebRequest,
};
pub use records::{
    Blob, Changes, PAGE_MAX, RecordChange, RecordStatus, RecordsReply, RecordsRequest,
};
pub use seats::{Count, Counted};
pub use server::{BindError, Claim, Heirloom, Listener, is_alive, serve};

use std::path::PathBuf;
use std::sync::Arc;

use crate::events::{EventPage, EventQuery};
use crate::pairing::{PairReply, PairRequest};
use crate::status::capture::Captured;
use crate::status::model::{ConnectionPage, ConnectionQuery, Counters, Services, Status};
use crate::trace::model::{Trace, TraceRequest};

/// What carries out commands. Methods run on the runtime that serves the socket; several may run at
/// once.
pub trait Handler: Send + Sync + 'static {
    /// State of node and pair.
    fn status(&self) -> impl Future<Output = Reply<Status>> + Send;
    /// One page of the connection table.
    fn connections(
        &self,
        query: ConnectionQuery,
    ) -> impl Future<Output = Reply<ConnectionPage>> + Send;
    /// Counters of the data plane.
    fn counters(&self) -> impl Future<Output = Reply<Counters>> + Send;
    /// Virtual services and their real servers.
    fn services(&self) -> impl Future<Output = Reply<Services>> + Send;
    /// Hands the active role to the partner.
    fn failover(&self) -> impl Future<Output = Reply<Done>> + Send;
    /// Enters or leaves maintenance.
    fn maintenance(&self, on: bool, force: bool) -> impl Future<Output = Reply<Done>> + Send;
    /// Takes the node back, whatever put it aside.
    fn resume(&self) -> impl Future<Output = Reply<Done>> + Send;
    /// Reads the configuration file again, because this client wants it.
    fn reload(self: Arc<Self>, who: Peer) -> impl Future<Output = Reply<Reloaded>> + Send;
    /// Makes sure that the partner has this node's configuration.
    fn push(self: Arc<Self>) -> impl Future<Output = Reply<Done>> + Send;
    /// The configuration in force.
    fn show_config(&self) -> impl Future<Output = Reply<ConfigShown>> + Send;
    /// Hands over and ends.
    fn stop(&self) -> impl Future<Output = Reply<Done>> + Send;
    /// Writes down what happens to the election.
    fn record(&self, path: PathBuf, seconds: u32) -> impl Future<Output = Reply<Done>> + Send;
    /// Begins, goes on with, or ends a capture, and yields the packets since the last step.
    fn capture(&self, request: CaptureRequest) -> impl Future<Output = Reply<Captured>> + Send;
    /// Tells what the data plane would do with a packet.
    fn trace(&self, request: TraceRequest) -> impl Future<Output = Reply<Trace>> + Send;
    /// Reads or writes records.
    fn records(&self, request: RecordsRequest) -> impl Future<Output = Reply<RecordsReply>> + Send;
    /// Switches the web page on or off, or changes who may log in there.
    fn web(&self, request: WebRequest) -> impl Future<Output = Reply<Done>> + Send;
    /// What has happened.
    fn events(&self, query: EventQuery) -> impl Future<Output = Reply<EventPage>> + Send;
    /// Lets a new node have key and configuration.
    fn pair(self: Arc<Self>, request: PairRequest)
    -> impl Future<Output = Reply<PairReply>> + Send;
    /// What the socket counts.
    fn counted(&self) -> &Counted;
    /// Takes note of who asked for something that changes the node ([`Request::deed`]), and of why it was
    /// refused if it was.
    fn audit(&self, who: &Peer, deed: &str, refused: Option<&Refusal>);
    /// Replaces the running program. There is an answer only if that did not happen.
    fn reexec(&self) -> impl Future<Output = Reply<Done>> + Send;
}

#[cfg(test)]
mod tests;
