//! Why a node does not come up.

use std::io;

use crate::datapath::DatapathError;
use crate::datapath::load::LoadError;
use crate::services::{ApplyError, ServiceError};
use crate::shell::sysctl;

/// Why a node does not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A configured interface is not there.
    #[error("interface {name}: there is no device {device}; see `ip link`, or correct `device`")]
    NoDevice {
        /// Logical name.
        name: String,
        /// Kernel name.
        device: String,
    },
    /// An interface lacks the node's own address.
    #[error(
        "interface {name}: device {device} does not have the address {address}; \
         run `ip addr add {address} dev {device}`, or correct `address`"
    )]
    NoAddress {
        /// Logical name.
        name: String,
        /// Kernel name.
        device: String,
        /// What is configured.
        address: String,
    },
    /// Netlink refused something.
    #[error("netlink: {0}; the agent needs CAP_NET_ADMIN")]
    Netlink(#[source] io::Error),
    /// A file in the state directory.
    #[error("state directory {path}: {source}")]
    State {
        /// The directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A system setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    /// The data plane.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The services.
    #[error(transparent)]
    Services(#[from] ServiceError),
    /// Storing the services.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A thread or socket of the election.
    #[error("election: {0}; the agent needs CAP_NET_RAW")]
    Election(#[source] io::Error),
    /// The replication socket or thread.
    #[error("replication on interface {interface}: {source}")]
    Replication {
        /// Logical name.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
    /// The path of the running program.
    #[error("this program does not know its own path: {0}")]
    Program(#[source] io::Error),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

impl StartError {
    /// Whether a privilege is missing.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Load(LoadError::Privileges { .. }) => true,
            Self::Netlink(error)
            | Self::Election(error)
            | Self::State { source: error, .. }
            | Self::Replication { source: error, .. } => {
                error.kind() == io::ErrorKind::PermissionDenied
            }
            Self::Sysctl(error) => error.is_permission(),
            Self::NoDevice { .. }
            | Self::NoAddress { .. }
            | Self::Load(_)
            | Self::Datapath(_)
            | Self::Services(_)
            | Self::Apply(_)
            | Self::Program(_)
            | Self::Random => false,
        }
    }
}
