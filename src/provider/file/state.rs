//! What is known of each file, and what a look at all of them changes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::found::{Found, problem_at};
use super::joined::{Part, join};
use super::places::Places;
use super::stamp::Stamp;
use super::written::Raw;
use super::{NAME, Source};
use crate::config::{Routing, load};
use crate::problem::{Problem, Problems};

/// Largest size of all files together, in bytes.
const TOTAL_LIMIT_BYTES: u64 = 1 << 30;
/// What looks half-written is looked at again after so long before it is believed.
pub(super) const SETTLE: Duration = Duration::from_millis(150);
/// A file that has become empty is most likely being written; hardly anybody means it.
const SETTLE_BLANK: Duration = Duration::from_secs(1);

/// Whether a file that looks half-written gets time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// What is found counts, and every file is read.
    None,
    /// Files that seem to be in the making at this time are left for a later look; unchanged ones are not read.
    Until(Instant),
}

impl Patience {
    /// Whether to wait before believing what is doubtful since then.
    fn waits(self, doubtful: &mut Option<Instant>, settle: Duration) -> bool {
        let Self::Until(now) = self else { return false };
        let since = *doubtful.get_or_insert(now);
        now.saturating_duration_since(since) < settle
    }
}

/// What a look has found.
#[derive(Debug)]
pub(super) struct Refreshed {
    pub(super) found: Found,
    /// Whether another look is needed soon, because something looked half-written.
    pub(super) unsettled: bool,
    changed: bool,
    removed: bool,
}

/// What is to be published.
pub(super) struct News {
    pub(super) routing: Arc<Routing>,
    pub(super) problems: Problems,
    pub(super) places: Arc<Places>,
    /// Whether nothing at all could be read.
    pub(super) failed: bool,
}

/// What is known of each file.
#[derive(Debug)]
pub(super) struct State {
    notice: Option<Problem>,
    /// Problems of the last listing.
    listing: Vec<Problem>,
    /// Since when a folder cannot be listed that could be before.
    doubtful: Option<Instant>,
    files: BTreeMap<PathBuf, Known>,
    is_new: bool,
}

/// What is known of one file.
#[derive(Debug, Default)]
struct Known {
    /// Set if the last version is read, and a look would show if there was another.
    stamp: Option<Stamp>,
    /// The last version that could be read.
    good: Option<Good>,
    /// Why the last version could not be read.
    failure: Option<Problems>,
    /// Since when it looks half-written, or is gone.
    doubtful: Option<Instant>,
    /// Whether it was not there at the last look.
    is_gone: bool,
}

#[derive(Debug)]
struct Good {
    routing: Arc<Routing>,
    digest: u64,
    is_blank: bool,
    problems: Problems,
}

impl State {
    /// Nothing is known yet. `notice` is said with every publication.
    pub(super) fn new(notice: Option<Problem>) -> Self {
        Self { notice, listing: Vec::new(), doubtful: None, files: BTreeMap::new(), is_new: true }
    }

    /// Looks at all files and reads those that changed.
    pub(super) fn refresh(&mut self, source: &Source, log_template: bool, patience: Patience) -> Refreshed {
        let mut refreshed = Refreshed {
            found: Found::of(source),
            changed: std::mem::take(&mut self.is_new),
            removed: false,
            unsettled: false,
        };
        self.take_listing(&mut refreshed, patience);
        self.forget_missing(&mut refreshed, patience);
        let mut total = 0;
        for path in &refreshed.found.files {
            let known = self.files.entry(path.clone()).or_default();
            let is_back = std::mem::take(&mut known.is_gone);
            let look = known.look(path, &mut total, (log_template, patience));
            refreshed.changed |= is_back || look == Look::Changed;
            refreshed.unsettled |= look == Look::Unsettled;
        }
        refreshed
    }

