//! `ha-agent trace-packet`: asks what the data plane would do with a packet.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use clap::error::ErrorKind;
use ha_ebpf::parse::transport::flag;
use serde::Serialize;

use super::{Exit, complain, print, print_json, wrong_usage};
use crate::control::{Client, ClientError, Request};
use crate::status::model::SCHEMA_VERSION;
use crate::status::render::{self, Style};
use crate::trace::frame::Packet;
use crate::trace::model::{FRAME_MAX, Trace, TraceRequest};
use crate::trace::pcap;

/// Which packet to ask about, and where it comes in.
#[derive(Debug, clap::Args)]
pub struct TracePacket {
    /// Its sender
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        requires = "to",
        required_unless_present = "pcap",
        conflicts_with = "pcap"
    )]
    pub from: Option<SocketAddr>,
    /// Its receiver; an IPv6 address stands in brackets
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        requires = "from",
        conflicts_with = "pcap"
    )]
    pub to: Option<SocketAddr>,
    /// Its protocol
    #[arg(long, value_enum, default_value_t, conflicts_with = "pcap")]
    pub protocol: Transport,
    /// Its TCP flags, separated by commas [default: syn]
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "pcap")]
    pub flags: Vec<TcpFlag>,
    /// Its time to live
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 64,
        conflicts_with = "pcap"
    )]
    pub ttl: u8,
    /// Its length from the IP header on; 0 = without payload
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 0,
        conflicts_with = "pcap"
    )]
    pub length: u16,
    /// Interface it comes in on [default: the one that its destination address or its route tells]
    #[arg(long = "in", value_name = "INTERFACE")]
    pub interface: Option<String>,
    /// Take it from a capture, pcap or pcapng
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Which packet of the capture: its number from 1 on, or all; each is asked about alone
    #[arg(
        long,
        value_name = "NUMBER|all",
        default_value = "1",
        conflicts_with = "from"
    )]
    pub packet: Which,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A TCP flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TcpFlag {
    /// The sender is done.
    Fin,
    /// Begins a connection.
    Syn,
    /// Ends it at once.
    Rst,
    /// Not to be kept waiting.
    Psh,
    /// Acknowledges.
    Ack,
}

/// One packet of a capture, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// The one with this number, from 1 on.
    One(usize),
}

impl FromStr for Which {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            _ if text == "all" => Ok(Self::All),
            Ok(0) | Err(_) => Err("a number from 1 on, or all"),
            Ok(number) => Ok(Self::One(number)),
        }
    }
}

/// What `trace-packet --json` prints.
#[derive(Serialize)]
struct Traces {
    schema_version: u32,
    packets: Vec<Numbered>,
}

/// A packet's trace, with its number in the capture.
#[derive(Serialize)]
struct Numbered {
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<usize>,
    #[serde(flatten)]
    trace: Trace,
}

/// Why there is no trace.
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

/// The packets that are asked about, with their numbers in a capture.
pub(super) type Packets = Vec<(Option<usize>, TraceRequest)>;

/// Makes, or reads, the packets: before an agent is looked for, since it takes none.
pub(super) fn packets(wanted: &TracePacket) -> Result<Packets, Exit> {
    match (&wanted.pcap, wanted.from, wanted.to) {
        (Some(file), ..) => {
            let refuse = |what: String, remedy: &str| {
                complain(&format!("{}: {what}", file.display()), remedy);
                Exit::Failed
            };
            let bytes = fs::read(file)
                .map_err(|error| refuse(error.to_string(), "name a capture that can be read"))?;
            let captured = pcap::read(&bytes).map_err(|error| {
                let remedy = "name a pcap or pcapng file, as tcpdump and `ha-agent capture` write";
                refuse(error.to_string(), remedy)
            })?;
            let count = captured.len();
            let numbered = captured.into_iter().enumerate();
            let chosen: Packets = numbered
                .map(|(index, packet)| (index + 1, packet))
                .filter(|(number, _)| wanted.packet.is(*number))
                .map(|(number, packet)| (Some(number), wanted.request(packet.frame, false)))
                .collect();
            if chosen.is_empty() {
                let what = format!("has {count} packets, and none of that number");
                return Err(refuse(what, "choose another one with --packet"));
            }
            Ok(chosen)
        }
        (None, Some(from), Some(to)) => {
            let udp = wanted.protocol == Transport::Udp;
            if udp && !wanted.flags.is_empty() {
                let what = "`--flags` are those of TCP: leave them out with `--protocol udp`";
                wrong_usage(ErrorKind::ArgumentConflict, what);
            }
            let flags = match &*wanted.flags {
                [] => flag::SYN,
                flags => flags.iter().fold(0, |all, flag| all | flag.bits()),
            };
            let packet = Packet {
                from,
                to,
                tcp_flags: (!udp).then_some(flags),
                ttl: wanted.ttl,
                length: wanted.length,
            };
            let Some(frame) = packet.frame() else {
                let what = "`--from` and `--to` have addresses of different families";
                wrong_usage(ErrorKind::ArgumentConflict, what);
            };
            Ok(vec![(None, wanted.request(frame, true))])
        }
        (None, ..) => {
            let what = "a packet is needed: `--from` and `--to`, or `--pcap`";
            wrong_usage(ErrorKind::MissingRequiredArgument, what);
        }
    }
}

/// Asks about each and shows the answers.
pub(super) fn trace(mut client: Client, packets: Packets, json: bool) -> Result<Exit, Failed> {
    let mut all = Vec::with_capacity(packets.len());
    for (number, request) in packets {
        if request.frame.len() > FRAME_MAX {
            let what = format!("a frame of more than {FRAME_MAX} bytes cannot be traced");
            complain(&what, "ask about a shorter one with --length");
            return Err(Failed::Told(Exit::Failed));
        }
        let trace: Trace = client.request(&Request::TracePacket(request))?;
        if json {
            all.push(Numbered { number, trace });
            continue;
        }
        let head = number.map(|number| format!("packet {number}\n"));
        let text = head.unwrap_or_default() + &render::trace(&trace, Style::detect());
        let shown = print(&text);
        if shown != Exit::Ok {
            return Err(Failed::Told(shown));
        }
    }
    if !json {
        return Ok(Exit::Ok);
    }
    Ok(print_json(&Traces {
        schema_version: SCHEMA_VERSION,
        packets: all,
    }))
}

impl TracePacket {
    fn request(&self, frame: Vec<u8>, address: bool) -> TraceRequest {
        TraceRequest {
            frame,
            interface: self.interface.clone(),
            address,
        }
    }
}

impl Which {
    const fn is(self, number: usize) -> bool {
        match self {
            Self::All => true,
            Self::One(wanted) => wanted == number,
        }
    }
}

impl TcpFlag {
    const fn bits(self) -> u8 {
        match self {
            Self::Fin => flag::FIN,
            Self::Syn => flag::SYN,
            Self::Rst => flag::RST,
            Self::Psh => 1 << 3,
            Self::Ack => flag::ACK,
        }
    }
}
