//! The static configuration as it is written now, beside the one that this process runs with.

use super::{App, Start, load};
use crate::config::difference::{self, Difference};
use crate::config::install::Install;
use crate::problem::{Problem, Problems};
use crate::units::environment;

/// Most differences that are told.
const TOLD: usize = 100;

/// What is written now.
pub(super) struct Reread {
    pub(super) written: Install,
    /// What is wrong with it.
    pub(super) problems: Problems,
}

/// What an upgrade would bring.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Settings that wait for an upgrade.
    pub(super) settings: Vec<Difference>,
    /// How many more there are.
    untold: usize,
    /// Whether an upgrade would be refused.
    is_wrong: bool,
    /// What is wrong with what is written, and what of it could not be done.
    pub(super) problems: Problems,
}

impl Reread {
    /// Reads the sources of `app` again. Blocks. `None` if it has none.
    pub(super) fn of(app: &App) -> Option<Self> {
        let loaded = load::install(app.flags.as_deref()?, environment());
        Some(Self { written: loaded.install, problems: loaded.problems })
    }

    /// What is written and not in force. Of what could not be `undone` that is told already, and so are problems among `known`.
    pub(super) fn waiting(
        self,
        app: &App,
        runtime: tokio::runtime::Handle,
        undone: &Problems,
        known: &Problems,
    ) -> Waiting {
        let Self { written, mut problems } = self;
        // Without a file there is nothing to compare with.
        let is_unreadable = problems.iter().any(|problem| problem.is_error() && problem.path.is_empty());
        let mut settings = if is_unreadable { Vec::new() } else { difference::between(&app.install(), &written) };
        settings.retain(|difference| {
            !problems.iter().any(|problem| difference.follows_from(problem))
                && !undone.iter().any(|undone| undone.is_error() && difference.follows_from(&subject_of(undone)))
        });
        if !problems.has_errors() && !settings.is_empty() {
            // What only joining the parts tells, as `check` does.
            match App::new(Start { install: written, ..Start::default() }, runtime) {
                Ok(joined) => problems.extend(joined.check_doors()),
                Err(found) => problems.extend(found),
            }
        }
        let untold = settings.len().saturating_sub(TOLD);
        settings.truncate(TOLD);
        let is_wrong = problems.has_errors();
        problems.extend(undone.iter().cloned());
        let problems = problems.into_iter().filter(|problem| !known.iter().any(|known| known == problem)).collect();
        Waiting { settings, untold, is_wrong, problems }
    }
}

/// What a problem is about: if it is an entry point, all of its settings have stayed as they were.
fn subject_of(problem: &Problem) -> Problem {
    let parts = if problem.path.starts_with("entryPoints.") { 2 } else { usize::MAX };
    let path: Vec<&str> = problem.path.split('.').take(parts).collect();
    Problem::at(path.join("."), "")
}

impl Waiting {
    /// Tells the log.
    pub(super) fn report(&self) {
        for problem in &self.problems {
            if problem.is_error() {
                log::error!("{problem}");
            } else {
                log::warn!("{problem}");
            }
        }
        for difference in &self.settings {
            log::warn!(event = "waiting-for-upgrade", setting = difference.setting; "waits for an upgrade: {difference}");
        }
        if self.untold > 0 {
            log::warn!("{} more settings wait for an upgrade", self.untold);
        }
        if self.is_wrong {
            log::error!("an upgrade would be refused, because the static configuration is wrong");
        }
    }

    /// Each setting that waits, one line each for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> =
            self.settings.iter().map(|waiting| format!("waits for `portcullis upgrade`: {waiting}")).collect();
        if self.untold > 0 {
            lines.push(format!("{} more settings wait for `portcullis upgrade`", self.untold));
        }
        if self.is_wrong {
            lines.push("`portcullis upgrade` would be refused, because the static configuration is wrong".to_owned());
        }
        lines
    }
}
