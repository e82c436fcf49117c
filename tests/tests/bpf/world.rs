//! The data plane as the cases see it: in the kernel, or the same library on the host.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::datapath::pair::PairTables;
use ha_common::conn::{Conn4, ConnKey4, Embryo4, EmbryoKey4};
use ha_common::control::{Config, Gate};
use ha_common::event::{CarpSeen, ConnEvent4, Evidence};
use ha_common::pair::Heard;
use ha_common::reason::{Reason, Tally, Verdict};
use ha_common::service::{Addr6, LocalAddr, Real, ReturnPath4, Service, ServiceKey4};
use ha_ebpf::fake::{FakePacket, FakeTables};
use ha_ebpf::packet::Packet as _;
use ha_tests::clock::now_ns;
use ha_tests::rig::bpf::{DataPlane, INGRESS, Sizes, reason_between};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// What became of a frame, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) reason: Reason,
    pub(crate) frame: Vec<u8>,
}

/// A data plane with its tables.
pub(crate) trait World {
    /// Runs a frame that came in on [`INGRESS`].
    fn run(&mut self, frame: &[u8]) -> Result<Ran>;
    /// Runs the janitor.
    fn janitor(&mut self, keys: &[ConnKey4]) -> Result<u32>;
    fn put_gate(&mut self, gate: Gate) -> Result<()>;
    fn gate(&self) -> Result<Gate>;
    fn set_pair(&mut self, tables: &PairTables) -> Result<()>;
    fn put_addr6(&mut self, addr: Addr6, local: LocalAddr) -> Result<()>;
    /// An IPv6 address for which the kernel answers.
    fn set_addr6(&mut self, addr: Addr6, kind: u32) -> Result<()> {
        self.put_addr6(addr, LocalAddr { kind, ifindex: 0 })
    }
    fn set_heard(&mut self, link: u32, heard: Heard) -> Result<()>;
    /// Evidence since the last call.
    fn evidence(&mut self) -> Result<Vec<Evidence>>;
    /// Opens the gate until then, in term 0, or closes it; the partner is not known.
    fn set_gate(&mut self, until_ns: u64) -> Result<()> {
        self.put_gate(Gate {
            until_ns,
            ..Gate::default()
        })
    }
    fn set_version(&mut self, version: u32) -> Result<()>;
    fn set_config(&mut self, config: Config) -> Result<()>;
    fn put_addr(&mut self, addr: u32, local: LocalAddr) -> Result<()>;
    /// An IPv4 address for which the kernel answers.
    fn set_addr(&mut self, addr: u32, kind: u32) -> Result<()> {
        self.put_addr(addr, LocalAddr { kind, ifindex: 0 })
    }
    fn set_service(&mut self, key: ServiceKey4, service: Service) -> Result<()>;
    fn set_return_path(&mut self, key: ServiceKey4, path: ReturnPath4) -> Result<()>;
    fn set_real(&mut self, id: u16, real: Real) -> Result<()>;
    fn set_slot(&mut self, index: u32, id: u32) -> Result<()>;
    fn set_conn(&mut self, key: ConnKey4, conn: Conn4) -> Result<()>;
    fn remove_conn(&mut self, key: ConnKey4) -> Result<()>;
    fn conns(&self) -> Result<Vec<(ConnKey4, Conn4)>>;
    fn set_embryo(&mut self, key: EmbryoKey4, embryo: Embryo4) -> Result<()>;
    fn embryo(&self, key: EmbryoKey4) -> Result<Option<Embryo4>>;
    fn tally(&self, tally: Tally) -> Result<u64>;
    /// Events since the last call.
    fn events(&mut self) -> Result<Vec<ConnEvent4>>;
    /// Advertisements since the last call.
    fn adverts(&mut self) -> Result<Vec<CarpSeen>>;
}

/// Which data plane to run a case in.
#[derive(Clone)]
pub(crate) enum Place {
    Host,
    Kernel(Arc<Pool>),
}

