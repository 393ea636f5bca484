//! Trying passwords: away from the workers, once for all who ask the same, and not again soon after it was right.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::recent::Recent;
use super::users::{Candidate, PasswordHash, User};

/// How long a password that was right is not hashed again.
const PROVEN_FOR: Duration = Duration::from_secs(300);
/// Most right passwords that are remembered, per middleware.
const PROVEN_LIMIT: usize = 8_192;
/// Most different passwords that are being tried or wait for it, per middleware.
const TRIED_LIMIT: usize = 64;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many hashes are computed at the same time in the whole process: half the cores, so that a flood of passwords leaves
/// room for everything else.
static HASHING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new((cores / 2).max(1)))
});

/// Tries passwords.
pub(crate) struct PasswordCheck {
    /// Fingerprints of what was right, and when.
    proven: Recent<Instant>,
    running: Mutex<HashMap<u128, Arc<OnceCell<bool>>, ahash::RandomState>>,
    #[cfg(test)]
    pub(crate) computed: Arc<std::sync::atomic::AtomicUsize>,
}

/// Too many passwords are being tried already, or trying this one took too long.
#[derive(Debug, PartialEq)]
pub(crate) struct Busy;

impl PasswordCheck {
    pub(crate) fn new() -> Self {
        Self {
            proven: Recent::new(PROVEN_LIMIT, PROVEN_FOR),
            running: Mutex::default(),
            #[cfg(test)]
            computed: Arc::default(),
        }
    }

    /// Whether `password` proves that the client is the candidate. `claim` is a fingerprint of realm, name, hash and
    /// password.
    ///
    /// # Errors
    /// [`Busy`]; nothing is known then.
    pub(crate) async fn proves(
        &self,
        claim: u128,
        candidate: Candidate<'_>,
        password: &[u8],
        now: Instant,
    ) -> Result<bool, Busy> {
        let hash = match candidate {
            Candidate::Known(user) => &user.hash,
            Candidate::Decoy(hash) => hash,
        };
        if !hash.is_slow() {
            self.count();
            return Ok(hash.is_of(password) & matches!(candidate, Candidate::Known(_)));
        }
        if self.was_proven(claim, now) {
            return Ok(true);
        }
        // Boxed, for next to hashing a box is nothing, and unboxed it would stand in the future of each request.
        Box::pin(self.once(claim, candidate, password, now)).await
    }

    fn was_proven(&self, claim: u128, now: Instant) -> bool {
        self.proven.update(claim, now, |slot| {
            slot.take_if(|proven| now.saturating_duration_since(*proven) >= PROVEN_FOR);
            slot.is_some()
        })
    }

    /// Computes the hash once for all who make the same claim at the same time.
    async fn once(&self, claim: u128, candidate: Candidate<'_>, password: &[u8], now: Instant) -> Result<bool, Busy> {
        let (Candidate::Known(User { hash, .. }) | Candidate::Decoy(hash)) = candidate;
        let seat = self.join(claim)?;
        // Whoever left the table meanwhile has noted before what it proved.
        if self.was_proven(claim, now) {
            return Ok(true);
        }
        let answer = seat.answer.get_or_try_init(|| self.compute(hash, password));
        let is_right = *tokio::time::timeout(PATIENCE, answer).await.map_err(|_| Busy)??;
        let proves = is_right && matches!(candidate, Candidate::Known(_));
        if proves {
            self.proven.update(claim, now, |slot| *slot = Some(now));
        }
        Ok(proves)
    }

