//! The whole connection table, page by page.
//!
//! Connections that come and go meanwhile may be missed; none is listed twice.

use std::io::{self, Write};
use std::net::IpAddr;

use clap::builder::PossibleValuesParser;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Exit;
use crate::control::{Client, ClientError, Request};
use crate::status::model::{ConnectionPage, ConnectionQuery, PAGE_MAX};

/// Which connections to show.
#[derive(Debug, clap::Args)]
pub struct Connections {
    /// Only of this virtual service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only of this client
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<IpAddr>,
    /// Only on this real server
    #[arg(long, value_name = "ADDRESS")]
    pub real: Option<IpAddr>,
    /// Only in this state
    #[arg(long, value_parser = states())]
    pub state: Option<String>,
    /// Most to show
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: usize,
    /// Matching ones to skip
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub offset: usize,
    /// The whole table, in the order in which it is stored
    #[arg(long, conflicts_with_all = ["limit", "offset"])]
    pub all: bool,
}

/// Names of connection states. Their numbers are dense from 1.
fn states() -> PossibleValuesParser {
    let states = (1..).map_while(ha_common::conn::ConnState::from_u8);
    PossibleValuesParser::new(states.map(ha_common::conn::ConnState::as_str))
}

/// A page of which only the frame is understood.
#[derive(Debug, Deserialize)]
struct Sheet {
    schema_version: u32,
    total: u64,
    matching: u64,
    next: Option<u64>,
    connections: Box<RawValue>,
}

/// All pages as one.
pub(super) fn whole_table(
    client: &mut Client,
    mut query: ConnectionQuery,
) -> Result<ConnectionPage, ClientError> {
    let mut whole = query.page();
    begin(&mut query);
    while query.from.is_some() {
        let page: ConnectionPage = client.request(&Request::Connections(query.clone()))?;
        whole.total += page.total;
        whole.matching += page.matching;
        whole.connections.extend(page.connections);
        query.from = page.next;
    }
    Ok(whole)
}

/// Prints all pages as one in JSON, each as it comes: nothing of a million connections is kept, or taken
/// apart. The agent puts the next page together meanwhile.
pub(super) fn stream(client: &mut Client, query: ConnectionQuery) -> Result<Exit, ClientError> {
    match copy(client, query, &mut io::stdout().lock()) {
        // A reader that has seen enough (`| head`) is no failure.
        Err(ClientError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        result => result.map(|()| Exit::Ok),
    }
}

fn copy(
    client: &mut Client,
    mut query: ConnectionQuery,
    out: &mut impl Write,
) -> Result<(), ClientError> {
    begin(&mut query);
    client.send(&Request::Connections(query.clone()))?;
    let mut joined = Joined::default();
    while query.from.is_some() {
        let sheet: Sheet = client.receive()?;
        query.from = sheet.next;
        if query.from.is_some() {
            client.send(&Request::Connections(query.clone()))?;
        }
        joined.add(&sheet, out)?;
    }
    Ok(joined.end(out)?)
}

/// Pages that are being written as one.
#[derive(Default)]
struct Joined {
    begun: bool,
    /// Whether a connection was written.
    any: bool,
    total: u64,
    matching: u64,
}

impl Joined {
    fn add(&mut self, sheet: &Sheet, out: &mut impl Write) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            let version = sheet.schema_version;
            write!(
                out,
                r#"{{"schema_version":{version},"offset":0,"next":null,"connections":["#
            )?;
        }
        self.total += sheet.total;
        self.matching += sheet.matching;
        let list = sheet.connections.get().trim();
        let entries = list
            .strip_prefix('[')
            .and_then(|list| list.strip_suffix(']'))
            .map_or("", str::trim);
        if entries.is_empty() {
            return Ok(());
        }
        out.write_all(if self.any { b",\n" } else { b"\n" })?;
        self.any = true;
        out.write_all(entries.as_bytes())
    }

    fn end(self, out: &mut impl Write) -> io::Result<()> {
        let Self {
            total, matching, ..
        } = self;
        writeln!(out, r#"],"total":{total},"matching":{matching}}}"#)?;
        out.flush()
    }
}

fn begin(query: &mut ConnectionQuery) {
    query.limit = PAGE_MAX;
    query.from = Some(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::model::{Connection, SCHEMA_VERSION};

    fn page(ports: std::ops::Range<u16>, next: Option<u64>) -> ConnectionPage {
        let connection = |port| Connection {
            service: Some("we\"b]".to_owned()),
            protocol: "tcp".to_owned(),
            client: ([192, 0, 2, 1], port).into(),
            shared: ([192, 0, 2, 2], 80).into(),
            real: ([192, 0, 2, 3], 8080).into(),
            seen_as: None,
            state: "established".to_owned(),
            age_seconds: 1.5,
            idle_seconds: 0.5,
            replicated: false,
            reconstructed: false,
        };
        ConnectionPage {
            schema_version: SCHEMA_VERSION,
            total: 10,
            matching: ports.len() as u64,
            offset: 0,
            next,
            connections: ports.map(connection).collect(),
        }
    }

    /// What is read of the pages joined is what is on them.
    #[test]
    fn pages_are_joined() {
        for cuts in [
            &[][..],
            &[(0, 0)],
            &[(0, 3), (3, 3), (3, 5)],
            &[(0, 0), (0, 2)],
        ] {
            let cuts = cuts.iter().chain(&[(7, 7), (7, 9)]);
            let pages = cuts.map(|(from, to)| page(*from..*to, Some(1)));
            let mut joined = Joined::default();
            let mut out = Vec::new();
            let mut wanted = page(0..0, None);
            wanted.total = 0;
            for page in pages {
                let text = serde_json::to_string(&page).unwrap();
                joined
                    .add(&serde_json::from_str(&text).unwrap(), &mut out)
                    .unwrap();
                wanted.total += page.total;
                wanted.matching += page.matching;
                wanted.connections.extend(page.connections);
            }
            joined.end(&mut out).unwrap();
            let read: ConnectionPage = serde_json::from_slice(&out).unwrap();
            assert_eq!(read, wanted);
        }
    }
}
