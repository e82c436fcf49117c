//! `udp`: a datagram. Few services answer an empty one, so silence is well unless an answer is asked
//! for; what fails is a host that says nobody listens there (RFC 1122 section 4.1.3.1).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time;

use super::{BODY_MAX, Failure};
use crate::config::model;
use crate::echo::{Source, leave_from};

/// How long a host may take to say that nobody listens, if no answer is asked for.
const REFUSAL: Duration = Duration::from_millis(200);

pub(super) async fn check(
    server: SocketAddr,
    source: Option<&Source>,
    wanted: &model::UdpCheck,
) -> Result<(), Failure> {
    let socket = open(server, source)?;
    socket.send(wanted.send.as_bytes()).await?;
    let mut answer = vec![0; BODY_MAX];
    let Some(text) = &wanted.expect else {
        return match time::timeout(REFUSAL, socket.recv(&mut answer)).await {
            Ok(heard) => heard.map(drop).map_err(Into::into),
            Err(_silence) => Ok(()),
        };
    };
    let len = socket.recv(&mut answer).await?;
    let answer = answer.get(..len).unwrap_or_default();
    if answer
        .windows(text.len())
        .any(|found| found == text.as_bytes())
    {
        Ok(())
    } else {
        Err(Failure::Content(text.clone()))
    }
}

fn open(server: SocketAddr, source: Option<&Source>) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(server),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    leave_from(&socket, source)?;
    socket.set_nonblocking(true)?;
    // Connected: other senders are not heard, and a refusal is reported.
    socket.connect(&server.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(expect: Option<&str>, listens: bool) -> Result<(), Failure> {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let wanted = model::UdpCheck {
            send: "ping".to_owned(),
            expect: expect.map(str::to_owned),
        };
        if !listens {
            drop(server);
            return check(at, None, &wanted).await;
        }
        let serve = async {
            let mut asked = [0; 16];
            let (len, from) = server.recv_from(&mut asked).await.unwrap();
            assert_eq!(&asked[..len], b"ping");
            server.send_to(b"a pong", from).await.unwrap();
        };
        let limited = time::timeout(Duration::from_secs(20), check(at, None, &wanted));
        tokio::join!(limited, serve).0.unwrap()
    }

    #[tokio::test]
    async fn an_answer_may_be_asked_for() {
        asked(None, true).await.unwrap();
        asked(Some("pong"), true).await.unwrap();
        let other = asked(Some("gong"), true).await;
        assert!(matches!(other, Err(Failure::Content(_))), "{other:?}");
    }

    #[tokio::test]
    async fn nobody_listens() {
        assert!(matches!(asked(None, false).await, Err(Failure::Io(_))));
        assert!(matches!(asked(Some("x"), false).await, Err(Failure::Io(_))));
    }

    #[tokio::test]
    async fn silence_is_well_if_nothing_is_asked_for() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let wanted = model::UdpCheck {
            send: String::new(),
            expect: None,
        };
        let at = server.local_addr().unwrap();
        check(at, None, &wanted).await.unwrap();
    }
}
