//! The library on the host.

use std::hash::Hash;

use anyhow::{Context as _, Result, ensure};
use ha_agent::datapath::pair::PairTables;
use ha_agent::datapath::sys;
use ha_common::conn::{
    Conn4, ConnKey4, ConnKey6, Embryo4, EmbryoKey4, FragmentKey4, Persist, PersistKey4,
};
use ha_common::control::{Config, Gate};
use ha_common::event::{CarpSeen, ConnEvent4, ConnEvent6, EarlyFragment, Evidence, Sample};
use ha_common::pair::Heard;
use ha_common::reason::{Reason, Tally, Verdict};
use ha_common::service::{
    Addr6, Load, LocalAddr, Real, ReturnPath4, Service, ServiceKey4, Timeouts, Traffic, addr_kind,
};
use ha_common::stage::JANITOR_HEADER;
use ha_ebpf::fake::{FakePacket, FakeTables, Table};
use ha_ebpf::janitor;
use ha_tests::clock::now_ns;
use ha_tests::rig::bpf::{INGRESS, Sizes};

use super::family::{Both, Family, real6, service6};
use super::world::{Ran, World};

pub(crate) struct Host {
    tables: FakeTables,
    family: Family,
    headroom: Option<usize>,
}

impl Host {
    pub(crate) fn new(family: Family, sizes: Sizes) -> Self {
        let tables = FakeTables::default();
        tables.conns_max.set(sizes.conns as usize);
        // A record of a ring takes a header of eight bytes; as in the kernel, the last byte stays free.
        let records =
            |bytes: u32, size: usize| (bytes as usize - 1) / (size.next_multiple_of(8) + 8);
        let event = match family {
            Family::V4 => size_of::<ConnEvent4>(),
            Family::V6 => size_of::<ConnEvent6>(),
        };
        tables.events_max.set(records(sizes.events, event));
        tables
            .adverts_max
            .set(records(sizes.carp, size_of::<CarpSeen>()));
        Self {
            tables,
            family,
            headroom: None,
        }
    }
}

/// All elements of a table of IPv6 under their names in IPv4.
fn fours<K: Both, V: Both>(table: &Table<K::Six, V::Six>) -> Vec<(K, V)>
where
    K::Six: Eq + Hash,
{
    let all = table.all().into_iter();
    all.map(|(key, value)| (K::four(key), V::four(value)))
        .collect()
}

impl Host {
    /// Runs a frame through the programs.
    fn judge(
        &self,
        programs: fn(&FakeTables, &mut FakePacket) -> Reason,
        frame: &[u8],
    ) -> Result<Ran> {
        self.tables.now_ns.set(now_ns());
        let mut packet = FakePacket::new(frame.to_vec(), INGRESS);
        if let Some(headroom) = self.headroom {
            packet.headroom = headroom;
        }
        let reason = programs(&self.tables, &mut packet);
        ensure!(
            packet.redirected.is_some() == (reason.verdict() == Verdict::Redirect),
            "{reason:?} with redirection to {:?}",
            packet.redirected
        );
        Ok(Ran {
            reason,
            frame: packet.bytes,
        })
    }
}

impl World for Host {
    fn run(&mut self, frame: &[u8]) -> Result<Ran> {
        self.judge(FakeTables::run, frame)
    }

    fn follow(&mut self, frame: &[u8]) -> Result<Ran> {
        self.judge(FakeTables::follow, frame)
    }

    fn janitor(&mut self, keys: &[ConnKey4]) -> Result<u32> {
        self.tables.now_ns.set(now_ns());
        let keys6: Vec<ConnKey6> = keys.iter().map(|key| key.six()).collect();
        let (number, bytes) = match self.family {
            Family::V4 => (4u16, sys::bytes_of(keys)),
            Family::V6 => (6, sys::bytes_of(&keys6)),
        };
        let mut list = vec![0; JANITOR_HEADER - 2];
        list.extend(number.to_ne_bytes());
        list.extend(bytes);
        let mut packet = FakePacket::new(list, INGRESS);
        Ok(janitor::sweep(&mut packet, &self.tables))
    }

    fn crowd(&mut self) -> bool {
        self.headroom = Some(0);
        true
    }

