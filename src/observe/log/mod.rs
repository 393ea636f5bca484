//! The process log behind the `log` facade: one sink that never blocks a worker.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ::log::{LevelFilter, Log, Metadata, Record};
use arc_swap::ArcSwapOption;

use crate::problem::Problem;

use super::calendar::{self, Moment};
use super::output::Output;
use super::rotation::Rotation;
use super::writer::{Limits, LineWriter};

mod line;
mod settings;

pub use settings::{Format, Level, Settings};

use line::{Style, is_ours, push_line};

/// Lines that wait for the disk, in bytes: some ten thousand.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);
const MEGABYTE: u64 = 1024 * 1024;
/// What Traefik's rotation takes for `maxSize: 0`.
const DEFAULT_MAX_SIZE: u64 = 100;
const DAY_SECONDS: u64 = 86_400;

/// Writes what is left when it drops. `main` keeps it.
#[derive(Debug)]
#[must_use = "lines that wait are lost at exit unless the guard drops before"]
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        flush();
    }
}

/// Takes the facade, without settings and without a thread: lines go straight to standard error, from `INFO` on.
///
/// For the time before the configuration is read. Must be called before any thread is started, which is when local time
/// can be asked for.
pub fn begin() {
    calendar::local_offset_seconds();
    // An error means that the facade is taken: by us, before.
    if ::log::set_logger(&*SINK).is_ok() {
        ::log::set_max_level(LevelFilter::Info);
    }
}

/// Takes the facade and writes as `settings` say. May be called again with others.
///
/// # Errors
/// The file cannot be opened; what was set before stays.
pub fn install(settings: &Settings) -> Result<Guard, Problem> {
    begin();
    SINK.configure(settings)?;
    ::log::set_max_level(settings.level.filter());
    Ok(Guard(()))
}

/// Changes the level while running.
pub fn set_level(level: Level) {
    ::log::set_max_level(level.filter());
}

/// Opens the file again, after somebody has renamed it.
///
/// # Errors
/// Why it could not be opened; lines go on to the old file.
pub fn reopen() -> io::Result<()> {
    SINK.state.load().as_ref().map_or(Ok(()), |state| state.writer.reopen(FLUSH_PATIENCE))
}

/// Waits until the lines so far are written, for two seconds at most.
pub fn flush() {
    SINK.flush();
}

/// How many lines were lost, because the destination took none or was too slow.
pub fn dropped() -> u64 {
    SINK.dropped.load(Ordering::Relaxed)
}

static SINK: std::sync::LazyLock<Sink> = std::sync::LazyLock::new(Sink::default);

/// The one place where lines of the facade go.
#[derive(Debug, Default)]
struct Sink {
    state: ArcSwapOption<State>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    writer: Arc<LineWriter>,
    style: Style,
}

impl Sink {
    fn configure(&self, settings: &Settings) -> Result<(), Problem> {
        let unwritable = |error: io::Error| Problem::at("filePath", format!("cannot be written: {error}"));
        let output = Output::at(&settings.file_path, rotation(settings)).map_err(unwritable)?;
        let writer = match self.state.load().as_ref() {
            Some(state) => {
                state.writer.replace(output).map_err(unwritable)?;
                state.writer.clone()
            }
            None => {
                let limits = Limits { shards: 1, bytes: QUEUE_BYTES };
                Arc::new(LineWriter::start("log", output, limits, self.dropped.clone()).map_err(unwritable)?)
            }
        };
        self.state.store(Some(Arc::new(State { writer, style: style(settings) })));
        Ok(())
    }

    fn say(&self, record: &Record<'_>, level: ::log::Level) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let write = |line: &mut Vec<u8>| {
            line.clear();
            let state = self.state.load();
            let style = state.as_ref().map_or_else(Style::default, |state| state.style);
            push_line(line, style, record, (level, Moment::of(SystemTime::now())));
            match state.as_ref() {
                Some(state) => state.writer.push(line),
                None => drop(io::stderr().write_all(line)),
            }
        };
        // A `Display` that logs while it is being logged finds the buffer taken.
        LINE.with(|line| match line.try_borrow_mut() {
            Ok(mut line) => write(&mut line),
            Err(_) => write(&mut Vec::new()),
        });
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        said_at(metadata).is_some_and(|level| level <= ::log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        match said_at(record.metadata()) {
            Some(level) if level <= ::log::max_level() => self.say(record, level),
            _ => {}
        }
    }

    fn flush(&self) {
        if let Some(state) = self.state.load().as_ref() {
            let _ = state.writer.flush(FLUSH_PATIENCE);
        }
    }
}

/// Modules that warn of what a client or a server did: whoever wants to fill our disk could. We count these things, and say
/// what matters of them ourselves.
const CHATTERERS: [&str; 9] = [
    "pingora_proxy",
    "pingora_core::apps",
    "pingora_core::connectors",
    "pingora_core::protocols",
    "pingora_core::services::listening",
    "pingora_load_balancing",
    "pingora_pool",
    "h2",
    "rustls",
];

/// The level at which a line is said, if at all.
///
/// Debug and trace lines of dependencies never are: they show header fields, and with them credentials.
fn said_at(metadata: &Metadata<'_>) -> Option<::log::Level> {
    use ::log::Level::{Debug, Error, Info, Trace, Warn};
    let target = metadata.target();
    if is_ours(target) {
        return Some(metadata.level());
    }
    let within =
        |module: &str| target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    match metadata.level() {
        Debug | Trace => None,
        Info => Some(Debug),
        Warn | Error if CHATTERERS.iter().any(|module| within(module)) => Some(Debug),
        level => Some(level),
    }
}

fn rotation(settings: &Settings) -> Option<Rotation> {
    let or_none = |number: u64| (number > 0).then_some(number);
    Some(Rotation {
        max_bytes: or_none(settings.max_size).unwrap_or(DEFAULT_MAX_SIZE).saturating_mul(MEGABYTE),
        max_age: or_none(settings.max_age).map(|days| Duration::from_secs(days.saturating_mul(DAY_SECONDS))),
        max_backups: or_none(settings.max_backups).and_then(|count| usize::try_from(count).ok()),
        compress: settings.compress,
    })
}

fn style(settings: &Settings) -> Style {
    let to_stdout = settings.file_path.is_empty();
    let terminal = to_stdout && io::stdout().is_terminal();
    let json = settings.format.map_or(!terminal, |format| format == Format::Json);
    let colours = terminal && !json && !settings.no_color && std::env::var_os("NO_COLOR").is_none();
    Style { json, colours, priorities: to_stdout && is_journal() }
}

/// Whether the journal reads standard output: then it names the stream in the environment, as device and inode.
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() else { return false };
    let metadata = std::fs::File::from(stdout).metadata();
    metadata.is_ok_and(|metadata| stream == format!("{}:{}", metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests;
