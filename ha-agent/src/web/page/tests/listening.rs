//! Users on disk, and the certificate.

use super::*;

#[test]
fn users_are_made_checked_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let users = Users::new(dir.path());
    let begin = crate::shell::clock::now();
    assert_eq!(
        users.verify("nobody", "some password or other").unwrap(),
        None
    );
    assert!(
        crate::shell::clock::now().since(begin) > Duration::from_millis(1),
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
    let config = Config::parse(Path::new("f"), text.into_bytes());
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
    let offer = Offer {
        router: running.page.router(),
        tls: Some(tls),
        limits: Limits {
            clients: 8,
            life: PATIENCE,
        },
        admits: everywhere,
    };
    let served = tokio::spawn(async move { serve(listener, offer, &Counted::default()).await });
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

#[tokio::test]
async fn who_comes_to_another_address_is_turned_away() {
    let running = Running::start();
    let any = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = any.local_addr().unwrap();
    drop(any);
    let listener = bind(address).unwrap();
    let counted = Arc::new(Counted::default());
    let offer = Offer {
        router: running.page.router(),
        tls: None,
        limits: Limits {
            clients: 8,
            life: PATIENCE,
        },
        admits: |at: std::net::IpAddr| !at.is_loopback(),
    };
    let counts = Arc::clone(&counted);
    let served = tokio::spawn(async move { serve(listener, offer, &counts).await });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _closed = stream
        .write_all(b"GET /login HTTP/1.1\r\nHost: lb1\r\n\r\n")
        .await;
    let mut end = Vec::new();
    let _reset = timeout(PATIENCE, stream.read_to_end(&mut end))
        .await
        .unwrap();
    assert!(end.is_empty(), "{end:?}");
    assert_eq!(counted.read(), [0, 0, 1]);
    served.abort();
}
