//! The configuration's version and its replication, as the status shows them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::proto::confsync::ContentHash;

/// A version of the shared part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionStatus {
    /// Grows with every change.
    pub generation: u64,
    /// Equal if and only if two versions say the same.
    pub hash: ContentHash,
}

/// `configuration` of the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// This node's version.
    #[serde(flatten)]
    pub version: VersionStatus,
    /// The file was changed while no agent ran, and has no number of its own yet.
    pub edited: bool,
    /// The partner's version, as it last said; null if it never did.
    pub partner: Option<VersionStatus>,
    /// Whether both are the same.
    pub in_sync: bool,
    /// Time since the partner last asked or answered.
    pub heard_seconds: Option<f64>,
    /// What the file says that only a restart puts in force.
    pub restart_needed: Vec<String>,
    /// Why the two versions are not the same.
    pub problem: Option<String>,
    /// Contents that were replaced by the partner's, and kept.
    pub lost: Vec<PathBuf>,
    /// What was exchanged.
    pub progress: Progress,
    /// What happened on the channel.
    pub channel: ChannelStatus,
}

/// Questions and versions, since the start of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Questions answered by the partner.
    pub exchanged: u64,
    /// Questions that were not.
    pub failed: u64,
    /// Questions of the partner.
    pub asked: u64,
    /// Versions of the partner that were taken over.
    pub applied: u64,
    /// Versions of the partner that could not be.
    pub not_applied: u64,
}

/// Sessions of the configuration channel, since the start of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// In which somebody proved to be the partner.
    pub sessions: u64,
    /// Keys shown, by a client or a host, that are not the partner's.
    pub wrong_key: u64,
    /// Turned away because too many were open.
    pub too_many: u64,
    /// Ended because they took too long.
    pub timed_out: u64,
    /// Ended before anybody showed a key.
    #[serde(default)]
    pub unproven: u64,
    /// Operators who logged in.
    #[serde(default)]
    pub operators: u64,
    /// Clients that said to be an operator and were not.
    #[serde(default)]
    pub operators_refused: u64,
    /// Messages of the partner that are none.
    pub malformed: u64,
}
