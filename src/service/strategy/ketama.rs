//! `ketama`: consistent hashing on a ring. The pick costs the same however many servers there are.

use super::super::pool::Member;
use super::super::server::{FNV_START, fnv1a};
use super::{Field, Strategy, mix};

/// Points on the ring per unit of weight.
const POINTS: u64 = 160;
/// Most points on a ring; heavier pools get fewer per unit.
const RING_LIMIT: u64 = 1 << 18;

/// Servers on a ring of hashes.
#[derive(Debug)]
pub struct Ketama {
    /// Sorted by hash; the second is the member.
    ring: Box<[(u64, u32)]>,
}

impl Strategy for Ketama {
    const NEEDS_KEY: bool = true;

    fn new(members: &[Member]) -> Self {
        let lightest = members.iter().map(|member| member.weight).filter(|weight| *weight > 0).min().unwrap_or(1);
        let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
        let wished = total.saturating_mul(POINTS) / u64::from(lightest);
        let limit = wished.min(RING_LIMIT);
        let mut ring = Vec::with_capacity(limit as usize + members.len());
        for (index, member) in members.iter().enumerate().filter(|(_, member)| member.weight > 0) {
            let points = (u64::from(member.weight) * limit / total.max(1)).max(1);
            let url = fnv1a(FNV_START, member.server.url().as_bytes());
            ring.extend((0..points).map(|point| (mix(fnv1a(url, &point.to_le_bytes())), index as u32)));
        }
        ring.sort_unstable();
        Self { ring: ring.into() }
    }

    fn pick(&self, field: &Field<'_>) -> Option<usize> {
        let key = mix(field.key);
        let start = self.ring.partition_point(|(hash, _)| *hash < key);
        let (before, after) = self.ring.split_at(start);
        let mut refused = None;
        for (_, index) in after.iter().chain(before) {
            // Neighbours on the ring often belong together: do not ask twice in a row.
            if refused != Some(*index) {
                if field.offers(*index as usize) {
                    return Some(*index as usize);
                }
                refused = Some(*index);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{field, members};
    use super::*;

    fn picks(members: &[Member]) -> Vec<usize> {
        let ring = Ketama::new(members);
        let key = |client: usize| fnv1a(FNV_START, format!("client {client}").as_bytes());
        (0..1_000).filter_map(|client| ring.pick(&Field { key: key(client), ..field(members) })).collect()
    }

    #[test]
    fn a_new_server_takes_only_its_share() {
        let before = picks(&members(&[1; 9]));
        let after = picks(&members(&[1; 10]));
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
        assert!(before.iter().zip(&after).all(|(old, new)| old == new || *new == 9));
        assert!((50..=170).contains(&moved), "{moved}");
    }

    #[test]
    fn rings_are_bounded_and_keep_the_light() {
        let ring = Ketama::new(&members(&[1_000_000, 1])).ring;
        assert!(ring.len() as u64 <= RING_LIMIT + 2 && ring.iter().any(|(_, index)| *index == 1));
    }
}
