//! `wrr`: smooth weighted round robin.

use super::super::pool::Member;
use super::wheel::Wheel;
use super::{Field, Strategy};

/// Servers in weighted turns.
#[derive(Debug)]
pub struct Wrr(Wheel);

impl Strategy for Wrr {
    fn new(members: &[Member]) -> Self {
        Self(Wheel::new(members.iter().map(|member| member.weight).collect()))
    }

    fn pick(&self, field: &Field<'_>) -> Option<usize> {
        self.0.pick(|index| field.offers(index))
    }
}
