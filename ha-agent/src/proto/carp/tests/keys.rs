//! Rotation of the pair's key at run time.

use super::super::*;
use super::pair::*;

const OLD: (u8, [u8; 16]) = (1, [7; 16]);
const NEW: (u8, [u8; 16]) = (2, [9; 16]);

fn set(pair: &mut Pair, node: usize, trailer: &[(u8, [u8; 16])]) {
    pair.nodes[node].as_mut().unwrap().set_keys(ElectionKeys {
        carp_passphrase: b"secret".to_vec(),
        trailer: trailer.to_vec(),
    });
}

/// The new key second on both, then first on both, then alone: nothing notices, whichever node is
/// first and however long it takes.
#[test]
fn a_rotation_moves_nothing_at_any_step() {
    for leads in 0..2 {
        let mut pair = Pair::new();
        pair.run(ms(1000));
        let before = [pair.reasons(0), pair.reasons(1)];
        for step in [vec![OLD, NEW], vec![NEW, OLD], vec![NEW]] {
            for node in [leads, 1 - leads] {
                set(&mut pair, node, &step);
                for _ in 0..20 {
                    pair.run(INTERVAL);
                    assert!(pair.settled(0), "{leads} {step:?} {node}");
                }
            }
        }
        assert_eq!(before, [pair.reasons(0), pair.reasons(1)]);
        for node in 0..2 {
            let counters = pair.nodes[node].as_ref().unwrap().snapshot().counters;
            assert_eq!(counters["dropped_unknown_key"], 0);
            assert_eq!(counters["dropped_bad_tag"], 0);
        }
        let last = pair.sent.last().unwrap();
        let key_id = last.payload[if last.advert { 36 + 5 } else { 5 }];
        assert_eq!(key_id, NEW.0);
    }
}

/// A step left out is seen at once: the nodes do not believe each other.
#[test]
fn a_key_the_partner_lacks_is_not_believed() {
    let mut pair = Pair::new();
    pair.run(ms(1000));
    set(&mut pair, 0, &[NEW, OLD]);
    pair.run(ms(100));
    let counters = pair.nodes[1].as_ref().unwrap().snapshot().counters;
    assert!(counters["dropped_unknown_key"] > 0);
}
