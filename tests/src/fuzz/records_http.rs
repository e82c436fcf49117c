//! What a proxy may send to the HTTP server of records, whatever it is: the server and the table behind it.

use std::sync::{Arc, LazyLock, Mutex};

use ha_agent::datapath::Datapath;
use ha_agent::datapath::fake::Fake;
use ha_agent::health::verdicts::Verdicts;
use ha_agent::proto::sync::Input;
use ha_agent::proto::time::Instant;
use ha_agent::services::ServiceTable;
use ha_agent::shell::records::{DeskParts, http, open};
use ha_agent::shell::wake::Wake;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::runtime::Builder;
use tokio::task::yield_now;

use super::replication_pair::{NAMESPACE, machine};
use super::{Seed, texts};

/// Bytes that are on the way in each direction.
const ROOM: usize = 1 << 20;
/// Turns after which nothing more is expected of the server: a request takes a few.
const TURNS: usize = 64;
/// Most answers that are looked for: a proxy may send requests one behind the other.
const STATUS: [&str; 14] = [
    "200", "204", "400", "403", "404", "405", "408", "413", "414", "417", "429", "431", "503",
    "507",
];

static DATAPATH: LazyLock<Arc<Fake>> = LazyLock::new(|| Arc::new(Fake::new(16)));

/// Sends an input to a server, on a connection of its own.
pub fn play(input: &[u8]) {
    if input.len() > ROOM {
        return;
    }
    let runtime = Builder::new_current_thread().enable_time().build();
    let answers = runtime.expect("a runtime").block_on(talk(input));
    let text = String::from_utf8_lossy(&answers);
    if let Some(first) = text.lines().next() {
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5));
        assert!(status.is_some_and(|it| STATUS.contains(&it)), "{first}");
    }
}

async fn talk(input: &[u8]) -> Vec<u8> {
    let datapath: Arc<dyn Datapath> = DATAPATH.clone();
    let parts = DeskParts {
        datapath,
        services: Arc::new(Mutex::new(ServiceTable::new(1))),
        verdicts: Arc::new(Verdicts::default()),
        persistence: false,
    };
    let (handle, mut desk) = open(parts, Wake::new().expect("a descriptor"));
    let now = Instant::from_nanos(1_000_000_000);
    let mut sync = machine(1, [1; 16], now);
    let (active, term, salt) = (true, 1, [2; 16]);
    sync.handle_input(now, Input::Role { active, term, salt }, &mut Vec::new());
    let (mut near, far) = duplex(ROOM);
    near.write_all(input).await.expect("there is room");
    let server = tokio::spawn(http::client(far, handle));
    for _ in 0..TURNS {
        yield_now().await;
        let mut out = Vec::new();
        desk.serve(now, &mut sync, &mut out);
        desk.flush(now);
    }
    server.abort();
    // It has ended, or was ended just now; it did not panic.
    let ended = server.await;
    assert!(!ended.is_err_and(|error| error.is_panic()), "a panic");
    let mut answers = Vec::new();
    near.read_to_end(&mut answers)
        .await
        .expect("what was answered");
    answers
}

/// One request of each kind, and several behind each other.
pub fn seeds() -> Vec<Seed> {
    let head = |what: &str| format!("{what} HTTP/1.1\r\nhost: a\r\n");
    let at = |rest: &str| format!("/records/{NAMESPACE}{rest}");
    let put = format!(
        "{}content-length: 5\r\n\r\nvalue",
        head(&format!("PUT {}", at("/key?ttl=30s")))
    );
    let get = format!("{}\r\n", head(&format!("GET {}", at("/key"))));
    let odd = format!("{}\r\n", head(&format!("GET {}", at("/a%2Fb%00%ff"))));
    let list = format!("{}\r\n", head(&format!("GET {}", at("?limit=2&after=a"))));
    let watch = format!("{}\r\n", head(&format!("GET {}", at("?watch"))));
    let delete = format!("{}\r\n", head(&format!("DELETE {}", at("/key"))));
    let chunked = format!(
        "{}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        head(&format!("PUT {}", at("/chunked")))
    );
    texts([
        ("put-and-get", &*format!("{put}{get}{delete}{get}")),
        ("odd-key", &odd),
        ("list", &format!("{put}{list}")),
        ("watch", &watch),
        ("chunked", &chunked),
        ("post", &format!("{}\r\n", head("POST /records/other/a"))),
        ("nowhere", &format!("{}\r\n", head("GET /"))),
        (
            "long",
            &format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(3000)),
        ),
    ])
}
