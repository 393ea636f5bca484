//! What is known of one certificate, and what follows from what its authority says. Touches neither clock nor network.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::last_word::LastWord;
use super::queue::Responder;
use super::{LOOKS_EVERY, Moment, plan};
use crate::tls::Certificate;
use crate::tls::ocsp::{Answer, Question, Verdict};

/// Most responders of one certificate that are tried.
const RESPONDERS: usize = 4;

/// What is known of a certificate.
pub(super) struct Known {
    /// The same one may be written in several places.
    pub(super) certificates: Vec<Arc<Certificate>>,
    /// `None`: nobody can be asked.
    pub(super) question: Option<Arc<Question>>,
    /// Whom to ask, at least one.
    pub(super) responders: Arc<[Responder]>,
    pub(super) state: State,
    pub(super) last_word: LastWord,
    pub(super) turn: Turn,
    /// When it stands in the agenda.
    pub(super) looked_at: Option<Instant>,
    failures: u32,
    again: Instant,
}

#[derive(Debug)]
pub(super) enum State {
    Missing,
    Stapled(Answer),
    Revoked(Answer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is not time to ask.
    Rests,
    /// It is, and others are asked about.
    Waits,
    Asked,
}

impl Known {
    /// One of which nothing is known. `whom` says who is asked in place of a responder.
    pub(super) fn new(certificate: &Certificate, whom: impl Fn(&str) -> Responder, now: Instant) -> Self {
        let question = Question::about(certificate).inspect_err(|message| warn(certificate, message, None));
        Self {
            certificates: Vec::new(),
            question: question.ok().map(Arc::new),
            responders: certificate.responders().iter().take(RESPONDERS).map(|url| whom(url)).collect(),
            state: State::Missing,
            last_word: LastWord::default(),
            turn: Turn::Rests,
            looked_at: None,
            failures: 0,
            again: now,
        }
    }

    /// Who is asked before others; `None` if nobody can be.
    pub(super) fn first(&self) -> Option<&Responder> {
        self.responders.first().filter(|_| self.question.is_some())
    }

    /// Ends what has ended, and has it wait for its turn if it is time to ask.
    pub(super) fn look(&mut self, moment: Moment) {
        if let State::Stapled(answer) = &self.state
            && moment.until(answer.next_update).is_zero()
        {
            self.lapse();
        }
        if self.turn == Turn::Rests && self.again <= moment.now && self.first().is_some() {
            self.turn = Turn::Waits;
        }
    }

    /// When to look at it next.
    pub(super) fn next_look(&self, moment: Moment) -> Option<Instant> {
        let end = match &self.state {
            State::Stapled(answer) => Some(moment.now + moment.until(answer.next_update).min(LOOKS_EVERY)),
            State::Missing | State::Revoked(_) => None,
        };
        let again = (self.turn == Turn::Rests && self.first().is_some()).then_some(self.again);
        end.into_iter().chain(again).min()
    }

    /// Something was said, or not. `chance` is from 0 to 1.
    pub(super) fn note(&mut self, verdict: Result<Verdict, String>, moment: Moment, chance: f64) {
        if self.turn == Turn::Asked {
            self.turn = Turn::Rests;
        }
        // What was asked for may have come meanwhile in another way.
        let wait = match verdict.and_then(|verdict| self.last_word.heed(verdict)) {
            Ok(verdict) => {
                let wait = self.believe(verdict, moment, chance);
                self.tell(wait);
                wait
            }
            Err(message) => {
                self.failures = self.failures.saturating_add(1);
                let wait = plan::after_failure(self.failures, chance);
                if let Some(certificate) = self.certificates.first() {
                    // Once loudly: thousands may have the same responder.
                    match self.failures {
                        1 => warn(certificate, &message, Some(wait)),
                        _ => log::debug!("no OCSP answer for {}: {message}", names(certificate)),
                    }
                }
                wait
            }
        };
        self.again = moment.now + wait;
    }

    /// What the process before was told. Whether that is believed.
    pub(super) fn recall(&mut self, answer: &[u8], moment: Moment, chance: f64) -> bool {
        let Some(question) = &self.question else { return false };
        let heeded = question.judge(answer, moment.today).and_then(|verdict| self.last_word.heed(verdict));
        let Ok(verdict) = heeded else { return false };
        self.again = moment.now + self.believe(verdict, moment, chance);
        true
    }

