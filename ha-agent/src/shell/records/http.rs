//! Records over HTTP, for proxies that speak nothing else. One resource a record:
//!
//! ```text
//! GET    /records/NAMESPACE/KEY             the value; X-Record-Left tells how long it lives
//! PUT    /records/NAMESPACE/KEY?ttl=30s     204
//! DELETE /records/NAMESPACE/KEY             204, or 404
//! GET    /records/NAMESPACE?after=KEY       a page in JSON
//! GET    /records/NAMESPACE?watch           changes as they happen, a JSON object a line
//! ```
//!
//! Keys are percent-encoded. Whoever can connect may read and write, so the configuration allows loopback
//! addresses and UNIX sockets only.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::api::{self, Denied};
use super::log::millis;
use super::{Handle, Unanswered};
use crate::config::model::RecordsListen;
use crate::config::read_duration;
use crate::control::{Blob, Changes, PAGE_MAX, RecordsReply, RecordsRequest, socket};
use crate::proto::records::{KEY_VALUE_MAX, Refusal};

/// Connections served at the same time.
const CLIENTS_MAX: usize = 64;
/// How long a request's head may take.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// How long a value may take.
const VALUE_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of descriptors): the next would fail at once, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An open socket. Dropping it removes the socket file, if it has one.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, std::path::PathBuf),
}

impl Listener {
    /// Opens what the configuration names.
    pub fn bind(listen: &RecordsListen) -> io::Result<Self> {
        let socket = match listen {
            RecordsListen::Address(address) => {
                let socket = std::net::TcpListener::bind(address)?;
                socket.set_nonblocking(true)?;
                Socket::Tcp(TcpListener::from_std(socket)?)
            }
            RecordsListen::Path(path) => {
                let socket = socket::listen(path).map_err(io::Error::other)?;
                Socket::Unix(UnixListener::from_std(socket)?, path.clone())
            }
        };
        Ok(Self { socket })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(path = %path.display(), %error, "socket file not removed");
        }
    }
}

