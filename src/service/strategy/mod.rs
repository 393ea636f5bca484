//! How a pool picks one of its servers: one file per strategy. No lock and no allocation per pick.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::pool::Member;
use super::server::Server;
use crate::exchange::AttemptOutcome;

pub mod drr;
pub mod hrw;
pub mod ketama;
pub mod least_time;
pub mod p2c;
pub mod random;
pub mod wheel;
pub mod wrr;

/// Registers the strategies: the name users write, and the type.
macro_rules! strategies {
    ($($(#[$doc:meta])* $name:literal => $variant:ident($type:ty),)*) => {
        /// `strategy` as written.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Kind {
            /// The names that users write, in the order of the registry.
            pub const NAMES: &'static [&'static str] = &[$($name,)*];
        }

        /// A strategy as built.
        #[derive(Debug)]
        pub enum AnyStrategy { $(#[doc = $name] $variant($type),)* }

        impl AnyStrategy {
            /// Builds the strategy `kind` for `members`.
            pub fn new(kind: Kind, members: &[Member]) -> Self {
                match kind { $(Kind::$variant => Self::$variant(<$type>::new(members)),)* }
            }

            /// Whether picks depend on [`Field::key`].
            pub fn needs_key(&self) -> bool {
                match self { $(Self::$variant(_) => <$type>::NEEDS_KEY,)* }
            }

            /// Picks a member that the field offers; its index.
            pub fn pick(&self, field: &Field<'_>) -> Option<usize> {
                match self { $(Self::$variant(strategy) => strategy.pick(field),)* }
            }

            /// Learns how an attempt at `server` ended.
            pub fn observe(&self, server: &Server, outcome: &AttemptOutcome, now: Instant) {
                match self { $(Self::$variant(strategy) => strategy.observe(server, outcome, now),)* }
            }
        }
    };
}

strategies! {
    /// Smooth weighted round robin.
    #[default]
    "wrr" => Wrr(wrr::Wrr),
    /// The less busy of two drawn at random.
    "p2c" => P2c(p2c::P2c),
    /// The server that ranks highest for this client.
    "hrw" => Hrw(hrw::Hrw),
    /// The server that is expected to answer soonest.
    "leasttime" => LeastTime(least_time::LeastTime),
    /// Weighted lots.
    "random" => Random(random::Random),
    /// Consistent hashing on a ring.
    "ketama" => Ketama(ketama::Ketama),
    /// Round robin whose weights sink with failures and rise again with successes.
    "drr" => Drr(drr::Drr),
}

/// A way to pick.
pub trait Strategy: Sized + Send + Sync {
    /// Whether it looks at [`Field::key`].
    const NEEDS_KEY: bool = false;

    /// Prepares for these members, whose order and weights stay.
    fn new(members: &[Member]) -> Self;

    /// Picks a member that the field offers; its index.
    fn pick(&self, field: &Field<'_>) -> Option<usize>;

    /// Learns how an attempt at `server` ended.
    fn observe(&self, server: &Server, outcome: &AttemptOutcome, now: Instant) {
        let _ = (server, outcome, now);
    }
}

/// What may be picked for one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// All members of the pool.
    pub members: &'a [Member],
    /// Servers that this request has tried in vain.
    pub tried: &'a [u64],
    /// FNV-1a state after the text that stands for the client.
    pub key: u64,
    /// The time.
    pub now: Instant,
}

impl Field<'_> {
    /// Whether the member at `index` may be picked: it has a weight, is up and has not been tried.
    pub fn offers(&self, index: usize) -> bool {
        let member = &self.members[index];
        member.weight > 0 && member.server.is_up(self.now) && !self.tried.contains(&member.server.id())
    }

    /// Indexes of all members that may be picked.
    pub fn offered(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|index| self.offers(*index))
    }

    /// One that may be picked, by weighted lots over all of them: for when a strategy's quick way finds none.
    pub fn draw(&self) -> Option<usize> {
        wheel::draw(|| self.offered().map(|index| (index, self.members[index].weight)))
    }
}