    /// What is to be published after a look, if anything.
    pub(super) fn news<'s>(&'s self, refreshed: &Refreshed) -> Option<News> {
        if !refreshed.changed {
            return None;
        }
        let part = |(path, known): (&'s PathBuf, &'s Known)| {
            let good = known.good.as_ref()?;
            Some(Part { path, routing: &good.routing, is_gone: known.is_gone })
        };
        let mut parts = self.files.iter().filter_map(part).collect::<Vec<_>>();
        parts.sort_by_key(|part| part.is_gone);
        let (routing, twice) = join(&parts);
        let mut problems = Problems::new();
        problems.extend(self.notice.clone());
        problems.extend(self.listing.iter().cloned());
        for known in self.files.values() {
            let said = known.failure.as_ref().or(known.good.as_ref().map(|good| &good.problems));
            problems.extend(said.into_iter().flatten().cloned());
        }
        problems.extend(twice);
        let places = parts.iter().map(|part| (part.path.to_owned(), part.routing.clone())).collect();
        let nothing_found = refreshed.found.folders.is_empty() && refreshed.found.files.is_empty();
        let all_failed = !self.files.is_empty() && self.files.values().all(|known| known.failure.is_some());
        Some(News {
            routing,
            problems,
            places: Arc::new(Places::new(places)),
            failed: (nothing_found || all_failed) && !refreshed.removed,
        })
    }

    /// A folder may be moved away for a moment too.
    fn take_listing(&mut self, refreshed: &mut Refreshed, patience: Patience) {
        let problems = &refreshed.found.problems;
        if self.listing == *problems {
            self.doubtful = None;
        } else if !problems.is_empty() && patience.waits(&mut self.doubtful, SETTLE) {
            refreshed.unsettled = true;
        } else {
            self.doubtful = None;
            self.listing.clone_from(problems);
            refreshed.changed = true;
        }
    }

    /// Drops files that are gone for good: an editor may remove a file for a moment.
    fn forget_missing(&mut self, refreshed: &mut Refreshed, patience: Patience) {
        let found = &refreshed.found;
        let (mut unsettled, mut removed) = (false, false);
        self.files.retain(|path, known| {
            if found.files.binary_search(path).is_ok() || found.is_hidden(path) {
                return true;
            }
            let waits = patience.waits(&mut known.doubtful, SETTLE);
            known.is_gone = true;
            unsettled |= waits;
            removed |= !waits;
            waits
        });
        refreshed.unsettled |= unsettled;
        refreshed.removed |= removed;
        refreshed.changed |= removed;
    }
}

/// What a look at one file has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Same,
    Changed,
    Unsettled,
}

impl Known {
    fn look(&mut self, path: &Path, total: &mut u64, (log_template, patience): (bool, Patience)) -> Look {
        let now = SystemTime::now();
        let stamp = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
        *total += stamp.map_or(0, Stamp::length);
        if stamp.is_some() && self.stamp == stamp && matches!(patience, Patience::Until(_)) {
            self.doubtful = None;
            return Look::Same;
        }
        let read = if *total > TOTAL_LIMIT_BYTES {
            let message = format!("is not read: the files together are larger than {TOTAL_LIMIT_BYTES} bytes");
            Err(problem_at(path, message).into())
        } else {
            self.read(path, log_template)
        };
        let was_blank = self.good.as_ref().is_none_or(|good| good.is_blank);
        let settle = match &read {
            Ok(Version::New(good)) if good.is_blank && !was_blank => Some(SETTLE_BLANK),
            Ok(_) => None,
            Err(_) => Some(SETTLE),
        };
        if settle.is_some_and(|settle| patience.waits(&mut self.doubtful, settle)) {
            self.stamp = None;
            return Look::Unsettled;
        }
        self.doubtful = None;
        self.stamp = stamp.filter(|stamp| stamp.is_certain(now));
        self.take(read)
    }

    fn read(&self, path: &Path, log_template: bool) -> Result<Version, Problems> {
        let raw = Raw::read(path)?;
        let (digest, is_blank) = (raw.digest, raw.is_blank());
        if self.good.as_ref().is_some_and(|good| good.digest == digest) {
            return Ok(Version::Same);
        }
        let written = raw.evaluate()?;
        if log_template && written.is_template {
            log::debug!("{}: generated from its template:\n{}", path.display(), written.text);
        }
        let (mut routing, problems) = load::published(&written.text, written.format, &written.source, NAME)?;
        if let Some(last) = &self.good {
            routing = routing.sharing(&last.routing);
        }
        Ok(Version::New(Good { routing: Arc::new(routing), digest, is_blank, problems }))
    }

    fn take(&mut self, read: Result<Version, Problems>) -> Look {
        match read {
            Ok(Version::Same) => match self.failure.take() {
                Some(_) => Look::Changed,
                None => Look::Same,
            },
            Ok(Version::New(good)) => {
                self.failure = None;
                self.good = Some(good);
                Look::Changed
            }
            Err(problems) => {
                let stays = self.good.is_some();
                let said = problems.into_iter().map(|problem| match stays && problem.help.is_none() {
                    true => problem.with_help("what was read before stays in force"),
                    false => problem,
                });
                let failure = Some(said.collect());
                if self.failure == failure {
                    return Look::Same;
                }
                self.failure = failure;
                Look::Changed
            }
        }
    }
}

enum Version {
    Same,
    New(Good),
}
