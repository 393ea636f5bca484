//! `p2c`: of two servers drawn at random, the one with fewer requests in flight for its weight.

use super::super::pool::Member;
use super::{Field, Strategy};

/// Draws before the quick way is given up.
const DRAWS_LIMIT: usize = 8;

/// The less busy of two.
#[derive(Debug)]
pub struct P2c;

impl Strategy for P2c {
    fn new(_: &[Member]) -> Self {
        Self
    }

    fn pick(&self, field: &Field<'_>) -> Option<usize> {
        let first = draw(field, None)?;
        let Some(second) = draw(field, Some(first)) else { return Some(first) };
        let load = |index: usize, other: usize| {
            field.members[index].server.in_flight() as u64 * u64::from(field.members[other].weight)
        };
        Some(if load(second, first) < load(first, second) { second } else { first })
    }
}

/// One that is offered, other than `not`, each as likely as the next.
fn draw(field: &Field<'_>, not: Option<usize>) -> Option<usize> {
    let fits = |index: &usize| Some(*index) != not && field.offers(*index);
    let len = field.members.len();
    if len > DRAWS_LIMIT {
        let quick = (0..DRAWS_LIMIT).map(|_| fastrand::usize(..len)).find(fits);
        if quick.is_some() {
            return quick;
        }
    }
    let count = (0..len).filter(fits).count();
    if count == 0 {
        return None;
    }
    (0..len).filter(fits).nth(fastrand::usize(..count))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{field, members};
    use super::*;

    #[test]
    fn the_less_busy_of_two_wins() {
        let members = members(&[1, 1]);
        (0..5).for_each(|_| members[0].server.enter());
        assert!((0..100).all(|_| P2c.pick(&field(&members)) == Some(1)));
    }

    #[test]
    fn a_heavier_server_may_be_busier() {
        let members = members(&[10, 1]);
        (0..5).for_each(|_| members[0].server.enter());
        members[1].server.enter();
        assert!((0..100).all(|_| P2c.pick(&field(&members)) == Some(0)));
    }

    #[test]
    fn the_busiest_of_many_is_spared() {
        let members = members(&[1; 10]);
        let mut counts = [0usize; 10];
        for _ in 0..10_000 {
            let index = P2c.pick(&field(&members)).unwrap();
            members[index].server.enter();
            counts[index] += 1;
        }
        assert!(counts.iter().all(|count| (990..=1010).contains(count)), "{counts:?}");
    }
}
