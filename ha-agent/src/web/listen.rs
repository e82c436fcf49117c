//! Listening: how many clients there may be, and how long each may take.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// How long a request's head may take.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Longest head of a request, in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// How long a connection may go on with what it does when its time is over.
const GRACE: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of descriptors): the next would fail at once, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 128;

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time. When there is one more, the oldest gives way: one that came to do
    /// something has long done it.
    pub clients: usize,
    /// How long a connection lasts.
    pub life: Duration,
}

/// The address of the node at which a request came in.
#[derive(Clone, Copy, Debug)]
pub struct At(pub SocketAddr);

/// What is served.
#[derive(Clone)]
pub struct Offer<A> {
    /// The resources.
    pub router: Router,
    /// How connections are encrypted, if they are.
    pub tls: Option<TlsAcceptor>,
    /// What clients may take.
    pub limits: Limits,
    /// Whether there is anything to be had at this address of the node.
    pub admits: A,
}

/// At all addresses.
pub const fn everywhere(_address: IpAddr) -> bool {
    true
}

/// What was counted at a listener.
#[derive(Debug, Default)]
pub struct Counted {
    connections: AtomicU64,
    displaced: AtomicU64,
    turned_away: AtomicU64,
}

impl Counted {
    /// Connections accepted, those that gave way to others, and those that came where there is nothing to be had.
    pub fn read(&self) -> [u64; 3] {
        [&self.connections, &self.displaced, &self.turned_away]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// Opens a socket, also at an address that this node does not have yet: shared ones move.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        // `[::]` is for IPv4, too, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Serves until the future is dropped.
pub async fn serve(
    listener: TcpListener,
    offer: Offer<impl Fn(IpAddr) -> bool>,
    counted: &Counted,
) {
    let limits = offer.limits;
    let mut tasks = JoinSet::new();
    let mut held: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok((stream, from)) => (stream, from),
            Err(error) => {
                tracing::warn!(%error, "HTTP connection not accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(at) = stream.local_addr() else {
            continue;
        };
        if !(offer.admits)(at.ip().to_canonical()) {
            counted.turned_away.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        counted.connections.fetch_add(1, Ordering::Relaxed);
        while tasks.try_join_next().is_some() {}
        held.retain(|task| !task.is_finished());
        if held.len() >= limits.clients
            && let Some(oldest) = held.pop_front()
        {
            oldest.abort();
            counted.displaced.fetch_add(1, Ordering::Relaxed);
        }
        let router = offer.router.clone();
        let router = router
            .layer(Extension(ConnectInfo(from)))
            .layer(Extension(At(at)));
        held.push_back(match offer.tls.clone() {
            None => tasks.spawn(client(stream, router, limits.life)),
            Some(tls) => tasks.spawn(async move {
                match timeout(HEAD_MAX, tls.accept(stream)).await {
                    Ok(Ok(stream)) => client(stream, router, limits.life).await,
                    Ok(Err(error)) => tracing::debug!(%error, %from, "no TLS"),
                    Err(_elapsed) => {}
                }
            }),
        });
    }
}

async fn client(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    life: Duration,
) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = sleep(life) => {
            // A request under way is answered; one that is never read to its end is not.
            connection.as_mut().graceful_shutdown();
            match timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_elapsed) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended");
    }
}
