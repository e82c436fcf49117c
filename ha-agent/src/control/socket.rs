//! UNIX sockets that local clients connect to.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Who may connect: the agent's owner and its group.
pub const MODE: u32 = 0o660;

/// Why a socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// What is there is no socket that a crash could have left behind.
    #[error("{0} is not a socket")]
    Occupied(PathBuf),
    /// The system refused.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

/// Opens a non-blocking socket of mode [`MODE`], in place of one that a crash has left behind. The caller
/// knows that no other agent uses it.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::Occupied(path.to_owned()));
        }
        Ok(_) => fs::remove_file(path).map_err(of(path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(of(path)(error)),
    }
    // Made under another name, so that nobody connects before the mode is right.
    let fresh = path.with_extension("new");
    if let Err(error) = fs::remove_file(&fresh)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(of(&fresh)(error));
    }
    let socket = UnixListener::bind(&fresh).map_err(of(&fresh))?;
    socket
        .set_nonblocking(true)
        .and_then(|()| fs::set_permissions(&fresh, Permissions::from_mode(MODE)))
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(of(path))?;
    Ok(socket)
}

fn of(path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io(path, source)
}
