//! The process log behind the `log` facade: one sink that never blocks a worker.

mod settings;

pub use settings::{Format, Level, Settings};
