//! The wrapper, and what is measured in it.

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use ha_common::conn::{Conn4, ConnKey4};
use ha_common::gauge::{CONTROL, FLOOR, FLOWS, Gauge, HEAD_LEN, LOOKUP, UNDER_TEST, WRAPPER};

use crate::rig::locate;

/// The packets of a measurement.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    /// The packet; that of the first flow if there are several.
    frame: Vec<u8>,
    vary: u32,
    flows: u32,
    random: bool,
    turn: u32,
}

impl Traffic {
    /// One packet, over and over.
    pub(super) fn one(mut frame: Vec<u8>) -> Self {
        frame.resize(frame.len().max(HEAD_LEN), 0);
        Self {
            frame,
            vary: 0,
            flows: 1,
            random: false,
            turn: 0,
        }
    }

    /// As many flows, told apart by this address, in turn, beginning with the first.
    pub(super) fn in_turn(frame: Vec<u8>, vary: u32, flows: u32) -> Self {
        Self {
            vary,
            flows,
            turn: flows - 1,
            ..Self::one(frame)
        }
    }

    /// The same in random order.
    pub(super) fn random(frame: Vec<u8>, vary: u32, flows: u32) -> Self {
        Self {
            random: true,
            ..Self::in_turn(frame, vary, flows)
        }
    }

    fn gauge(&self) -> Result<Gauge> {
        let mut gauge = Gauge {
            len: u32::try_from(self.frame.len())?,
            vary: self.vary,
            flows: self.flows,
            random: self.random.into(),
            turn: self.turn,
            ..Gauge::default()
        };
        for (word, bytes) in gauge.head.iter_mut().zip(self.frame.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        let at = self.vary as usize;
        let word = self.frame.get(at..at + 4).context("a short frame")?;
        gauge.first = u32::from_be_bytes(word.try_into()?);
        Ok(gauge)
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Average time of a packet, wrapper and all.
    pub(super) ns: f64,
    /// What became of the last packet.
    pub(super) action: u32,
}

/// The wrapper.
pub(super) struct Instrument {
    ebpf: Ebpf,
    control: Array<MapData, Gauge>,
    under_test: ProgramArray<MapData>,
    flows: HashMap<MapData, ConnKey4, Conn4>,
}

impl Instrument {
    /// Loads it.
    pub(super) fn load() -> Result<Self> {
        let mut ebpf = Ebpf::load_file(&locate::bpf_object("ha_gauge")?)?;
        for name in [WRAPPER, FLOOR, LOOKUP] {
            let program: &mut Xdp = ebpf
                .program_mut(name)
                .with_context(|| format!("no program {name}"))?
                .try_into()?;
            program.load()?;
        }
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name} in the object"))
        };
        Ok(Self {
            control: take(CONTROL)?.try_into()?,
            under_test: take(UNDER_TEST)?.try_into()?,
            flows: take(FLOWS)?.try_into()?,
            ebpf,
        })
    }

    /// A program of its own, to be measured.
    pub(super) fn own(&self, name: &str) -> Result<ProgramFd> {
        Ok(self.program(name)?.fd()?.try_clone()?)
    }

    /// Gives the lookup program entries to find.
    pub(super) fn know(
        &mut self,
        entries: impl IntoIterator<Item = (ConnKey4, Conn4)>,
    ) -> Result<()> {
        for (key, conn) in entries {
            self.flows.insert(key, conn, 0)?;
        }
        Ok(())
    }

    /// Runs the program on this traffic.
    pub(super) fn run(
        &mut self,
        program: &ProgramFd,
        traffic: &Traffic,
        packets: u32,
    ) -> Result<Run> {
        self.under_test.set(0, program, 0)?;
        self.control.set(0, traffic.gauge()?, 0)?;
        let mut output = vec![0; traffic.frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&traffic.frame);
        options.data_out = Some(&mut output);
        options.repeat = packets;
        let result = self.program(WRAPPER)?.test_run(options)?;
        ensure!(result.return_value != 0, "the wrapper failed");
        Ok(Run {
            ns: result.duration.as_nanos() as f64,
            action: result.return_value,
        })
    }

    fn program(&self, name: &str) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?
            .try_into()?)
    }
}
