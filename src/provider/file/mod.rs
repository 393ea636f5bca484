//! Configuration from a file, or from all files of a folder.
//!
//! Traefik drops a whole folder when one of its files is bad. Here each file stands for itself: of a bad one, the last
//! good version stays in force, and the others apply.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Provider;
use crate::control::Updates;
use crate::problem::Problem;

mod burst;
mod ears;
mod found;
mod joined;
mod places;
mod stamp;
mod state;
mod trail;
mod watch;
mod written;

use state::{Patience, Refreshed, State};

/// Name of this provider.
pub const NAME: &str = "file";

/// `providers.file`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The file to read. Relative to the working directory.
    pub filename: PathBuf,
    /// The folder whose files are read, with its sub-folders. If set, `filename` is not read.
    pub directory: PathBuf,
    /// Whether changes apply as soon as they are written.
    pub watch: bool,
    /// Whether what templates make is logged at level `DEBUG`.
    pub debug_log_generated_template: bool,
}

impl Settings {
    /// Reads a single file.
    pub fn only(path: &Path) -> Self {
        Self { filename: path.to_owned(), ..Self::default() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { filename: PathBuf::new(), directory: PathBuf::new(), watch: true, debug_log_generated_template: false }
    }
}

/// What is read.
#[derive(Clone, Debug)]
enum Source {
    File(PathBuf),
    Folder(PathBuf),
}

/// The provider `file`.
pub struct File {
    source: Source,
    settings: Settings,
    state: Mutex<State>,
}

impl File {
    /// A provider that has not read anything yet.
    ///
    /// # Errors
    /// Settings that leave nothing to read. The path is relative to `providers.file`.
    pub fn new(settings: Settings) -> Result<Self, Problem> {
        let is_set = |path: &Path| !path.as_os_str().is_empty();
        let source = match (is_set(&settings.directory), is_set(&settings.filename)) {
            (true, _) => Source::Folder(settings.directory.clone()),
            (false, true) => Source::File(settings.filename.clone()),
            (false, false) => {
                let problem = Problem::at("", "there is nothing to read");
                return Err(problem.with_help("set `filename` or `directory`"));
            }
        };
        let both = is_set(&settings.directory) && is_set(&settings.filename);
        let notice = Problem::warning("providers.file.filename", "is not read, because `directory` is set");
        let state = State::new(both.then_some(notice));
        Ok(Self { source, settings, state: Mutex::new(state) })
    }

    /// Looks for changes and publishes them.
    fn refresh(&self, updates: &Updates, patience: Patience) -> Refreshed {
        let mut state = self.state.lock();
        let refreshed = state.refresh(&self.source, self.settings.debug_log_generated_template, patience);
        if let Some(news) = state.news(&refreshed) {
            // Still under the lock, so that an older state never overtakes a newer one.
            if news.failed {
                updates.fail(news.problems);
            } else {
                updates.publish(news.routing, news.problems, Some(news.places));
            }
        }
        refreshed
    }
}

impl Provider for File {
    fn name(&self) -> &str {
        NAME
    }

    fn read(&self, updates: &Updates) {
        self.refresh(updates, Patience::None);
    }

    fn watch(self: Arc<Self>, updates: Updates) -> Result<(), Problem> {
        if !self.settings.watch {
            return Ok(());
        }
        watch::start(self, updates)
    }
}

#[cfg(test)]
mod tests;