    /// The answer that counts, if it still does.
    pub(super) fn answer(&self, moment: Moment) -> Option<&Answer> {
        let answer = match &self.state {
            State::Stapled(answer) | State::Revoked(answer) => answer,
            State::Missing => return None,
        };
        (!moment.until(answer.next_update).is_zero()).then_some(answer)
    }

    /// Whether clients were told to insist on an answer.
    pub(super) fn is_insisted_on(&self) -> bool {
        self.certificates.iter().any(|certificate| certificate.must_staple())
    }

    /// Shows what there is to show from now on; how long it is good enough.
    fn believe(&mut self, verdict: Verdict, moment: Moment, chance: f64) -> Duration {
        self.failures = 0;
        self.last_word.is(&verdict);
        let answer = verdict.answer();
        let wait = plan::after_answer(moment.today, answer.this_update, answer.next_update, chance);
        self.state = match verdict {
            Verdict::Good(answer) => State::Stapled(answer),
            Verdict::Revoked { at, answer } => {
                self.tell_of_revocation(at);
                State::Revoked(answer)
            }
        };
        self.show();
        wait
    }

    /// Shows clients what there is.
    pub(super) fn show(&self) {
        let answer = match &self.state {
            State::Stapled(answer) => Some((&*answer.der, answer.next_update)),
            State::Missing | State::Revoked(_) => None,
        };
        for certificate in &self.certificates {
            certificate.staple(answer);
        }
    }

    /// The answer has ended, and there is no newer one.
    fn lapse(&mut self) {
        self.state = State::Missing;
        self.show();
        if let Some(certificate) = self.certificates.first() {
            warn(certificate, "the last one has ended, and there is no newer one", None);
        }
    }

    fn tell(&self, wait: Duration) {
        if let (State::Stapled(answer), Some(certificate)) = (&self.state, self.certificates.first()) {
            let names = names(certificate);
            log::info!(
                event = "staple-obtained", names = names, next_update = answer.next_update, again_in_seconds = wait.as_secs();
                "the certificate for {names} is good, says its authority: that is stapled"
            );
        }
    }

    fn tell_of_revocation(&self, at: i64) {
        if let Some(certificate) = self.certificates.first() {
            let names = names(certificate);
            log::error!(
                event = "certificate-revoked", names = names, revoked_at = at;
                "the certificate for {names} was REVOKED by its authority: clients that look will refuse it; replace it"
            );
        }
    }
}

fn warn(certificate: &Certificate, message: &str, again: Option<Duration>) {
    let names = names(certificate);
    let insists =
        if certificate.must_staple() { "; clients were told to insist on one, and may refuse it" } else { "" };
    log::warn!(
        event = "staple-failed", names = names, must_staple = certificate.must_staple(),
        again_in_seconds = again.map(|again| again.as_secs());
        "no OCSP answer for the certificate for {names}: {message}{insists}"
    );
}

fn names(certificate: &Certificate) -> String {
    match certificate.names() {
        [] => certificate.subject().to_owned(),
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_is_not_taken_back_by_an_older_answer() {
        let moment = Moment { now: Instant::now(), today: 1_000_000 };
        let certificate = crate::tls::fallback::certificate().unwrap();
        let mut known = Known::new(&certificate, |url| url.into(), moment.now);
        let answer = |age: i64| Answer { der: [1].into(), this_update: 1_000_000 - age, next_update: 1_001_000 };
        known.note(Ok(Verdict::Good(answer(100))), moment, 0.0);
        assert!(matches!(known.state, State::Stapled(_)));
        known.note(Ok(Verdict::Revoked { at: 0, answer: answer(50) }), moment, 0.0);
        for age in [100, 50] {
            known.note(Ok(Verdict::Good(answer(age))), moment, 0.0);
            assert!(matches!(known.state, State::Revoked(_)), "{age}");
        }
        assert_eq!(known.failures, 2);
        known.note(Ok(Verdict::Good(answer(49))), moment, 0.0);
        assert!(matches!(known.state, State::Stapled(_)) && known.failures == 0);
    }
}
