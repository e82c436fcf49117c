//! `http`: a GET, judged by status and, if wanted, by a text in the body.

use std::io;
use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{BODY_MAX, Failure};
use crate::config::model;

/// Asks over a connection that is made.
pub(super) async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    server: SocketAddr,
    wanted: &model::HttpCheck,
) -> Result<(), Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asked = async {
        let answer = sender.send_request(request(server, wanted)?).await?;
        judge(answer, wanted).await
    };
    // The connection moves only while it is polled, and ends with this check.
    tokio::select! {
        judged = asked => judged,
        Err(error) = connection => Err(error.into()),
    }
}

fn request(server: SocketAddr, wanted: &model::HttpCheck) -> io::Result<Request<Empty<Bytes>>> {
    let host = wanted.host.clone().unwrap_or_else(|| server.to_string());
    let refused = |error: &dyn std::error::Error| {
        io::Error::new(io::ErrorKind::InvalidInput, error.to_string())
    };
    let host = HeaderValue::from_str(&host).map_err(|error| refused(&error))?;
    Request::get(&wanted.path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("ha-agent/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| refused(&error))
}

async fn judge(answer: Response<Incoming>, wanted: &model::HttpCheck) -> Result<(), Failure> {
    let status = answer.status().as_u16();
    if !wanted.status.iter().any(|range| range.contains(&status)) {
        return Err(Failure::Status(status));
    }
    let Some(text) = &wanted.body else {
        return Ok(());
    };
    let mut body = answer.into_body();
    let mut seen: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Some(data) = frame?.data_ref().cloned() else {
            continue;
        };
        // A text may begin in one frame and end in the next.
        let from = seen.len().saturating_sub(text.len());
        let room = BODY_MAX.saturating_sub(seen.len());
        seen.extend(data.iter().take(room));
        let fresh = seen.get(from..).unwrap_or_default();
        if fresh
            .windows(text.len())
            .any(|found| found == text.as_bytes())
        {
            return Ok(());
        }
        if seen.len() >= BODY_MAX {
            break;
        }
    }
    Err(Failure::Content(text.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    /// What a check says of a server that answers with these bytes, and what it was asked.
    async fn asked(
        answer: &'static [u8],
        wanted: &model::HttpCheck,
    ) -> (Result<(), Failure>, String) {
        let (client, mut server) = duplex(1024);
        let at: SocketAddr = "192.0.2.1:8080".parse().unwrap();
        let serve = async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(server.read_u8().await.unwrap());
            }
            // The check may have heard enough before everything is said.
            drop(server.write_all(answer).await);
            drop(server);
            String::from_utf8(request).unwrap()
        };
        tokio::join!(check(client, at, wanted), serve)
    }

    fn wanted(status: (u16, u16), body: Option<&str>) -> model::HttpCheck {
        model::HttpCheck {
            path: "/healthz?deep=1".to_owned(),
            host: None,
            status: vec![status.0..=status.1],
            body: body.map(str::to_owned),
        }
    }

    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nall is well";

    #[tokio::test]
    async fn asks_for_the_path_and_judges_the_status() {
        let (well, request) = asked(GOOD, &wanted((200, 399), None)).await;
        well.unwrap();
        assert!(
            request.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("host: 192.0.2.1:8080\r\n"), "{request}");
        let named = model::HttpCheck {
            host: Some("www.example".to_owned()),
            ..wanted((200, 200), None)
        };
        let (well, request) = asked(GOOD, &named).await;
        well.unwrap();
        assert!(request.contains("host: www.example\r\n"), "{request}");
        let (bad, _) = asked(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", &named).await;
        assert!(matches!(bad, Err(Failure::Status(503))), "{bad:?}");
    }

    #[tokio::test]
    async fn looks_for_the_text() {
        let (well, _) = asked(GOOD, &wanted((200, 200), Some("is well"))).await;
        well.unwrap();
        let (bad, _) = asked(GOOD, &wanted((200, 200), Some("is ill"))).await;
        assert!(matches!(bad, Err(Failure::Content(_))), "{bad:?}");
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nis \r\n4\r\nwell\r\n0\r\n\r\n";
        let (well, _) = asked(chunked, &wanted((200, 200), Some("is well"))).await;
        well.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_http_fails() {
        for noise in [
            &b""[..],
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-le",
            &[0xff; 4096],
        ] {
            let (bad, _) = asked(noise, &wanted((200, 200), None)).await;
            assert!(bad.is_err());
        }
    }

    #[tokio::test]
    async fn reads_no_more_than_it_must() {
        let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        endless.resize(4 * BODY_MAX, b'x');
        let (bad, _) = asked(endless.leak(), &wanted((200, 200), Some("y"))).await;
        assert!(matches!(bad, Err(Failure::Content(_))), "{bad:?}");
    }
}
