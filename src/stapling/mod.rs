//! OCSP answers for the certificates in force: got from their responders, kept while they hold, and shown in handshakes.
//!
//! One task has all of them in mind (`mind.rs`). Handshakes only read what it has put to a certificate (`tls/certificate.rs`), and never show
//! an answer that has ended, whatever the task does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode, Uri};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::install::Ocsp;
use crate::control::Status;
use crate::observe::metrics::{Metrics, ResponderAnswer};
use crate::problem::Problem;
use crate::tls::ocsp::{ANSWER_LIMIT_BYTES, Question, Verdict};
use crate::tls::{Authorities, Certificate};
use crate::web::Web;

mod known;
mod last_word;
mod mind;
mod plan;
mod queue;

use last_word::LastWord;
use mind::Mind;
use queue::Responder;

/// Most requests at once.
const AT_ONCE: usize = 16;
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
    mind: Mutex<Mind>,
}

/// A moment by both clocks.
#[derive(Clone, Copy)]
struct Moment {
    now: Instant,
    /// In seconds of Unix time.
    today: i64,
}

/// What is asked, and whom.
struct Asked {
    fingerprint: Fingerprint,
    question: Arc<Question>,
    responders: Arc<[Responder]>,
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
        Ok(Self { overrides: settings.responder_overrides.clone(), web, status, metrics, mind: Mutex::default() })
    }

    /// What was said of certificates and still holds, for a successor: one note about each.
    pub fn export(&self) -> Vec<Vec<u8>> {
        self.mind.lock().export(Moment::now())
    }

    /// Takes over what a predecessor has exported, before it is asked about: what is about certificates in force and believed. What is no
    /// such thing is left out.
    pub fn import(&self, exported: &[Vec<u8>]) {
        self.follow();
        let taken = self.mind.lock().import(exported, (Moment::now(), fastrand::f64));
        if taken > 0 {
            log::info!(event = "staples-inherited", certificates = taken; "what authorities said to the process before of {taken} certificates still holds");
        }
    }

    /// Goes on as long as the process does.
    pub async fn run(self: Arc<Self>) {
        let mut changes = self.status.changes();
        let mut tasks = JoinSet::new();
        self.follow();
        loop {
            let wake = self.step(&mut tasks);
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => return,
                },
                Some(done) = tasks.join_next() => match done {
                    Ok(done) => self.note(done),
                    Err(error) => {
                        log::error!("asking OCSP responders failed: {error}");
                        // Nobody knows which one it was.
                        tasks.shutdown().await;
                        self.mind.lock().break_down((Moment::now(), fastrand::f64()));
                    }
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Takes up the certificates that are in force now, and forgets those that are not.
    fn follow(&self) {
        let Some(applied) = self.status.applied() else { return };
        let whom = |url: &str| self.overrides.get(url).map_or(url, |other| &**other).into();
        self.mind.lock().follow(applied.certificates.all(), whom, Moment::now());
    }

    /// Ends what has ended, begins what is due; when to look again.
    fn step(self: &Arc<Self>, tasks: &mut JoinSet<Done>) -> Instant {
        let (moment, mut mind) = (Moment::now(), self.mind.lock());
        for asked in mind.begin(AT_ONCE.saturating_sub(tasks.len()), moment) {
            tasks.spawn(self.clone().ask(asked));
        }
        self.metrics.set_staples(mind.count());
        mind.wake(moment.now)
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
        question.judge(&answer.body, Moment::now().today)
    }

    fn note(&self, Done { fingerprint, verdict }: Done) {
        self.metrics.responder_answered(match &verdict {
            Ok(Verdict::Good(_)) => ResponderAnswer::Good,
            Ok(Verdict::Revoked { .. }) => ResponderAnswer::Revoked,
            Err(_) => ResponderAnswer::Failed,
        });
        self.mind.lock().note(fingerprint, verdict, (Moment::now(), fastrand::f64()));
    }
}

impl Moment {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { now: Instant::now(), today: i64::try_from(since.as_secs()).unwrap_or(i64::MAX) }
    }

    /// How long it is until a moment in seconds of Unix time; nothing if that is past.
    fn until(self, time: i64) -> Duration {
        Duration::from_secs(time.saturating_sub(self.today).max(0).unsigned_abs())
    }
}

fn fingerprint(certificate: &Certificate) -> Fingerprint {
    certificate.chain().iter().fold(Sha256::new(), |digest, der| digest.chain_update(der)).finalize().into()
}
