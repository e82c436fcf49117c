//! The kernel's own packet generator: a frame, handed to what is connected to a port over and over, at a
//! steady pace and without loss on the way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use ha_common::rig::{FLOOD, FLOOD_CTL, FLOOD_HEAD, Flood};
use nix::net::if_::if_nametoindex;

use super::netns::Netns;
use super::object;
use crate::clock::now_ns;
use crate::traffic::prefer_this_thread;

/// Frames that leave together.
const BATCH: u32 = 16;

/// A generator.
pub struct Generator {
    ebpf: Ebpf,
    rate: u64,
}

impl Generator {
    /// One that sends this many frames a second.
    pub fn new(rate: u64) -> Result<Self> {
        let mut ebpf = object::load()?;
        program(&mut ebpf)?.load()?;
        let mut generator = Self { ebpf, rate };
        generator.pace(0, 0)?;
        Ok(generator)
    }

    /// One whose frames, TCP segments in IPv4, come from another client each, of
    /// [`ha_common::rig::FLOODERS`].
    pub fn of_many_clients(rate: u64) -> Result<Self> {
        let mut generator = Self::new(rate)?;
        generator.pace(1, 0)?;
        Ok(generator)
    }

    /// One whose frames are in turn the first segment of such a client and, a tenth of a second later, its
    /// reset: two frames for each of the lives that begin each second. The frame to send is an ACK.
    pub fn of_whole_lives(rate: u64) -> Result<Self> {
        let mut generator = Self::new(2 * rate)?;
        generator.pace(1, rate.div_ceil(10))?;
        Ok(generator)
    }

    /// One that sends as fast as it can.
    pub fn unpaced() -> Result<Self> {
        Self::new(u64::MAX)
    }

    fn pace(&mut self, many_clients: u64, lives: u64) -> Result<()> {
        let flood = Flood {
            step_ns: 1_000_000_000 / self.rate.max(1),
            many_clients,
            lives,
            ..Flood::default()
        };
        Ok(self.control()?.set(0, flood, 0)?)
    }

    /// Has each frame begin as this one.
    fn restore(&mut self, frame: &[u8]) -> Result<()> {
        let mut control = self.control()?;
        let mut flood = control.get(&0, 0)?;
        for (word, bytes) in flood.head.iter_mut().zip(frame.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(control.set(0, flood, 0)?)
    }

    fn control(&mut self) -> Result<Array<&mut MapData, Flood>> {
        let map = self
            .ebpf
            .map_mut(FLOOD_CTL)
            .context("no map of the flood")?;
        Ok(map.try_into()?)
    }

    /// Frames sent so far.
    pub fn sent(&mut self) -> Result<u64> {
        Ok(self.control()?.get(&0, 0)?.sent)
    }

    /// Sends a frame over and over out of a port, to what is connected there.
    pub fn run(&mut self, netns: &Netns, port: &str, frame: &[u8], time: Duration) -> Result<()> {
        let count = u32::try_from(self.rate * time.as_secs())?;
        self.send(netns, port, frame, count)?;
        Ok(())
    }

    /// The same so many times; how long it took, with what the kernel did of it on this CPU meanwhile.
    pub fn send(
        &mut self,
        netns: &Netns,
        port: &str,
        frame: &[u8],
        count: u32,
    ) -> Result<Duration> {
        let mut frame = frame.to_vec();
        frame.resize(frame.len().max(8 * FLOOD_HEAD), 0);
        self.restore(&frame)?;
        let program = program(&mut self.ebpf)?;
        netns.run(|| {
            prefer_this_thread();
            let index = if_nametoindex(port)?;
            // `struct xdp_md`: start and end of the packet, its metadata, and the interface that the
            // frame leaves through again.
            let mut context = Vec::new();
            for word in [0, u32::try_from(frame.len())?, 0, index, 0, 0] {
                context.extend(word.to_ne_bytes());
            }
            let mut options = TestRunOptions::new();
            options.data_in = Some(&frame);
            options.ctx_in = Some(&context);
            options.repeat = count;
            options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
            let from = now_ns();
            let ran = program.test_run(options);
            ensure!(ran.is_ok(), "the generator does not run: {ran:?}");
            Ok(Duration::from_nanos(now_ns() - from))
        })
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(FLOOD).context("no program of the flood")?;
    Ok(program.try_into()?)
}