    fn lose_stages(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn put_gate(&mut self, gate: Gate) -> Result<()> {
        self.tables.gate.put((), gate);
        Ok(())
    }

    fn gate(&self) -> Result<Gate> {
        self.tables.gate.get(&()).context("the gate")
    }

    fn set_version(&mut self, version: u32) -> Result<()> {
        self.tables.layout_version.set(version);
        Ok(())
    }

    fn set_config(&mut self, config: Config) -> Result<()> {
        self.tables.config.put((), config);
        Ok(())
    }

    fn set_pair(&mut self, tables: &PairTables) -> Result<()> {
        self.tables.pair.put((), tables.pair);
        for (index, (peer, digest)) in (0..).zip(tables.peers.iter().zip(&tables.digests)) {
            self.tables.peers.put(index, *peer);
            self.tables.digests.put(index, *digest);
        }
        Ok(())
    }

    fn set_heard(&mut self, link: u32, heard: Heard) -> Result<()> {
        self.tables.heard.put(link, heard);
        Ok(())
    }

    fn put_addr(&mut self, addr: u32, local: LocalAddr) -> Result<()> {
        if self.family == Family::V6 {
            return self.put_addr6(addr.six(), local);
        }
        if local.kind == addr_kind::SHARED {
            self.tables.concern(addr);
        }
        self.tables.addrs.put(addr, local);
        Ok(())
    }

    fn put_addr6(&mut self, addr: Addr6, local: LocalAddr) -> Result<()> {
        if local.kind == addr_kind::SHARED {
            self.tables.concern(addr);
        }
        self.tables.addrs6.put(addr, local);
        Ok(())
    }

    fn set_service(&mut self, key: ServiceKey4, service: Service) -> Result<()> {
        match self.family {
            Family::V4 => self.tables.v4.services.put(key, service),
            Family::V6 => self.tables.v6.services.put(key.six(), service6(service)),
        }
        Ok(())
    }

    fn set_return_path(&mut self, key: ServiceKey4, path: ReturnPath4) -> Result<()> {
        match self.family {
            Family::V4 => self.tables.v4.return_paths.put(key, path),
            Family::V6 => self.tables.v6.return_paths.put(key.six(), path.six()),
        }
        Ok(())
    }

    fn set_real(&mut self, id: u16, real: Real) -> Result<()> {
        let real = match self.family {
            Family::V4 => {
                self.tables.concern(real.addr::<u32>());
                real
            }
            Family::V6 => {
                let real = real6(real);
                self.tables.concern(real.addr);
                real
            }
        };
        self.tables.reals.put(id, real);
        Ok(())
    }

    fn set_timeouts(&mut self, service: u16, timeouts: Timeouts) -> Result<()> {
        self.tables.timeouts.put(service, timeouts);
        Ok(())
    }

    fn set_slot(&mut self, index: u32, id: u32) -> Result<()> {
        self.tables.slots.put(index, id);
        Ok(())
    }

    fn set_load(&mut self, real: u16, load: Load) -> Result<()> {
        self.tables.loads.put(real, load);
        Ok(())
    }

    fn load(&self, real: u16) -> Result<Load> {
        Ok(self.tables.loads.get(&real).unwrap_or_default())
    }

    fn traffic(&self, real: u16) -> Result<Traffic> {
        Ok(self.tables.traffic.get(&real).unwrap_or_default())
    }

    fn set_conn(&mut self, key: ConnKey4, conn: Conn4) -> Result<()> {
        match self.family {
            Family::V4 => self.tables.v4.conns.put(key, conn),
            Family::V6 => self.tables.v6.conns.put(key.six(), conn.six()),
        }
        Ok(())
    }

    fn remove_conn(&mut self, key: ConnKey4) -> Result<()> {
        let removed = match self.family {
            Family::V4 => self.tables.v4.conns.remove(&key),
            Family::V6 => self.tables.v6.conns.remove(&key.six()),
        };
        ensure!(removed, "no such entry");
        Ok(())
    }

    fn conns(&self) -> Result<Vec<(ConnKey4, Conn4)>> {
        let mut conns = match self.family {
            Family::V4 => self.tables.v4.conns.all(),
            Family::V6 => fours(&self.tables.v6.conns),
        };
        conns.sort_by_key(|(key, _)| *key);
        Ok(conns)
    }

    fn set_embryo(&mut self, key: EmbryoKey4, embryo: Embryo4) -> Result<()> {
        match self.family {
            Family::V4 => self.tables.v4.embryos.put(key, embryo),
            Family::V6 => self.tables.v6.embryos.put(key.six(), embryo.six()),
        }
        Ok(())
    }

    fn embryo(&self, key: EmbryoKey4) -> Result<Option<Embryo4>> {
        Ok(match self.family {
            Family::V4 => self.tables.v4.embryos.get(&key),
            Family::V6 => self.tables.v6.embryos.get(&key.six()).map(Both::four),
        })
    }

    fn set_fragments(&mut self, key: FragmentKey4, first: Conn4) -> Result<()> {
        match self.family {
            Family::V4 => self.tables.v4.fragments.put(key, first),
            Family::V6 => self.tables.v6.fragments.put(key.six(), first.six()),
        }
        Ok(())
    }

    fn fragments(&self) -> Result<Vec<(FragmentKey4, Conn4)>> {
        Ok(match self.family {
            Family::V4 => self.tables.v4.fragments.all(),
            Family::V6 => fours(&self.tables.v6.fragments),
        })
    }

    fn set_client(&mut self, key: PersistKey4, client: Persist) -> Result<()> {
        match self.family {
            Family::V4 => self.tables.v4.persist.put(key, client),
            Family::V6 => self.tables.v6.persist.put(key.six(), client),
        }
        Ok(())
    }

    fn clients(&self) -> Result<Vec<(PersistKey4, Persist)>> {
        Ok(match self.family {
            Family::V4 => self.tables.v4.persist.all(),
            Family::V6 => (self.tables.v6.persist.all().into_iter())
                .map(|(key, client)| (Both::four(key), client))
                .collect(),
        })
    }

    fn tally(&self, tally: Tally) -> Result<u64> {
        Ok(self.tables.tally(tally))
    }

    fn events(&mut self) -> Result<Vec<ConnEvent4>> {
        Ok(match self.family {
            Family::V4 => self.tables.v4.events.take(),
            Family::V6 => (self.tables.v6.events.take().into_iter())
                .map(Both::four)
                .collect(),
        })
    }

    fn adverts(&mut self) -> Result<Vec<CarpSeen>> {
        Ok(self.tables.adverts.take())
    }

    fn evidence(&mut self) -> Result<Vec<Evidence>> {
        Ok(self.tables.evidence.take())
    }

    fn early(&mut self) -> Result<Vec<EarlyFragment>> {
        Ok(self.tables.early.take())
    }

    fn samples(&mut self) -> Result<Vec<Sample>> {
        Ok(self.tables.samples.take())
    }
}
