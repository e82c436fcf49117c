//! Coming for key and configuration with a one-time code: the new node's end of [`super::giver`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use russh::client::{self, Handle};
use russh::{ChannelStream, Disconnect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::channel::{self, HangUp};
use super::client::{AskError, Checker, Entrance, enter};
use super::giver::{IDENTITY, SUBSYSTEM, USER};
use super::keys::ChannelKeys;
use crate::pairing::code::Code;
use crate::pairing::{GIFT_MAX, Gift, Taken};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long anything else may take.
const STEP: Duration = Duration::from_secs(10);

/// Why there is nothing.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody answers.
    #[error("{0} is not reached: {1}")]
    Unreachable(SocketAddr, #[source] io::Error),
    /// The other node does not have this code.
    #[error("{0} does not know this code: it was mistyped, used, withdrawn, or its time is over")]
    Code(SocketAddr),
    /// The other node took too long.
    #[error("{0} did not answer in time")]
    TimedOut(SocketAddr),
    /// The connection broke.
    #[error("the connection to {0} broke: {1}")]
    Broke(SocketAddr, String),
    /// What came is nothing that a node gives.
    #[error("what {0} gave cannot be understood: {1}")]
    Garbled(SocketAddr, #[source] serde_json::Error),
}

impl JoinError {
    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Unreachable(..) => {
                "see that `ha-agent pair offer` waits there, that this machine has an address in that subnet, and that \
                 TCP to this port passes"
            }
            Self::Code(_) => {
                "type it as `ha-agent pair offer` shows it, or have a new one made there"
            }
            Self::TimedOut(_) | Self::Broke(..) => {
                "have a new code made there (`ha-agent pair offer`), and try again"
            }
            Self::Garbled(..) => "install the same version on both nodes, and pair them again",
        }
    }
}

/// A session in which the other node waits for an answer.
pub struct Joining {
    session: Handle<Checker>,
    stream: ChannelStream<client::Msg>,
    from: SocketAddr,
    _hang_up: HangUp,
}

/// Gets what the other node gives to who has this code.
pub async fn fetch(from: SocketAddr, code: &Code) -> Result<(Gift, Joining), JoinError> {
    let connected = timeout(CONNECT, TcpStream::connect(from)).await;
    let connected = connected.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected.map_err(|error| JoinError::Unreachable(from, error))?;
    let hang_up = HangUp::new(&stream).map_err(|error| JoinError::Unreachable(from, error))?;
    let keys = ChannelKeys::new(&code.keys(), false);
    let failed = |error: AskError| match error {
        AskError::HostKey | AskError::Refused => JoinError::Code(from),
        other @ (AskError::Unreachable(_)
        | AskError::TimedOut
        | AskError::Ssh(_)
        | AskError::Io(_)
        | AskError::Wire(_)) => JoinError::Broke(from, other.to_string()),
    };
    let entrance = Entrance {
        identity: IDENTITY,
        user: USER,
        subsystem: SUBSYSTEM,
    };
    let begun = timeout(STEP, enter(stream, &keys, &entrance)).await;
    let begun = begun.map_err(|_elapsed| JoinError::TimedOut(from))?;
    let (session, mut stream) = begun.map_err(failed)?;
    let message = timeout(STEP, channel::read_short(&mut stream, GIFT_MAX)).await;
    let message = message.map_err(|_elapsed| JoinError::TimedOut(from))?;
    let message = message.map_err(|error| failed(error.into()))?;
    let gift = serde_json::from_slice(&message).map_err(|error| JoinError::Garbled(from, error))?;
    let joining = Joining {
        session,
        stream,
        from,
        _hang_up: hang_up,
    };
    Ok((gift, joining))
}

impl Joining {
    /// Tells what has become of it; returns when the other node knows.
    pub async fn answer(mut self, taken: &Taken) -> Result<(), JoinError> {
        let from = self.from;
        let broke = |error: &dyn std::fmt::Display| JoinError::Broke(from, error.to_string());
        let message = serde_json::to_vec(taken).map_err(|error| JoinError::Garbled(from, error))?;
        let told = async {
            channel::write_short(&mut self.stream, &message).await?;
            self.stream.shutdown().await?;
            // The other node closes when it has taken note.
            let mut rest = Vec::new();
            (&mut self.stream).take(1).read_to_end(&mut rest).await
        };
        let told = timeout(STEP, told).await;
        told.map_err(|_elapsed| JoinError::TimedOut(from))?
            .map_err(|error| broke(&error))?;
        let left = self.session.disconnect(Disconnect::ByApplication, "", "");
        left.await.map_err(|error| broke(&error))
    }
}
