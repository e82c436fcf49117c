//! Asking the partner.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, Handle};
use russh::keys::{PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelStream, Disconnect, SshId};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::channel::{self, HangUp, IDENTITY, Place, ReadError, SUBSYSTEM, USER};
use super::keys::{ChannelKeys, is_one_of};
use crate::proto::confsync::{Request, Response, WireError};

/// How long a connection may take to be made: it is one hop away.
const CONNECT: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the partner's port is not reached: {0}")]
    Unreachable(#[source] io::Error),
    #[error("the partner did not answer in time")]
    TimedOut,
    #[error("what answers there has not the pair's key")]
    HostKey,
    #[error("the partner does not accept this node's key")]
    Refused,
    #[error("the connection broke: {0}")]
    Ssh(#[from] russh::Error),
    #[error("the partner's answer ended early: {0}")]
    Io(#[from] io::Error),
    #[error("the partner's answer cannot be understood: {0}")]
    Wire(#[from] WireError),
}

impl From<ReadError> for AskError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Wire(error) => Self::Wire(error),
            ReadError::Io(error) => Self::Io(error),
        }
    }
}

/// Sends a question over a connection of its own, and waits for the answer.
pub(super) async fn ask(
    place: &Place,
    keys: &ChannelKeys,
    request: &Request,
) -> Result<Response, AskError> {
    let question = request.encode();
    let stream = timeout(CONNECT, connect(place))
        .await
        .map_err(|_elapsed| AskError::Unreachable(io::ErrorKind::TimedOut.into()))?
        .map_err(AskError::Unreachable)?;
    let _hang_up = HangUp::new(&stream)?;
    let patience = channel::patience(question.len());
    timeout(patience, converse(stream, keys, &question))
        .await
        .map_err(|_elapsed| AskError::TimedOut)?
}

async fn connect(place: &Place) -> io::Result<TcpStream> {
    let socket = place.socket(0)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    socket.connect(place.partner()).await
}

/// What is wanted of who answers.
pub(super) struct Entrance {
    pub(super) identity: &'static str,
    pub(super) user: &'static str,
    pub(super) subsystem: &'static str,
}

/// Begins a session with who has the pair's key, and opens the one channel of it.
pub(super) async fn enter(
    stream: TcpStream,
    keys: &ChannelKeys,
    entrance: &Entrance,
) -> Result<(Handle<Checker>, ChannelStream<client::Msg>), AskError> {
    let config = client::Config {
        client_id: SshId::Standard(Cow::Borrowed(entrance.identity)),
        preferred: channel::preferred(),
        nodelay: true,
        ..client::Config::default()
    };
    let checker = Checker {
        known: keys.partner_host.clone(),
    };
    let mut session = client::connect_stream(Arc::new(config), stream, checker).await?;
    log_in(&mut session, entrance.user, keys).await?;
    let channel = session.channel_open_session().await?;
    channel.request_subsystem(true, entrance.subsystem).await?;
    Ok((session, channel.into_stream()))
}

async fn converse(
    stream: TcpStream,
    keys: &ChannelKeys,
    question: &[u8],
) -> Result<Response, AskError> {
    let entrance = Entrance {
        identity: IDENTITY,
        user: USER,
        subsystem: SUBSYSTEM,
    };
    let (session, mut stream) = enter(stream, keys, &entrance).await?;
    stream.write_all(question).await?;
    stream.flush().await?;
    let answer = channel::read(&mut stream).await?;
    let response = Response::decode(&answer)?;
    session
        .disconnect(Disconnect::ByApplication, "", "")
        .await?;
    Ok(response)
}

/// Proves to have the keys.
async fn log_in(
    session: &mut Handle<Checker>,
    user: &str,
    keys: &ChannelKeys,
) -> Result<(), AskError> {
    for key in &keys.client {
        let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
        if session.authenticate_publickey(user, key).await?.success() {
            return Ok(());
        }
    }
    Err(AskError::Refused)
}

/// Believes the partner only.
pub(super) struct Checker {
    known: Vec<PublicKey>,
}

impl client::Handler for Checker {
    type Error = AskError;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, AskError> {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } if is_one_of(key, &self.known) => {
                Ok(true)
            }
            PublicKeyOrCertificate::PublicKey { .. } | PublicKeyOrCertificate::Certificate(_) => {
                Err(AskError::HostKey)
            }
        }
    }
}
