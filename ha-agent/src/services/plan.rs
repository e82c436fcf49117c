//! From what the maps hold to what they should hold, in steps between which every packet finds
//! something consistent.
//!
//! Order: bits of the filter, addresses and real servers, return paths and idle times, then new Maglev
//! tables and member lists in parts of `ha_slots` that nothing refers to, then the services that refer to
//! them, and only then whatever is not needed any more. A packet therefore sees a service's old choice or
//! its new one, and every id it can meet is filled in. Each step is idempotent and is remembered once it is
//! done, so after a failure the next plan goes on where the last one stopped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ha_common::maps;
use ha_common::service::{LocalAddr, Real, Service, Timeouts};

use super::LINGER;
use crate::datapath::family::{ListenKey, ReturnRoute};
use crate::datapath::{Datapath, DatapathError, Filter};
use crate::proto::time::Instant;

/// Among whom a service chooses: real-server ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Maglev table.
    pub(super) table: Arc<[u32]>,
    /// Members, one after the other.
    pub(super) members: Arc<[u32]>,
    /// Key of the hash that leads to a slot of the table.
    pub(super) seed: u64,
}

impl Choice {
    /// What is stored: the length of the table, the table, the members.
    fn slots(&self) -> Vec<u32> {
        let len = self.table.len() as u32;
        let all = [&[len], &*self.table, &*self.members];
        all.concat()
    }

    fn len(&self) -> usize {
        1 + self.table.len() + self.members.len()
    }

    /// Whether another choice leads some connections to another real server.
    fn moves(&self, other: &Self) -> bool {
        !self.table.is_empty() && self.table != other.table && self.seed == other.seed
    }

    /// Where its table is if all of it is at `offset`.
    const fn table_at(offset: u32) -> u32 {
        offset + 1
    }
}

/// The choice before the one that a service has: connections that are not in the table may be older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Former {
    offset: u32,
    len: u32,
    seed: u64,
    /// When it was first known to be replaced.
    since: Option<Instant>,
    /// It is of no use any more, and its slots are free once no service refers to them.
    over: bool,
}

/// What the maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) filter: Filter,
    pub(super) addrs: BTreeMap<IpAddr, LocalAddr>,
    pub(super) reals: BTreeMap<u16, Real>,
    /// Weights for schedulers that compare loads.
    pub(super) weights: BTreeMap<u16, u64>,
    pub(super) return_paths: BTreeMap<ListenKey, ReturnRoute>,
    /// By service id.
    pub(super) timeouts: BTreeMap<u16, Timeouts>,
    /// By service id.
    pub(super) choices: BTreeMap<u16, Choice>,
    /// The services but for the place of their slots, which the plan fills in.
    pub(super) services: BTreeMap<ListenKey, Service>,
}

/// What the maps hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    filter: Filter,
    addrs: BTreeMap<IpAddr, LocalAddr>,
    reals: BTreeMap<u16, Real>,
    weights: BTreeMap<u16, u64>,
    return_paths: BTreeMap<ListenKey, ReturnRoute>,
    timeouts: BTreeMap<u16, Timeouts>,
    /// Choices that are stored, by service id, and where. What a previous agent wrote is not among them.
    choices: BTreeMap<u16, (u32, Choice)>,
    /// Those before them, by service id.
    formers: BTreeMap<u16, Former>,
    services: BTreeMap<ListenKey, Service>,
    /// A packet in hand may still use slots that nothing refers to any more.
    unsettled: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    SetFilter(Filter),
    PutAddr(IpAddr, LocalAddr),
    /// An id is given to another real server, of which nothing is counted yet.
    Begin(u16),
    PutReal(u16, Real),
    PutWeight(u16, u64),
    PutReturnPath(ListenKey, ReturnRoute),
    PutTimeouts(u16, Timeouts),
    Settle,
    PutChoice(u16, u32, Choice),
    PutService(ListenKey, Service),
    RemoveService(ListenKey),
    RemoveReturnPath(ListenKey),
    RemoveAddr(IpAddr),
}

/// Steps, and the services (by id) for whose slots there is no room.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) no_room: Vec<u16>,
}

impl Applied {
    /// Reads what a previous agent left.
    pub(super) fn read(datapath: &dyn Datapath) -> Result<Self, DatapathError> {
        let loads = datapath.loads()?.into_iter().map(|load| load.weight);
        Ok(Self {
            filter: datapath.filter()?,
            addrs: datapath.addrs()?.into_iter().collect(),
            reals: (0..).zip(datapath.reals()?).collect(),
            weights: (0..).zip(loads).collect(),
            return_paths: datapath.return_paths()?.into_iter().collect(),
            timeouts: (0..).zip(datapath.timeouts()?).collect(),
            choices: BTreeMap::new(),
            formers: BTreeMap::new(),
            services: datapath.services()?.into_iter().collect(),
            unsettled: true,
        })
    }

