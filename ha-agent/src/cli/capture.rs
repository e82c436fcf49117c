//! `ha-agent capture`: what the data plane sends, into a file.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::args::Capture;
use super::pcapng::Writer;
use super::{Exit, complain, print, print_json};
use crate::control::{CaptureRequest, Client, ClientError, Request};
use crate::shell::clock;
use crate::status::capture::Captured;
use crate::status::model::SCHEMA_VERSION;

/// How often packets are fetched: the ring between XDP and the agent holds some five thousand.
const POLL: Duration = Duration::from_millis(50);

/// What `capture --json` prints.
#[derive(Serialize)]
struct Summary {
    schema_version: u32,
    packets: u64,
    lost: u64,
}

/// Why a capture came to nothing.
pub(super) enum Failed {
    /// It is explained already.
    Told(Exit),
    /// The agent did not do it.
    Client(ClientError),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// Captures until there are enough packets or the time is over.
pub(super) fn capture(mut client: Client, wanted: &Capture, json: bool) -> Result<Exit, Failed> {
    let unwritten = |error: io::Error| {
        complain(
            &format!("{}: {error}", wanted.file.display()),
            "name a file that does not exist yet, in a directory that does, or - for standard output",
        );
        Failed::Told(Exit::Failed)
    };
    let to_stdout = wanted.file == Path::new("-");
    let session = u64::from(std::process::id()) << 32 | u64::from(unix_nanos());
    let mut ask = |every| -> Result<Captured, ClientError> {
        client.request(&Request::Capture(CaptureRequest { session, every }))
    };
    // Before a file is made for nothing.
    ask(wanted.every)?;
    let mut writer = match open(&wanted.file).and_then(Writer::new) {
        Ok(writer) => writer,
        Err(error) => {
            ask(0)?;
            return Err(unwritten(error));
        }
    };
    let end = clock::now() + Duration::from_secs(wanted.seconds.into());
    let (mut packets, mut lost) = (0, 0);
    loop {
        thread::sleep(POLL);
        let last = packets >= wanted.count || clock::now() >= end;
        let captured = ask(if last { 0 } else { wanted.every })?;
        lost = captured.lost.max(lost);
        let left = usize::try_from(wanted.count - packets).unwrap_or(usize::MAX);
        for packet in captured.packets.iter().take(left) {
            writer.packet(packet).map_err(unwritten)?;
            packets += 1;
        }
        writer.flush().map_err(unwritten)?;
        if last {
            break;
        }
    }
    let summary = Summary {
        schema_version: SCHEMA_VERSION,
        packets,
        lost,
    };
    Ok(match (json, to_stdout) {
        // Standard output is the capture.
        (_, true) => Exit::Ok,
        (true, false) => print_json(&summary),
        (false, false) => print(&format!(
            "{}: {packets} packets{}\n",
            wanted.file.display(),
            if lost > 0 {
                format!(", {lost} lost: show fewer with --every")
            } else {
                String::new()
            }
        )),
    })
}

fn open(file: &Path) -> io::Result<Box<dyn Write>> {
    if file == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = OpenOptions::new().write(true).create_new(true).open(file)?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Part of what tells this capture from others.
fn unix_nanos() -> u32 {
    clock::wall().subsec_nanos()
}
