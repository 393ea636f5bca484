//! `hrw`: rendezvous hashing. A client keeps its server; a server that goes moves only its own clients.

use super::super::pool::Member;
use super::{Field, Strategy, mix};

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
            // Unmixed, URLs that differ at their end have hashes that differ in their low bits, and the order of scores is not by lot.
            rank(mix(field.key ^ member.server.id()), member.weight)
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
    use std::sync::Arc;

    use super::super::super::server::{self, FNV_START, Server, fnv1a};
    use super::super::super::transport::{self, Transport};
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
    fn names_that_differ_in_their_last_letter_have_their_shares() {
        let transport = Transport::build(&transport::Settings::default()).unwrap();
        let shares = |weights: &[u32]| {
            let build = |(at, weight): (usize, &u32)| {
                let url = format!("http://10.0.0.{}", at + 1);
                let settings = server::Settings { url: url.into(), weight: 1, preserve_path: false };
                Member::new(Arc::new(Server::build(&settings, &transport).unwrap()), *weight, None)
            };
            let members: Vec<_> = weights.iter().enumerate().map(build).collect();
            let mut counts = vec![0u32; weights.len()];
            (0..4_000).for_each(|client| counts[pick(&members, client)] += 1);
            counts
        };
        for (weights, expected) in [(&[1, 1, 1][..], &[1_333, 1_333, 1_333][..]), (&[1, 3], &[1_000, 3_000])] {
            let counts = shares(weights);
            let is_fair = |(count, share): (&u32, &u32)| count.abs_diff(*share) < share / 8;
            assert!(counts.iter().zip(expected).all(is_fair), "{weights:?} {counts:?}");
        }
    }

    #[test]
    fn scores_follow_the_formula() {
        assert!((rank(1 << 63, 1) - std::f64::consts::LOG2_E).abs() < 1e-5);
        assert!((rank(1 << 63, 3) - 4.328_085).abs() < 1e-5);
        assert_eq!(rank(0, 1), 0.0);
    }
}
