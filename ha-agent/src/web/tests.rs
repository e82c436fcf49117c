use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::listen::{Counted, Limits, Offer, bind, everywhere, serve};
use super::*;
use crate::proto::carp::Role;

const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    health: Health,
    scrapes: AtomicUsize,
}

impl Watched for Node {
    fn health(&self) -> Health {
        self.health.clone()
    }

    fn metrics(&self) -> Result<String, String> {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
        Ok("# EOF\n".to_owned())
    }
}

fn healthy(role: Role) -> Health {
    Health {
        role,
        age: Duration::from_millis(90),
        open: role == Role::Active || role == Role::Off,
        complete: true,
        accompanied: true,
    }
}

struct Running {
    address: SocketAddr,
    node: Arc<Node>,
    counted: Arc<Counted>,
    _task: tokio::task::JoinHandle<()>,
}

fn start(health: Health, limits: Limits) -> Running {
    let node = Arc::new(Node {
        health,
        scrapes: AtomicUsize::new(0),
    });
    // A port nobody has: bound once to learn its number.
    let any = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = any.local_addr().unwrap();
    drop(any);
    let listener = bind(address).unwrap();
    let counted = Arc::new(Counted::default());
    let (router, counts) = (router(&node), Arc::clone(&counted));
    let offer = Offer {
        router,
        tls: None,
        limits,
        admits: everywhere,
    };
    let task = tokio::spawn(async move { serve(listener, offer, &counts).await });
    Running {
        address,
        node,
        counted,
        _task: task,
    }
}

const LIMITS: Limits = Limits {
    clients: 4,
    life: Duration::from_mins(1),
};

/// Sends bytes and reads until the other end closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn get_code(running: &Running, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: lb1\r\nConnection: close\r\n\r\n");
    let answer = exchange(running.address, request.as_bytes()).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (code, body)
}

#[tokio::test]
async fn resources() {
    let running = start(healthy(Role::Standby), LIMITS);
    for (path, code, body) in [
        ("/healthz", 200, "alive\n"),
        ("/readyz", 200, "ready: standby\n"),
        ("/active", 503, "standby\n"),
        ("/metrics", 200, "# EOF\n"),
        ("/metrics?any=thing", 200, "# EOF\n"),
        (
            "/",
            404,
            "there are /metrics, /healthz, /readyz and /active\n",
        ),
        (
            "/metrics/../etc/passwd",
            404,
            "there are /metrics, /healthz, /readyz and /active\n",
        ),
    ] {
        assert_eq!(
            get_code(&running, path).await,
            (code, body.to_owned()),
            "{path}"
        );
    }
    assert_eq!(running.node.scrapes.load(Ordering::Relaxed), 2);
    let post =
        b"POST /active HTTP/1.1\r\nHost: lb1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let answer = exchange(running.address, post).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    let head = b"HEAD /active HTTP/1.1\r\nHost: lb1\r\nConnection: close\r\n\r\n";
    let answer = exchange(running.address, head).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("no-store"), "{answer}");
}

#[test]
fn who_is_alive_ready_active() {
    let codes = |health: &Health| {
        let all = [health.alive(), health.ready(), health.active()];
        all.map(|judged| judged.is_ok())
    };
    for (role, expected) in [
        (Role::Active, [true, true, true]),
        (Role::Off, [true, true, true]),
        (Role::Standby, [true, true, false]),
        (Role::Init, [true, false, false]),
        (Role::Pacified, [true, false, false]),
        (Role::Maintenance, [true, false, false]),
    ] {
        let health = healthy(role);
        assert_eq!(codes(&health), expected, "{role:?}");
        let frozen = Health {
            age: Duration::from_secs(3),
            ..health.clone()
        };
        assert_eq!(codes(&frozen), [false; 3], "{role:?}");
        let closed = Health {
            open: false,
            ..health
        };
        assert!(closed.active().is_err(), "{role:?}");
    }
    let lonely = Health {
        accompanied: false,
        ..healthy(Role::Standby)
    };
    let behind = Health {
        complete: false,
        ..healthy(Role::Standby)
    };
    for health in [lonely, behind] {
        assert_eq!(codes(&health), [true, false, false]);
    }
}

#[tokio::test]
async fn garbage_is_refused_and_others_are_served() {
    let running = start(healthy(Role::Active), LIMITS);
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(64 << 10));
    let many = format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(4000));
    for garbage in [
        &b"\r\n\r\n\r\n"[..],
        b"\xff\xfe\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        // The answer may be lost when the server closes with input unread.
        if let Ok(answer) = exchange(running.address, garbage).await {
            assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        }
    }
    assert_eq!(get_code(&running, "/active").await.0, 200);
}

#[tokio::test]
async fn the_oldest_gives_way_to_the_newest() {
    let running = start(healthy(Role::Active), LIMITS);
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /met").await.unwrap();
        slow.push(stream);
        // Accepted one after the other.
        while running.counted.read()[0] < slow.len() as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(get_code(&running, "/active").await.0, 200);
    assert_eq!(running.counted.read(), [21, 17, 0]);
    let mut end = [0; 1];
    let first = timeout(PATIENCE, slow[0].read(&mut end)).await.unwrap();
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
}

#[tokio::test]
async fn a_connection_ends_when_its_time_is_over() {
    let limits = Limits {
        life: Duration::from_millis(300),
        ..LIMITS
    };
    let running = start(healthy(Role::Active), limits);
    let answer = exchange(
        running.address,
        b"GET /active HTTP/1.1\r\nHost: lb1\r\n\r\n",
    );
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn an_address_that_is_not_here_yet_can_be_listened_at() {
    bind("192.0.2.1:9573".parse().unwrap()).unwrap();
    bind("[2001:db8::1]:9573".parse().unwrap()).unwrap();
}
