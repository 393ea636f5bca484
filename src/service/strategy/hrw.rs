//! `hrw`: rendezvous hashing. A client keeps its server; a server that goes moves only its own clients.

use super::super::pool::Member;
use super::super::server::fnv1a;
use super::{Field, Strategy};

/// The server that ranks highest for this client.
#[derive(Debug)]
pub struct Hrw;

impl Strategy for Hrw {
    const NEEDS_KEY: bool = true;

    fn new(_: &[Member]) -> Self {
        Self
    }

    fn pick(&self, field: &Field<'_>) -> Option<usize> {
        let score = |index: usize| {
            let member = &field.members[index];
            rank(fnv1a(field.key, member.server.url().as_bytes()), member.weight)
        };
        let mut best: Option<(usize, f64)> = None;
        for index in field.offered() {
            let score = score(index);
            if best.is_none_or(|(_, highest)| score > highest) {
                best = Some((index, score));
            }
        }
        best.map(|(index, _)| index)
    }
}

/// The weighted rendezvous score of a hash: −w / ln(hash as a fraction of 2⁶⁴).
fn rank(hash: u64, weight: u32) -> f64 {
    let fraction = hash as f64 / 18_446_744_073_709_551_616.0;
    f64::from(weight) / -fraction.ln()
}

#[cfg(test)]
mod tests {
    use super::super::super::server::FNV_START;
    use super::super::tests::{field, members};
    use super::*;

    fn pick(members: &[Member], client: usize) -> usize {
        let key = fnv1a(FNV_START, format!("192.0.2.{client}").as_bytes());
        Hrw.pick(&Field { key, ..field(members) }).unwrap()
    }

    #[test]
    fn only_the_clients_of_a_lost_server_move() {
        let members = members(&[1, 1, 1, 1]);
        let before: Vec<_> = (0..500).map(|client| pick(&members, client)).collect();
        assert_eq!(before, (0..500).map(|client| pick(&members, client)).collect::<Vec<_>>());
        members[2].server.health.set(false);
        for (client, old) in before.iter().enumerate() {
            let new = pick(&members, client);
            assert!(if *old == 2 { new != 2 } else { new == *old }, "{client}");
        }
    }

    #[test]
    fn scores_follow_the_formula() {
        assert!((rank(1 << 63, 1) - std::f64::consts::LOG2_E).abs() < 1e-5);
        assert!((rank(1 << 63, 3) - 4.328_085).abs() < 1e-5);
        assert_eq!(rank(0, 1), 0.0);
    }
}