    /// The services, as they are.
    pub(super) fn services(&self) -> impl Iterator<Item = (&ListenKey, &Service)> {
        self.services.iter()
    }

    /// The real servers, as they are.
    pub(super) fn reals(&self) -> impl Iterator<Item = (u16, &Real)> {
        self.reals.iter().map(|(id, real)| (*id, real))
    }

    /// The idle times, as they are, by service id.
    pub(super) fn timeouts(&self) -> impl Iterator<Item = (u16, &Timeouts)> {
        self.timeouts.iter().map(|(id, timeouts)| (*id, timeouts))
    }

    /// Time has passed: choices that were replaced long ago end. Whether there were any.
    pub(super) fn age(&mut self, now: Instant) -> bool {
        let mut ended = false;
        for former in self.formers.values_mut().filter(|former| !former.over) {
            let since = *former.since.get_or_insert(now);
            former.over = now.since(since) >= LINGER;
            ended |= former.over;
        }
        ended
    }

    /// Room is needed more than choices that were replaced; whether there are any.
    pub(super) fn end_formers(&mut self) -> bool {
        let mut ended = false;
        for former in self.formers.values_mut() {
            ended |= !std::mem::replace(&mut former.over, true);
        }
        ended
    }

    /// What has to be done to get from here to `desired`.
    pub(super) fn plan(&mut self, desired: &Desired) -> Plan {
        let mut plan = Plan::default();
        let steps = &mut plan.steps;
        let both = self.filter.union(&desired.filter);
        if both != self.filter {
            steps.push(Step::SetFilter(both.clone()));
        }
        for (addr, value) in changed(&desired.addrs, &self.addrs) {
            steps.push(Step::PutAddr(*addr, *value));
        }
        for (id, real) in changed(&desired.reals, &self.reals) {
            let generation = self.reals.get(id).map(|held| held.generation);
            if generation != Some(real.generation) {
                steps.push(Step::Begin(*id));
            }
            steps.push(Step::PutReal(*id, *real));
        }
        for (id, weight) in changed(&desired.weights, &self.weights) {
            steps.push(Step::PutWeight(*id, *weight));
        }
        for (key, path) in changed(&desired.return_paths, &self.return_paths) {
            steps.push(Step::PutReturnPath(*key, *path));
        }
        for (id, timeouts) in changed(&desired.timeouts, &self.timeouts) {
            steps.push(Step::PutTimeouts(*id, *timeouts));
        }
        let gone = self
            .services
            .keys()
            .filter(|key| !desired.services.contains_key(key));
        let gone: Vec<Step> = gone.map(|key| Step::RemoveService(*key)).collect();
        // What goes makes room first if there is none beside it for what comes.
        let late = self.has_room_beside(desired);
        let (early, late) = if late {
            (Vec::new(), gone)
        } else {
            (gone, Vec::new())
        };
        steps.extend(early);
        self.choices(desired, &mut plan);

        let steps = &mut plan.steps;
        steps.extend(late);
        let gone = |key: &&ListenKey| !desired.return_paths.contains_key(key);
        let paths = self.return_paths.keys().filter(gone);
        steps.extend(paths.map(|key| Step::RemoveReturnPath(*key)));
        let gone = |addr: &&IpAddr| !desired.addrs.contains_key(addr);
        let addrs = self.addrs.keys().filter(gone);
        steps.extend(addrs.map(|addr| Step::RemoveAddr(*addr)));
        if both != desired.filter {
            steps.push(Step::SetFilter(desired.filter.clone()));
        }
        plan
    }

    /// Choices, and the services that refer to them.
    fn choices(&mut self, desired: &Desired, plan: &mut Plan) {
        self.choices
            .retain(|id, _| desired.choices.contains_key(id));
        self.tidy_formers(desired);
        let mut used = self.used();
        let mut settled = !self.unsettled;
        let mut places = BTreeMap::new();
        for (id, choice) in &desired.choices {
            let held = self.choices.get(id).filter(|(_, held)| held == choice);
            let place = held.map(|(offset, _)| *offset).or_else(|| {
                let offset = reserve(&mut used, choice.len())?;
                if !std::mem::replace(&mut settled, true) {
                    plan.steps.push(Step::Settle);
                }
                plan.steps
                    .push(Step::PutChoice(*id, offset, choice.clone()));
                Some(offset)
            });
            match place {
                Some(offset) => {
                    places.insert(*id, (offset, self.former_table(*id, choice), choice));
                }
                None => plan.no_room.push(*id),
            }
        }
        for (key, value) in &desired.services {
            let Some((offset, former_offset, choice)) = places.get(&value.id) else {
                continue;
            };
            let table_offset = Choice::table_at(*offset);
            let table_len = choice.table.len() as u32;
            let value = Service {
                table_offset,
                table_len,
                members_offset: table_offset + table_len,
                members_len: choice.members.len() as u32,
                former_offset: *former_offset,
                ..*value
            };
            if self.services.get(key) != Some(&value) {
                plan.steps.push(Step::PutService(*key, value));
            }
        }
    }