/// Serves until the future is dropped.
pub async fn serve(listener: Listener, records: Handle) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        // One that has no place waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let records = records.clone();
        let accepted = match &listener.socket {
            Socket::Tcp(socket) => socket.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    client(stream, records).await;
                    drop(place);
                })
            }),
            Socket::Unix(socket, _) => socket.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    client(stream, records).await;
                    drop(place);
                })
            }),
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "connection for records not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Serves one client until it leaves.
pub async fn client(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, records: Handle) {
    let answer = service_fn(move |request| {
        let records = records.clone();
        async move { Ok::<_, Infallible>(respond(&records, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection for records ended");
    }
}

/// Why there is no result.
enum Failed {
    Denied(Denied),
    /// Not a request that means anything.
    Bad(StatusCode, String, &'static str),
}

impl From<Denied> for Failed {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

#[derive(Serialize)]
struct Complaint {
    error: String,
    remedy: &'static str,
}

async fn respond(records: &Handle, request: Request<Incoming>) -> Response<Body> {
    let (code, what, remedy) = match answer(records, request).await {
        Ok(response) => return response,
        Err(Failed::Denied(denied)) => (code(&denied), denied.to_string(), denied.remedy()),
        Err(Failed::Bad(code, what, remedy)) => (code, what, remedy),
    };
    let mut response = json(&Complaint {
        error: what,
        remedy,
    });
    *response.status_mut() = code;
    if code == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = hyper::header::HeaderValue::from_static("GET, PUT, DELETE");
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

const fn code(denied: &Denied) -> StatusCode {
    match denied {
        Denied::Reserved(_) => StatusCode::FORBIDDEN,
        Denied::Refused(refusal) => match refusal {
            Refusal::NotActive => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::NoNamespace(_) => StatusCode::NOT_FOUND,
            Refusal::KeyLength(_) | Refusal::Ttl => StatusCode::BAD_REQUEST,
            Refusal::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Records { .. } | Refusal::Bytes { .. } => StatusCode::INSUFFICIENT_STORAGE,
        },
        Denied::Unanswered(Unanswered::Busy) => StatusCode::TOO_MANY_REQUESTS,
        Denied::Unanswered(Unanswered::Ended) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn answer(records: &Handle, request: Request<Incoming>) -> Result<Response<Body>, Failed> {
    let uri = request.uri().clone();
    let (namespace, key) = place(uri.path())?;
    let query = Query::read(uri.query().unwrap_or_default())?;
    let method = request.method().clone();
    let wanted = match (method, key) {
        (Method::GET, None) if query.watch => return watch(records, namespace).await,
        (Method::GET, None) => RecordsRequest::List {
            namespace,
            after: query.after,
            limit: query.limit.unwrap_or(PAGE_MAX),
        },
        (Method::GET, Some(key)) => RecordsRequest::Get { namespace, key },
        (Method::DELETE, Some(key)) => RecordsRequest::Delete { namespace, key },
        (Method::PUT, Some(key)) => RecordsRequest::Put {
            namespace,
            key,
            value: value(request).await?,
            ttl_ms: query.ttl_ms,
        },
        _ => {
            let what = "this cannot be done to a record or a namespace".to_owned();
            let remedy = "GET, PUT or DELETE a record, or GET a namespace";
            return Err(Failed::Bad(StatusCode::METHOD_NOT_ALLOWED, what, remedy));
        }
    };
    Ok(match api::carry_out(records, wanted).await? {
        RecordsReply::Record(record) => {
            let mut response = Response::new(whole(record.value.0));
            let headers = response.headers_mut();
            let octets = hyper::header::HeaderValue::from_static("application/octet-stream");
            headers.insert(CONTENT_TYPE, octets);
            let version = format!("{}.{}", record.term, record.version);
            if let Ok(version) = version.parse() {
                headers.insert("x-record-version", version);
            }
            if let Some(left) = record
                .left_ms
                .and_then(|left| format!("{left}ms").parse().ok())
            {
                headers.insert("x-record-left", left);
            }
            response
        }
        RecordsReply::Written { .. } | RecordsReply::Deleted => {
            let mut response = Response::new(whole(Vec::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        RecordsReply::Absent => {
            let what = "there is no such record".to_owned();
            let remedy = "it was never written, was deleted, or its time is over";
            return Err(Failed::Bad(StatusCode::NOT_FOUND, what, remedy));
        }
        page @ RecordsReply::Page { .. } => json(&page),
        changes @ RecordsReply::Changes(_) => json(&changes),
    })
}

/// The namespace, and the key if there is one.
fn place(path: &str) -> Result<(String, Option<Blob>), Failed> {
    let words = path.strip_prefix("/records/").ok_or_else(|| {
        let what = format!("there is nothing at {path}");
        Failed::Bad(
            StatusCode::NOT_FOUND,
            what,
            "ask for /records/NAMESPACE/KEY",
        )
    })?;
    let (namespace, key) = match words.split_once('/') {
        None | Some((_, "")) => (words.trim_end_matches('/'), None),
        Some((namespace, key)) => (namespace, Some(Blob(unescape(key)?))),
    };
    Ok((namespace.to_owned(), key))
}

#[derive(Default)]
struct Query {
    watch: bool,
    after: Option<Blob>,
    limit: Option<usize>,
    ttl_ms: Option<u64>,
}

impl Query {
    fn read(text: &str) -> Result<Self, Failed> {
        let mut query = Self::default();
        for word in text.split('&').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "watch" => query.watch = true,
                "after" => query.after = Some(Blob(unescape(value)?)),
                "limit" => query.limit = Some(value.parse().map_err(|_no_number| bad(word))?),
                "ttl" => {
                    let ttl = read_duration(value).ok_or_else(|| bad(word))?;
                    query.ttl_ms = Some(millis(ttl));
                }
                _ => return Err(bad(word)),
            }
        }
        Ok(query)
    }
}

fn bad(word: &str) -> Failed {
    let what = format!("`{word}` means nothing");
    let remedy = "write ttl=30s, limit=100, after=KEY or watch";
    Failed::Bad(StatusCode::BAD_REQUEST, what, remedy)
}

/// Bytes that are percent-encoded (RFC 3986, section 2.1).
fn unescape(text: &str) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            let what = "a `%` without two hexadecimal digits".to_owned();
            return Err(Failed::Bad(
                StatusCode::BAD_REQUEST,
                what,
                "write it as %25",
            ));
        };
        bytes.push((high * 16 + low) as u8);
    }
    Ok(bytes)
}

/// The value that a request brings, at most a little more than a record takes.
async fn value(request: Request<Incoming>) -> Result<Blob, Failed> {
    let body = Limited::new(request.into_body(), KEY_VALUE_MAX + 1).collect();
    match tokio::time::timeout(VALUE_MAX, body).await {
        Ok(Ok(whole)) => Ok(Blob(whole.to_bytes().to_vec())),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Denied::from(Refusal::TooLong(KEY_VALUE_MAX + 1)).into())
        }
        Ok(Err(error)) => {
            let what = format!("the value did not come: {error}");
            Err(Failed::Bad(StatusCode::BAD_REQUEST, what, "try again"))
        }
        Err(_elapsed) => {
            let what = "the value did not come in time".to_owned();
            Err(Failed::Bad(StatusCode::REQUEST_TIMEOUT, what, "try again"))
        }
    }
}

/// Changes as they happen, a line each, until the client leaves. An empty line now and then shows that
/// somebody is there.
async fn watch(records: &Handle, namespace: String) -> Result<Response<Body>, Failed> {
    // A number that never comes: the answer says at once where the changes stand.
    let first = changes(records, &namespace, Some(u64::MAX)).await?;
    let state = (records.clone(), namespace, first.next);
    let lines = stream::unfold(state, |(records, namespace, from)| async move {
        let changes = changes(&records, &namespace, Some(from)).await.ok()?;
        let mut lines = Vec::new();
        if changes.lost {
            lines.extend_from_slice(b"{\"change\":\"lost\"}\n");
        }
        for change in &changes.changes {
            serde_json::to_writer(&mut lines, change).ok()?;
            lines.push(b'\n');
        }
        if lines.is_empty() {
            lines.push(b'\n');
        }
        let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(lines)));
        Some((frame, (records, namespace, changes.next)))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    let form = hyper::header::HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, form);
    Ok(response)
}

async fn changes(records: &Handle, namespace: &str, from: Option<u64>) -> Result<Changes, Denied> {
    let request = RecordsRequest::Watch {
        namespace: namespace.to_owned(),
        from,
    };
    match api::carry_out(records, request).await? {
        RecordsReply::Changes(changes) => Ok(changes),
        RecordsReply::Record(_)
        | RecordsReply::Written { .. }
        | RecordsReply::Deleted
        | RecordsReply::Absent
        | RecordsReply::Page { .. } => Err(Unanswered::Ended.into()),
    }
}

fn json(value: &impl Serialize) -> Response<Body> {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(whole(text));
    let form = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, form);
    response
}

fn whole(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "content").unwrap();
        let listen = RecordsListen::Path(path.clone());
        let error = Listener::bind(&listen).unwrap_err();
        assert!(error.to_string().contains("is not a socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        // What a crash has left behind is no obstacle.
        std::fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(Listener::bind(&listen).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn places() {
        let read = |path| {
            place(path)
                .ok()
                .map(|(name, key)| (name, key.map(|key| key.0)))
        };
        let web = |key: Option<&[u8]>| Some(("web".to_owned(), key.map(<[u8]>::to_vec)));
        assert_eq!(read("/records/web"), web(None));
        assert_eq!(read("/records/web/"), web(None));
        assert_eq!(read("/records/web/a"), web(Some(b"a")));
        assert_eq!(
            read("/records/web/a/b%2Fc%00%ff"),
            web(Some(b"a/b/c\x00\xff"))
        );
        for bad in [
            "/",
            "/records",
            "/other/web/a",
            "/records/web/%",
            "/records/web/%g0",
            "/records/web/%0",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn queries() {
        let read = |text| {
            let query = Query::read(text).ok()?;
            Some((query.watch, query.after, query.limit, query.ttl_ms))
        };
        assert_eq!(read(""), Some((false, None, None, None)));
        assert_eq!(read("ttl=30s"), Some((false, None, None, Some(30_000))));
        let all = read("watch&after=a%20b&limit=7");
        assert_eq!(
            all,
            Some((true, Some(Blob(b"a b".to_vec())), Some(7), None))
        );
        for bad in ["ttl=30", "ttl=", "limit=x", "limit=-1", "other", "after=%"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
