//! A socket, a handler that answers from memory, good and bad clients.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::events::Recorder;
use crate::proto::confsync::ContentHash;
use crate::status::capture::Packet;
use crate::status::model::{Connection, SCHEMA_VERSION};
use crate::status::render::tests::sample;
use crate::trace::model::{Entry, FRAME_MAX, Outcome};

#[derive(Default)]
struct Memory {
    maintenance: AtomicBool,
    audited: Mutex<Vec<String>>,
    counted: Counted,
    /// Commands that are never answered.
    pending: AtomicUsize,
}

impl Handler for Memory {
    async fn status(&self) -> Reply<Status> {
        Ok(sample())
    }

    async fn connections(&self, query: ConnectionQuery) -> Reply<ConnectionPage> {
        let one = Connection {
            service: Some("web".to_owned()),
            protocol: "tcp".to_owned(),
            client: "192.0.2.1:4000".parse().unwrap(),
            shared: "10.0.0.100:80".parse().unwrap(),
            real: "10.1.0.21:8080".parse().unwrap(),
            seen_as: None,
            state: "established".to_owned(),
            age_seconds: 1.0,
            idle_seconds: 0.0,
            replicated: false,
            reconstructed: false,
        };
        let mut page = query.page();
        // A table of ten pieces.
        for piece in query.from.unwrap_or_default()..10 {
            query.add(&mut page, std::iter::repeat_n(one.clone(), 10_000));
            if query.is_full(&page, 10_000) {
                page.next = Some(piece + 1).filter(|piece| *piece < 10);
                break;
            }
        }
        Ok(page)
    }

    async fn counters(&self) -> Reply<Counters> {
        Ok(Counters::from_values(&[]))
    }

    async fn services(&self) -> Reply<Services> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }

    async fn failover(&self) -> Reply<Done> {
        Err(Refusal::new("the partner is not ready", "wait"))
    }

    async fn maintenance(&self, on: bool, _force: bool) -> Reply<Done> {
        self.maintenance.store(on, Ordering::Relaxed);
        Ok(Done::new("done".to_owned()))
    }

    async fn push(self: Arc<Self>) -> Reply<Done> {
        Ok(Done::new("both nodes have version 7"))
    }

    async fn show_config(&self) -> Reply<ConfigShown> {
        Ok(ConfigShown {
            schema_version: 1,
            generation: 7,
            hash: ContentHash::new([7; 32]),
            text: "version: 1\n".to_owned(),
        })
    }

    async fn web(&self, request: WebRequest) -> Reply<Done> {
        Ok(Done::new(request.to_string()))
    }

    async fn events(&self, query: EventQuery) -> Reply<EventPage> {
        let recorder = Recorder::default();
        recorder
            .query(&query)
            .map_err(|error| Refusal::new(error.to_string(), "none"))
    }

    async fn pair(self: Arc<Self>, _request: PairRequest) -> Reply<PairReply> {
        Ok(PairReply::Telling)
    }

    fn counted(&self) -> &Counted {
        &self.counted
    }

    fn audit(&self, who: &Peer, deed: &str, refused: Option<&Refusal>) {
        let refused = refused.map_or("done", |refusal| &refusal.what);
        let line = format!("{who}: {deed}: {refused}");
        self.audited.lock().unwrap().push(line);
    }

    async fn reload(self: Arc<Self>, _who: Peer) -> Reply<Reloaded> {
        Ok(Reloaded {
            changes: Vec::new(),
            warnings: Vec::new(),
        })
    }

    async fn stop(&self) -> Reply<Done> {
        Ok(Done::new("ending"))
    }

    async fn resume(&self) -> Reply<Done> {
        Ok(Done::new("takes part again"))
    }

    async fn record(&self, path: PathBuf, seconds: u32) -> Reply<Done> {
        Ok(Done::new(format!("{} {seconds}", path.display())))
    }

    async fn capture(&self, request: CaptureRequest) -> Reply<Captured> {
        let packet = Packet {
            unix_ns: 1,
            device: "eth0".to_owned(),
            reason: "forward_transmit".to_owned(),
            length: 1514,
            bytes: vec![7; 160],
        };
        Ok(Captured {
            packets: vec![packet; request.every as usize],
            lost: request.session,
        })
    }

    async fn trace(&self, request: TraceRequest) -> Reply<Trace> {
        Ok(Trace {
            device: request.interface.unwrap_or_default(),
            programs: vec!["ha_xdp".to_owned()],
            steps: Vec::new(),
            outcome: Outcome {
                reason: "not_ip".to_owned(),
                meaning: String::new(),
                verdict: "pass".to_owned(),
                leaves_through: None,
                service: None,
                entry: Entry::None,
                real_server: None,
                rewrite: Vec::new(),
                after: request.frame.clone(),
                before: request.frame,
            },
        })
    }

    async fn records(&self, request: RecordsRequest) -> Reply<RecordsReply> {
        match request {
            RecordsRequest::Put { value, ttl_ms, .. } => Ok(RecordsReply::Written {
                term: value.0.len() as u64,
                version: ttl_ms.unwrap_or(0),
            }),
            RecordsRequest::Get { key, .. } => Ok(RecordsReply::Record(RecordStatus {
                key: key.clone(),
                value: key,
                term: 1,
                version: 2,
                ttl_ms: None,
                left_ms: None,
            })),
            RecordsRequest::Delete { .. }
            | RecordsRequest::List { .. }
            | RecordsRequest::Watch { .. } => Ok(RecordsReply::Absent),
        }
    }

    async fn reexec(&self) -> Reply<Done> {
        Err(Refusal::new("cannot be replaced", "leave it"))
    }
}

