//! Weighted Maglev tables: which real server a client's hash leads to.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
//! 3.4: every server has its own permutation of the table's slots and the servers take turns in
//! claiming the next free slot of theirs. A server of smaller weight takes part in fewer rounds. The
//! result is a pure function of the servers' addresses, ports and weights, so both nodes of a pair
//! send an unknown client to the same server, whatever ids they use and however the file lists them.

use ha_common::conn::ConnKey4;
use ha_common::hash;

/// Table sizes: prime, so that every permutation reaches every slot.
const SIZES: [u32; 5] = [251, 1021, 4093, 16381, 65521];
/// Slots per server: with a hundred the most loaded server gets about one percent too much.
const SLOTS_PER_SERVER: usize = 100;
/// Seeds of the two hashes that make a server's permutation.
const OFFSET_SEED: u64 = 0x6f66_6673_6574_2121;
const SKIP_SEED: u64 = 0x736b_6970_2121_2121;

/// A real server that takes new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Address, host order.
    pub addr: u32,
    /// Port, host order.
    pub port: u16,
    /// Share of new connections, not 0.
    pub weight: u32,
    /// What stands in the table for it.
    pub id: u16,
}

/// Slots of the table of a service with so many real servers.
pub fn size(servers: usize) -> u32 {
    let wanted = servers.saturating_mul(SLOTS_PER_SERVER);
    let fits = SIZES.iter().find(|&&size| size as usize >= wanted);
    // More than 655 servers: the largest table, less evenly.
    *fits.or(SIZES.last()).unwrap_or(&1)
}

/// The table of `size` slots; empty if there are no members.
pub fn table(members: &[Member], size: u32) -> Vec<u32> {
    let mut members: Vec<Member> = members.iter().copied().filter(|m| m.weight > 0).collect();
    members.sort_unstable();
    let Some(heaviest) = members.iter().map(|m| u64::from(m.weight)).max() else {
        return Vec::new();
    };
    let mut turns: Vec<Turn> = members.iter().map(|m| Turn::new(m, size)).collect();
    // Id 0 is never given out, so it marks a free slot.
    let mut table = vec![0u32; size as usize];
    let mut free = size;
    loop {
        for turn in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < heaviest {
                continue;
            }
            turn.credit -= heaviest;
            turn.claim(&mut table, size);
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

/// One server's walk through its permutation.
struct Turn {
    id: u32,
    weight: u64,
    credit: u64,
    next: u32,
    skip: u32,
}

impl Turn {
    fn new(member: &Member, size: u32) -> Self {
        let key = ConnKey4 {
            src: member.addr,
            sport: member.port,
            ..ConnKey4::default()
        };
        Self {
            id: u32::from(member.id),
            weight: u64::from(member.weight),
            credit: 0,
            next: hash::flow(OFFSET_SEED, &key) % size,
            skip: hash::flow(SKIP_SEED, &key) % (size - 1) + 1,
        }
    }

    /// Takes the next free slot. There is one: the caller counts.
    fn claim(&mut self, table: &mut [u32], size: u32) {
        loop {
            let slot = table.get_mut(self.next as usize);
            self.next = (self.next + self.skip) % size;
            if let Some(slot) = slot
                && *slot == 0
            {
                *slot = self.id;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rng::Rng;
    use proptest::prelude::*;

    fn pool(count: u16, weight: impl Fn(u16) -> u32) -> Vec<Member> {
        (1..=count)
            .map(|n| Member {
                addr: 0x0a01_0000 + u32::from(n) * 7,
                port: 8080,
                weight: weight(n),
                id: n,
            })
            .collect()
    }

    fn shares(table: &[u32], count: u16) -> Vec<usize> {
        (1..=u32::from(count))
            .map(|id| table.iter().filter(|&&slot| slot == id).count())
            .collect()
    }

    #[test]
    fn sizes_grow_with_the_pool() {
        assert_eq!(size(0), 251);
        assert_eq!(size(2), 251);
        assert_eq!(size(3), 1021);
        assert_eq!(size(10), 1021);
        assert_eq!(size(11), 4093);
        assert_eq!(size(655), 65521);
        assert_eq!(size(4000), 65521);
    }

    #[test]
    fn nobody_means_no_table() {
        assert!(table(&[], 251).is_empty());
        assert!(table(&pool(3, |_| 0), 251).is_empty());
    }

    #[test]
    fn equal_weights_get_equal_shares() {
        for count in [1u16, 2, 3, 10, 40, 100] {
            let size = size(usize::from(count));
            let table = table(&pool(count, |_| 1), size);
            let shares = shares(&table, count);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            // Every round gives each server one slot; only the last round is incomplete.
            assert!(most - least <= 1, "{count}: {shares:?}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let weights = [1u32, 2, 3, 4, 10];
        let table = table(&pool(5, |n| weights[usize::from(n) - 1]), 1021);
        for (share, weight) in shares(&table, 5).into_iter().zip(weights) {
            let expected = 1021.0 * f64::from(weight) / 20.0;
            assert!((share as f64 - expected).abs() <= 2.0, "{share} {expected}");
        }
    }

    /// Share of slots that changed although neither their old nor their new server was touched.
    fn disturbed(before: &[u32], after: &[u32], touched: u32) -> f64 {
        let moved = before.iter().zip(after);
        let moved = moved.filter(|&(old, new)| old != new && *old != touched && *new != touched);
        moved.count() as f64 / before.len() as f64
    }

    #[test]
    fn few_clients_move_when_a_server_leaves() {
        let mut worst = 0f64;
        for count in [3u16, 10, 40, 100] {
            let members = pool(count, |_| 1);
            let size = size(members.len());
            let before = table(&members, size);
            for gone in [1, count / 2 + 1, count] {
                let rest: Vec<Member> = members.iter().copied().filter(|m| m.id != gone).collect();
                let share = disturbed(&before, &table(&rest, size), u32::from(gone));
                worst = worst.max(share);
            }
        }
        println!(
            "worst share of undisturbed clients that moved: {:.2} %",
            worst * 100.0
        );
        assert!(worst < 0.06, "{worst}");
    }

    proptest! {
        #[test]
        fn order_and_ids_do_not_matter(
            pool in prop::collection::btree_map(any::<(u32, u16)>(), 1u32..20, 1..30),
            seed: u64,
        ) {
            let members: Vec<Member> = pool
                .iter()
                .zip(1u16..)
                .map(|((&(addr, port), &weight), id)| Member { addr, port, weight, id })
                .collect();
            let mut other: Vec<Member> =
                members.iter().map(|m| Member { id: m.id + 100, ..*m }).collect();
            let mut rng = Rng::new(seed);
            for at in (1..other.len()).rev() {
                other.swap(at, rng.below(at as u64 + 1) as usize);
            }
            let size = size(members.len());
            let here = table(&members, size);
            let there: Vec<u32> = table(&other, size).into_iter().map(|id| id - 100).collect();
            prop_assert_eq!(here.len(), size as usize);
            prop_assert_eq!(here, there);
        }
    }
}
