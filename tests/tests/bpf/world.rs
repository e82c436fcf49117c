//! The data plane as the cases see it: in the kernel, or the same library on the host.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use ha_agent::datapath::pair::PairTables;
use ha_common::conn::{Conn4, ConnKey4, Embryo4, EmbryoKey4, FragmentKey4, Persist, PersistKey4};
use ha_common::control::{Config, Gate};
use ha_common::event::{CarpSeen, ConnEvent4, EarlyFragment, Evidence, Sample};
use ha_common::pair::Heard;
use ha_common::reason::{Reason, Tally};
use ha_common::service::{
    Addr6, Load, LocalAddr, Real, ReturnPath4, Service, ServiceKey4, Timeouts, Traffic,
};
use ha_tests::rig::bpf::{DataPlane, Sizes};

use super::family::Family;
use super::host::Host;
use super::kernel::Kernel;

/// What became of a frame, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) reason: Reason,
    pub(crate) frame: Vec<u8>,
}

/// A data plane with its tables. IPv4 addresses are turned into those of the world's family.
pub(crate) trait World {
    /// Runs a frame that came in on [`ha_tests::rig::bpf::INGRESS`].
    fn run(&mut self, frame: &[u8]) -> Result<Ran>;
    /// Runs a fragment that was held once more.
    fn follow(&mut self, frame: &[u8]) -> Result<Ran>;
    /// Runs the janitor.
    fn janitor(&mut self, keys: &[ConnKey4]) -> Result<u32>;
    /// From now on no frame has room in front of it; `false` where the kernel takes no more than a few bytes there
    /// (`xdp_metalen_invalid`: 32 in Linux 6.1).
    fn crowd(&mut self) -> bool;
    /// Takes the programs behind the first one away; `false` where they cannot be.
    fn lose_stages(&mut self) -> Result<bool>;

    fn put_gate(&mut self, gate: Gate) -> Result<()>;
    fn gate(&self) -> Result<Gate>;
    fn set_version(&mut self, version: u32) -> Result<()>;
    fn set_config(&mut self, config: Config) -> Result<()>;
    fn set_pair(&mut self, tables: &PairTables) -> Result<()>;
    fn set_heard(&mut self, link: u32, heard: Heard) -> Result<()>;
    /// A shared address is also one that concerns the data plane.
    fn put_addr(&mut self, addr: u32, local: LocalAddr) -> Result<()>;
    fn put_addr6(&mut self, addr: Addr6, local: LocalAddr) -> Result<()>;
    fn set_service(&mut self, key: ServiceKey4, service: Service) -> Result<()>;
    fn set_return_path(&mut self, key: ServiceKey4, path: ReturnPath4) -> Result<()>;
    /// Its address is also one that concerns the data plane.
    fn set_real(&mut self, id: u16, real: Real) -> Result<()>;
    fn set_timeouts(&mut self, service: u16, timeouts: Timeouts) -> Result<()>;
    fn set_slot(&mut self, index: u32, id: u32) -> Result<()>;
    fn set_load(&mut self, real: u16, load: Load) -> Result<()>;
    fn load(&self, real: u16) -> Result<Load>;
    fn traffic(&self, real: u16) -> Result<Traffic>;

    fn set_conn(&mut self, key: ConnKey4, conn: Conn4) -> Result<()>;
    fn remove_conn(&mut self, key: ConnKey4) -> Result<()>;
    fn conns(&self) -> Result<Vec<(ConnKey4, Conn4)>>;
    fn set_embryo(&mut self, key: EmbryoKey4, embryo: Embryo4) -> Result<()>;
    fn embryo(&self, key: EmbryoKey4) -> Result<Option<Embryo4>>;
    fn set_fragments(&mut self, key: FragmentKey4, first: Conn4) -> Result<()>;
    fn fragments(&self) -> Result<Vec<(FragmentKey4, Conn4)>>;
    fn set_client(&mut self, key: PersistKey4, client: Persist) -> Result<()>;
    fn clients(&self) -> Result<Vec<(PersistKey4, Persist)>>;

    fn tally(&self, tally: Tally) -> Result<u64>;
    /// Events since the last call.
    fn events(&mut self) -> Result<Vec<ConnEvent4>>;
    /// Advertisements since the last call.
    fn adverts(&mut self) -> Result<Vec<CarpSeen>>;
    /// Evidence since the last call.
    fn evidence(&mut self) -> Result<Vec<Evidence>>;
    /// Fragments held since the last call.
    fn early(&mut self) -> Result<Vec<EarlyFragment>>;
    /// Packets shown since the last call.
    fn samples(&mut self) -> Result<Vec<Sample>>;

    /// Opens the gate until then, in term 0, or closes it; the partner is not known.
    fn set_gate(&mut self, until_ns: u64) -> Result<()> {
        self.put_gate(Gate {
            until_ns,
            ..Gate::default()
        })
    }

    /// An address for which the kernel answers.
    fn set_addr(&mut self, addr: u32, kind: u32) -> Result<()> {
        self.put_addr(addr, LocalAddr { kind, ifindex: 0 })
    }

    /// An IPv6 address for which the kernel answers.
    fn set_addr6(&mut self, addr: Addr6, kind: u32) -> Result<()> {
        self.put_addr6(addr, LocalAddr { kind, ifindex: 0 })
    }
}

/// Rubbish in front of a frame: as much as every kernel takes.
const RUBBISH: usize = 32;

/// Which data plane to run a case in.
#[derive(Clone)]
pub(crate) enum Place {
    Host,
    /// In front of each frame are so many bytes of rubbish, a multiple of four.
    Kernel(Arc<Pool>, usize),
}

/// Loading takes half a second, most of it the verifier's, so what was loaded is used again.
pub(crate) struct Pool {
    object: PathBuf,
    idle: Mutex<Vec<(Sizes, DataPlane)>>,
}

impl Pool {
    /// A data plane with maps of these sizes, as after loading.
    pub(crate) fn take(&self, sizes: Sizes) -> Result<DataPlane> {
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let found = idle.iter().position(|(other, _)| *other == sizes);
            found.map(|index| idle.swap_remove(index).1)
        };
        let mut plane = match idle {
            Some(plane) => plane,
            None => DataPlane::load(&self.object, sizes)?,
        };
        plane.clear()?;
        Ok(plane)
    }

    /// Keeps it for another case.
    pub(crate) fn give_back(&self, sizes: Sizes, plane: DataPlane) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push((sizes, plane));
    }
}

impl Place {
    /// The kernel, with the programs in this object.
    pub(crate) fn kernel(object: PathBuf) -> Self {
        let pool = Pool {
            object,
            idle: Mutex::default(),
        };
        Self::Kernel(Arc::new(pool), 0)
    }

    /// The same place with other rubbish in front of each frame; `None` if that makes no difference.
    pub(crate) fn behind_rubbish(&self) -> Option<Self> {
        match self {
            Self::Host => None,
            Self::Kernel(pool, _) => Some(Self::Kernel(Arc::clone(pool), RUBBISH)),
        }
    }

    pub(crate) fn world(&self, family: Family, sizes: Sizes) -> Result<Box<dyn World>> {
        Ok(match self {
            Self::Host => Box::new(Host::new(family, sizes)),
            Self::Kernel(pool, rubbish) => Box::new(Kernel::new(pool, *rubbish, family, sizes)?),
        })
    }
}