struct Running {
    dir: TempDir,
    handler: Arc<Memory>,
    _runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&dir.path().join("ctl.sock")).unwrap();
        let handler = Arc::new(Memory::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(serve(listener, Arc::clone(&handler)));
        Self {
            dir,
            handler,
            _runtime: runtime,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("ctl.sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }

    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }
}

#[test]
fn commands_are_answered() {
    let running = Running::start();
    let mut client = running.client();
    let status: Status = client.request(&Request::Status).unwrap();
    assert_eq!(status, sample());
    let query = ConnectionQuery {
        limit: 3,
        ..ConnectionQuery::default()
    };
    let page: ConnectionPage = client.request(&Request::Connections(query)).unwrap();
    assert_eq!((page.matching, page.connections.len()), (100_000, 3));
    let done: Done = client
        .request(&Request::Maintenance {
            on: true,
            force: false,
        })
        .unwrap();
    assert_eq!(done.message, "done");
    assert!(running.handler.maintenance.load(Ordering::Relaxed));
    match client.request::<Done>(&Request::Failover) {
        Err(ClientError::Refused(refusal)) => assert_eq!(refusal.remedy, "wait"),
        other => panic!("{other:?}"),
    }
    let counters: Counters = client.request(&Request::Counters).unwrap();
    assert_eq!(counters.schema_version, SCHEMA_VERSION);
    let reloaded: Reloaded = client.request(&Request::Reload).unwrap();
    assert_eq!(reloaded.changes.len(), 0);
}

#[test]
fn a_full_page_fits_an_answer() {
    let running = Running::start();
    let query = ConnectionQuery {
        limit: usize::MAX,
        ..ConnectionQuery::default()
    };
    let page: ConnectionPage = running
        .client()
        .request(&Request::Connections(query))
        .unwrap();
    assert_eq!(page.connections.len(), crate::status::model::PAGE_MAX);
}

#[test]
fn a_full_ring_of_packets_fits_an_answer() {
    let running = Running::start();
    let request = CaptureRequest {
        session: 3,
        every: ha_common::maps::SAMPLES_BYTES / size_of::<ha_common::event::Sample>() as u32,
    };
    let captured: Captured = running
        .client()
        .request(&Request::Capture(request))
        .unwrap();
    assert_eq!(captured.lost, 3);
    assert_eq!(captured.packets.len(), request.every as usize);
    assert_eq!(captured.packets[0].bytes, [7; 160]);
}

#[test]
fn the_longest_frame_fits_a_request() {
    let running = Running::start();
    let request = TraceRequest {
        frame: vec![0xff; FRAME_MAX],
        interface: Some("front".to_owned()),
        address: true,
    };
    let trace: Trace = running
        .client()
        .request(&Request::TracePacket(request.clone()))
        .unwrap();
    assert_eq!(trace.outcome.after, request.frame);
}

#[test]
fn the_whole_table_is_read_page_by_page() {
    let running = Running::start();
    let mut client = running.client();
    let mut query = ConnectionQuery {
        limit: 25_000,
        from: Some(0),
        look: None,
        ..ConnectionQuery::default()
    };
    let mut pages = Vec::new();
    while query.from.is_some() {
        let page: ConnectionPage = client
            .request(&Request::Connections(query.clone()))
            .unwrap();
        assert_eq!(page.total, page.connections.len() as u64);
        query.from = page.next;
        pages.push(page.connections.len());
    }
    assert_eq!(pages, [30_000, 30_000, 30_000, 10_000]);
}

#[test]
fn garbage_does_no_harm() {
    let running = Running::start();
    let long = vec![b'x'; protocol::REQUEST_MAX * 2];
    let deep = "[".repeat(10_000);
    for garbage in [
        &b"\n"[..],
        b"{}\n",
        b"nonsense\n",
        b"\xff\xfe\x00\n",
        b"{\"command\":\"reboot\"}\n",
        b"{\"command\":\"maintenance\"}\n",
        b"{\"command\":\"connections\",\"limit\":-1}\n",
        b"{\"command\":\"connections\",\"colour\":1}\n",
        deep.as_bytes(),
    ] {
        let answer = running.raw(garbage);
        assert!(answer.contains("not a command"), "{garbage:?} {answer}");
    }
    // The answer may be lost when the server closes with input unread.
    let mut stream = UnixStream::connect(running.path()).unwrap();
    let _closed_early = stream.write_all(&long);
    let mut rest = Vec::new();
    let _reset = stream.read_to_end(&mut rest);
    let status: Status = running.client().request(&Request::Status).unwrap();
    assert_eq!(status, sample());
}

#[test]
fn a_request_without_line_end_is_answered() {
    let running = Running::start();
    assert!(running.raw(b"{\"command\":\"status\"}").contains("\"ok\""));
}

#[test]
fn too_many_clients_are_turned_away() {
    let running = Running::start();
    let busy: Vec<UnixStream> = (0..16)
        .map(|_| {
            let mut stream = UnixStream::connect(running.path()).unwrap();
            stream.write_all(b"{\"command\":\"services\"}\n").unwrap();
            stream
        })
        .collect();
    while running.handler.pending.load(Ordering::Relaxed) < busy.len() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(running.raw(b"").contains("try again"));
    let counted = running.handler.counted.read();
    assert_eq!((counted.turned_away, counted.displaced), (1, 0));
    drop(busy);
}

#[test]
fn clients_without_a_command_keep_nobody_out() {
    let running = Running::start();
    let held: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(running.path()).unwrap();
            stream.write_all(b"{\"command\":").unwrap();
            stream
        })
        .collect();
    for _ in 0..3 {
        let status: Status = running.client().request(&Request::Status).unwrap();
        assert_eq!(status, sample());
    }
    let counted = running.handler.counted.read();
    assert_eq!(counted.clients, 103);
    assert!(counted.displaced >= 84, "{counted:?}");
    assert_eq!((counted.turned_away, counted.malformed), (0, 0));
    drop(held);
    assert!(
        running
            .raw(b"{\"command\":\"nothing\"}\n")
            .contains("not a command")
    );
    assert!(running.handler.counted.read().malformed >= 1);
}

