//! The command line's end of the control socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::protocol::{ANSWER_MAX, Answer, Refusal, Request};

/// How long an answer may take: more than the agent gives a command.
const PATIENCE: Duration = Duration::from_secs(40);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no ha-agent is running with control socket {}", .path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to others.
    #[error("this user may not command the ha-agent behind {}", .path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The agent refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The answer makes no sense.
    #[error("the agent's answer cannot be understood ({0}); is it of another version?")]
    Garbled(#[from] serde_json::Error),
    /// The connection broke.
    #[error("the agent did not answer: {0}")]
    Io(#[from] io::Error),
}

/// A connection to a running agent.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the agent behind a socket.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let path = path.to_owned();
            if error.kind() == io::ErrorKind::PermissionDenied {
                ClientError::Permission { path }
            } else if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) {
                ClientError::NotRunning { path }
            } else {
                ClientError::Io(error)
            }
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a command and waits for what it yields.
    pub fn request<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        self.send(request)?;
        self.receive()
    }

    /// Sends a command. Its answer comes after those to the commands before it.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        Ok(self.stream.get_mut().write_all(&line)?)
    }

    /// Waits for what a command yields.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(ANSWER_MAX)
            .read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match serde_json::from_slice(&line)? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(refusal) => Err(refusal.into()),
        }
    }
}
