//! `random`: weighted lots.

use super::super::pool::Member;
use super::wheel::{place, running_sums};
use super::{Field, Strategy};

/// Draws before the quick way is given up.
const DRAWS_LIMIT: usize = 8;

/// Servers by weighted lots.
#[derive(Debug)]
pub struct Random {
    sums: Box<[u64]>,
}

impl Strategy for Random {
    fn new(members: &[Member]) -> Self {
        let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
        Self { sums: running_sums(&weights) }
    }

    fn pick(&self, field: &Field<'_>) -> Option<usize> {
        if self.sums.last().is_none_or(|total| *total == 0) {
            return None;
        }
        // Drawing again until one is offered is drawing among those that are offered.
        let quick = (0..DRAWS_LIMIT).map(|_| place(&self.sums, fastrand::u64(..))).find(|index| field.offers(*index));
        quick.or_else(|| field.draw())
    }
}
