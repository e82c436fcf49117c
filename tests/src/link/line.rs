//! Both ends of the line: programs that send, one to a core, and the one where frames end.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::xdp::{XdpLinkId, XdpMode};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use etherparse::PacketBuilder;
use ha_common::line::{AGES, BUCKETS, HEAD, LINE_CTL, Line, MARK, MIX, RECEIVE, SEND};
use ha_common::rig::FLOODERS;
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::search::Trial;
use crate::bench::say;
use crate::clock::now_ns;
use crate::rig::arp::mac_of;
use crate::rig::locate;

/// Most frames that leave together.
const BATCH: u32 = 16;
/// How long a frame may wait for those it leaves with, in seconds.
const WAIT: f64 = 5e-6;
/// Between two looks at the clock of one that sends as fast as it can.
const CHUNK: u32 = 100_000;
/// What is on its way arrives.
const SETTLE: Duration = Duration::from_millis(200);
/// Headers of a frame of ours.
const HEADERS: usize = 14 + 20 + 8;

/// Where frames go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// The device's station.
    pub(super) mac: [u8; 6],
    pub(super) service: SocketAddrV4,
}

/// What is sent: lengths in turn, without the check sequence, and flows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) lens: [u16; MIX],
    pub(super) flows: u32,
}

/// Both ends.
pub(super) struct Ends {
    port: String,
    target: Target,
    cores: usize,
    sink: Ebpf,
    link: Option<XdpLinkId>,
}

impl Ends {
    /// Takes `sink` for the end of the frames that leave through `port`, and sends on as many cores.
    pub(super) fn new(port: &str, sink: &str, target: Target, cores: usize) -> Result<Self> {
        let mut ends = Self {
            port: port.to_owned(),
            target,
            cores,
            sink: Ebpf::load_file(&locate::bpf_object("ha_line")?)?,
            link: None,
        };
        let program: &mut Xdp = ends
            .sink
            .program_mut(RECEIVE)
            .context("no program that receives")?
            .try_into()?;
        program.load()?;
        let index = if_nametoindex(sink).with_context(|| format!("no interface {sink}"))?;
        let attached = program
            .attach_to_if_index(index, XdpMode::Driver)
            .or_else(|error| {
                say(&format!(
                    "{sink}: no native XDP ({error}); counted in generic mode, which is slower"
                ));
                program.attach_to_if_index(index, XdpMode::Skb)
            });
        ends.link = Some(attached.with_context(|| format!("XDP on {sink}"))?);
        Ok(ends)
    }