/// Loading takes half a second, most of it the verifier's, so what was loaded is used again.
pub(crate) struct Pool {
    object: PathBuf,
    idle: Mutex<Vec<(Sizes, DataPlane)>>,
}

impl Place {
    /// The kernel, with the programs in this object.
    pub(crate) fn kernel(object: PathBuf) -> Self {
        Self::Kernel(Arc::new(Pool {
            object,
            idle: Mutex::default(),
        }))
    }

    pub(crate) fn world(&self, sizes: Sizes) -> Result<Box<dyn World>> {
        Ok(match self {
            Self::Host => Box::new(Host::new(sizes)),
            Self::Kernel(pool) => Box::new(Kernel::new(pool, sizes)?),
        })
    }
}

/// The library on the host.
pub(crate) struct Host {
    tables: FakeTables,
}

impl Host {
    fn new(sizes: Sizes) -> Self {
        let tables = FakeTables::default();
        tables.conns_max.set(sizes.conns as usize);
        // A record of a ring takes a header of eight bytes; as in the kernel, the last byte stays free.
        let records = |bytes: u32, size: usize| (bytes as usize - 1) / (size + 8);
        tables
            .events_max
            .set(records(sizes.events, size_of::<ConnEvent4>()));
        tables
            .adverts_max
            .set(records(sizes.carp, size_of::<CarpSeen>()));
        Self { tables }
    }
}

impl World for Host {
    fn run(&mut self, frame: &[u8]) -> Result<Ran> {
        self.tables.now_ns.set(now_ns());
        let mut packet = FakePacket::new(frame.to_vec(), INGRESS);
        let reason = self.tables.run(&mut packet);
        ensure!(
            packet.redirected.is_some() == (reason.verdict() == Verdict::Redirect),
            "{reason:?} with redirection to {:?}",
            packet.redirected
        );
        ensure!(
            packet.frame_len() == frame.len(),
            "the frame's length changed"
        );
        Ok(Ran {
            reason,
            frame: packet.bytes,
        })
    }

    fn janitor(&mut self, keys: &[ConnKey4]) -> Result<u32> {
        self.tables.now_ns.set(now_ns());
        let mut list = vec![0; ha_ebpf::janitor::HEADER_LEN];
        for key in keys {
            list.extend(key.src.to_ne_bytes());
            list.extend(key.dst.to_ne_bytes());
            list.extend(key.sport.to_ne_bytes());
            list.extend(key.dport.to_ne_bytes());
            list.extend(key.proto.to_ne_bytes());
        }
        Ok(ha_ebpf::janitor::sweep(
            &mut FakePacket::new(list, INGRESS),
            &self.tables,
        ))
    }

    fn put_gate(&mut self, gate: Gate) -> Result<()> {
        self.tables.gate.put((), gate);
        Ok(())
    }

    fn gate(&self) -> Result<Gate> {
        self.tables.gate.get(&()).context("the gate")
    }

    fn set_pair(&mut self, tables: &PairTables) -> Result<()> {
        self.tables.pair.put((), tables.pair);
        for (index, (peer, digest)) in (0..).zip(tables.peers.iter().zip(&tables.digests)) {
            self.tables.peers.put(index, *peer);
            self.tables.digests.put(index, *digest);
        }
        Ok(())
    }

    fn put_addr6(&mut self, addr: Addr6, local: LocalAddr) -> Result<()> {
        self.tables.addrs6.put(addr, local);
        Ok(())
    }

    fn set_heard(&mut self, link: u32, heard: Heard) -> Result<()> {
        self.tables.heard.put(link, heard);
        Ok(())
    }

    fn evidence(&mut self) -> Result<Vec<Evidence>> {
        Ok(self.tables.evidence.take())
    }

    fn set_version(&mut self, version: u32) -> Result<()> {
        self.tables.layout_version.set(version);
        Ok(())
    }

    fn set_config(&mut self, config: Config) -> Result<()> {
        self.tables.config.put((), config);
        Ok(())
    }

