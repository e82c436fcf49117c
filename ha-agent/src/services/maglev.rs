//! Weighted Maglev tables: which real server a client's hash leads to.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
//! 3.4: every server has its own permutation of the table's slots and the servers take turns in
//! claiming the next free slot of theirs. A server of smaller weight takes part in fewer rounds. The
//! result is a pure function of the servers' addresses, ports and weights, so both nodes of a pair
//! send an unknown client to the same server, whatever ids they use and however the file lists them.

use std::net::IpAddr;

use ha_common::conn::ConnKey;
use ha_common::hash;
use ha_common::maps::SLOTS_ENTRIES;
use ha_common::service::{Addr6, Address};

/// Table sizes: prime, so that every permutation reaches every slot.
const SIZES: [u32; 7] = [251, 1021, 4093, 16_381, 65_521, 262_139, 409_517];
/// Fewest slots per server, whatever the room.
const SLOTS_PER_SERVER: usize = 100;
/// Up to so many servers have a table of the size beside. A larger table disturbs fewer clients: of those
/// whose server stays, less than 1 % move when another leaves (measured: 0.4 % of ten servers, 0.6 % of a
/// hundred; with 1021 slots it were 6 % of ten), and a server that is added to ten takes hardly more than
/// the eleventh part that is its own. Beyond a limit the larger table spreads all unknown clients anew.
const WANTED: [(usize, u32); 4] = [
    (4, 16_381),
    (100, 65_521),
    (2_600, 262_139),
    (usize::MAX, 409_517),
];
/// Slots of all tables together. While one is replaced there must be room for both.
const ROOM: u32 = SLOTS_ENTRIES / 2;
/// Seeds of the two hashes that make a server's permutation.
const OFFSET_SEED: u64 = 0x6f66_6673_6574_2121;
const SKIP_SEED: u64 = 0x736b_6970_2121_2121;

/// A real server that takes new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Address.
    pub addr: IpAddr,
    /// Port, host order.
    pub port: u16,
    /// Share of new connections, not 0.
    pub weight: u32,
    /// What stands in the table for it.
    pub id: u16,
}

