//! OCSP answers for the certificates in force: got from their responders, kept while they hold, and shown in handshakes.
//!
//! One task has all of them in mind. Handshakes only read what it has put to a certificate (`tls/certificate.rs`), and never show
//! an answer that has ended, whatever the task does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode, Uri};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::install::Ocsp;
use crate::control::Status;
use crate::observe::metrics::{Metrics, ResponderAnswer, Staples};
use crate::problem::Problem;
use crate::tls::ocsp::{ANSWER_LIMIT_BYTES, Answer, Question, Verdict};
use crate::tls::{Authorities, Certificate};
use crate::web::Web;

mod last_word;
mod plan;

use last_word::LastWord;

/// Most requests at once.
const AT_ONCE: usize = 16;
/// Most of them to one responder: one that hangs must not keep the others waiting.
const AT_ONCE_TO_ONE: usize = 4;
/// Most responders of one certificate that are tried.
const RESPONDERS: usize = 4;
/// How long a responder may take, as in Traefik.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// It is looked at least so often, whatever is due: clocks may be set.
const LOOKS_EVERY: Duration = Duration::from_secs(3600);

/// A certificate and its issuers, as a digest.
type Fingerprint = [u8; 32];

/// Gets OCSP answers.
pub struct Stapler {
    overrides: BTreeMap<Box<str>, Box<str>>,
    web: Web,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
}

/// What is known of each certificate in force that names a responder.
type Mind = BTreeMap<Fingerprint, Known>;

struct Known {
    /// The same one may be written in several places.
    certificates: Vec<Arc<Certificate>>,
    /// `None`: nobody can be asked.
    question: Option<Arc<Question>>,
    /// Whom to ask.
    responders: Arc<[Box<str>]>,
    state: State,
    last_word: LastWord,
    failures: u32,
    again: Instant,
    is_asked: bool,
}

enum State {
    Missing,
    Stapled(Answer),
    Revoked,
}

/// What is asked, and whom.
struct Asked {
    fingerprint: Fingerprint,
    question: Arc<Question>,
    responders: Arc<[Box<str>]>,
    last_word: LastWord,
}

/// What came of a request.
struct Done {
    fingerprint: Fingerprint,
    verdict: Result<Verdict, String>,
}

impl Stapler {
    /// One that follows what is in force.
    ///
    /// # Errors
    /// If TLS cannot be spoken.
    pub fn new(settings: &Ocsp, status: Arc<Status>, metrics: Arc<Metrics>) -> Result<Self, Problem> {
        let system = crate::web::system_authorities();
        let web = Web {
            authorities: Authorities::new(&[], &system)?,
            server_name: None,
            whole: Some(ANSWERS_WITHIN),
            head: Some(ANSWERS_WITHIN),
            limit_bytes: ANSWER_LIMIT_BYTES,
        };
        Ok(Self { overrides: settings.responder_overrides.clone(), web, status, metrics })
    }

