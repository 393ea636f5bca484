//! What came of a task, and what follows from it.

use tokio::time::Instant;

use super::super::patience::Names;
use super::super::plan;
use super::super::server::Failure;
use super::super::storage::Stored;
use super::{Done, Mind, Resolver, WINDOW_AGAIN, Wish, Work, seconds};
use crate::tls::Chain;

impl Resolver {
    pub(super) fn note(&self, mind: &mut Mind, done: Done) {
        let now = Instant::now();
        match done {
            Done::Asked { certificate, result } => {
                mind.asking.retain(|name| *name != certificate);
                let before = mind.windows.get(&certificate).and_then(|wish| wish.window);
                let (window, again) = match result {
                    Ok(Some((window, again))) => {
                        // One moment for one window, however often it is asked for.
                        let drawn = || (window, window.moment(fastrand::f64()));
                        let wish = before.filter(|(known, _)| *known == window).unwrap_or_else(drawn);
                        (Some(wish), again)
                    }
                    Ok(None) => (before, WINDOW_AGAIN),
                    Err(failure) => {
                        log::debug!("certificate resolver {}: no time to renew: {failure}", self.name);
                        (before, WINDOW_AGAIN)
                    }
                };
                mind.windows.insert(certificate, Wish { window, again: now + again });
            }
            Done::Ordered { names, result } => {
                mind.running.retain(|running| *running != names);
                match result {
                    Ok((stored, saved)) => self.note_certificate(mind, names, stored, saved),
                    Err(failure) => self.note_failure(mind, names, failure),
                }
            }
        }
    }

    fn note_certificate(&self, mind: &mut Mind, names: Names, stored: Stored, saved: Result<(), String>) {
        let chain = stored.pem().and_then(|(text, _)| Chain::read(&text).ok()).unwrap_or_default();
        mind.patience.succeeded(names.clone(), (Instant::now(), seconds()), plan::rest(&chain));
        log::info!(
            event = "certificate-obtained", resolver = &*self.name, names = names.join(","), not_after = chain.not_after,
            renew_at = plan::renew_at(&chain, self.settings.certificates_duration);
            "a certificate for {} was obtained", names.join(", ")
        );
        if let Err(message) = saved {
            log::error!("certificate resolver {}: {}: {message}", self.name, self.storage.path().display());
            mind.unsaved.retain(|other| other.domain != stored.domain);
            mind.unsaved.push(stored);
        }
    }

    pub(super) fn note_failure(&self, mind: &mut Mind, names: Names, failure: Failure) {
        let now = (Instant::now(), seconds());
        let (failures, pause) = mind.patience.failed(names.clone(), failure.clone(), now, fastrand::f64());
        log::warn!(
            event = "certificate-failed", resolver = &*self.name, names = names.join(","), failures = failures,
            again_in_seconds = pause.as_secs();
            "no certificate for {}: {failure}; next attempt in {} s", names.join(", "), pause.as_secs()
        );
    }

    /// A task has panicked.
    pub(super) fn note_breakdown(&self, mind: &mut Mind, work: Option<Work>) {
        match work {
            // What breaks down each time must not be ordered each time.
            Some(Work::Order(names)) => {
                mind.running.retain(|running| *running != names);
                self.note_failure(mind, names, Failure::Ours("the order broke down".to_owned()));
            }
            Some(Work::Ask(certificate)) => {
                mind.asking.retain(|name| *name != certificate);
                mind.windows.insert(certificate, Wish { window: None, again: Instant::now() + WINDOW_AGAIN });
            }
            None => {}
        }
    }
}
