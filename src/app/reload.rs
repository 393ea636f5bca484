//! A reload: every source is read again, and what may change while the process runs comes into force.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::config::difference::{self, Difference};
use crate::config::following;
use crate::control::Outcome;
use crate::process::command::Answer;

use super::App;
use super::doors::{Doors, Prepared, until_closed};
use super::grip::Grip;
use super::reread::{Reread, Waiting};

/// Most differences that are told.
const TOLD: usize = 100;

/// Reads every source again, applies what may change, and says how it went and what waits for an upgrade.
pub(super) async fn reload(app: &Arc<App>, doors: &Arc<Doors>) -> Answer {
    let turn = app.pipeline.turn().await;
    let (app, doors, runtime) = (app.clone(), doors.clone(), Handle::current());
    let loaded = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        Loaded::now(&app, &doors, runtime)
    });
    match loaded.await {
        Ok(loaded) => {
            // Whoever is told that it is over shall find it so.
            until_closed(&loaded.closed).await;
            loaded.answer()
        }
        Err(error) => Answer::refused(format!("the reload failed: {error}")),
    }
}

/// How a reload went.
struct Loaded {
    outcome: Outcome,
    /// Settings that have come into force.
    changed: Vec<Difference>,
    /// Whether all entry points are as they are written, or else will be.
    is_whole: bool,
    /// Entry points that are closed by it.
    closed: Vec<Grip>,
    waiting: Waiting,
}

impl Loaded {
    /// Reads and applies everything. Blocks.
    fn now(app: &App, doors: &Doors, runtime: Handle) -> Self {
        let running = app.install();
        let reread = Reread::of(app);
        let wanted = match &reread {
            Some(reread) => following::install(&running, &reread.written, &reread.problems),
            None => (*running).clone(),
        };
        let prepared = match wanted == *running && doors.is_all_open() {
            true => Prepared::nothing(running.clone()),
            false => doors.prepare(wanted),
        };
        let changed = difference::between(&running, &prepared.install);
        if !changed.is_empty() {
            app.follow(prepared.install.clone());
        }
        // The routes come first: nobody shall meet an entry point that knows none.
        let outcome = app.load();
        let undone = prepared.problems.clone();
        let closed = doors.replace(prepared, &running);
        for difference in &changed {
            log::info!(event = "setting-changed", setting = difference.setting; "in force: {difference}");
        }
        let waiting = reread.map(|reread| reread.waiting(app, runtime, &undone, &outcome.problems)).unwrap_or_default();
        waiting.report();
        Self { outcome, changed, is_whole: !undone.has_errors(), closed, waiting }
    }

    fn answer(self) -> Answer {
        let Self { outcome, changed, is_whole, waiting, .. } = self;
        let message = format!(
            "configuration {} is in force: {} routers, {} problems, {} ms",
            outcome.generation,
            outcome.routers,
            outcome.problems.len(),
            outcome.took.as_millis()
        );
        let answer = match (outcome.read, is_whole) {
            (true, true) => Answer::done(message),
            (true, false) => Answer::refused(format!("{message}; not all entry points are as they are written")),
            (false, _) => Answer::refused("the configuration cannot be read; the last good one stays in force"),
        };
        let mut in_force: Vec<String> =
            changed.iter().take(TOLD).map(|difference| format!("in force: {difference}")).collect();
        if changed.len() > TOLD {
            in_force.push(format!("{} more settings are in force", changed.len() - TOLD));
        }
        let answer = answer
            .with_problems(&outcome.problems)
            .with_problems(&waiting.problems)
            .with_notices(in_force)
            .with_notices(waiting.lines());
        let mut detail = serde_json::Map::new();
        for (key, differences) in [("changed", &changed), ("waiting", &waiting.settings)] {
            if !differences.is_empty() {
                let told = differences.iter().take(TOLD).collect::<Vec<_>>();
                detail.insert(key.to_owned(), serde_json::json!(told));
            }
        }
        if detail.is_empty() { answer } else { answer.with_detail(detail.into()) }
    }
}