    fn put_addr(&mut self, addr: u32, local: LocalAddr) -> Result<()> {
        self.tables.addrs.put(addr, local);
        Ok(())
    }

    fn set_service(&mut self, key: ServiceKey4, service: Service) -> Result<()> {
        self.tables.services.put(key, service);
        Ok(())
    }

    fn set_return_path(&mut self, key: ServiceKey4, path: ReturnPath4) -> Result<()> {
        self.tables.return_paths.put(key, path);
        Ok(())
    }

    fn set_real(&mut self, id: u16, real: Real) -> Result<()> {
        self.tables.reals.put(id, real);
        Ok(())
    }

    fn set_slot(&mut self, index: u32, id: u32) -> Result<()> {
        self.tables.slots.put(index, id);
        Ok(())
    }

    fn set_conn(&mut self, key: ConnKey4, conn: Conn4) -> Result<()> {
        self.tables.conns.put(key, conn);
        Ok(())
    }

    fn remove_conn(&mut self, key: ConnKey4) -> Result<()> {
        ensure!(self.tables.conns.remove(&key), "no such entry");
        Ok(())
    }

    fn conns(&self) -> Result<Vec<(ConnKey4, Conn4)>> {
        let mut conns = self.tables.conns.all();
        conns.sort_by_key(|(key, _)| *key);
        Ok(conns)
    }

    fn set_embryo(&mut self, key: EmbryoKey4, embryo: Embryo4) -> Result<()> {
        self.tables.embryos.put(key, embryo);
        Ok(())
    }

    fn embryo(&self, key: EmbryoKey4) -> Result<Option<Embryo4>> {
        Ok(self.tables.embryos.get(&key))
    }

    fn tally(&self, tally: Tally) -> Result<u64> {
        Ok(self.tables.tally(tally))
    }

    fn events(&mut self) -> Result<Vec<ConnEvent4>> {
        Ok(self.tables.events.take())
    }

    fn adverts(&mut self) -> Result<Vec<CarpSeen>> {
        Ok(self.tables.adverts.take())
    }
}

/// The program in the kernel.
struct Kernel {
    plane: Option<DataPlane>,
    sizes: Sizes,
    pool: Arc<Pool>,
    headroom: usize,
}

impl Kernel {
    fn new(pool: &Arc<Pool>, sizes: Sizes) -> Result<Self> {
        let idle = {
            let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let found = idle.iter().position(|(other, _)| *other == sizes);
            found.map(|index| idle.swap_remove(index).1)
        };
        let mut plane = match idle {
            Some(plane) => plane,
            None => DataPlane::load(&pool.object, sizes)?,
        };
        plane.clear()?;
        stay_on_this_cpu()?;
        Ok(Self {
            plane: Some(plane),
            sizes,
            pool: Arc::clone(pool),
            headroom: 0,
        })
    }

    fn plane(&self) -> Result<&DataPlane> {
        self.plane.as_ref().context("given back")
    }

    fn plane_mut(&mut self) -> Result<&mut DataPlane> {
        self.plane.as_mut().context("given back")
    }
}

/// Whose turn it is in round robin is kept by CPU, so a case must not change from one to another.
fn stay_on_this_cpu() -> Result<()> {
    let mut only = CpuSet::new();
    only.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Some(plane) = self.plane.take() {
            let mut idle = self
                .pool
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            idle.push((self.sizes, plane));
        }
    }
}

impl World for Kernel {
    fn run(&mut self, frame: &[u8]) -> Result<Ran> {
        // Whatever lies before the frame must not matter.
        self.headroom = (self.headroom + 4) % 32;
        let before = self.plane()?.counters()?;
        let outcome = self.plane()?.run(frame, self.headroom)?;
        let reason = reason_between(&before, &self.plane()?.counters()?)?;
        ensure!(
            outcome.action == ha_ebpf::verdict::action(reason),
            "action {} for {reason:?}",
            outcome.action
        );
        ensure!(
            outcome.duration < Duration::from_secs(1),
            "{:?}",
            outcome.duration
        );
        Ok(Ran {
            reason,
            frame: outcome.frame,
        })
    }

