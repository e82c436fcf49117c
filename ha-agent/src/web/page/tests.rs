use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::status::model::SCHEMA_VERSION;
use crate::status::render::tests::sample;
use crate::web::listen::{Counted, Limits, bind, serve};

const PATIENCE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse battery";

struct Node {
    door: Door,
    recorded: Mutex<Vec<Entry>>,
}

impl Shown for Node {
    fn door(&self) -> &Door {
        &self.door
    }

    fn status(&self) -> Status {
        let mut status = sample();
        status.node.name = "lb1<script>alert(1)</script>".to_owned();
        status
    }

    fn services(&self) -> Result<Services, String> {
        Ok(Services {
            schema_version: SCHEMA_VERSION,
            services: Vec::new(),
        })
    }

    fn counters(&self) -> Result<Counters, String> {
        Err("no map".to_owned())
    }

    fn events(&self, _count: usize) -> Vec<Event> {
        Vec::new()
    }

    fn place(&self) -> Place {
        Place::default()
    }

    fn record(&self, entry: Entry) {
        self.recorded.lock().unwrap().push(entry);
    }
}

struct Running {
    dir: TempDir,
    address: SocketAddr,
    page: Arc<Page<Node>>,
    _tasks: [tokio::task::JoinHandle<()>; 2],
}

/// An answer: code, head, body.
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let page = Page::new(Arc::new(Node {
            door: Door::new(dir.path()),
            recorded: Mutex::default(),
        }));
        let any = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = any.local_addr().unwrap();
        drop(any);
        let listener = bind(address).unwrap();
        let router = page.router();
        let limits = Limits {
            clients: 32,
            life: PATIENCE,
        };
        let served = tokio::spawn(async move {
            serve(listener, router, None, limits, &Counted::default()).await;
        });
        let drawn = tokio::spawn(Arc::clone(&page).draw());
        Self {
            dir,
            address,
            page,
            _tasks: [served, drawn],
        }
    }

    async fn ask(&self, request: &str, more: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: lb1:8443\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            code: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        self.ask(&format!("GET {path}"), &format!("Cookie: {cookie}\r\n"), "")
            .await
    }

    async fn send(&self, path: &str, more: &str, body: &str) -> Answer {
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.ask(&format!("POST {path}"), &format!("{form}{more}"), body)
            .await
    }

    /// Makes the first user; the session's cookie.
    async fn set_up(&self) -> String {
        let path = self.page.setup_path().unwrap();
        let token = path.split_once('=').unwrap().1;
        let body = format!(
            "token={token}&name=alice&password={}",
            PASSWORD.replace(' ', "+")
        );
        let made = self
            .send("/setup", "Origin: https://lb1:8443\r\n", &body)
            .await;
        assert_eq!(made.code, 303, "{}", made.body);
        cookie_of(&made)
    }
}

fn cookie_of(answer: &Answer) -> String {
    let line = answer
        .head
        .lines()
        .find(|line| line.starts_with("set-cookie: "));
    let line = line.unwrap().strip_prefix("set-cookie: ").unwrap();
    for flag in ["path=/", "secure", "httponly", "samesite=strict"] {
        assert!(line.split("; ").any(|word| word == flag), "{line}");
    }
    line.split(';').next().unwrap().replace("__host", "__Host")
}

#[tokio::test]
async fn the_first_user_is_made_by_a_link_that_works_once() {
    let running = Running::start();
    assert_eq!(running.get("/", "").await.code, 303);
    let login = running.get("/login", "").await;
    assert!(login.body.contains("Nobody can log in yet") && !login.body.contains("<form"));
    assert_eq!(running.get("/setup?token=00", "").await.code, 403);
    assert_eq!(running.get("/setup", "").await.code, 403);
    let path = running.page.setup_path().unwrap();
    assert_eq!(running.get(&path, "").await.code, 200);
    let token = path.split_once('=').unwrap().1.to_owned();
    for (name, password, problem) in [
        ("alice", "short", "at least 12 characters"),
        ("Alice%00", "correct+horse+battery", "lower-case"),
        ("", "correct+horse+battery", "lower-case"),
    ] {
        let body = format!("token={token}&name={name}&password={password}");
        let refused = running.send("/setup", "", &body).await;
        assert_eq!(refused.code, 400);
        assert!(refused.body.contains(problem), "{}", refused.body);
        assert!(!refused.body.contains(password), "a password comes back");
    }
    let cookie = running.set_up().await;
    assert_eq!(running.page.setup_path(), None);
    assert_eq!(running.get(&path, "").await.code, 403);
    let home = running.get("/", &cookie).await;
    assert_eq!(home.code, 200);
    assert!(home.body.contains("alice (operator)"), "{}", home.body);
    // The file is its owner's alone, and holds no password.
    use std::os::unix::fs::MetadataExt as _;
    let file = running.dir.path().join("web-users.json");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("$argon2id$") && !text.contains(PASSWORD),
        "{text}"
    );
    let recorded = running.page.shown.recorded.lock().unwrap().len();
    assert_eq!(recorded, 1);
    // After a restart the user is still there.
    assert!(!Users::new(running.dir.path()).is_empty());
}

