//! From what the maps hold to what they should hold, in steps between which every packet finds
//! something consistent.
//!
//! Order: addresses and real servers, return paths, then new Maglev tables and member lists in parts
//! of `ha_slots` that nothing refers to, then the services that refer to them, and only then
//! whatever is not needed any more. A packet therefore sees a service's old choice or its new one, and
//! every id it can meet is filled in. Each step is idempotent and is remembered once it is done, so
//! after a failure the next plan goes on where the last one stopped.

use std::collections::BTreeMap;

use ha_common::maps;
use ha_common::service::{LocalAddr, Real, ReturnPath4, Service, ServiceKey4};

use crate::datapath::{Datapath, DatapathError};

/// A virtual service as it should be: its value but for the place of its slots, and those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// The value; offsets and lengths are filled in by the plan.
    pub(super) value: Service,
    /// Maglev table.
    pub(super) table: Vec<u32>,
    /// Round-robin members.
    pub(super) members: Vec<u32>,
}

/// What the maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) addrs: BTreeMap<u32, LocalAddr>,
    pub(super) reals: BTreeMap<u16, Real>,
    pub(super) return_paths: BTreeMap<ServiceKey4, ReturnPath4>,
    pub(super) services: BTreeMap<ServiceKey4, Wish>,
}

/// What the maps hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    addrs: BTreeMap<u32, LocalAddr>,
    reals: BTreeMap<u16, Real>,
    return_paths: BTreeMap<ServiceKey4, ReturnPath4>,
    services: BTreeMap<ServiceKey4, (Service, Slots)>,
    /// A packet in hand may still use slots that nothing refers to any more.
    unsettled: bool,
}

/// The slots a service refers to: unknown if a previous agent wrote them.
type Slots = Option<Vec<u32>>;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    PutAddr(u32, LocalAddr),
    PutReal(u16, Real),
    PutReturnPath(ServiceKey4, ReturnPath4),
    Settle,
    PutSlots(u32, Vec<u32>),
    PutService(ServiceKey4, Service, Vec<u32>),
    RemoveService(ServiceKey4),
    RemoveReturnPath(ServiceKey4),
    RemoveAddr(u32),
}

/// Steps, and the services for whose slots there is no room.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) no_room: Vec<ServiceKey4>,
}

impl Applied {
    /// Reads what a previous agent left.
    pub(super) fn read(datapath: &dyn Datapath) -> Result<Self, DatapathError> {
        let services = datapath.services()?.into_iter();
        Ok(Self {
            addrs: datapath.addrs()?.into_iter().collect(),
            reals: (0..).zip(datapath.reals()?).collect(),
            return_paths: datapath.return_paths()?.into_iter().collect(),
            services: services.map(|(key, value)| (key, (value, None))).collect(),
            unsettled: true,
        })
    }

    /// The services, as they are.
    pub(super) fn services(&self) -> impl Iterator<Item = (&ServiceKey4, &Service)> {
        self.services.iter().map(|(key, (value, _))| (key, value))
    }

    /// The real servers, as they are.
    pub(super) fn reals(&self) -> impl Iterator<Item = (u16, &Real)> {
        self.reals.iter().map(|(id, real)| (*id, real))
    }