    /// Goes on as long as the process does.
    pub async fn run(self: Arc<Self>) {
        let mut changes = self.status.changes();
        let mut mind = Mind::new();
        let mut tasks = JoinSet::new();
        self.follow(&mut mind);
        loop {
            let wake = self.step(&mut mind, &mut tasks);
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => self.follow(&mut mind),
                    Err(_) => return,
                },
                Some(done) = tasks.join_next() => match done {
                    Ok(done) => self.note(&mut mind, done),
                    Err(error) => {
                        log::error!("asking OCSP responders failed: {error}");
                        // Nobody knows which one it was.
                        tasks.shutdown().await;
                        break_down(&mut mind);
                    }
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Takes up the certificates that are in force now, and forgets those that are not.
    fn follow(&self, mind: &mut Mind) {
        let Some(applied) = self.status.applied() else { return };
        let mut before = std::mem::take(mind);
        for certificate in applied.certificates.all().filter(|certificate| !certificate.responders().is_empty()) {
            let fingerprint = fingerprint(certificate);
            let known = mind.entry(fingerprint).or_insert_with(|| match before.remove(&fingerprint) {
                Some(known) => Known { certificates: Vec::new(), ..known },
                None => self.begin(certificate),
            });
            // It may be another reading of the same file.
            if let State::Stapled(answer) = &known.state {
                certificate.staple(Some((&answer.der, answer.next_update)));
            }
            known.certificates.push(certificate.clone());
        }
    }

    fn begin(&self, certificate: &Certificate) -> Known {
        let named = certificate.responders().iter().take(RESPONDERS);
        let responders = named.map(|url| self.overrides.get(url).unwrap_or(url).clone()).collect();
        let question = Question::about(certificate);
        let question = question.inspect_err(|message| warn(certificate, message, None)).ok().map(Arc::new);
        let again = Instant::now();
        Known {
            certificates: Vec::new(),
            question,
            responders,
            state: State::Missing,
            last_word: LastWord::default(),
            failures: 0,
            again,
            is_asked: false,
        }
    }

    /// Ends what has ended, begins what is due; when to look again.
    fn step(self: &Arc<Self>, mind: &mut Mind, tasks: &mut JoinSet<Done>) -> Instant {
        let (now, today) = (Instant::now(), seconds());
        let mut wake = now + LOOKS_EVERY;
        let mut count = Staples::default();
        let mut asked = BTreeMap::<Box<str>, usize>::new();
        for first in mind.values().filter(|known| known.is_asked).filter_map(Known::first) {
            *asked.entry(first.into()).or_default() += 1;
        }
        for (fingerprint, known) in mind {
            if let State::Stapled(answer) = &known.state {
                let left = Duration::from_secs(answer.next_update.saturating_sub(today).max(0).unsigned_abs());
                wake = wake.min(now + left.min(LOOKS_EVERY));
                if left.is_zero() {
                    known.lapse();
                }
            }
            match known.state {
                State::Missing => count.missing += 1,
                State::Stapled(_) => count.valid += 1,
                State::Revoked => count.revoked += 1,
            }
            let Some(question) = known.question.clone().filter(|_| !known.is_asked) else { continue };
            if known.again > now {
                wake = wake.min(known.again);
                continue;
            }
            // Who has to wait for others is looked at again when one of them is done.
            let Some(first) = known.first() else { continue };
            let to_one = asked.entry(first.into()).or_default();
            if tasks.len() < AT_ONCE && *to_one < AT_ONCE_TO_ONE {
                *to_one += 1;
                known.is_asked = true;
                let (responders, last_word) = (known.responders.clone(), known.last_word);
                tasks.spawn(self.clone().ask(Asked { fingerprint: *fingerprint, question, responders, last_word }));
            }
        }
        self.metrics.set_staples(count);
        wake
    }

    async fn ask(self: Arc<Self>, asked: Asked) -> Done {
        let Asked { fingerprint, question, responders, last_word } = asked;
        let mut verdict = Err("names no responder".to_owned());
        for url in &*responders {
            let answer = self.ask_one(&question, url).await.and_then(|verdict| last_word.heed(verdict));
            verdict = answer.map_err(|error| format!("{url}: {error}"));
            if verdict.is_ok() {
                break;
            }
        }
        Done { fingerprint, verdict }
    }

    async fn ask_one(&self, question: &Question, url: &str) -> Result<Verdict, String> {
        let uri = url.parse::<Uri>().map_err(|error| error.to_string())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("is no URL of HTTP".to_owned());
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(CONTENT_TYPE, "application/ocsp-request")
            .header(ACCEPT, "application/ocsp-response")
            .body(Bytes::copy_from_slice(question.request()))
            .map_err(|error| error.to_string())?;
        let answer = self.web.send(request).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("answers {}", answer.status));
        }
        question.judge(&answer.body, seconds())
    }

    fn note(&self, mind: &mut Mind, Done { fingerprint, verdict }: Done) {
        self.metrics.responder_answered(match &verdict {
            Ok(Verdict::Good(_)) => ResponderAnswer::Good,
            Ok(Verdict::Revoked { .. }) => ResponderAnswer::Revoked,
            Err(_) => ResponderAnswer::Failed,
        });
        // The certificate may be gone meanwhile.
        if let Some(known) = mind.get_mut(&fingerprint) {
            known.note(verdict);
        }
    }
}

