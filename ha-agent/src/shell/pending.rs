//! Changes of the standby's live map that wait to be made with few system calls.
//!
//! One of each connection, so their order does not matter: several changes of one become one, as far as they
//! wait together. To write an element again the kernel makes a new one (`htab_map_update_elem`), which costs as
//! much as the first time; so a change of the state alone leaves the reverse entry, which does not hold it, as it is.

use hashbrown::{HashMap, HashSet};

use crate::datapath::family::FlowKey;
use crate::proto::sync::{Change, Record};

/// Connections changed at once.
pub(super) const BATCH: usize = 256;

/// A connection to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) record: Record,
    /// With its reverse entry; else that is there already.
    pub(super) whole: bool,
}

/// A connection to be removed, and what the map has of it, if that is known.
pub(super) type Gone = (FlowKey, Option<Record>);

#[derive(Clone, Copy, Debug)]
enum Waiting {
    Put(Put),
    Gone(Option<Record>),
}

/// Connections remembered that the map did not take.
const REFUSED: usize = 1 << 16;

/// The changes that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    changes: HashMap<FlowKey, Waiting>,
    /// The table has these, and the map may lack them or half of them.
    refused: HashSet<FlowKey>,
    /// There were more of them than are remembered: any connection may be one.
    too_many: bool,
}

impl Pending {
    /// Whether a change can wait with the others.
    pub(super) fn takes(&self, change: &Change) -> bool {
        match (self.changes.get(&change.key()), change) {
            // The entries that are to go first may be those of another real server.
            (Some(Waiting::Gone(_)), Change::Put(_)) => false,
            (Some(_), _) => true,
            (None, _) => self.changes.len() < BATCH,
        }
    }

    /// Lets a change wait; `before` is what the table had of its connection, if that is known.
    pub(super) fn push(&mut self, change: Change, before: Option<&Record>) {
        let key = change.key();
        let waiting = match change {
            Change::Put(record) => {
                let stored = before.is_some_and(|before| record.shares_reverse(before))
                    && !self.too_many
                    && !self.refused.contains(&key);
                let waits = matches!(self.changes.get(&key), Some(Waiting::Put(put)) if put.whole);
                let whole = !stored || waits;
                Waiting::Put(Put { record, whole })
            }
            Change::Delete(_) => Waiting::Gone(before.copied()),
        };
        self.changes.insert(key, waiting);
    }

    /// The map did not take a connection: whatever is stored of it next is stored whole.
    pub(super) fn refused(&mut self, key: FlowKey) {
        if self.refused.len() < REFUSED {
            self.refused.insert(key);
        } else {
            self.too_many = true;
        }
    }

    /// What is to be removed, and what is to be stored after that; nothing waits any more.
    pub(super) fn take(&mut self) -> (Vec<Gone>, Vec<Put>) {
        let (mut gone, mut stored) = (Vec::new(), Vec::new());
        for (key, waiting) in self.changes.drain() {
            self.refused.remove(&key);
            match waiting {
                Waiting::Put(put) => stored.push(put),
                Waiting::Gone(before) => gone.push((key, before)),
            }
        }
        (gone, stored)
    }
}

#[cfg(test)]
mod tests {
    use ha_common::conn::ConnState;

    use super::*;
    use crate::datapath::family::none_like;

    fn record(client: u8, real: u8, state: ConnState) -> Record {
        let key = FlowKey {
            src: [10, 0, 0, client].into(),
            dst: [10, 0, 1, 1].into(),
            sport: 40_000,
            dport: 80,
            proto: 6,
        };
        Record {
            key,
            real_addr: [10, 0, 2, real].into(),
            from_addr: none_like(key.src),
            real_port: 80,
            from_port: 0,
            state: state as u8,
            flags: 0,
            version: state as u16,
        }
    }

    #[test]
    fn a_change_of_the_state_leaves_the_reverse_entry() {
        let old = record(1, 1, ConnState::Established);
        let new = record(1, 1, ConnState::ClientClosing);
        let moved = record(1, 2, ConnState::ClientClosing);
        for (before, record, whole) in [
            (None, new, true),
            (Some(&old), new, false),
            (Some(&old), moved, true),
        ] {
            let mut pending = Pending::default();
            pending.push(Change::Put(record), before);
            assert_eq!(pending.take().1, [Put { record, whole }], "{before:?}");
        }
    }

    #[test]
    fn changes_of_one_connection_become_one() {
        let old = record(1, 1, ConnState::Established);
        let new = record(1, 1, ConnState::ClientClosing);
        let mut pending = Pending::default();
        pending.push(Change::Put(old), None);
        assert!(pending.takes(&Change::Put(new)));
        pending.push(Change::Put(new), Some(&old));
        let whole = true;
        let put = Put { record: new, whole };
        assert_eq!(pending.take(), (vec![], vec![put]), "it is not there yet");

        pending.push(Change::Put(new), Some(&old));
        assert!(pending.takes(&Change::Delete(new.key)));
        pending.push(Change::Delete(new.key), Some(&new));
        assert!(
            !pending.takes(&Change::Put(old)),
            "what is there goes first"
        );
        assert_eq!(pending.take(), (vec![(new.key, Some(new))], vec![]));
        assert_eq!(pending.take(), (vec![], vec![]));
    }

    #[test]
    fn what_the_map_did_not_take_is_stored_whole_the_next_time() {
        let old = record(1, 1, ConnState::Established);
        let new = record(1, 1, ConnState::ClientClosing);
        let mut pending = Pending::default();
        let whole = |pending: &mut Pending, record: Record| {
            pending.push(Change::Put(record), Some(&old));
            pending.take().1.first().is_some_and(|put| put.whole)
        };
        assert!(!whole(&mut pending, new));
        pending.refused(new.key);
        assert!(whole(&mut pending, new));
        assert!(!whole(&mut pending, new), "it was taken that time");
        for port in 0..=u16::MAX {
            let mut other = new.key;
            other.sport = port;
            pending.refused(other);
        }
        assert!(pending.refused.len() <= REFUSED);
        pending.refused(FlowKey {
            dport: 81,
            ..new.key
        });
        let mut another = new;
        another.key.proto = 17;
        let before = Record {
            state: 1,
            ..another
        };
        pending.push(Change::Put(another), Some(&before));
        assert!(pending.take().1[0].whole, "too many to tell them apart");
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let mut pending = Pending::default();
        for client in 0..=255 {
            let change = Change::Put(record(client, 1, ConnState::Established));
            assert!(pending.takes(&change));
            pending.push(change, None);
        }
        let mut other = record(1, 1, ConnState::Established);
        assert!(pending.takes(&Change::Put(other)), "it waits already");
        other.key.sport = 1;
        assert!(!pending.takes(&Change::Put(other)));
    }
}