#[tokio::test]
async fn logging_in_and_out() {
    let running = Running::start();
    running.set_up().await;
    let body = "name=alice&password=correct+horse+battery";
    let entered = running.send("/login", "", body).await;
    assert_eq!(entered.code, 303);
    let cookie = cookie_of(&entered);
    let home = running.get("/", &cookie).await;
    assert_eq!(home.code, 200);
    let csrf = home.body.split("name=\"csrf\" value=\"").nth(1).unwrap();
    let csrf = csrf.split('"').next().unwrap();
    // Somebody who has no token of this session ends nothing.
    let line = format!("Cookie: {cookie}\r\n");
    assert_eq!(running.send("/logout", &line, "csrf=00").await.code, 403);
    assert_eq!(running.get("/", &cookie).await.code, 200);
    let out = running
        .send("/logout", &line, &format!("csrf={csrf}"))
        .await;
    assert_eq!(out.code, 303);
    assert_eq!(running.get("/", &cookie).await.code, 303);
    // Wrong names and passwords are answered alike, and not for long.
    for body in [
        "name=alice&password=wrong+wrong+wrong",
        "name=nobody&password=correct+horse+battery",
    ] {
        let refused = running.send("/login", "", body).await;
        assert_eq!(refused.code, 401);
        assert!(refused.body.contains("Name or password is wrong."));
    }
    for _ in 0..3 {
        running
            .send("/login", "", "name=alice&password=wrong+wrong+wrong")
            .await;
    }
    assert_eq!(running.send("/login", "", body).await.code, 429);
    let recorded = running.page.shown.recorded.lock().unwrap();
    assert_eq!(recorded.len(), 1 + 1 + 5);
}

#[tokio::test]
async fn nothing_is_told_to_strangers() {
    let running = Running::start();
    let cookie = running.set_up().await;
    for path in ["status", "services", "events", "counters", "live"] {
        let path = format!("/api/v1/{path}");
        let refused = running.get(&path, "").await;
        assert_eq!(refused.code, 401, "{path}");
        assert_eq!(
            running.get(&path, "__Host-ha-agent=00").await.code,
            401,
            "{path}"
        );
        assert!(!refused.body.contains("lb2"));
    }
    let status = running.get("/api/v1/status", &cookie).await;
    let status: Status = serde_json::from_str(&status.body).unwrap();
    assert_eq!(status.term, 3);
    assert_eq!(running.get("/api/v1/services", &cookie).await.code, 200);
    assert_eq!(running.get("/api/v1/counters", &cookie).await.code, 500);
    assert_eq!(running.get("/api/v1/events", &cookie).await.code, 200);
    assert_eq!(running.get("/nothing", &cookie).await.code, 404);
}

#[tokio::test]
async fn other_sites_can_do_nothing_and_browsers_are_told_so() {
    let running = Running::start();
    running.set_up().await;
    let body = "name=alice&password=correct+horse+battery";
    for foreign in [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ] {
        assert_eq!(
            running.send("/login", foreign, body).await.code,
            403,
            "{foreign}"
        );
    }
    for path in ["/login", "/assets/style.css", "/api/v1/status", "/nothing"] {
        let head = running.get(path, "").await.head;
        for wanted in [
            "content-security-policy: default-src 'none';",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "strict-transport-security:",
            "cache-control: no-store",
        ] {
            assert!(head.contains(wanted), "{path}: {wanted}: {head}");
        }
        assert!(!head.contains("unsafe"), "{head}");
    }
    let big = format!("name=alice&password={}", "x".repeat(4 << 20));
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        big.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The answer may come before all of it is read.
    let _reset = stream.write_all(big.as_bytes()).await;
    assert_eq!(running.get("/login", "").await.code, 200);
}