impl Known {
    /// Who is asked before others.
    fn first(&self) -> Option<&str> {
        self.responders.first().map(|url| &**url)
    }

    fn note(&mut self, verdict: Result<Verdict, String>) {
        let (now, chance) = (Instant::now(), fastrand::f64());
        self.is_asked = false;
        // The one that was asked may have been heard of meanwhile from elsewhere.
        let wait = match verdict.and_then(|verdict| self.last_word.heed(verdict)) {
            Ok(verdict) => {
                let answer = verdict.answer();
                let wait = plan::after_answer(seconds(), answer.this_update, answer.next_update, chance);
                self.failures = 0;
                self.last_word.is(&verdict);
                self.believe(verdict, wait);
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
        self.again = now + wait;
    }

    /// Shows what there is to show from now on. It is asked for again in `wait`.
    fn believe(&mut self, verdict: Verdict, wait: Duration) {
        match verdict {
            Verdict::Good(answer) => {
                self.show(Some(&answer));
                self.tell(|names| {
                    log::info!(
                        event = "staple-obtained", names = names, next_update = answer.next_update,
                        again_in_seconds = wait.as_secs();
                        "the certificate for {names} is good, says its authority: that is stapled"
                    );
                });
                self.state = State::Stapled(answer);
            }
            Verdict::Revoked { at, .. } => {
                self.show(None);
                self.tell(|names| {
                    log::error!(
                        event = "certificate-revoked", names = names, revoked_at = at;
                        "the certificate for {names} was REVOKED by its authority: clients that look will refuse it; replace it"
                    );
                });
                self.state = State::Revoked;
            }
        }
    }

    /// The answer has ended, and there is no newer one.
    fn lapse(&mut self) {
        self.state = State::Missing;
        self.show(None);
        if let Some(certificate) = self.certificates.first() {
            warn(certificate, "the last one has ended, and there is no newer one", None);
        }
    }

    fn show(&self, answer: Option<&Answer>) {
        for certificate in &self.certificates {
            certificate.staple(answer.map(|answer| (&*answer.der, answer.next_update)));
        }
    }

    fn tell(&self, line: impl Fn(&str)) {
        if let Some(certificate) = self.certificates.first() {
            line(&names(certificate));
        }
    }
}

/// A request has panicked, and the others were ended with it. What breaks down each time must not be begun again each time.
fn break_down(mind: &mut Mind) {
    for known in mind.values_mut().filter(|known| known.is_asked) {
        known.note(Err("a request broke down".to_owned()));
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

fn fingerprint(certificate: &Certificate) -> Fingerprint {
    certificate.chain().iter().fold(Sha256::new(), |digest, der| digest.chain_update(der)).finalize().into()
}

/// Now, in seconds of Unix time.
fn seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            certificates: vec![crate::tls::fallback::certificate().unwrap()],
            question: None,
            responders: [].into(),
            state: State::Missing,
            last_word: LastWord::default(),
            failures: 0,
            again: Instant::now(),
            is_asked: true,
        }
    }

    #[test]
    fn a_revocation_is_not_taken_back_by_an_older_answer() {
        let now = seconds();
        let answer = |age: i64| Answer { der: [1].into(), this_update: now - age, next_update: now + 1000 };
        let mut known = known();
        known.note(Ok(Verdict::Good(answer(100))));
        assert!(matches!(known.state, State::Stapled(_)));
        known.note(Ok(Verdict::Revoked { at: now - 50, answer: answer(50) }));
        for age in [100, 50] {
            known.note(Ok(Verdict::Good(answer(age))));
            assert!(matches!(known.state, State::Revoked), "{age}");
        }
        assert_eq!(known.failures, 2);
        known.note(Ok(Verdict::Good(answer(49))));
        assert!(matches!(known.state, State::Stapled(_)) && known.failures == 0);
    }
}
