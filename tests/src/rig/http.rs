//! Asking a listener of the agent's over HTTP, as a program that looks on does.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::netns::Netns;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks from a host: the code and the body.
pub fn get(from: &Netns, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let code = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((code, body.to_owned()))
    })
}

/// The value of a metric whose line begins like this: its name, with labels as far as they matter. The sum, if there
/// are several.
pub fn metric(text: &str, begin: &str) -> u64 {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.filter_map(|line| {
        let rest = line.strip_prefix(begin)?;
        let value = match rest.strip_prefix(' ') {
            Some(value) => value,
            None => rest.rsplit_once("} ")?.1,
        };
        value.parse::<u64>().ok()
    });
    values.sum()
}
