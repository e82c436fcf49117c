//! Numbers for real servers and services, as the data plane's arrays want them.
//!
//! An id that is free is given out again as late as possible and with another generation, so an entry
//! of the connection table that still names it is recognised as stale instead of being sent to a
//! stranger.

use std::collections::{BTreeMap, VecDeque};

/// A number and which of its lives is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// Index.
    pub id: u16,
    /// Counts how often the index was given out (wrapping).
    pub generation: u16,
}

/// Gives numbers `first..end` to owners.
#[derive(Clone, Debug)]
pub struct Ids<K> {
    generations: Vec<u16>,
    owners: BTreeMap<K, u16>,
    free: VecDeque<u16>,
}

impl<K: Ord + Copy> Ids<K> {
    /// Numbers from `first` to before `end`, all free.
    pub fn new(first: u16, end: u16) -> Self {
        Self {
            generations: vec![0; usize::from(end)],
            owners: BTreeMap::new(),
            free: (first..end).collect(),
        }
    }

    /// Takes over what a previous agent gave out: a number's generation and, if it has one, its
    /// owner. An owner that has a number already does not get a second one.
    pub fn adopt(&mut self, id: u16, generation: u16, owner: Option<K>) -> bool {
        if let Some(slot) = self.generations.get_mut(usize::from(id)) {
            *slot = generation;
        }
        let Some(owner) = owner else { return false };
        let Some(at) = self.free.iter().position(|&free| free == id) else {
            return false;
        };
        if self.owners.contains_key(&owner) {
            return false;
        }
        self.free.remove(at);
        self.owners.insert(owner, id);
        true
    }

    /// The number of an owner.
    pub fn get(&self, owner: &K) -> Option<Id> {
        self.owners.get(owner).map(|&id| self.with_generation(id))
    }

    /// The number of an owner, a new one if it has none; `None` if all are taken.
    pub fn assign(&mut self, owner: K) -> Option<Id> {
        if let Some(id) = self.get(&owner) {
            return Some(id);
        }
        let id = self.free.pop_front()?;
        if let Some(generation) = self.generations.get_mut(usize::from(id)) {
            *generation = generation.wrapping_add(1);
        }
        self.owners.insert(owner, id);
        Some(self.with_generation(id))
    }

    /// Takes an owner's number back.
    pub fn release(&mut self, owner: &K) {
        if let Some(id) = self.owners.remove(owner) {
            self.free.push_back(id);
        }
    }

    /// How many more owners can be served.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// The generation a number has now.
    pub fn generation(&self, id: u16) -> u16 {
        self.generations
            .get(usize::from(id))
            .copied()
            .unwrap_or_default()
    }

    fn with_generation(&self, id: u16) -> Id {
        Id {
            id,
            generation: self.generation(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_used_again_has_another_generation() {
        let mut ids = Ids::new(1, 3);
        let a = ids.assign('a').unwrap();
        let b = ids.assign('b').unwrap();
        assert_eq!((a.id, b.id), (1, 2));
        assert_eq!(ids.assign('a'), Some(a));
        assert_eq!(ids.assign('c'), None);
        ids.release(&'a');
        let c = ids.assign('c').unwrap();
        assert_eq!(c.id, a.id);
        assert_ne!(c.generation, a.generation);
        assert_eq!(ids.get(&'a'), None);
    }

    #[test]
    fn numbers_rest_as_long_as_possible() {
        let mut ids = Ids::new(1, 10);
        ids.assign('a');
        ids.release(&'a');
        let given: Vec<u16> = ('b'..='j')
            .filter_map(|owner| ids.assign(owner))
            .map(|id| id.id)
            .collect();
        assert_eq!(given, [2, 3, 4, 5, 6, 7, 8, 9, 1]);
    }

    #[test]
    fn what_a_previous_agent_gave_out_stays() {
        let mut ids = Ids::new(1, 5);
        assert!(ids.adopt(3, 7, Some('x')));
        assert!(!ids.adopt(2, 4, None));
        assert!(!ids.adopt(4, 1, Some('x')), "one number each");
        assert_eq!(
            ids.get(&'x'),
            Some(Id {
                id: 3,
                generation: 7
            })
        );
        assert_eq!(
            ids.assign('y'),
            Some(Id {
                id: 1,
                generation: 1
            })
        );
        assert_eq!(
            ids.assign('z'),
            Some(Id {
                id: 2,
                generation: 5
            })
        );
    }
}