/// Spreads the bits of `x`: FNV's last bytes barely reach its upper bits.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::super::server::{self, FNV_START, fnv1a};
    use super::super::transport::{self, Transport};
    use super::*;

    /// Members at 10.0.0.1, 10.0.0.2 … with these weights, all up.
    pub(crate) fn members(weights: &[u32]) -> Vec<Member> {
        let transport = Transport::build(&transport::Settings::default()).unwrap();
        let build = |(at, weight): (usize, &u32)| {
            let url = format!("http://10.0.{}.{}:80", at / 250, at % 250 + 1);
            let settings = server::Settings { url: url.into(), weight: 1, preserve_path: false };
            Member::new(Arc::new(Server::build(&settings, &transport).unwrap()), *weight, None)
        };
        weights.iter().enumerate().map(build).collect()
    }

    pub(crate) fn field(members: &[Member]) -> Field<'_> {
        Field { members, tried: &[], key: FNV_START, now: Instant::now() }
    }

    pub(crate) const ALL: [Kind; 7] =
        [Kind::Wrr, Kind::P2c, Kind::Hrw, Kind::LeastTime, Kind::Random, Kind::Ketama, Kind::Drr];

    fn counts(kind: Kind, members: &[Member], tried: &[u64], picks: usize) -> Vec<usize> {
        let strategy = AnyStrategy::new(kind, members);
        let mut counts = vec![0; members.len()];
        for pick in 0..picks {
            let key = fnv1a(FNV_START, format!("192.0.2.{pick}").as_bytes());
            if let Some(index) = strategy.pick(&Field { tried, key, ..field(members) }) {
                counts[index] += 1;
            }
        }
        counts
    }

    #[test]
    fn each_spreads_by_weight_within_its_own_tolerance() {
        for (kind, tolerance) in
            [(Kind::Wrr, 0.002), (Kind::Drr, 0.002), (Kind::Random, 0.05), (Kind::Hrw, 0.25), (Kind::Ketama, 0.35)]
        {
            let members = members(&[1, 2, 5]);
            // So many that for `random` the tolerance is six times the standard deviation of the smallest share.
            let counts = counts(kind, &members, &[], 128_000);
            for (count, share) in counts.iter().zip([16_000.0, 32_000.0, 80_000.0]) {
                let off = (*count as f64 - share).abs() / share;
                assert!(off <= tolerance, "{kind:?} {counts:?}");
            }
        }
    }

    #[test]
    fn none_picks_the_drained_the_down_or_the_tried() {
        for kind in ALL {
            let members = members(&[1, 0, 3, 1, 1]);
            members[3].server.health.set(false);
            let tried = [members[4].server.id()];
            let counts = counts(kind, &members, &tried, 1_000);
            assert_eq!([counts[1], counts[3], counts[4]], [0; 3], "{kind:?} {counts:?}");
            assert_eq!(counts[0] + counts[2], 1_000, "{kind:?} {counts:?}");
            // With nothing in flight, the heavier is always expected to answer sooner.
            assert!(counts[0] > 0 && counts[2] > 0 || kind == Kind::LeastTime, "{kind:?} {counts:?}");
        }
    }

    #[test]
    fn none_picks_when_there_is_nothing() {
        for kind in ALL {
            assert_eq!(AnyStrategy::new(kind, &[]).pick(&field(&[])), None, "{kind:?}");
            let drained = members(&[0, 0]);
            assert_eq!(AnyStrategy::new(kind, &drained).pick(&field(&drained)), None, "{kind:?}");
            let down = members(&[1, 1]);
            down.iter().for_each(|member| member.server.health.set(false));
            assert_eq!(AnyStrategy::new(kind, &down).pick(&field(&down)), None, "{kind:?}");
        }
    }

    #[test]
    fn the_last_of_many_is_found() {
        for kind in ALL {
            let members = members(&[1; 300]);
            members.iter().skip(1).for_each(|member| member.server.health.set(false));
            assert_eq!(counts(kind, &members, &[], 50)[0], 50, "{kind:?}");
        }
    }
}
