//! Looks again whenever something may have changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;

use super::File;
use super::burst::QUIET;
use super::ears::{Ears, Heard};
use super::state::{Patience, SETTLE};
use crate::control::Updates;
use crate::problem::Problem;

/// Looks this often although nothing was heard, to be sure.
const SLOW_POLL: Duration = Duration::from_secs(5);
/// Looks this often where changes may not be heard.
const FAST_POLL: Duration = Duration::from_secs(1);

/// Starts to look for changes on the runtime that the caller is in.
pub(super) fn start(file: Arc<File>, updates: Updates) -> Result<(), Problem> {
    let runtime = Handle::try_current().map_err(|error| Problem::at("providers.file.watch", error.to_string()))?;
    let heard = Arc::new(Heard::default());
    let ears = Ears::new(heard.clone());
    runtime.spawn(run(file, updates, heard, ears));
    Ok(())
}

/// Looks for changes until the runtime ends.
pub(super) async fn run(file: Arc<File>, updates: Updates, heard: Arc<Heard>, mut ears: Ears) {
    loop {
        let (file, updates) = (file.clone(), updates.clone());
        // Files are read where that may take its time.
        let looked = spawn_blocking(move || {
            let refreshed = file.refresh(&updates, Patience::Until(Instant::now()));
            let is_new = ears.listen(&file.source, &refreshed.found);
            let pause = match (refreshed.unsettled, is_new) {
                // What happened before we listened was not heard.
                (_, true) => QUIET,
                (true, false) => SETTLE,
                (false, false) if ears.are_deaf() => FAST_POLL,
                (false, false) => SLOW_POLL,
            };
            (ears, pause)
        });
        let pause;
        (ears, pause) = match looked.await {
            Ok(looked) => looked,
            Err(error) if error.is_panic() => {
                log::error!("reading the configuration failed: {error}");
                (Ears::new(heard.clone()), SLOW_POLL)
            }
            // The runtime shuts down.
            Err(_) => return,
        };
        wait(&heard, Instant::now() + pause).await;
    }
}

/// Waits until `latest`, or until a burst of changes is over.
async fn wait(heard: &Heard, latest: Instant) {
    loop {
        let due = heard.burst.lock().due().map_or(latest, |due| due.min(latest));
        if due <= Instant::now() {
            heard.burst.lock().clear();
            return;
        }
        tokio::select! {
            () = sleep_until(due.into()) => {}
            () = heard.news.notified() => {}
        }
    }
}
