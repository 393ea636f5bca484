//! What is known of each certificate in force that names a responder: who is looked at when, and who is asked about next. However
//! many there are, only those are looked at that something has happened to. Touches neither clock nor network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::known::{Known, State, Turn};
use super::queue::{Queue, Responder};
use super::{Asked, Fingerprint, LOOKS_EVERY, Moment, fingerprint};
use crate::observe::metrics::Staples;
use crate::tls::Certificate;
use crate::tls::ocsp::Verdict;

/// All that are known.
#[derive(Default)]
pub(super) struct Mind {
    all: BTreeMap<Fingerprint, Known>,
    /// When each is looked at, the earliest first.
    agenda: BTreeSet<(Instant, Fingerprint)>,
    queue: Queue,
    count: Staples,
    /// How often one was looked at.
    #[cfg(test)]
    looks: usize,
}

impl Mind {
    /// Takes up these certificates, and forgets all others. `whom` says who is asked in place of a responder.
    pub(super) fn follow<'a>(
        &mut self,
        certificates: impl Iterator<Item = &'a Arc<Certificate>>,
        whom: impl Fn(&str) -> Responder,
        moment: Moment,
    ) {
        let mut before = std::mem::take(&mut self.all);
        for certificate in certificates.filter(|certificate| !certificate.responders().is_empty()) {
            let fingerprint = fingerprint(certificate);
            let known = self.all.entry(fingerprint).or_insert_with(|| match before.remove(&fingerprint) {
                Some(mut known) => {
                    known.certificates.clear();
                    known
                }
                None => Known::new(certificate, &whom, moment.now),
            });
            known.certificates.push(certificate.clone());
        }
        (self.agenda, self.queue, self.count) = Default::default();
        for (fingerprint, known) in &mut self.all {
            // It may be another reading of the same file.
            if matches!(known.state, State::Stapled(_)) {
                known.show();
            }
            match (known.turn, known.first()) {
                (Turn::Asked, Some(first)) => self.queue.is_asked(first),
                // The agenda has it wait again.
                _ => known.turn = Turn::Rests,
            }
            *of_state(&mut self.count, &known.state) += 1;
            known.looked_at = known.next_look(moment);
            self.agenda.extend(known.looked_at.map(|at| (at, *fingerprint)));
        }
    }

    /// Ends what has ended; what is to be asked now, `room` at most.
    pub(super) fn begin(&mut self, room: usize, moment: Moment) -> Vec<Asked> {
        while let Some((at, fingerprint)) = self.agenda.first().copied()
            && at <= moment.now
        {
            self.agenda.pop_first();
            let responder = self.change(fingerprint, moment, |known| {
                let before = known.turn;
                known.look(moment);
                let first = known.first().filter(|_| known.turn == Turn::Waits && before != Turn::Waits);
                first.cloned().map(|first| (first, known.is_insisted_on()))
            });
            match responder.flatten() {
                Some((responder, true)) => self.queue.hurry(&responder, fingerprint),
                Some((responder, false)) => self.queue.wait(&responder, fingerprint),
                None => {}
            }
        }
        let mut begun = Vec::new();
        while begun.len() < room
            && let Some((_, fingerprint)) = self.queue.next()
        {
            let asked = self.change(fingerprint, moment, |known| {
                known.turn = Turn::Asked;
                let (responders, last_word) = (known.responders.clone(), known.last_word);
                Some(Asked { fingerprint, question: known.question.clone()?, responders, last_word })
            });
            begun.extend(asked.flatten());
        }
        begun
    }

    /// Something was said of a certificate, or not. It may be forgotten meanwhile. `chance` is from 0 to 1.
    pub(super) fn note(
        &mut self,
        fingerprint: Fingerprint,
        verdict: Result<Verdict, String>,
        (moment, chance): (Moment, f64),
    ) {
        let asked = self.all.get(&fingerprint).filter(|known| known.turn == Turn::Asked);
        if let Some(responder) = asked.and_then(Known::first) {
            self.queue.is_done(responder);
        }
        self.change(fingerprint, moment, |known| known.note(verdict, moment, chance));
    }

    /// A request has panicked, and the others were ended with it. What breaks down each time must not be begun again each time.
    pub(super) fn break_down(&mut self, now: (Moment, f64)) {
        let asked = self.all.iter().filter(|(_, known)| known.turn == Turn::Asked);
        let asked: Vec<_> = asked.map(|(fingerprint, _)| *fingerprint).collect();
        for fingerprint in asked {
            self.note(fingerprint, Err("a request broke down".to_owned()), now);
        }
    }

    /// What was said of each and holds, with what it is about in front; first of those for which clients insist on it.
    pub(super) fn export(&self, moment: Moment) -> Vec<Vec<u8>> {
        let mut said: Vec<_> = self.all.iter().filter_map(|it| Some((it, it.1.answer(moment)?))).collect();
        said.sort_by_key(|((_, known), _)| !known.is_insisted_on());
        said.into_iter().map(|((fingerprint, _), answer)| [&fingerprint[..], &answer.der].concat()).collect()
    }

    /// Takes over what the process before has exported, as far as it is about certificates in force and believed; how many it was.
    pub(super) fn import(&mut self, exported: &[Vec<u8>], (moment, chance): (Moment, impl Fn() -> f64)) -> usize {
        let read = exported.iter().filter_map(|note| note.split_first_chunk());
        let taken = read.filter(|(fingerprint, answer)| {
            self.change(**fingerprint, moment, |known| known.recall(answer, moment, chance())) == Some(true)
        });
        taken.count()
    }

    /// When to look again.
    pub(super) fn wake(&self, now: Instant) -> Instant {
        let latest = now + LOOKS_EVERY;
        self.agenda.first().map_or(latest, |(at, _)| latest.min(*at))
    }

    /// How they stand.
    pub(super) fn count(&self) -> Staples {
        self.count
    }

    /// Changes what is known of one, and keeps the books.
    fn change<T>(
        &mut self,
        fingerprint: Fingerprint,
        moment: Moment,
        change: impl FnOnce(&mut Known) -> T,
    ) -> Option<T> {
        let known = self.all.get_mut(&fingerprint)?;
        #[cfg(test)]
        {
            self.looks += 1;
        }
        let before = of_state(&mut self.count, &known.state);
        *before = before.saturating_sub(1);
        let changed = change(known);
        *of_state(&mut self.count, &known.state) += 1;
        if let Some(at) = known.looked_at.take() {
            self.agenda.remove(&(at, fingerprint));
        }
        known.looked_at = known.next_look(moment);
        self.agenda.extend(known.looked_at.map(|at| (at, fingerprint)));
        Some(changed)
    }
}

