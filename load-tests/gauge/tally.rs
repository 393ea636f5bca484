//! What was done, how long each unit took, and what failed.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::{Duration, Instant};

/// Most times that are remembered; a run that has more goes on counting.
const MAX_TIMES: usize = 1 << 24;
/// A pause after a failure, so that a proxy that is not there is not asked a million times.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// The count of one run.
pub(crate) struct Tally {
    began: Instant,
    until: Instant,
    patience: Duration,
    /// Microseconds.
    times: RefCell<Vec<u32>>,
    done: Cell<u64>,
    failed: Cell<u64>,
}

impl Tally {
    /// For a run of so long. A unit that takes longer than `patience` has failed.
    pub(crate) fn new(duration: Duration, patience: Duration) -> Self {
        let began = Instant::now();
        Self {
            began,
            until: began + duration,
            patience,
            times: RefCell::default(),
            done: Cell::new(0),
            failed: Cell::new(0),
        }
    }

    /// When the run is over.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Repeats a unit of work until the time is up, and counts.
    pub(crate) async fn repeat(&self, mut unit: impl AsyncFnMut() -> io::Result<()>) {
        while Instant::now() < self.until {
            let began = Instant::now();
            let result = tokio::time::timeout(self.patience, unit()).await;
            match result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(()) => self.took(began.elapsed()),
                Err(error) => {
                    self.fail(&error);
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Counts work that has no single units.
    pub(crate) fn add(&self, units: u64) {
        self.done.set(self.done.get() + units);
    }

    /// Counts a failure; the first is told.
    pub(crate) fn fail(&self, error: &io::Error) {
        if self.failed.replace(self.failed.get() + 1) == 0 {
            eprintln!("gauge: {error}");
        }
    }

    fn took(&self, time: Duration) {
        self.add(1);
        let mut times = self.times.borrow_mut();
        if times.len() < MAX_TIMES {
            times.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// Prints a line for each figure; what is done is counted in units of so many.
    pub(crate) fn tell(&self, units_of: u64) {
        let done = self.done.get() as f64 / units_of as f64;
        println!("done {done:.0}");
        println!("rate {:.2}", done / self.began.elapsed().as_secs_f64());
        let mut times = self.times.borrow_mut();
        times.sort_unstable();
        for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
            if let Some(micros) = times.get((times.len() as f64 * part) as usize) {
                println!("{name} {:.3}", f64::from(*micros) / 1000.0);
            }
        }
        println!("failed {}", self.failed.get());
    }
}