    /// What has to be done to get from here to `desired`.
    pub(super) fn plan(&self, desired: &Desired) -> Plan {
        let mut plan = Plan::default();
        let steps = &mut plan.steps;
        for (addr, value) in changed(&desired.addrs, &self.addrs) {
            steps.push(Step::PutAddr(*addr, *value));
        }
        for (id, real) in changed(&desired.reals, &self.reals) {
            steps.push(Step::PutReal(*id, *real));
        }
        for (key, path) in changed(&desired.return_paths, &self.return_paths) {
            steps.push(Step::PutReturnPath(*key, *path));
        }

        let mut used = self.used();
        let mut fresh = Vec::new();
        for (key, wish) in &desired.services {
            let current = self.services.get(key);
            let slots: Vec<u32> = wish.table.iter().chain(&wish.members).copied().collect();
            let place = match current {
                Some((value, Some(held))) if *held == slots => Some(value.table_offset),
                _ => reserve(&mut used, slots.len()).inspect(|&offset| {
                    if !slots.is_empty() {
                        steps.push(Step::PutSlots(offset, slots.clone()));
                    }
                }),
            };
            let Some(offset) = place else {
                plan.no_room.push(*key);
                continue;
            };
            let value = Service {
                table_offset: offset,
                table_len: wish.table.len() as u32,
                members_offset: offset + wish.table.len() as u32,
                members_len: wish.members.len() as u32,
                ..wish.value
            };
            if current.is_none_or(|(held, _)| *held != value) {
                fresh.push(Step::PutService(*key, value, slots));
            }
        }
        let first = steps
            .iter()
            .position(|step| matches!(step, Step::PutSlots(..)));
        if let Some(first) = first
            && self.unsettled
        {
            steps.insert(first, Step::Settle);
        }
        steps.append(&mut fresh);

        let gone = |key: &&ServiceKey4| !desired.services.contains_key(key);
        steps.extend(
            self.services
                .keys()
                .filter(gone)
                .map(|key| Step::RemoveService(*key)),
        );
        let gone = |key: &&ServiceKey4| !desired.return_paths.contains_key(key);
        let paths = self.return_paths.keys().filter(gone);
        steps.extend(paths.map(|key| Step::RemoveReturnPath(*key)));
        let gone = |addr: &&u32| !desired.addrs.contains_key(addr);
        steps.extend(
            self.addrs
                .keys()
                .filter(gone)
                .map(|addr| Step::RemoveAddr(*addr)),
        );
        plan
    }

    /// Carries out one step and remembers it.
    pub(super) fn perform(
        &mut self,
        step: Step,
        datapath: &dyn Datapath,
    ) -> Result<(), DatapathError> {
        match step {
            Step::PutAddr(addr, value) => {
                datapath.put_addr(addr, value)?;
                self.addrs.insert(addr, value);
            }
            Step::PutReal(id, real) => {
                datapath.put_real(id, &real)?;
                self.reals.insert(id, real);
            }
            Step::PutReturnPath(key, path) => {
                datapath.put_return_path(&key, &path)?;
                self.return_paths.insert(key, path);
            }
            Step::Settle => {
                datapath.settle()?;
                self.unsettled = false;
            }
            Step::PutSlots(offset, slots) => datapath.put_slots(offset, &slots)?,
            Step::PutService(key, value, slots) => {
                datapath.put_service(&key, &value)?;
                self.services.insert(key, (value, Some(slots)));
                self.unsettled = true;
            }
            Step::RemoveService(key) => {
                datapath.remove_service(&key)?;
                self.services.remove(&key);
                self.unsettled = true;
            }
            Step::RemoveReturnPath(key) => {
                datapath.remove_return_path(&key)?;
                self.return_paths.remove(&key);
            }
            Step::RemoveAddr(addr) => {
                datapath.remove_addr(addr)?;
                self.addrs.remove(&addr);
            }
        }
        Ok(())
    }

    /// Parts of `ha_slots` that services refer to, as start → end.
    fn used(&self) -> BTreeMap<u32, u32> {
        let mut used = BTreeMap::new();
        for (value, _) in self.services.values() {
            for (offset, len) in [
                (value.table_offset, value.table_len),
                (value.members_offset, value.members_len),
            ] {
                if len > 0 {
                    used.insert(offset, offset.saturating_add(len));
                }
            }
        }
        used
    }
}

/// Elements that are missing or different.
fn changed<'a, K: Ord, V: PartialEq>(
    desired: &'a BTreeMap<K, V>,
    applied: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    desired
        .iter()
        .filter(|&(key, value)| applied.get(key) != Some(value))
}

/// Finds room for `len` slots and marks it as used.
fn reserve(used: &mut BTreeMap<u32, u32>, len: usize) -> Option<u32> {
    let len = u32::try_from(len).ok()?;
    let mut start = 0u32;
    for (&from, &to) in &*used {
        if from.saturating_sub(start) >= len {
            break;
        }
        start = start.max(to);
    }
    let end = start.checked_add(len)?;
    if end > maps::SLOTS_ENTRIES {
        return None;
    }
    if len > 0 {
        used.insert(start, end);
    }
    Some(start)
}