    fn join(&self, claim: u128) -> Result<Seat<'_>, Busy> {
        let mut running = self.running.lock();
        let answer = match running.get(&claim) {
            Some(answer) => Arc::clone(answer),
            None if running.len() >= TRIED_LIMIT => return Err(Busy),
            None => Arc::clone(running.entry(claim).or_default()),
        };
        Ok(Seat { check: self, claim, answer })
    }

    async fn compute(&self, hash: &PasswordHash, password: &[u8]) -> Result<bool, Busy> {
        let permit = Arc::clone(&HASHING).acquire_owned().await.map_err(|_| Busy)?;
        self.count();
        let (hash, password) = (hash.clone(), password.to_vec());
        let computing = tokio::task::spawn_blocking(move || {
            let answer = hash.is_of(&password);
            // Held until the work is done, also when nobody waits for it any more.
            drop(permit);
            answer
        });
        computing.await.map_err(|_| Busy)
    }

    #[allow(clippy::unused_self, reason = "it counts in tests")]
    fn count(&self) {
        #[cfg(test)]
        self.computed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A place among those who wait for one answer; the last one to leave clears the table.
struct Seat<'a> {
    check: &'a PasswordCheck,
    claim: u128,
    answer: Arc<OnceCell<bool>>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut running = self.check.running.lock();
        // Clones are made under this lock only: the table's and ours mean that nobody else is here.
        if Arc::strong_count(&self.answer) <= 2 {
            running.remove(&self.claim);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::users::Users;
    use super::*;
    use crate::units::Secret;

    fn user(text: &str) -> User {
        text.parse().unwrap()
    }

    const ANN: &str = "ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/";

    #[tokio::test]
    async fn a_right_password_is_hashed_once_and_a_wrong_one_each_time() {
        let (check, ann, now) = (PasswordCheck::new(), user(ANN), Instant::now());
        let known = Candidate::Known(&ann);
        for (claim, password, at, expected, computed) in [
            (1, "secret", 0, true, 1),
            (1, "secret", 10, true, 1),
            (2, "wrong", 10, false, 2),
            (2, "wrong", 10, false, 3),
            (1, "secret", 299, true, 3),
            (1, "secret", 300, true, 4),
        ] {
            let answer = check.proves(claim, known, password.as_bytes(), now + Duration::from_secs(at)).await;
            assert_eq!(answer, Ok(expected), "{password} at {at}");
            assert_eq!(check.computed.load(Ordering::Relaxed), computed, "{password} at {at}");
        }
        assert!(check.running.lock().is_empty());
    }

    #[tokio::test]
    async fn an_unknown_user_costs_what_a_known_one_does_and_proves_nothing() {
        for entry in [ANN, "ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="] {
            let users = Users::load(&[Secret::new(entry)], "").unwrap();
            let mut costs = Vec::new();
            for name in ["ann", "nobody"] {
                let check = PasswordCheck::new();
                for (claim, password) in [(1, "wrong"), (2, "wrong too"), (2, "wrong too")] {
                    let candidate = users.candidate(name.as_bytes()).unwrap();
                    assert_eq!(check.proves(claim, candidate, password.as_bytes(), Instant::now()).await, Ok(false));
                }
                costs.push(check.computed.load(Ordering::Relaxed));
            }
            assert_eq!(costs, [3, 3], "{entry}");

            // Not even with the password of the user whose hash is the decoy, and not the second time either.
            let check = PasswordCheck::new();
            for _ in 0..2 {
                let candidate = users.candidate(b"nobody").unwrap();
                assert_eq!(check.proves(9, candidate, b"secret", Instant::now()).await, Ok(false));
            }
            assert_eq!(check.computed.load(Ordering::Relaxed), 2);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn who_asks_the_same_at_the_same_time_shares_the_work() {
        let (check, now) = (Arc::new(PasswordCheck::new()), Instant::now());
        let asking = (0..32).map(|_| {
            let check = Arc::clone(&check);
            tokio::spawn(async move { check.proves(1, Candidate::Known(&user(ANN)), b"secret", now).await })
        });
        for asked in asking.collect::<Vec<_>>() {
            assert_eq!(asked.await.unwrap(), Ok(true));
        }
        assert_eq!(check.computed.load(Ordering::Relaxed), 1);
        assert!(check.running.lock().is_empty());
    }

    #[tokio::test]
    async fn beyond_the_limit_it_is_busy_and_leavers_make_room() {
        let check = PasswordCheck::new();
        let seats: Vec<_> = (0..TRIED_LIMIT as u128).map(|claim| check.join(claim).unwrap()).collect();
        assert_eq!(check.join(1_000).err(), Some(Busy));
        let shared = check.join(0).unwrap();
        drop(seats);
        assert_eq!(check.running.lock().len(), 1);
        drop(shared);
        assert!(check.running.lock().is_empty());
        assert_eq!(check.proves(1_000, Candidate::Known(&user(ANN)), b"secret", Instant::now()).await, Ok(true));
    }

    impl std::fmt::Debug for Seat<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "Seat({})", self.claim)
        }
    }
}
