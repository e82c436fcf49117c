//! The agent's end of the control socket.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::protocol::{Answer, REQUEST_MAX, Refusal, Reply, Request};
use super::seats::{Room, Seat, Seats, count};
use super::socket::{self, SocketError};
use super::{Handler, Peer};

/// Connections served at the same time.
const CLIENTS_MAX: usize = 16;
/// How long a client may take to send a line or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a command may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether a seat is free before somebody is turned away, and how many times.
const SEAT_LOOK: Duration = Duration::from_millis(5);
const SEAT_LOOKS: u32 = 200;
/// Pause after a failed accept (out of descriptors): the next would fail at once, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent uses the directory.
    #[error(
        "another ha-agent (process {pid}) is running with control socket {path}: stop it, or give \
         this one another `node.run_dir`"
    )]
    Running {
        /// The socket.
        path: PathBuf,
        /// Its process id, as it wrote it down.
        pid: String,
    },
    /// Something else stands in the way.
    #[error("{path} is not a socket: remove it, or choose another `node.run_dir`")]
    Occupied {
        /// What is in the way.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}: check that `node.run_dir` exists and belongs to this user")]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// An open control socket. Dropping it removes the socket file.
///
/// A lock next to the socket tells whether an agent is alive: the kernel releases it with the
/// process, so what a crash leaves behind never stops the next start.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    socket: StdListener,
    lock: Arc<Flock<File>>,
}

/// Says, as long as it is kept, that this agent lives: longer than it answers, if it takes its time to end.
#[derive(Debug)]
pub struct Claim {
    _lock: Arc<Flock<File>>,
}

impl Listener {
    /// Opens the socket; its directory is made if needed.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(io_error(directory))?;
        }
        let lock = lock(path)?;
        let socket = socket::listen(path)?;
        Ok(Self {
            path: path.to_owned(),
            socket,
            lock: Arc::new(lock),
        })
    }
}

/// Descriptors of a [`Listener`], for a program that continues this one.
#[derive(Debug)]
pub struct Heirloom {
    socket: OwnedFd,
    lock: OwnedFd,
}

impl Heirloom {
    /// As inherited.
    pub const fn new(socket: OwnedFd, lock: OwnedFd) -> Self {
        Self { socket, lock }
    }

    /// The listening socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The locked file.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

impl Listener {
    /// Goes on with the socket of the program before this one: no client is turned away, and no other
    /// agent can come in between.
    pub fn inherit(path: &Path, heirloom: Heirloom) -> Result<Self, BindError> {
        let socket = StdListener::from(heirloom.socket);
        socket.local_addr().map_err(io_error(path))?;
        // The lock belongs to the open file, which this process still holds.
        let lock = Flock::lock(File::from(heirloom.lock), FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| io_error(path)(errno.into()))?;
        Ok(Self {
            path: path.to_owned(),
            socket,
            lock: Arc::new(lock),
        })
    }

    /// To be kept until nothing of the agent is left.
    pub fn claim(&self) -> Claim {
        Claim {
            _lock: Arc::clone(&self.lock),
        }
    }

