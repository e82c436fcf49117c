//! Who is at the other end of the control socket.

use std::fmt;

/// A client, as the kernel knows it: unix(7), `SO_PEERCRED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id, when it connected; none if the kernel does not say.
    pub uid: Option<u32>,
    /// Process id.
    pub pid: Option<i32>,
}

impl Peer {
    pub(super) fn of(stream: &tokio::net::UnixStream) -> Self {
        let known = stream.peer_cred().ok();
        Self {
            uid: known.as_ref().map(tokio::net::unix::UCred::uid),
            pid: known.and_then(|known| known.pid()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "uid {uid}"),
            None => f.write_str("somebody"),
        }
    }
}