    /// Sends for so long at this rate, in frames a second, or as fast as it goes.
    pub(super) fn trial(&self, load: &Load, rate: Option<f64>, time: Duration) -> Result<Trial> {
        let before = self.ages()?;
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| -> Result<()> {
            for core in 0..self.cores {
                let tell = tell.clone();
                let each = rate.map(|rate| rate / self.cores as f64);
                scope.spawn(move || {
                    // Nobody is left to tell if the others have failed.
                    let _gone = tell.send(self.send(core, load, each, time));
                });
            }
            Ok(())
        })?;
        drop(tell);
        let (mut sent, mut reached) = (0, 0.0);
        for one in told {
            let (frames, seconds) = one?;
            sent += frames;
            reached += frames as f64 / seconds;
        }
        thread::sleep(SETTLE);
        let after = self.ages()?;
        let ages: Vec<u64> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after - before)
            .collect();
        Ok(Trial {
            sent,
            received: ages.iter().sum(),
            rate: reached,
            ages,
        })
    }

    /// Frames that have ended here so far, by age.
    fn ages(&self) -> Result<Vec<u64>> {
        let map = self.sink.map(AGES).context("no map of ages")?;
        let map: PerCpuArray<&MapData, u64> = map.try_into()?;
        let class = |class| Ok(map.get(&class, 0)?.iter().sum());
        (0..BUCKETS as u32).map(class).collect()
    }

    /// One core's share; how many frames it sent, and in how many seconds.
    #[expect(clippy::cast_sign_loss, reason = "a rate is positive")]
    fn send(
        &self,
        core: usize,
        load: &Load,
        rate: Option<f64>,
        time: Duration,
    ) -> Result<(u64, f64)> {
        pin(core)?;
        let longest = load.lens.iter().copied().max().unwrap_or_default();
        let frame = self.frame(usize::from(longest))?;
        let mut ebpf = Ebpf::load_file(&locate::bpf_object("ha_line")?)?;
        let share = load.flows.div_ceil(self.cores as u32).max(1);
        let mut head = [0; HEAD];
        for (word, bytes) in head.iter_mut().zip(frame.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        let line = Line {
            step: rate.map_or(0, |rate| (1024e9 / rate) as u64),
            flows: share,
            first: (core as u32 * share) % load.flows.max(1),
            lens: load.lens,
            head,
            ..Line::default()
        };
        let program: &mut Xdp = ebpf
            .program_mut(SEND)
            .context("no program that sends")?
            .try_into()?;
        program.load()?;
        let index = if_nametoindex(self.port.as_str())?;
        let from = now_ns();
        let end = from + u64::try_from(time.as_nanos())?;
        let line = Line {
            next_ns: from,
            ..line
        };
        control(&mut ebpf)?.set(0, line, 0)?;
        let program: &mut Xdp = ebpf
            .program_mut(SEND)
            .context("no program that sends")?
            .try_into()?;
        match rate {
            Some(rate) => {
                let count = (rate * time.as_secs_f64()).max(1.0) as u32;
                let batch = ((rate * WAIT) as u32).clamp(1, BATCH);
                run(program, index, &frame, count, batch)?;
            }
            None => {
                while now_ns() < end {
                    run(program, index, &frame, CHUNK, BATCH)?;
                }
            }
        }
        let seconds = (now_ns() - from) as f64 / 1e9;
        Ok((control(&mut ebpf)?.get(&0, 0)?.sent, seconds))
    }

    /// A datagram of this length for the service; the program fills in the rest.
    fn frame(&self, len: usize) -> Result<Vec<u8>> {
        let payload = len
            .checked_sub(HEADERS)
            .filter(|payload| *payload >= MARK)
            .with_context(|| format!("a frame of {len} bytes is too short"))?;
        let service = self.target.service;
        let mut frame = Vec::with_capacity(len);
        PacketBuilder::ethernet2(mac_of(&self.port)?, self.target.mac)
            .ipv4(Ipv4Addr::from(FLOODERS).octets(), service.ip().octets(), 64)
            .udp(0, service.port())
            .write(&mut frame, &vec![0; payload])?;
        if let Some(checksum) = frame.get_mut(HEADERS - 2..HEADERS) {
            checksum.fill(0);
        }
        Ok(frame)
    }
}

fn control(ebpf: &mut Ebpf) -> Result<Array<&mut MapData, Line>> {
    let map = ebpf.map_mut(LINE_CTL).context("no map of the line")?;
    Ok(map.try_into()?)
}

fn run(program: &Xdp, index: u32, frame: &[u8], count: u32, batch: u32) -> Result<()> {
    // `struct xdp_md`: start and end of the packet, its metadata, and the interface that the frame leaves
    // through again.
    let mut context = Vec::new();
    for word in [0, u32::try_from(frame.len())?, 0, index, 0, 0] {
        context.extend(word.to_ne_bytes());
    }
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.ctx_in = Some(&context);
    options.repeat = count;
    options.attrs = TestRunAttrs::new().xdp_live_frames(batch);
    let ran = program.test_run(options);
    ensure!(ran.is_ok(), "the generator does not run: {ran:?}");
    Ok(())
}

fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
        .map_err(|error| anyhow!("core {core} cannot be had: {error}"))
}
