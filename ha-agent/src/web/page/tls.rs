//! The certificate of this node, given or made at the first start.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::users::private;
use crate::config::model::Config;

/// Files in the state directory.
const CERTIFICATE: &str = "web-certificate.pem";
const KEY: &str = "web-key.pem";
/// Years for which a certificate of the agent's own is good.
const UNTIL: i32 = 2126;

/// What TLS connections are accepted with.
pub fn acceptor(config: &Config) -> io::Result<TlsAcceptor> {
    let (certificate, key) = match config
        .node
        .web
        .as_ref()
        .and_then(|web| web.certificate.clone())
    {
        Some((certificate, key)) => (fs::read(certificate)?, fs::read(key)?),
        None => own(config)?,
    };
    let chain = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(io::Error::other)?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// The certificate that the agent made, now or before.
fn own(config: &Config) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let directory = &config.node.state_dir;
    let (certificate, key) = (directory.join(CERTIFICATE), directory.join(KEY));
    match (fs::read(&certificate), fs::read(&key)) {
        (Ok(certificate), Ok(key)) => return Ok((certificate, key)),
        (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error);
        }
        _ => {}
    }
    make(config, &certificate, &key)?;
    Ok((fs::read(certificate)?, fs::read(key)?))
}

fn make(config: &Config, certificate: &Path, key: &Path) -> io::Result<()> {
    let own = config.node.interfaces.iter().flat_map(|one| &one.addresses);
    let shared = config.shared_addresses.iter().map(|shared| &shared.address);
    let mut names = vec![config.node.name.clone(), "localhost".to_owned()];
    names.extend(own.chain(shared).map(|cidr| cidr.address.to_string()));
    let mut wanted = CertificateParams::new(names).map_err(io::Error::other)?;
    let name = format!("ha-agent {}", config.node.name);
    wanted.distinguished_name.push(DnType::CommonName, name);
    wanted.not_after = rcgen::date_time_ymd(UNTIL, 1, 1);
    let pair = KeyPair::generate().map_err(io::Error::other)?;
    let made = wanted.self_signed(&pair).map_err(io::Error::other)?;
    private(key, pair.serialize_pem().as_bytes())?;
    private(certificate, made.pem().as_bytes())
}