    fn janitor(&mut self, keys: &[ConnKey4]) -> Result<u32> {
        self.plane()?.janitor(keys)
    }

    fn put_gate(&mut self, gate: Gate) -> Result<()> {
        Ok(self.plane_mut()?.gate.set(0, gate, 0)?)
    }

    fn gate(&self) -> Result<Gate> {
        Ok(self.plane()?.gate.get(&0, 0)?)
    }

    fn set_pair(&mut self, tables: &PairTables) -> Result<()> {
        let plane = self.plane_mut()?;
        plane.pair.set(0, tables.pair, 0)?;
        for (index, (peer, digest)) in (0..).zip(tables.peers.iter().zip(&tables.digests)) {
            plane.peers.set(index, peer, 0)?;
            plane.digests.set(index, digest, 0)?;
        }
        Ok(())
    }

    fn put_addr6(&mut self, addr: Addr6, local: LocalAddr) -> Result<()> {
        Ok(self.plane_mut()?.addrs6.insert(addr, local, 0)?)
    }

    fn set_heard(&mut self, link: u32, heard: Heard) -> Result<()> {
        Ok(self.plane_mut()?.heard.set(link, heard, 0)?)
    }

    fn evidence(&mut self) -> Result<Vec<Evidence>> {
        self.plane_mut()?.evidence()
    }

    fn set_version(&mut self, version: u32) -> Result<()> {
        Ok(self.plane_mut()?.version.set(0, version, 0)?)
    }

    fn set_config(&mut self, config: Config) -> Result<()> {
        Ok(self.plane_mut()?.config.set(0, config, 0)?)
    }

    fn put_addr(&mut self, addr: u32, local: LocalAddr) -> Result<()> {
        Ok(self.plane_mut()?.addrs.insert(addr, local, 0)?)
    }

    fn set_service(&mut self, key: ServiceKey4, service: Service) -> Result<()> {
        Ok(self.plane_mut()?.services.insert(key, service, 0)?)
    }

    fn set_return_path(&mut self, key: ServiceKey4, path: ReturnPath4) -> Result<()> {
        Ok(self.plane_mut()?.return_paths.insert(key, path, 0)?)
    }

    fn set_real(&mut self, id: u16, real: Real) -> Result<()> {
        Ok(self.plane_mut()?.reals.set(u32::from(id), real, 0)?)
    }

    fn set_slot(&mut self, index: u32, id: u32) -> Result<()> {
        Ok(self.plane_mut()?.slots.set(index, id, 0)?)
    }

    fn set_conn(&mut self, key: ConnKey4, conn: Conn4) -> Result<()> {
        Ok(self.plane_mut()?.conns.insert(key, conn, 0)?)
    }

    fn remove_conn(&mut self, key: ConnKey4) -> Result<()> {
        Ok(self.plane_mut()?.conns.remove(&key)?)
    }

    fn conns(&self) -> Result<Vec<(ConnKey4, Conn4)>> {
        let mut conns = self.plane()?.conns.iter().collect::<Result<Vec<_>, _>>()?;
        conns.sort_by_key(|(key, _)| *key);
        Ok(conns)
    }

    fn set_embryo(&mut self, key: EmbryoKey4, embryo: Embryo4) -> Result<()> {
        Ok(self.plane_mut()?.embryos.insert(key, embryo, 0)?)
    }

    fn embryo(&self, key: EmbryoKey4) -> Result<Option<Embryo4>> {
        match self.plane()?.embryos.get(&key, 0) {
            Ok(embryo) => Ok(Some(embryo)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn tally(&self, tally: Tally) -> Result<u64> {
        self.plane()?.tally(tally)
    }

    fn events(&mut self) -> Result<Vec<ConnEvent4>> {
        self.plane_mut()?.events()
    }

    fn adverts(&mut self) -> Result<Vec<CarpSeen>> {
        self.plane_mut()?.adverts()
    }
}