fn of_state<'a>(count: &'a mut Staples, state: &State) -> &'a mut usize {
    match state {
        State::Missing => &mut count.missing,
        State::Stapled(_) => &mut count.valid,
        State::Revoked(_) => &mut count.revoked,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::PrivatePkcs8KeyDer;

    use super::super::AT_ONCE;
    use super::super::queue::AT_ONCE_TO_ONE;
    use super::*;
    use crate::tls::ocsp::Answer;

    const TODAY: i64 = 1_000_000;

    /// As many that are due as there are responders for them, by their numbers.
    fn due(responders: impl Iterator<Item = Responder>, now: Instant) -> Mind {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        // It is its own issuer.
        let chain = vec![made.cert.der().clone(); 2];
        let certificate = Arc::new(Certificate::new(chain, key).unwrap());
        let mut mind = Mind::default();
        for (at, responder) in responders.enumerate() {
            let mut fingerprint = [0; 32];
            fingerprint[..8].copy_from_slice(&at.to_be_bytes());
            let mut known = Known::new(&certificate, |url| url.into(), now);
            known.responders = [responder].into();
            known.certificates.push(certificate.clone());
            known.looked_at = Some(now);
            mind.agenda.insert((now, fingerprint));
            mind.count.missing += 1;
            mind.all.insert(fingerprint, known);
        }
        mind
    }

    fn good(until: i64) -> Result<Verdict, String> {
        Ok(Verdict::Good(Answer { der: [1].into(), this_update: TODAY, next_update: until }))
    }

    #[test]
    fn work_grows_with_the_certificates_and_not_with_their_square() {
        const MANY: usize = 10_000;
        let moment = Moment { now: Instant::now(), today: TODAY };
        for responders in [1, 3, MANY] {
            let mut mind = due((0..MANY).map(|at| (at % responders).to_string().into()), moment.now);
            let (mut under_way, mut done) = (std::collections::VecDeque::new(), 0);
            loop {
                under_way.extend(mind.begin(AT_ONCE - under_way.len(), moment));
                assert!(under_way.len() <= AT_ONCE.min(AT_ONCE_TO_ONE * responders));
                let Some(asked) = under_way.pop_front() else { break };
                let verdict = if done % 2 == 0 { good(TODAY + 86_400) } else { Err("none".to_owned()) };
                mind.note(asked.fingerprint, verdict, (moment, 0.0));
                done += 1;
            }
            assert_eq!(done, MANY, "each is asked about once");
            assert_eq!(mind.count(), Staples { valid: MANY / 2, missing: MANY / 2, revoked: 0 });
            // When it is due, when its turn comes, and when it is answered.
            assert_eq!(mind.looks, 3 * MANY, "{responders} responders");
        }
    }

    #[test]
    fn each_is_looked_at_when_something_is_due_and_not_before() {
        let start = Moment { now: Instant::now(), today: TODAY };
        let later =
            |seconds: u64| Moment { now: start.now + Duration::from_secs(seconds), today: TODAY + seconds as i64 };
        let mut mind = due([Responder::from("a")].into_iter(), start.now);
        let asked = mind.begin(1, start).pop().unwrap();
        assert_eq!(mind.wake(start.now), start.now + LOOKS_EVERY, "it is being asked about");
        mind.note(asked.fingerprint, good(TODAY + 1000), (start, 0.0));
        assert_eq!(mind.wake(start.now), later(500).now);
        assert!(mind.begin(1, later(499)).is_empty());
        let asked = mind.begin(1, later(500)).pop().unwrap();
        // Nobody answers, and it ends.
        assert_eq!(mind.wake(later(500).now), later(1000).now);
        assert!(mind.begin(1, later(1000)).is_empty());
        assert_eq!(mind.count(), Staples { missing: 1, ..Staples::default() });
        mind.note(asked.fingerprint, Err("none".to_owned()), (later(1000), 0.0));
        assert_eq!(mind.wake(later(1000).now), later(1010).now);
        assert_eq!(mind.begin(0, later(1010)).len(), 0, "there is no room");
        assert_eq!(mind.begin(1, later(1011)).len(), 1);
        mind.break_down((later(1011), 0.0));
        assert_eq!(mind.wake(later(1011).now), later(1031).now);
    }
}
