//! One check of one server: what is asked, and what counts as an answer.
//!
//! Everything here is bounded: the caller's timeout bounds the time, [`BODY_MAX`] what is read.

mod http;
mod tls;
mod udp;

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

use crate::config::model;
use crate::echo::{self, Source, leave_from};

/// Most bytes of an answer that are looked at.
const BODY_MAX: usize = 64 * 1024;

/// Why a server is not well.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The kernel, or the server's, said no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not speak HTTP.
    #[error("no HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// Another status than those wanted.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The answer lacks what it must contain.
    #[error("the answer does not contain {0:?}")]
    Content(String),
}

/// Checks a server once. `nonce` tells this check's packets from those of others.
pub(super) async fn check(
    what: &model::Check,
    server: SocketAddr,
    source: Option<&Source>,
    nonce: u64,
) -> Result<(), Failure> {
    match what {
        model::Check::Tcp => connect(server, source).await.map(drop).map_err(Into::into),
        model::Check::Http(http) => http::check(connect(server, source).await?, server, http).await,
        model::Check::Https(http) => {
            let stream =
                tls::client(connect(server, source).await?, server, http.host.as_deref()).await?;
            http::check(stream, server, http).await
        }
        model::Check::Udp(udp) => udp::check(server, source, udp).await,
        model::Check::Icmp => Ok(echo::echo(server.ip(), source, nonce, echo::SHORTEST).await?),
    }
}

async fn connect(server: SocketAddr, source: Option<&Source>) -> io::Result<TcpStream> {
    let socket = match server {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    leave_from(&socket, source)?;
    socket.connect(server).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_address_that_is_not_ours_fails_the_check() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let source = |last: [u8; 4]| Source {
            address: last.into(),
            device: "lo".to_owned(),
        };
        let foreign = source([192, 0, 2, 1]);
        let refused = check(&model::Check::Tcp, server, Some(&foreign), 0).await;
        assert!(matches!(refused, Err(Failure::Io(_))));
        let own = source([127, 0, 0, 9]);
        check(&model::Check::Tcp, server, Some(&own), 0)
            .await
            .unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), Ipv4Addr::new(127, 0, 0, 9));
    }
}