#[tokio::test]
async fn the_page_is_whole_without_scripts_and_lives_with_them() {
    let running = Running::start();
    let cookie = running.set_up().await;
    let home = running.get("/", &cookie).await.body;
    for wanted in [
        "standby, paired",
        "10.0.0.100/24",
        "1\u{202f}048\u{202f}576",
        "http-equiv=\"refresh\"",
    ] {
        assert!(home.contains(wanted), "{wanted}: {home}");
    }
    assert!(
        !home.contains("<script>"),
        "nothing is believed to be markup"
    );
    let mut size = home.len();
    for path in ["/assets/style.css", "/assets/live.js", "/assets/icon.svg"] {
        let asset = running.get(path, "").await;
        assert_eq!(asset.code, 200);
        size += asset.body.len();
    }
    assert!(size < 150_000, "{size}");
    for forbidden in ["http://", "style=", "onclick="] {
        assert!(!home.contains(forbidden), "{forbidden}");
    }
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = format!("GET /api/v1/live HTTP/1.1\r\nHost: lb1\r\nCookie: {cookie}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut piece = [0; 4096];
    while !(seen.contains("event: page") && seen.contains("What happened last")) {
        let read = timeout(PATIENCE, stream.read(&mut piece))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(
        seen.to_lowercase()
            .contains("content-type: text/event-stream")
    );
}

#[test]
fn users_are_made_checked_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let users = Users::new(dir.path());
    let begin = clock::now();
    assert_eq!(
        users.verify("nobody", "some password or other").unwrap(),
        None
    );
    assert!(
        clock::now().since(begin) > Duration::from_millis(1),
        "no work was done"
    );
    users
        .add_first("alice", Access::Operator, PASSWORD)
        .unwrap();
    let again = users.add_first("mallory", Access::Operator, PASSWORD);
    assert!(again.unwrap_err().to_string().contains("already"));
    users
        .add("bob", Access::Viewer, "another long password")
        .unwrap();
    assert!(users.add("bob", Access::Viewer, PASSWORD).is_err());
    assert_eq!(
        users.verify("alice", PASSWORD).unwrap(),
        Some(Access::Operator)
    );
    assert_eq!(users.verify("bob", PASSWORD).unwrap(), None);
    users.remove("bob").unwrap();
    assert!(users.remove("bob").is_err());
    assert_eq!(users.verify("bob", "another long password").unwrap(), None);
    std::fs::write(dir.path().join("web-users.json"), "{").unwrap();
    assert!(users.verify("alice", PASSWORD).is_err());
    assert!(
        !users.is_empty(),
        "a file that cannot be read makes no first user"
    );
    assert!(users.add("carol", Access::Viewer, PASSWORD).is_err());
}

#[tokio::test]
async fn the_certificate_is_made_once_and_names_the_node() {
    use std::os::unix::fs::MetadataExt as _;

    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "version: 1
node:
  name: lb1
  mode: off
  state_dir: {}
  interfaces: [{{ name: front, device: eth0, address: 10.0.0.11/24 }}]
  web: {{ listen: 127.0.0.1:8443 }}
shared_addresses: [{{ interface: front, address: 10.0.0.100/24 }}]
",
        dir.path().display()
    );
    let config = crate::config::model::Config::parse(Path::new("f"), text.into_bytes());
    let config = config.unwrap().config;
    acceptor(&config).unwrap();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let made = read("web-certificate.pem");
    let tls = acceptor(&config).unwrap();
    assert_eq!(read("web-certificate.pem"), made, "it is kept");
    let key = std::fs::metadata(dir.path().join("web-key.pem")).unwrap();
    assert_eq!(key.mode() & 0o777, 0o600);

    let running = Running::start();
    let any = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = any.local_addr().unwrap();
    drop(any);
    let listener = bind(address).unwrap();
    let router = running.page.router();
    let limits = Limits {
        clients: 8,
        life: PATIENCE,
    };
    let served = tokio::spawn(async move {
        serve(listener, router, Some(tls), limits, &Counted::default()).await;
    });
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&made).unwrap())
        .unwrap();
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let trusting = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(trusting));
    for name in ["lb1", "10.0.0.11", "10.0.0.100"] {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name).unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = b"GET /login HTTP/1.1\r\nHost: lb1\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        let _no_close_notify = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Whoever speaks no TLS is no trouble to others.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut end = Vec::new();
    let _reset = timeout(PATIENCE, plain.read_to_end(&mut end))
        .await
        .unwrap();
    assert!(!end.starts_with(b"HTTP"), "{end:?}");
    served.abort();
}
