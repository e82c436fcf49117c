//! The programs in the kernel.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use ha_agent::datapath::pair::PairTables;
use ha_common::conn::{
    Conn4, ConnKey4, ConnKey6, Embryo4, EmbryoKey4, FragmentKey4, Persist, PersistKey4,
};
use ha_common::control::{Config, Gate};
use ha_common::event::{CarpSeen, ConnEvent4, EarlyFragment, Evidence, Sample};
use ha_common::pair::Heard;
use ha_common::reason::Tally;
use ha_common::service::{
    Addr6, Load, LocalAddr, Real, ReturnPath4, Service, ServiceKey4, Timeouts, Traffic, addr_kind,
};
use ha_ebpf::verdict;
use ha_tests::rig::bpf::{DataPlane, Outcome, Sizes, reason_between};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::family::{Both, Family, real6, service6};
use super::world::{Pool, Ran, World};

/// Bytes in front of a frame that leave no room for any header.
const CROWDED: usize = 200;

pub(crate) struct Kernel {
    plane: Option<DataPlane>,
    family: Family,
    sizes: Sizes,
    pool: Arc<Pool>,
    rubbish: usize,
}

impl Kernel {
    pub(crate) fn new(
        pool: &Arc<Pool>,
        rubbish: usize,
        family: Family,
        sizes: Sizes,
    ) -> Result<Self> {
        stay_on_this_cpu()?;
        Ok(Self {
            plane: Some(pool.take(sizes)?),
            family,
            sizes,
            pool: Arc::clone(pool),
            rubbish,
        })
    }

    fn plane(&self) -> Result<&DataPlane> {
        self.plane.as_ref().context("given back")
    }

    /// Runs a frame through one of the programs.
    fn judge(
        &self,
        program: fn(&DataPlane, &[u8], usize) -> Result<Outcome>,
        frame: &[u8],
    ) -> Result<Ran> {
        let before = self.plane()?.counters()?;
        let outcome = program(self.plane()?, frame, self.rubbish)?;
        let reason = reason_between(&before, &self.plane()?.counters()?)?;
        ensure!(
            outcome.action == verdict::action(reason),
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
            self.pool.give_back(self.sizes, plane);
        }
    }
}

/// All elements of a map.
fn all<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> Result<Vec<(K, V)>> {
    Ok(map.iter().collect::<Result<Vec<_>, _>>()?)
}

/// All elements of a map of IPv6 under their names in IPv4.
fn fours<K: Both, V: Both>(map: &HashMap<MapData, K::Six, V::Six>) -> Result<Vec<(K, V)>>
where
    K::Six: Pod,
    V::Six: Pod,
{
    let all = all(map)?.into_iter();
    Ok(all
        .map(|(key, value)| (K::four(key), V::four(value)))
        .collect())
}