    /// Forgets former choices that no service refers to any more.
    fn tidy_formers(&mut self, desired: &Desired) {
        let services = &self.services;
        self.formers.retain(|id, former| {
            former.over |= !desired.choices.contains_key(id);
            let table = Choice::table_at(former.offset);
            !former.over || services.values().any(|value| value.former_offset == table)
        });
    }

    /// Where the table is that a service with this choice had before, 0 if nowhere.
    fn former_table(&self, id: u16, choice: &Choice) -> u32 {
        let replaced = self.choices.get(&id).filter(|(_, held)| held.moves(choice));
        let former = self.formers.get(&id);
        let former = former.filter(|former| !former.over && former.seed == choice.seed);
        let offset = replaced.map(|(offset, _)| *offset);
        offset
            .or_else(|| former.map(|former| former.offset))
            .map_or(0, Choice::table_at)
    }

    /// Carries out one step and remembers it.
    pub(super) fn perform(
        &mut self,
        step: Step,
        datapath: &dyn Datapath,
    ) -> Result<(), DatapathError> {
        match step {
            Step::SetFilter(filter) => {
                datapath.set_filter(&filter)?;
                self.filter = filter;
            }
            Step::PutAddr(addr, value) => {
                datapath.put_addr(addr, value)?;
                self.addrs.insert(addr, value);
            }
            Step::Begin(id) => {
                datapath.set_load(id, 0)?;
                datapath.clear_traffic(id)?;
            }
            Step::PutReal(id, real) => {
                datapath.put_real(id, &real)?;
                self.reals.insert(id, real);
            }
            Step::PutWeight(id, weight) => {
                datapath.put_weight(id, weight)?;
                self.weights.insert(id, weight);
            }
            Step::PutReturnPath(key, path) => {
                datapath.put_return_path(&key, &path)?;
                self.return_paths.insert(key, path);
            }
            Step::PutTimeouts(id, timeouts) => {
                datapath.put_timeouts(id, &timeouts)?;
                self.timeouts.insert(id, timeouts);
            }
            Step::Settle => {
                datapath.settle()?;
                self.unsettled = false;
            }
            Step::PutChoice(id, offset, choice) => {
                // Until all is written, what is there is not this choice.
                if let Some((offset, held)) = self.choices.remove(&id)
                    && held.moves(&choice)
                {
                    let former = Former {
                        offset,
                        len: held.len() as u32,
                        seed: held.seed,
                        since: None,
                        over: false,
                    };
                    self.formers.insert(id, former);
                }
                datapath.put_slots(offset, &choice.slots())?;
                self.choices.insert(id, (offset, choice));
            }
            Step::PutService(key, value) => {
                datapath.put_service(&key, &value)?;
                self.services.insert(key, value);
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

    /// Whether the services that come fit into the maps beside those that go.
    fn has_room_beside(&self, desired: &Desired) -> bool {
        let all = || {
            let new = desired.services.keys();
            new.filter(|key| !self.services.contains_key(key))
                .chain(self.services.keys())
        };
        let most = maps::SERVICES_ENTRIES as usize;
        [true, false]
            .iter()
            .all(|v6| all().filter(|key| key.addr.is_ipv6() == *v6).count() <= most)
    }

    /// Parts of `ha_slots` that services refer to, or that are ready for them, as start → end.
    fn used(&self) -> BTreeMap<u32, u32> {
        let services = self.services.values().flat_map(|value| {
            [
                (value.table_offset, value.table_len),
                (value.members_offset, value.members_len),
            ]
        });
        let choices = self.choices.values();
        let choices = choices.map(|(offset, choice)| (*offset, choice.len() as u32));
        let formers = self.formers.values();
        let formers = formers.map(|former| (former.offset, former.len));
        let mut used = BTreeMap::new();
        for (offset, len) in services
            .chain(choices)
            .chain(formers)
            .filter(|(_, len)| *len > 0)
        {
            let end = offset.saturating_add(len);
            used.entry(offset)
                .and_modify(|held: &mut u32| *held = end.max(*held))
                .or_insert(end);
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
