//! Fragments that came before the first of their packet.
//!
//! The data plane hands them over, since nothing but the first one tells where they go. Here they wait for it,
//! for as long as packets that took different ways may be apart, and are run once more: after the first one if
//! that has come, else they are the kernel's, like all fragments of nothing known.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ha_common::event::EarlyFragment;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;
use tracing::warn;

use super::clock;
use crate::datapath::{Datapath, DatapathError};
use crate::proto::time::Instant;

/// How long a fragment waits.
const PATIENCE: Duration = Duration::from_millis(20);
/// Pause between two looks, while one waits.
const PAUSE: Duration = Duration::from_millis(1);
/// Fragments that wait at the same time, at most.
const WAITING_MAX: usize = 256;
/// Pause after an error.
const RETRY: Duration = Duration::from_secs(1);

/// Has held fragments follow the first of their packet, for ever. `held` is readable when there are some.
pub(super) async fn watch(datapath: Arc<dyn Datapath>, held: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is owned, and stays open for as long as it is watched.
    let held = unsafe { AsyncFd::register_with_interest(held, Interest::READABLE) }?;
    let mut waiting = Waiting::default();
    loop {
        if waiting.is_empty() {
            // Taken back before the ring is read: what comes meanwhile makes it readable anew.
            held.readable().await?.clear_ready();
        } else {
            sleep(PAUSE).await;
        }
        if let Err(error) = waiting.look(&*datapath, clock::now()) {
            warn!(%error, "fragments that came before the first of their packet are lost");
            sleep(RETRY).await;
        }
    }
}

/// The fragments that wait, oldest first.
#[derive(Default)]
struct Waiting(VecDeque<EarlyFragment>);

impl Waiting {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in what was held, and sends what need not wait any more. What fails is lost; the first error is
    /// told.
    fn look(&mut self, datapath: &dyn Datapath, now: Instant) -> Result<(), DatapathError> {
        let mut result = datapath.early().map(|held| self.0.extend(held));
        let over = self.0.len().saturating_sub(WAITING_MAX);
        for (index, early) in std::mem::take(&mut self.0).into_iter().enumerate() {
            let waited = now.since(Instant::from_nanos(early.at_ns));
            let due = if index < over || waited >= PATIENCE {
                Ok(true)
            } else {
                datapath.first_came(&early)
            };
            let done = match due {
                Ok(true) => datapath.follow(&early),
                Ok(false) => {
                    self.0.push_back(early);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            result = result.and(done);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::failing::Failing;
    use crate::datapath::fake::Fake;
    use crate::proto::rng::Rng;
    use ha_common::event::EARLY_BYTES;
    use ha_common::service::Addr6;

    const START: Instant = Instant::from_nanos(1_000_000_000);

    fn early(id: u32) -> EarlyFragment {
        EarlyFragment {
            at_ns: START.as_nanos(),
            ifindex: 3,
            len: 60,
            src: Addr6::default(),
            dst: Addr6::default(),
            id,
            proto: 17,
            family: 4,
            pad: 0,
            frame: [7; EARLY_BYTES],
        }
    }

    fn followed(fake: &Fake) -> Vec<u32> {
        let followed = std::mem::take(&mut fake.state().followed);
        followed.iter().map(|early| early.id).collect()
    }

    #[test]
    fn a_fragment_follows_the_first_one_at_once() {
        let fake = Fake::new(16);
        fake.state().early = vec![early(1), early(2), early(1)];
        let mut waiting = Waiting::default();
        waiting.look(&fake, START).unwrap();
        assert!(followed(&fake).is_empty());
        fake.state().firsts.insert(1);
        waiting.look(&fake, START + PAUSE).unwrap();
        assert_eq!(followed(&fake), [1, 1]);
        waiting.look(&fake, START + PAUSE).unwrap();
        assert!(followed(&fake).is_empty(), "once is enough");
    }

    #[test]
    fn one_that_nothing_comes_for_is_given_up() {
        let fake = Fake::new(16);
        fake.state().early = vec![early(1)];
        let mut waiting = Waiting::default();
        waiting.look(&fake, START + PATIENCE / 2).unwrap();
        assert!(followed(&fake).is_empty() && !waiting.is_empty());
        waiting.look(&fake, START + PATIENCE).unwrap();
        assert_eq!(followed(&fake), [1]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn the_oldest_make_room() {
        let fake = Fake::new(16);
        let mut waiting = Waiting::default();
        for begin in [0, 200] {
            fake.state().early = (begin..begin + 200).map(early).collect();
            waiting.look(&fake, START).unwrap();
        }
        assert_eq!(followed(&fake), (0..144).collect::<Vec<_>>());
        assert_eq!(waiting.0.len(), WAITING_MAX);
    }

    #[test]
    fn what_fails_keeps_nothing_else_from_following() {
        let failing = Failing::new(Fake::new(16), 300, Rng::new(1));
        failing.inner().state().early = (0..100).map(early).collect();
        failing.inner().state().firsts = (0..100).collect();
        let mut waiting = Waiting::default();
        let mut failed = 0;
        while followed(failing.inner()).is_empty() {
            failed += u32::from(waiting.look(&failing, START).is_err());
        }
        assert!(failed > 0 && waiting.is_empty());
    }
}
