//! How many clients there may be at a time, and who gives way.
//!
//! Whoever has a command being carried out keeps its seat. Among the others the one that came first gives way to a new
//! client, one that never gave a command before one that waits between two, and that before one that takes its time to
//! read an answer: somebody who came to command does so at once, and reads. So clients that only hold the socket open
//! keep nobody out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde::Serialize;
use tokio::task::JoinHandle;

/// What was counted at the control socket, since the start of the agent.
#[derive(Debug, Default)]
pub struct Counted {
    pub(super) clients: AtomicU64,
    pub(super) turned_away: AtomicU64,
    pub(super) displaced: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) timed_out: AtomicU64,
}

/// The same, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Connections accepted.
    pub clients: u64,
    /// Of these, turned away because commands of others were being carried out.
    pub turned_away: u64,
    /// Of these, ended because they waited without a command while others came.
    pub displaced: u64,
    /// Lines that are no command, or too long.
    pub malformed: u64,
    /// Clients that took too long to send a line or to take an answer.
    pub timed_out: u64,
}

impl Counted {
    /// As it is now.
    pub fn read(&self) -> Count {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Count {
            clients: read(&self.clients),
            turned_away: read(&self.turned_away),
            displaced: read(&self.displaced),
            malformed: read(&self.malformed),
            timed_out: read(&self.timed_out),
        }
    }
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Has not given a command yet.
const FRESH: u8 = 0;
/// Waits between commands.
const IDLE: u8 = 1;
/// Reads an answer, or does not.
const TOLD: u8 = 2;
/// Has a command carried out.
const BUSY: u8 = 3;
/// Has given way.
const GONE: u8 = 4;

/// A client's own view of its seat.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat(Arc<AtomicU8>);

impl Seat {
    /// A command begins; not if the seat is somebody else's already.
    pub(super) fn begin(&self) -> bool {
        self.change(FRESH, BUSY) || self.change(IDLE, BUSY)
    }

    /// The command is carried out, and about to be answered.
    pub(super) fn tell(&self) {
        self.0.store(TOLD, Ordering::Release);
    }

    /// The client has the answer; not if its seat is somebody else's already.
    pub(super) fn end(&self) -> bool {
        self.change(TOLD, IDLE)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let changed = self
            .0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        changed.is_ok()
    }
}

/// All seats.
#[derive(Debug)]
pub(super) struct Seats {
    number: usize,
    taken: VecDeque<(Seat, JoinHandle<()>)>,
}

impl Seats {
    pub(super) const fn new(number: usize) -> Self {
        Self {
            number,
            taken: VecDeque::new(),
        }
    }

    /// Makes room for one more; whether there is any now, and whether somebody gave way, who is gone then.
    pub(super) async fn make_room(&mut self) -> Room {
        self.taken.retain(|(_, client)| !client.is_finished());
        if self.taken.len() < self.number {
            return Room::Free;
        }
        let gone = [FRESH, IDLE, TOLD].into_iter().find_map(|state| {
            let mut taken = self.taken.iter();
            taken.position(|(seat, _)| seat.change(state, GONE))
        });
        let Some((_, client)) = gone.and_then(|index| self.taken.remove(index)) else {
            return Room::None;
        };
        client.abort();
        // It was told to, so how it ended is known.
        let _ended = client.await;
        Room::Made
    }

    /// A client that there was room for.
    pub(super) fn take(&mut self, seat: Seat, client: JoinHandle<()>) {
        self.taken.push_back((seat, client));
    }
}

/// Whether one more client is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There was a seat.
    Free,
    /// Somebody gave way.
    Made,
    /// All are busy.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sit(seats: &mut Seats) -> Seat {
        let seat = Seat::default();
        let client = tokio::spawn(std::future::pending::<()>());
        seats.take(seat.clone(), client);
        seat
    }

    #[tokio::test]
    async fn who_has_a_command_carried_out_never_gives_way_and_others_in_their_order() {
        let mut seats = Seats::new(4);
        let [told, idle, busy, fresh] = [(); 4].map(|()| sit(&mut seats));
        assert!(told.begin() && idle.begin() && busy.begin());
        told.tell();
        idle.tell();
        assert!(idle.end());
        assert_eq!(seats.make_room().await, Room::Made);
        assert!(!fresh.begin(), "its seat is gone");
        assert!(sit(&mut seats).begin());
        assert_eq!(seats.make_room().await, Room::Made);
        assert!(!idle.begin());
        assert!(sit(&mut seats).begin());
        assert_eq!(seats.make_room().await, Room::Made);
        assert!(!told.end());
        assert!(sit(&mut seats).begin());
        assert_eq!(seats.make_room().await, Room::None);
        busy.tell();
        assert_eq!(seats.make_room().await, Room::Made);
    }

    #[tokio::test]
    async fn who_has_left_leaves_a_seat() {
        let mut seats = Seats::new(1);
        let (ends, ended) = tokio::sync::oneshot::channel();
        let client = tokio::spawn(async move { ends.send(()).unwrap() });
        seats.take(Seat::default(), client);
        ended.await.unwrap();
        while !seats.taken.iter().all(|(_, client)| client.is_finished()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(seats.make_room().await, Room::Free);
    }
}