fn get<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, key: K) -> Result<Option<V>> {
    match map.get(&key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl World for Kernel {
    fn run(&mut self, frame: &[u8]) -> Result<Ran> {
        self.judge(DataPlane::run, frame)
    }

    fn follow(&mut self, frame: &[u8]) -> Result<Ran> {
        self.judge(DataPlane::follow, frame)
    }

    fn janitor(&mut self, keys: &[ConnKey4]) -> Result<u32> {
        match self.family {
            Family::V4 => self.plane()?.janitor(keys),
            Family::V6 => {
                let keys: Vec<ConnKey6> = keys.iter().map(|key| key.six()).collect();
                self.plane()?.janitor6(&keys)
            }
        }
    }

    fn crowd(&mut self) -> bool {
        let plane = self.plane();
        let taken = plane.and_then(|plane| plane.run(&[0; 64], CROWDED)).is_ok();
        if taken {
            self.rubbish = CROWDED;
        }
        taken
    }

    fn lose_stages(&mut self) -> Result<bool> {
        self.plane_mut()?.clear_stages()?;
        Ok(true)
    }

    fn put_gate(&mut self, gate: Gate) -> Result<()> {
        Ok(self.plane_mut()?.gate.set(0, gate, 0)?)
    }

    fn gate(&self) -> Result<Gate> {
        Ok(self.plane()?.gate.get(&0, 0)?)
    }

    fn set_version(&mut self, version: u32) -> Result<()> {
        Ok(self.plane_mut()?.version.set(0, version, 0)?)
    }

    fn set_config(&mut self, config: Config) -> Result<()> {
        Ok(self.plane_mut()?.config.set(0, config, 0)?)
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

    fn set_heard(&mut self, link: u32, heard: Heard) -> Result<()> {
        Ok(self.plane_mut()?.heard.set(link, heard, 0)?)
    }

    fn put_addr(&mut self, addr: u32, local: LocalAddr) -> Result<()> {
        if self.family == Family::V6 {
            return self.put_addr6(addr.six(), local);
        }
        let plane = self.plane_mut()?;
        if local.kind == addr_kind::SHARED {
            plane.concern(addr)?;
        }
        Ok(plane.addrs.insert(addr, local, 0)?)
    }

    fn put_addr6(&mut self, addr: Addr6, local: LocalAddr) -> Result<()> {
        let plane = self.plane_mut()?;
        if local.kind == addr_kind::SHARED {
            plane.concern(addr)?;
        }
        Ok(plane.addrs6.insert(addr, local, 0)?)
    }

    fn set_service(&mut self, key: ServiceKey4, service: Service) -> Result<()> {
        let family = self.family;
        let plane = self.plane_mut()?;
        match family {
            Family::V4 => plane.services.insert(key, service, 0)?,
            Family::V6 => plane.services6.insert(key.six(), service6(service), 0)?,
        }
        Ok(())
    }

    fn set_return_path(&mut self, key: ServiceKey4, path: ReturnPath4) -> Result<()> {
        let family = self.family;
        let plane = self.plane_mut()?;
        match family {
            Family::V4 => plane.return_paths.insert(key, path, 0)?,
            Family::V6 => plane.return_paths6.insert(key.six(), path.six(), 0)?,
        }
        Ok(())
    }

    fn set_real(&mut self, id: u16, real: Real) -> Result<()> {
        let family = self.family;
        let plane = self.plane_mut()?;
        let real = match family {
            Family::V4 => {
                plane.concern(real.addr::<u32>())?;
                real
            }
            Family::V6 => {
                let real = real6(real);
                plane.concern(real.addr)?;
                real
            }
        };
        Ok(plane.reals.set(u32::from(id), real, 0)?)
    }

    fn set_timeouts(&mut self, service: u16, timeouts: Timeouts) -> Result<()> {
        let plane = self.plane_mut()?;
        Ok(plane.timeouts.set(u32::from(service), timeouts, 0)?)
    }

    fn set_slot(&mut self, index: u32, id: u32) -> Result<()> {
        Ok(self.plane_mut()?.slots.set(index, id, 0)?)
    }

    fn set_load(&mut self, real: u16, load: Load) -> Result<()> {
        Ok(self.plane_mut()?.loads.set(u32::from(real), load, 0)?)
    }

    fn load(&self, real: u16) -> Result<Load> {
        Ok(self.plane()?.loads.get(&u32::from(real), 0)?)
    }

    fn traffic(&self, real: u16) -> Result<Traffic> {
        self.plane()?.traffic(real)
    }

    fn set_conn(&mut self, key: ConnKey4, conn: Conn4) -> Result<()> {
        let family = self.family;
        let plane = self.plane_mut()?;
        match family {
            Family::V4 => plane.conns.insert(key, conn, 0)?,
            Family::V6 => plane.conns6.insert(key.six(), conn.six(), 0)?,
        }
        Ok(())
    }

    fn remove_conn(&mut self, key: ConnKey4) -> Result<()> {
        let family = self.family;
        let plane = self.plane_mut()?;
        match family {
            Family::V4 => plane.conns.remove(&key)?,
            Family::V6 => plane.conns6.remove(&key.six())?,
        }
        Ok(())
    }

    fn conns(&self) -> Result<Vec<(ConnKey4, Conn4)>> {
        let mut conns = match self.family {
            Family::V4 => all(&self.plane()?.conns)?,
            Family::V6 => fours(&self.plane()?.conns6)?,
        };
        conns.sort_by_key(|(key, _)| *key);
        Ok(conns)
    }

    fn set_embryo(&mut self, key: EmbryoKey4, embryo: Embryo4) -> Result<()> {
        let family = self.family;
        let plane = self.plane_mut()?;
        match family {
            Family::V4 => plane.embryos.insert(key, embryo, 0)?,
            Family::V6 => plane.embryos6.insert(key.six(), embryo.six(), 0)?,
        }
        Ok(())
    }

    fn embryo(&self, key: EmbryoKey4) -> Result<Option<Embryo4>> {
        Ok(match self.family {
            Family::V4 => get(&self.plane()?.embryos, key)?,
            Family::V6 => get(&self.plane()?.embryos6, key.six())?.map(Both::four),
        })
    }

    fn set_fragments(&mut self, key: FragmentKey4, first: Conn4) -> Result<()> {
        let family = self.family;
        let plane = self.plane_mut()?;
        match family {
            Family::V4 => plane.fragments.insert(key, first, 0)?,
            Family::V6 => plane.fragments6.insert(key.six(), first.six(), 0)?,
        }
        Ok(())
    }

    fn fragments(&self) -> Result<Vec<(FragmentKey4, Conn4)>> {
        match self.family {
            Family::V4 => all(&self.plane()?.fragments),
            Family::V6 => fours(&self.plane()?.fragments6),
        }
    }

    fn set_client(&mut self, key: PersistKey4, client: Persist) -> Result<()> {
        let family = self.family;
        let plane = self.plane_mut()?;
        match family {
            Family::V4 => plane.clients.insert(key, client, 0)?,
            Family::V6 => plane.clients6.insert(key.six(), client, 0)?,
        }
        Ok(())
    }

    fn clients(&self) -> Result<Vec<(PersistKey4, Persist)>> {
        Ok(match self.family {
            Family::V4 => all(&self.plane()?.clients)?,
            Family::V6 => (all(&self.plane()?.clients6)?.into_iter())
                .map(|(key, client)| (Both::four(key), client))
                .collect(),
        })
    }

    fn tally(&self, tally: Tally) -> Result<u64> {
        self.plane()?.tally(tally)
    }

    fn events(&mut self) -> Result<Vec<ConnEvent4>> {
        let family = self.family;
        let plane = self.plane_mut()?;
        Ok(match family {
            Family::V4 => plane.events()?,
            Family::V6 => plane.events6()?.into_iter().map(Both::four).collect(),
        })
    }

    fn adverts(&mut self) -> Result<Vec<CarpSeen>> {
        self.plane_mut()?.adverts()
    }

    fn evidence(&mut self) -> Result<Vec<Evidence>> {
        self.plane_mut()?.evidence()
    }

    fn early(&mut self) -> Result<Vec<EarlyFragment>> {
        self.plane_mut()?.early()
    }

    fn samples(&mut self) -> Result<Vec<Sample>> {
        self.plane_mut()?.samples()
    }
}