/// Slots of the tables of services with so many real servers, in their order.
///
/// Where there is no room for what is wanted all take the next smaller size that still has 100 slots for
/// each server, and so on. The result depends on the configuration alone: both nodes use the same tables.
pub fn sizes(servers: &[usize]) -> Vec<u32> {
    let at = |size: u32| SIZES.iter().position(|&known| known == size).unwrap_or(0);
    let levels: Vec<(usize, usize)> = servers
        .iter()
        .map(|&servers| {
            let wanted = WANTED.iter().find(|(most, _)| servers <= *most);
            let enough = servers.saturating_mul(SLOTS_PER_SERVER);
            let least = SIZES.iter().position(|&size| size as usize >= enough);
            let wanted = wanted.map_or(SIZES.len() - 1, |(_, size)| at(*size));
            (wanted, least.unwrap_or(SIZES.len() - 1))
        })
        .collect();
    let smaller = |by: usize| -> Vec<u32> {
        let level = |&(wanted, least): &(usize, usize)| wanted.saturating_sub(by).max(least);
        let sizes = levels.iter().map(level);
        sizes
            .filter_map(|level| SIZES.get(level).copied())
            .collect()
    };
    let fits =
        |sizes: &Vec<u32>| sizes.iter().map(|&s| u64::from(s)).sum::<u64>() <= u64::from(ROOM);
    let tries = 0..SIZES.len();
    tries
        .clone()
        .map(smaller)
        .find(fits)
        .unwrap_or_else(|| smaller(tries.end))
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
        let hashed = |seed| match member.addr {
            IpAddr::V4(addr) => hashed(seed, u32::from(addr), member.port),
            IpAddr::V6(addr) => hashed(seed, Addr6::new(addr.octets()), member.port),
        };
        Self {
            id: u32::from(member.id),
            weight: u64::from(member.weight),
            credit: 0,
            next: hashed(OFFSET_SEED) % size,
            skip: hashed(SKIP_SEED) % (size - 1) + 1,
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

fn hashed<A: Address>(seed: u64, addr: A, port: u16) -> u32 {
    let key = ConnKey {
        src: addr,
        sport: port,
        ..ConnKey::default()
    };
    hash::flow(seed, &key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rng::Rng;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn pool(count: u16, weight: impl Fn(u16) -> u32) -> Vec<Member> {
        pool_at(0x0a01_0000, 7, count, weight)
    }

    fn pool_at(first: u32, step: u32, count: u16, weight: impl Fn(u16) -> u32) -> Vec<Member> {
        (1..=count)
            .map(|n| Member {
                addr: Ipv4Addr::from_bits(first + u32::from(n) * step).into(),
                port: 8080,
                weight: weight(n),
                id: n,
            })
            .collect()
    }

    fn size(servers: usize) -> u32 {
        sizes(&[servers])[0]
    }

    fn shares(table: &[u32], count: u16) -> Vec<usize> {
        (1..=u32::from(count))
            .map(|id| table.iter().filter(|&&slot| slot == id).count())
            .collect()
    }

    #[test]
    fn sizes_are_prime_and_grow_with_the_pool() {
        for size in SIZES {
            let composite = (2..1000).any(|factor| size % factor == 0 && size != factor);
            assert!(!composite, "{size}");
        }
        for (servers, size) in [
            (0, 16_381),
            (4, 16_381),
            (5, 65_521),
            (100, 65_521),
            (101, 262_139),
            (4095, 409_517),
        ] {
            assert_eq!(sizes(&[servers]), [size], "{servers}");
        }
    }

    #[test]
    fn tables_are_smaller_where_there_is_no_room() {
        for services in [1usize, 10, 100, 1000, 1024] {
            for servers in [1usize, 3, 4] {
                let sizes = sizes(&vec![servers; services]);
                let total: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
                assert!(total <= u64::from(ROOM), "{services} of {servers}: {total}");
                assert!(sizes.iter().all(|&size| size as usize >= servers * 100));
            }
        }
        // What a large service needs it has.
        assert_eq!(sizes(&[1, 4000, 1])[1], 409_517);
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

    /// Share of the slots whose server was not touched that changed.
    fn disturbed(before: &[u32], after: &[u32], touched: u32) -> f64 {
        let others = before.iter().zip(after).filter(|(old, _)| **old != touched);
        let (all, moved) = others.fold((0u32, 0u32), |(all, moved), (old, new)| {
            (all + 1, moved + u32::from(old != new))
        });
        f64::from(moved) / f64::from(all)
    }

    /// Pools of neighbours, of scattered addresses, and of different weights.
    fn pools(count: u16) -> Vec<Vec<Member>> {
        vec![
            pool_at(0x0a01_0014, 1, count, |_| 1),
            pool_at(0xc0a8_0000, 256, count, |_| 1),
            pool_at(0xac10_0000, 7919, count, |_| 10),
            pool_at(0x0a02_0000, 13, count, |n| 1 + u32::from(n) % 3),
        ]
    }

    #[test]
    fn few_clients_move_when_a_server_leaves() {
        for count in [3u16, 4, 5, 10, 40, 100] {
            let mut worst = 0f64;
            for members in pools(count) {
                let size = size(members.len());
                let before = table(&members, size);
                for gone in [1, count / 2 + 1, count] {
                    let mut rest = members.clone();
                    rest.retain(|m| m.id != gone);
                    let share = disturbed(&before, &table(&rest, size), u32::from(gone));
                    worst = worst.max(share);
                }
            }
            println!(
                "{count} servers: {:.2} % of the others' clients moved",
                worst * 100.0
            );
            assert!(worst <= 0.01, "{count}: {worst}");
        }
    }

    #[test]
    fn few_clients_move_when_a_server_is_added_to_ten() {
        let mut worst = 0f64;
        for members in pools(11) {
            if members.iter().any(|m| m.weight != members[0].weight) {
                continue;
            }
            let size = size(10);
            assert_eq!(size, self::size(11), "tables of one size");
            let after = table(&members, size);
            for new in 1..=11 {
                let mut ten = members.clone();
                ten.retain(|m| m.id != new);
                let before = table(&ten, size);
                let moved = before.iter().zip(&after).filter(|(old, new)| old != new);
                worst = worst.max(moved.count() as f64 / f64::from(size));
            }
        }
        println!("{:.2} % of the hash space moved", worst * 100.0);
        assert!(worst <= 0.10, "{worst}");
    }

    proptest! {
        #[test]
        fn order_and_ids_do_not_matter(
            pool in prop::collection::btree_map(any::<(bool, u64, u16)>(), 1u32..20, 1..30),
            seed: u64,
        ) {
            let members: Vec<Member> = pool
                .iter()
                .zip(1u16..)
                .map(|((&(v6, addr, port), &weight), id)| {
                    let addr = if v6 {
                        Ipv6Addr::from_bits(u128::from(addr) << 40).into()
                    } else {
                        Ipv4Addr::from_bits(addr as u32).into()
                    };
                    Member { addr, port, weight, id }
                })
                .collect();
            let mut other: Vec<Member> =
                members.iter().map(|m| Member { id: m.id + 100, ..*m }).collect();
            let mut rng = Rng::new(seed);
            for at in (1..other.len()).rev() {
                other.swap(at, rng.below(at as u64 + 1) as usize);
            }
            let size = 4093;
            let here = table(&members, size);
            let there: Vec<u32> = table(&other, size).into_iter().map(|id| id - 100).collect();
            prop_assert_eq!(here.len(), size as usize);
            prop_assert_eq!(here, there);
        }
    }
}