    /// Copies of the descriptors, to be left to a program that continues this one.
    pub fn heirloom(&self) -> io::Result<Heirloom> {
        Ok(Heirloom {
            socket: self.socket.as_fd().try_clone_to_owned()?,
            lock: self.lock.as_fd().try_clone_to_owned()?,
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "socket file not removed");
        }
    }
}

impl From<SocketError> for BindError {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Occupied(path) => Self::Occupied { path },
            SocketError::Io(path, source) => Self::Io { path, source },
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |source| BindError::Io { path, source }
}

/// Whether an agent lives that has its control socket there. It may be ending, and answer no more.
pub fn is_alive(socket: &Path) -> io::Result<bool> {
    let file = match File::open(socket.with_extension("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_free) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Takes the lock next to the socket, and leaves this process's id in it.
fn lock(path: &Path) -> Result<Flock<File>, BindError> {
    let file_path = path.with_extension("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file_path)
        .map_err(io_error(&file_path))?;
    let mut locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => locked,
        Err((_, Errno::EWOULDBLOCK)) => {
            let pid = fs::read_to_string(&file_path).unwrap_or_default();
            return Err(BindError::Running {
                path: path.to_owned(),
                pid: pid.trim().to_owned(),
            });
        }
        Err((_, errno)) => return Err(io_error(&file_path)(errno.into())),
    };
    locked
        .set_len(0)
        .and_then(|()| writeln!(locked, "{}", std::process::id()))
        .map_err(io_error(&file_path))?;
    Ok(locked)
}

/// Serves the socket until the future is dropped.
pub async fn serve<H: Handler>(listener: Listener, handler: Arc<H>) -> io::Result<()> {
    let socket = UnixListener::from_std(listener.socket.try_clone()?)?;
    let mut seats = Seats::new(CLIENTS_MAX);
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let counted = handler.counted();
        count(&counted.clients);
        match room(&mut seats).await {
            Room::Free => {}
            Room::Made => count(&counted.displaced),
            Room::None => {
                count(&counted.turned_away);
                turn_away(&stream);
                continue;
            }
        }
        let seat = Seat::default();
        let handler = Arc::clone(&handler);
        let own = seat.clone();
        let client = tokio::spawn(async move {
            if let Err(error) = client(stream, &handler, &own).await {
                if error.kind() == io::ErrorKind::TimedOut {
                    count(&handler.counted().timed_out);
                }
                tracing::debug!(%error, "control connection ended");
            }
        });
        seats.take(seat, client);
    }
}

/// A seat for one more, after a moment if need be: most commands take milliseconds.
async fn room(seats: &mut Seats) -> Room {
    let mut room = seats.make_room().await;
    for _ in 0..SEAT_LOOKS {
        if room != Room::None {
            break;
        }
        tokio::time::sleep(SEAT_LOOK).await;
        room = seats.make_room().await;
    }
    room
}

/// Says why, without waiting: a fresh connection takes a line, or nobody reads it.
fn turn_away(stream: &UnixStream) {
    let refusal = Refusal::new(
        format!("{CLIENTS_MAX} commands are being carried out already"),
        "try again",
    );
    let said = encode::<()>(Err(refusal)).and_then(|line| stream.try_write(&line));
    if let Err(error) = said {
        tracing::debug!(%error, "client not turned away");
    }
}

/// Serves one client until it closes, errs or stalls.
async fn client<H: Handler>(stream: UnixStream, handler: &Arc<H>, seat: &Seat) -> io::Result<()> {
    let who = Peer::of(&stream);
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut read).take(REQUEST_MAX as u64);
        let length = timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
        if length == 0 || !seat.begin() {
            return Ok(());
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                count(&handler.counted().malformed);
                let refusal = Refusal::new(
                    format!("not a command: {error}"),
                    "use an ha-agent of the same version as the one that runs",
                );
                return answer::<()>(&mut write, Err(refusal)).await;
            }
        };
        let deed = request.deed();
        let asked = Asked {
            handler,
            who,
            deed: deed.as_deref(),
        };
        let Ok(line) = timeout(COMMAND_MAX, asked.carry_out(request)).await else {
            let refusal = Refusal::new(
                format!("not done within {} seconds", COMMAND_MAX.as_secs()),
                "look at the agent's log",
            );
            return send(&mut write, &asked.answer::<()>(Err(refusal))?).await;
        };
        seat.tell();
        send(&mut write, &line?).await?;
        if !seat.end() {
            return Ok(());
        }
    }
}

/// What a client asked for.
struct Asked<'a, H> {
    handler: &'a Arc<H>,
    who: Peer,
    deed: Option<&'a str>,
}

impl<H: Handler> Asked<'_, H> {
    async fn carry_out(&self, request: Request) -> io::Result<Vec<u8>> {
        let handler = self.handler;
        match request {
            Request::Status => self.answer(handler.status().await),
            Request::Connections(query) => self.answer(handler.connections(query).await),
            Request::Counters => self.answer(handler.counters().await),
            Request::Services => self.answer(handler.services().await),
            Request::Failover => self.answer(handler.failover().await),
            Request::Maintenance { on, force } => self.answer(handler.maintenance(on, force).await),
            Request::Resume => self.answer(handler.resume().await),
            Request::Reload => self.answer(Arc::clone(handler).reload(self.who).await),
            Request::Push => self.answer(Arc::clone(handler).push().await),
            Request::ShowConfig => self.answer(handler.show_config().await),
            Request::Stop => self.answer(handler.stop().await),
            Request::Record { path, seconds } => self.answer(handler.record(path, seconds).await),
            Request::Capture(request) => self.answer(handler.capture(request).await),
            Request::TracePacket(request) => self.answer(handler.trace(request).await),
            Request::Records(request) => self.answer(handler.records(request).await),
            Request::Web(request) => self.answer(handler.web(request).await),
            Request::Events(query) => self.answer(handler.events(query).await),
            Request::Pair(request) => self.answer(Arc::clone(handler).pair(request).await),
            Request::Reexec => {
                // If it succeeds there is nobody left to take note of it.
                handler.audit(&self.who, "reexec", None);
                self.answer(handler.reexec().await)
            }
        }
    }

    /// The answer as it is sent; what changes the node is taken note of.
    fn answer<T: Serialize>(&self, reply: Reply<T>) -> io::Result<Vec<u8>> {
        if let Some(deed) = self.deed {
            self.handler.audit(&self.who, deed, reply.as_ref().err());
        }
        encode(reply)
    }
}

async fn answer<T: Serialize>(
    write: &mut (impl AsyncWrite + Unpin),
    reply: Reply<T>,
) -> io::Result<()> {
    send(write, &encode(reply)?).await
}

fn encode<T: Serialize>(reply: Reply<T>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Answer::from(reply))?;
    line.push(b'\n');
    Ok(line)
}

async fn send(write: &mut (impl AsyncWrite + Unpin), line: &[u8]) -> io::Result<()> {
    timeout(PATIENCE, write.write_all(line)).await?
}
