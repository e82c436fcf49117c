//! Lines on the control socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::records::RecordsRequest;
use crate::config::Diagnostic;
use crate::events::EventQuery;
use crate::pairing::PairRequest;
use crate::proto::confsync::ContentHash;
use crate::status::model::ConnectionQuery;
use crate::trace::model::TraceRequest;
use crate::web::page::users::Access;

/// Longest request, line end included.
pub const REQUEST_MAX: usize = 64 << 10;
/// Longest answer a client takes: a full page of connections is some 20 MiB.
pub const ANSWER_MAX: u64 = 64 << 20;

/// A command, as `{"command":"status"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// State of node and pair.
    Status,
    /// One page of the connection table.
    Connections(ConnectionQuery),
    /// Counters of the data plane.
    Counters,
    /// Virtual services and their real servers.
    Services,
    /// Hand the active role to the partner.
    Failover,
    /// Enter or leave maintenance.
    Maintenance {
        /// Enter.
        on: bool,
        /// Even if nobody takes over.
        #[serde(default)]
        force: bool,
    },
    /// Take the node back, whatever put it aside.
    Resume,
    /// Read the configuration file again.
    Reload,
    /// Make sure that the partner has this node's configuration.
    Push,
    /// The configuration in force.
    ShowConfig,
    /// Hand over and end.
    Stop,
    /// Write down what happens to the election.
    Record {
        /// File to make, an absolute path.
        path: PathBuf,
        /// For how long.
        seconds: u32,
    },
    /// Begin, go on with, or end a capture of what the data plane sends.
    Capture(CaptureRequest),
    /// What the data plane would do with a packet.
    TracePacket(TraceRequest),
    /// Read or write records.
    Records(RecordsRequest),
    /// Switch the web page on or off, or change who may log in there.
    Web(WebRequest),
    /// What has happened.
    Events(EventQuery),
    /// Let a new node have key and configuration.
    Pair(PairRequest),
    /// Replace the running program; the connection ends when that happens.
    Reexec,
}

impl Request {
    /// What is asked for, as typed, if it changes the node. Who did that is kept.
    pub fn deed(&self) -> Option<String> {
        match self {
            Self::Failover => Some("failover".to_owned()),
            Self::Maintenance { on, force } => {
                let switch = if *on { "on" } else { "off" };
                let force = if *force { " --force" } else { "" };
                Some(format!("maintenance {switch}{force}"))
            }
            Self::Resume => Some("resume".to_owned()),
            Self::Stop => Some("stop".to_owned()),
            Self::Record { path, seconds } => {
                Some(format!("record {} --seconds {seconds}", path.display()))
            }
            Self::Reexec => Some("reexec".to_owned()),
            Self::Push => Some("push".to_owned()),
            Self::Web(request) => Some(request.to_string()),
            Self::Pair(PairRequest::Offer { minutes }) => {
                Some(format!("pair offer --minutes {minutes}"))
            }
            Self::Pair(PairRequest::Withdraw { .. }) => Some("pair withdraw".to_owned()),
            // What came of it is an event of its own.
            Self::Reload => None,
            Self::Status
            | Self::Connections(_)
            | Self::Counters
            | Self::Services
            | Self::Capture(_)
            | Self::TracePacket(_)
            | Self::Records(_)
            | Self::Events(_)
            | Self::Pair(PairRequest::Watch { .. })
            | Self::ShowConfig => None,
        }
    }
}

/// What to do with the web page, as `{"command":"web","action":"on"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum WebRequest {
    /// Open it.
    On,
    /// Close it.
    Off,
    /// Let somebody log in; the answer has the password.
    AddUser {
        /// Name.
        name: String,
        /// What the user may do.
        access: Access,
    },
    /// Let somebody log in no more.
    RemoveUser {
        /// Name.
        name: String,
    },
    /// Let a script use the API; the answer has its token.
    AddToken {
        /// Name.
        name: String,
        /// What the script may do.
        access: Access,
    },
    /// Let it use the API no more.
    RemoveToken {
        /// Name.
        name: String,
    },
}

impl std::fmt::Display for WebRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::On => f.write_str("web on"),
            Self::Off => f.write_str("web off"),
            Self::AddUser { name, access } => {
                write!(f, "web add-user {name} --access {}", access.as_str())
            }
            Self::RemoveUser { name } => write!(f, "web remove-user {name}"),
            Self::AddToken { name, access } => {
                write!(f, "web add-token {name} --access {}", access.as_str())
            }
            Self::RemoveToken { name } => write!(f, "web remove-token {name}"),
        }
    }
}

/// A step of a capture. It ends when there is none for two seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Tells captures apart: any number, the same in each step.
    pub session: u64,
    /// Show one packet in so many; 0 ends the capture.
    pub every: u32,
}

/// An answer: `{"ok":...}` or `{"error":{...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// What was asked for.
    Ok(T),
    /// Why not.
    Error(Refusal),
}

/// What a handler answers.
pub type Reply<T> = Result<T, Refusal>;

impl<T> From<Reply<T>> for Answer<T> {
    fn from(reply: Reply<T>) -> Self {
        match reply {
            Ok(value) => Self::Ok(value),
            Err(refusal) => Self::Error(refusal),
        }
    }
}

/// A command that was not carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    /// Why.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// Problems in the configuration file, if it is to blame.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Diagnostic>,
}

impl Refusal {
    /// A refusal with its remedy.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
            problems: Vec::new(),
        }
    }

    /// A configuration file that cannot be used.
    pub fn configuration(problems: Vec<Diagnostic>) -> Self {
        Self {
            what: "the configuration file was not taken over; the agent goes on as before"
                .to_owned(),
            remedy: "mend the file and reload again".to_owned(),
            problems,
        }
    }
}

/// A command that was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What happened, in one sentence.
    pub message: String,
    /// How long it took, in milliseconds, if that was watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
}

impl Done {
    /// What was done.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            took_ms: None,
        }
    }

    /// What was done, and how long it took.
    pub fn timed(message: impl Into<String>, took: std::time::Duration) -> Self {
        Self {
            message: message.into(),
            took_ms: Some(took.as_secs_f64() * 1e3),
        }
    }
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigShown {
    /// [`crate::status::model::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Number of its version.
    pub generation: u64,
    /// What the version says, in short.
    pub hash: ContentHash,
    /// The file, as it was read.
    pub text: String,
}

/// A configuration file that was taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What changed, one sentence each; none if the file says what it said.
    pub changes: Vec<String>,
    /// What somebody should look at.
    pub warnings: Vec<Diagnostic>,
}
