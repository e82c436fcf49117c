//! Changes of the standby's live map that wait to be made with few system calls.
//!
//! One of each connection, so their order does not matter: several changes of one become one, as far as they
//! wait together. An element of the map that is written again costs as much as a new one, and mostly it is in no
//! cache; so a change of the state alone leaves the reverse entry, which does not hold it, as it is.

use hashbrown::HashMap;

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

/// The changes that wait.
#[derive(Debug, Default)]
pub(super) struct Pending(HashMap<FlowKey, Waiting>);

impl Pending {
    /// Whether a change can wait with the others.
    pub(super) fn takes(&self, change: &Change) -> bool {
        match (self.0.get(&change.key()), change) {
            // The entries that are to go first may be those of another real server.
            (Some(Waiting::Gone(_)), Change::Put(_)) => false,
            (Some(_), _) => true,
            (None, _) => self.0.len() < BATCH,
        }
    }

    /// Lets a change wait; `before` is what the map has of its connection, or will have, if that is known.
    pub(super) fn push(&mut self, change: Change, before: Option<&Record>) {
        let key = change.key();
        let waiting = match change {
            Change::Put(record) => {
                let stored = before.is_some_and(|before| record.shares_reverse(before));
                let waits = matches!(self.0.get(&key), Some(Waiting::Put(put)) if put.whole);
                let whole = !stored || waits;
                Waiting::Put(Put { record, whole })
            }
            Change::Delete(_) => Waiting::Gone(before.copied()),
        };
        self.0.insert(key, waiting);
    }

    /// What is to be removed, and what is to be stored after that; nothing waits any more.
    pub(super) fn take(&mut self) -> (Vec<Gone>, Vec<Put>) {
        let (mut gone, mut stored) = (Vec::new(), Vec::new());
        for (key, waiting) in self.0.drain() {
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
