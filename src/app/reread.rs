//! The static configuration as it is written now, beside the one that this process runs with. Reading it again changes nothing.

use super::{App, Start, load};
use crate::config::difference::{self, Difference};
use crate::problem::Problems;
use crate::units::environment;

/// Most differences that are told.
const TOLD: usize = 100;

/// What an upgrade would bring.
#[derive(Debug, Default)]
pub(super) struct Reread {
    /// Settings that wait for an upgrade.
    pub(super) waiting: Vec<Difference>,
    /// How many more there are.
    pub(super) untold: usize,
    /// What is wrong with what is written. With an error among it, an upgrade would be refused.
    pub(super) problems: Problems,
}

impl Reread {
    /// Reads the sources of `app` again. Blocks. Problems among `known` are told already.
    pub(super) fn of(app: &App, runtime: tokio::runtime::Handle, known: &Problems) -> Self {
        let Some(flags) = &app.flags else { return Self::default() };
        let loaded = load::install(flags, environment());
        let mut problems = loaded.problems;
        let written = loaded.install;
        // Without a file there is nothing to compare with.
        let is_unreadable = problems.iter().any(|problem| problem.is_error() && problem.path.is_empty());
        let mut waiting = if is_unreadable { Vec::new() } else { difference::between(&app.install, &written) };
        waiting.retain(|difference| !problems.iter().any(|problem| difference.follows_from(problem)));
        if !problems.has_errors() && !waiting.is_empty() {
            // What only joining the parts tells, as `check` does.
            match App::new(Start { install: written, ..Start::default() }, runtime) {
                Ok(joined) => problems.extend(joined.check_doors()),
                Err(found) => problems.extend(found),
            }
        }
        let untold = waiting.len().saturating_sub(TOLD);
        waiting.truncate(TOLD);
        let problems = problems.into_iter().filter(|problem| !known.iter().any(|known| known == problem)).collect();
        Self { waiting, untold, problems }
    }

    /// Tells the log.
    pub(super) fn report(&self) {
        for problem in &self.problems {
            if problem.is_error() {
                log::error!("{problem}");
            } else {
                log::warn!("{problem}");
            }
        }
        for difference in &self.waiting {
            log::warn!(event = "waiting-for-upgrade", setting = difference.setting; "waits for an upgrade: {difference}");
        }
        if self.untold > 0 {
            log::warn!("{} more settings wait for an upgrade", self.untold);
        }
        if self.problems.has_errors() {
            log::error!("an upgrade would be refused, because the static configuration is wrong");
        }
    }

    /// Each setting that waits, one line each for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> =
            self.waiting.iter().map(|waiting| format!("waits for `portcullis upgrade`: {waiting}")).collect();
        if self.untold > 0 {
            lines.push(format!("{} more settings wait for `portcullis upgrade`", self.untold));
        }
        if self.problems.has_errors() {
            lines.push("`portcullis upgrade` would be refused, because the static configuration is wrong".to_owned());
        }
        lines
    }
}
