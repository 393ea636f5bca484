//! A smooth weighted turn order, shared by all threads: one atomic step per pick.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest precomputed round; beyond it, turns are spread by a low-discrepancy sequence instead.
const ROUND_LIMIT: u64 = 1 << 14;
/// Turns tried before the quick way is given up.
const TURNS_LIMIT: usize = 64;

/// Weighted turns without bursts: after any number of turns nobody is a whole turn ahead of or behind its share.
#[derive(Debug)]
pub struct Wheel {
    order: Order,
    /// None if nobody else has a turn.
    weights: Box<[u32]>,
}

/// Alone on its cache lines: it is written by every pick.
#[derive(Debug)]
#[repr(align(128))]
struct Cursor(AtomicU64);

impl Cursor {
    fn anywhere() -> Box<Self> {
        Box::new(Self(AtomicU64::new(fastrand::u64(..1 << 32))))
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[derive(Debug)]
enum Order {
    /// One round, weights reduced by their greatest common divisor.
    Round(Box<[u32]>, Box<Cursor>),
    /// Running sums of the weights.
    Spread(Box<[u64]>, Box<Cursor>),
    /// Always the same one: the only one with a weight. That is all there is to many services.
    Only(usize),
    /// Nobody has a weight.
    Empty,
}

impl Wheel {
    /// The turns of members with these weights. Each wheel starts somewhere else, so that many do not move in step.
    pub fn new(weights: Vec<u32>) -> Self {
        let mut with_weight = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        if let (Some((only, _)), None) = (with_weight.next(), with_weight.next()) {
            return Self { order: Order::Only(only), weights: Box::default() };
        }
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
        let weights: Box<[u32]> = weights.iter().map(|weight| weight / divisor).collect();
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let order = match total {
            0 => Order::Empty,
            1..=ROUND_LIMIT => Order::Round(round(&weights, total), Cursor::anywhere()),
            _ => Order::Spread(running_sums(&weights), Cursor::anywhere()),
        };
        Self { order, weights }
    }

    /// The next whose turn it is and that `takes` it. A turn that is not taken is lost, so the others keep their proportions.
    pub fn pick(&self, takes: impl Fn(usize) -> bool) -> Option<usize> {
        if let Order::Only(only) = self.order {
            return Some(only).filter(|only| takes(*only));
        }
        for _ in 0..TURNS_LIMIT.min(2 * self.weights.len()) {
            let index = self.turn()?;
            if takes(index) {
                return Some(index);
            }
        }
        draw(|| self.weights.iter().copied().enumerate().filter(|(index, weight)| *weight > 0 && takes(*index)))
    }

    /// The next whose turn it is.
    fn turn(&self) -> Option<usize> {
        match &self.order {
            Order::Empty => None,
            Order::Only(only) => Some(*only),
            Order::Round(round, cursor) => Some(round[(cursor.next() % round.len() as u64) as usize] as usize),
            Order::Spread(sums, cursor) => Some(place(sums, cursor.next().wrapping_mul(GOLDEN))),
        }
    }
}

/// 2⁶⁴ divided by the golden ratio: its multiples are spread more evenly than any other number's.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The member at `lot` of 2⁶⁴ on the line of running sums.
pub(super) fn place(sums: &[u64], lot: u64) -> usize {
    let total = sums.last().copied().unwrap_or(0);
    let at = ((u128::from(lot) * u128::from(total)) >> 64) as u64;
    sums.partition_point(|sum| *sum <= at)
}

/// Weights summed up so far, per member.
pub(super) fn running_sums(weights: &[u32]) -> Box<[u64]> {
    let add = |sum: &mut u64, weight: &u32| {
        *sum += u64::from(*weight);
        Some(*sum)
    };
    weights.iter().scan(0, add).collect()
}

/// One of `entries()` by weighted lots, in two passes.
pub(super) fn draw<I: Iterator<Item = (usize, u32)>>(entries: impl Fn() -> I) -> Option<usize> {
    let total: u64 = entries().map(|(_, weight)| u64::from(weight)).sum();
    if total == 0 {
        return None;
    }
    let mut lot = fastrand::u64(..total);
    let mut last = None;
    for (index, weight) in entries() {
        last = Some(index);
        match lot.checked_sub(u64::from(weight)) {
            Some(rest) => lot = rest,
            None => break,
        }
    }
    // Who was offered in the first pass may be gone in the second; the last one seen will do.
    last
}

/// A round in which the k-th turn of a member with weight w falls between k·W/w and (k+1)·W/w: each turn has a release and a
/// deadline, and the earliest deadline first keeps them all, since the weights add up to exactly one turn per step.
fn round(weights: &[u32], total: u64) -> Box<[u32]> {
    let window = |index: usize, turn: u64| {
        let weight = u64::from(weights[index]);
        (turn * total / weight, ((turn + 1) * total).div_ceil(weight))
    };
    let mut taken = vec![0u64; weights.len()];
    let mut waiting: BinaryHeap<_> =
        (0..weights.len()).filter(|index| weights[*index] > 0).map(|index| Reverse((0u64, index))).collect();
    let mut ready = BinaryHeap::new();
    let mut round = Vec::with_capacity(total as usize);
    for step in 0..total {
        while let Some(Reverse((release, index))) = waiting.peek().copied() {
            if release > step && !ready.is_empty() {
                break;
            }
            waiting.pop();
            ready.push(Reverse((window(index, taken[index]).1, index)));
        }
        let Some(Reverse((_, index))) = ready.pop() else { break };
        round.push(index as u32);
        taken[index] += 1;
        if taken[index] < u64::from(weights[index]) {
            waiting.push(Reverse((window(index, taken[index]).0, index)));
        }
    }
    round.into()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picks(wheel: &Wheel, count: usize) -> Vec<usize> {
        (0..count).filter_map(|_| wheel.pick(|_| true)).collect()
    }

    #[test]
    fn weights_are_reduced_and_spread() {
        assert_eq!(&*round(&[1, 1], 2), [0, 1]);
        assert_eq!(&*round(&[1, 3], 4), [1, 1, 0, 1]);
        assert_eq!(&*round(&[2, 3], 5), [1, 0, 1, 0, 1]);
        let wheel = Wheel::new(vec![300, 100]);
        assert!(matches!(&wheel.order, Order::Round(round, _) if round.len() == 4));
        assert!(matches!(Wheel::new(vec![]).order, Order::Empty));
        assert_eq!(Wheel::new(vec![0, 0]).pick(|_| true), None);
        let only = Wheel::new(vec![0, 7, 0]);
        assert!(matches!(only.order, Order::Only(1)));
        assert_eq!((only.pick(|_| true), only.pick(|index| index != 1)), (Some(1), None));
    }

    #[test]
    fn those_left_share_what_is_lost() {
        let wheel = Wheel::new(vec![1, 1, 2]);
        let mut counts = [0; 3];
        for _ in 0..3_000 {
            counts[wheel.pick(|index| index != 1).unwrap()] += 1;
        }
        assert_eq!((counts[0], counts[1], counts[2]), (1_000, 0, 2_000));
    }

    #[test]
    fn long_rounds_are_spread_without_a_table() {
        let wheel = Wheel::new(vec![999_999, 1_000_000, 1]);
        assert!(matches!(wheel.order, Order::Spread(..)));
        let picks = picks(&wheel, 10_000);
        let runs = picks.windows(3).filter(|run| run[0] == run[1] && run[1] == run[2]).count();
        let zeros = picks.iter().filter(|index| **index == 0).count();
        assert!(runs <= 1 && (4_990..=5_010).contains(&zeros), "{runs} {zeros}");
    }

    proptest! {
        #[test]
        fn nobody_is_a_turn_off_its_share(weights in prop::collection::vec(0u32..50, 1..20)) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight));
            let weights: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let round = round(&weights, total);
            prop_assert_eq!(round.len() as u64, total);
            let mut taken = vec![0i64; weights.len()];
            for (step, index) in round.iter().enumerate() {
                taken[*index as usize] += 1;
                for (index, weight) in weights.iter().enumerate() {
                    // |taken − share| < 1, in whole numbers.
                    let off = taken[index] * total as i64 - (step as i64 + 1) * i64::from(*weight);
                    prop_assert!(off.abs() < total as i64, "{:?} after {}", weights, step);
                }
            }
        }

        #[test]
        fn any_window_of_a_whole_round_is_exact(weights in prop::collection::vec(0u32..9, 1..9), skip in 0usize..50) {
            prop_assume!(weights.iter().filter(|weight| **weight > 0).count() > 1);
            let wheel = Wheel::new(weights.clone());
            let Order::Round(round, _) = &wheel.order else { unreachable!() };
            let len = round.len();
            picks(&wheel, skip);
            let window = picks(&wheel, len);
            for (index, weight) in wheel.weights.iter().enumerate() {
                prop_assert_eq!(window.iter().filter(|picked| **picked == index).count(), *weight as usize);
            }
        }
    }
}