#[test]
fn the_socket_is_for_owner_and_group() {
    let running = Running::start();
    let mode = std::fs::metadata(running.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn a_living_agent_is_not_pushed_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/ctl.sock");
    let first = Listener::bind(&path).unwrap();
    match Listener::bind(&path) {
        Err(error @ BindError::Running { .. }) => {
            let text = error.to_string();
            let pid = std::process::id().to_string();
            assert!(text.contains(&pid) && text.contains("run_dir"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(path.exists());
    assert!(is_alive(&path).unwrap());
    // One that answers no more, but has not ended yet, is no more pushed aside.
    let claim = first.claim();
    drop(first);
    assert!(!path.exists());
    assert!(is_alive(&path).unwrap());
    assert!(Listener::bind(&path).is_err());
    drop(claim);
    assert!(!is_alive(&path).unwrap());
    assert!(!is_alive(&dir.path().join("nothing.sock")).unwrap());
    Listener::bind(&path).unwrap();
}

#[test]
fn what_a_crash_leaves_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ctl.sock");
    for leftover in [&path, &path.with_extension("new")] {
        drop(std::os::unix::net::UnixListener::bind(leftover).unwrap());
    }
    assert!(matches!(
        Client::connect(&path),
        Err(ClientError::NotRunning { .. })
    ));
    Listener::bind(&path).unwrap();
}

#[test]
fn other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ctl.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(
        Listener::bind(&path),
        Err(BindError::Occupied { .. })
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn nobody_there() {
    assert!(matches!(
        Client::connect(Path::new("/nonexistent/ctl.sock")),
        Err(ClientError::NotRunning { .. })
    ));
}

#[test]
fn records_are_asked_for_in_words_or_digits() {
    let running = Running::start();
    let mut client = running.client();
    for bytes in [&b"text"[..], b"\x00\xff"] {
        let key = Blob::from(bytes);
        let get = Request::Records(RecordsRequest::Get {
            namespace: "web".to_owned(),
            key: key.clone(),
        });
        let reply: RecordsReply = client.request(&get).unwrap();
        let RecordsReply::Record(record) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!((&record.key, &record.value), (&key, &key));
    }
    assert_eq!(Blob::from(&b"\x00\xff"[..]).shown(), "0x00ff");
    let line = br#"{"command":"records","op":"put","namespace":"web","key":"a","value":{"hex":"00ff"},"ttl_ms":7}"#;
    let answer = running.raw(line);
    assert_eq!(
        answer.trim_end(),
        r#"{"ok":{"written":{"term":2,"version":7}}}"#
    );
}

#[test]
fn who_changed_what_is_taken_note_of_and_reading_is_not() {
    let running = Running::start();
    let mut client = running.client();
    let _status: Status = client.request(&Request::Status).unwrap();
    let page: EventPage = client
        .request(&Request::Events(EventQuery::default()))
        .unwrap();
    assert!(page.events.is_empty());
    let force = Request::Maintenance {
        on: true,
        force: true,
    };
    let _done: Done = client.request(&force).unwrap();
    let refused = client.request::<Done>(&Request::Failover);
    assert!(matches!(refused, Err(ClientError::Refused(_))));
    let audited = running.handler.audited.lock().unwrap().clone();
    let uid = nix::unistd::getuid();
    assert_eq!(
        audited,
        [
            format!("uid {uid}: maintenance on --force: done"),
            format!("uid {uid}: failover: the partner is not ready"),
        ]
    );
}
