//! Brings the judgements of real servers to the data plane, and those of an active node to its partner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::agent::{Shared, lock};
use super::records::Write;
use crate::health;
use crate::proto::carp::Role;
use crate::proto::records::{HEALTH, Put};
use crate::services::RealKey;

/// How often everything is looked at, whatever was told: services come and go, and a full queue is no
/// excuse.
const LOOK: Duration = Duration::from_secs(1);
/// Most real servers there can be.
const ALL: usize = ha_common::maps::REALS_ENTRIES as usize;

/// Keeps the data plane and the partner up to date until the future is dropped.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {
                // A program that continues another one begins with its role.
                let role = shared.election.published().election.role;
                shared.verdicts.set_active(role == Role::Active);
            }
            () = shared.verdicts.news.notified() => {}
        }
        let checked = checked(&shared);
        apply(&shared, &checked);
        tell(&shared, &checked).await;
    }
}

/// The real servers that are checked.
fn checked(shared: &Shared) -> BTreeSet<RealKey> {
    let targets = health::targets(&lock(&shared.loaded).config);
    let checked = targets.into_iter().map(|target| target.key).collect();
    shared.verdicts.keep(&checked);
    checked
}

fn apply(shared: &Shared, checked: &BTreeSet<RealKey>) {
    let mut services = lock(&shared.services);
    let mut news = false;
    for key in checked {
        news |= services.set_health(key, shared.verdicts.judge(key).counts.is_up());
    }
    let applied = if news {
        services.apply(&*shared.datapath)
    } else {
        Ok(())
    };
    drop(services);
    if let Err(error) = applied {
        warn!(%error, "change of a real server not stored");
    }
}

/// Tells the partner what is news to it: whatever differs from the records it has.
async fn tell(shared: &Shared, checked: &BTreeSet<RealKey>) {
    let Some(replication) = shared
        .replication
        .as_ref()
        .filter(|_| shared.verdicts.is_active())
    else {
        return;
    };
    let records = replication.records();
    let Ok(Some(told)) = records.list(HEALTH, None, ALL).await else {
        return;
    };
    let mut told: BTreeMap<&[u8], &[u8]> =
        told.iter().map(|view| (&*view.key, &*view.value)).collect();
    let mut writes = Vec::new();
    for key in checked {
        let server = key.words();
        let verdict = shared.verdicts.own(key).words(&server);
        if told.remove(server.as_bytes()) != Some(verdict.as_bytes()) {
            writes.push(Write::Put(Put {
                namespace: HEALTH.to_owned(),
                key: server.into_bytes(),
                value: verdict.into_bytes(),
                ttl: None,
                age: Duration::ZERO,
            }));
        }
    }
    writes.extend(told.into_keys().map(|server| Write::Delete {
        namespace: HEALTH,
        key: server.to_vec(),
    }));
    if !writes.is_empty() && records.offer(writes).is_err() {
        debug!("judgements not told to the partner; trying again");
    }
}
