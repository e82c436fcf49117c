//! Weighted round robin: in which order real servers take their turns.
//!
//! The "smooth" order of nginx (`ngx_http_upstream_get_peer`): each turn every server gains its weight,
//! the one with most goes, and pays the sum of all. Over a round each goes as often as its weight says, and
//! a heavy one does not go many times in a row. The data plane reads the order round and round.

/// Longest order, unless there are more servers than that.
const TURNS_MAX: usize = 1024;

/// The order in which servers of these weights take their turns, as indices. Weights of 0 take none.
pub fn order(weights: &[u32]) -> Vec<usize> {
    let turns = turns(weights);
    let total: i64 = turns.iter().sum();
    let mut gained = vec![0i64; turns.len()];
    let mut order = Vec::new();
    for _ in 0..total {
        for (gained, turns) in gained.iter_mut().zip(&turns) {
            *gained += turns;
        }
        // The first of those with most.
        let most = gained
            .iter()
            .enumerate()
            .rev()
            .max_by_key(|(_, gained)| **gained);
        let Some((next, _)) = most else { break };
        if let Some(gained) = gained.get_mut(next) {
            *gained -= total;
        }
        order.push(next);
    }
    order
}

/// How often each goes in a round: its weight, without what all weights have in common, and shortened
/// where rounds would be too long, each still going once.
fn turns(weights: &[u32]) -> Vec<i64> {
    let common = weights
        .iter()
        .fold(0, |common, &weight| gcd(common, weight))
        .max(1);
    let weights = || weights.iter().map(|weight| u64::from(weight / common));
    let total: u64 = weights().sum();
    let servers = weights().filter(|weight| *weight > 0).count();
    let share = |weight: u64| {
        if total <= TURNS_MAX as u64 || weight == 0 {
            return weight;
        }
        let rest = TURNS_MAX.saturating_sub(servers) as u64;
        1 + weight * rest / total
    };
    weights()
        .map(|weight| i64::try_from(share(weight)).unwrap_or(i64::MAX))
        .collect()
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(order: &[usize], servers: usize) -> Vec<usize> {
        (0..servers)
            .map(|n| order.iter().filter(|&&at| at == n).count())
            .collect()
    }

    #[test]
    fn as_nginx_does() {
        // The example of its commit message.
        assert_eq!(order(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(order(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(order(&[2, 1]), [0, 1, 0]);
    }

    #[test]
    fn what_weights_have_in_common_is_left_out() {
        assert_eq!(order(&[50, 10, 10]), order(&[5, 1, 1]));
        assert_eq!(order(&[65_535]), [0]);
        assert_eq!(order(&[7, 7]), [0, 1]);
    }

    #[test]
    fn nobody_and_no_weight() {
        assert!(order(&[]).is_empty());
        assert!(order(&[0, 0]).is_empty());
        assert_eq!(order(&[0, 3]), [1]);
    }

    #[test]
    fn long_rounds_are_shortened() {
        let order = order(&[65_535, 1, 32_768]);
        assert!(order.len() <= TURNS_MAX, "{}", order.len());
        let counts = counts(&order, 3);
        assert_eq!(counts[1], 1);
        let ratio = counts[0] as f64 / counts[2] as f64;
        assert!((1.98..2.02).contains(&ratio), "{counts:?}");
        let crowd: Vec<u32> = (1..=2000).collect();
        assert_eq!(super::order(&crowd).len(), 2000, "each goes once");
    }

    proptest! {
        #[test]
        fn each_goes_as_often_as_it_should(weights in prop::collection::vec(0u32..40, 1..20)) {
            let order = order(&weights);
            let divisor = weights.iter().fold(0, |all, &weight| gcd(all, weight)).max(1);
            for (count, weight) in counts(&order, weights.len()).iter().zip(&weights) {
                prop_assert_eq!(*count, (weight / divisor) as usize);
            }
        }

        /// At no point of a round is anybody further from its share than there are servers.
        #[test]
        fn turns_are_spread(weights in prop::collection::vec(1u32..10, 2..6)) {
            let order = order(&weights);
            let total: u32 = weights.iter().sum();
            for (server, weight) in weights.iter().enumerate() {
                for end in 0..=order.len() {
                    let went = order[..end].iter().filter(|&&at| at == server).count() as f64;
                    let due = end as f64 * f64::from(*weight) / f64::from(total);
                    prop_assert!((went - due).abs() <= weights.len() as f64, "{went} {due}");
                }
            }
        }

        #[test]
        fn never_too_long(weights in prop::collection::vec(0u32..=65_535, 0..50)) {
            let order = order(&weights);
            prop_assert!(order.len() <= TURNS_MAX);
            for (count, weight) in counts(&order, weights.len()).iter().zip(&weights) {
                prop_assert_eq!(*count > 0, *weight > 0);
            }
        }
    }
}
