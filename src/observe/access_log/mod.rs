//! One line per request, in Traefik's formats.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::problem::Problem;

use super::calendar;
use super::output::Output;
use super::shard::{self, Padded};
use super::writer::{Limits, LineWriter};

mod connection;
mod field;
mod format;
mod headers;
mod record;
mod settings;

pub use connection::ConnectionRecord;
pub use field::Field;
pub use record::{Origin, Record, Request, Response, Routed, Tls, Trace};
pub use settings::{Fields, Filters, Format, HeaderMode, Headers, Mode, QueryParameters, Settings};

use format::Layout;

/// Bytes that wait for the disk, at least.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// And at most, whatever `bufferingSize` says.
const MAX_QUEUE_BYTES: usize = 256 * 1024 * 1024;
/// Bytes for which a line of `bufferingSize` stands.
const LINE_BYTES: usize = 512;
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// The access log. A line costs the request well below a microsecond; the disk is a thread's own business.
#[derive(Debug)]
pub struct AccessLog {
    layout: Layout,
    filters: Filters,
    add_internals: bool,
    /// Requests so far, those that no line shows included.
    count: Padded<AtomicU64>,
    writer: LineWriter,
}

impl AccessLog {
    /// Opens the file and starts the writing thread. Lines that cannot be written are counted in `dropped`;
    /// `threads` is how many threads will log.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(settings: &Settings, threads: usize, dropped: Arc<AtomicU64>) -> Result<Self, Problem> {
        let unwritable = |error: io::Error| Problem::at("filePath", format!("cannot be written: {error}"));
        let output = Output::at(&settings.file_path, None).map_err(unwritable)?;
        let shards = shard::count(threads);
        let wished = usize::try_from(settings.buffering_size).unwrap_or(usize::MAX).saturating_mul(LINE_BYTES);
        let limits = Limits { shards, bytes: wished.clamp(QUEUE_BYTES, MAX_QUEUE_BYTES) / shards };
        Ok(Self {
            layout: Layout::new(settings.format, &settings.fields, calendar::local_offset_seconds()),
            filters: settings.filters.clone(),
            add_internals: settings.add_internals,
            count: Padded::default(),
            writer: LineWriter::start("access-log", output, limits, dropped).map_err(unwritable)?,
        })
    }

    /// Writes a line about a request, unless the filters keep it out. Never waits.
    pub fn log(&self, record: &Record<'_>) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        if record.internal && !self.add_internals {
            return;
        }
        let count = self.count.0.fetch_add(1, Ordering::Relaxed) + 1;
        if !is_wanted(&self.filters, record) {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.layout.push_line(line, record, count);
            self.writer.push(line);
        });
    }

    /// Writes a line about a TCP connection. Filters that speak of requests let it through if they ask for nothing else than a
    /// duration that it has. Never waits.
    pub fn log_connection(&self, record: &ConnectionRecord<'_>) {
        let filters = &self.filters;
        let is_short = filters.min_duration.positive().is_some_and(|limit| record.duration <= limit);
        let asks_for_requests = !filters.status_codes.is_empty() || filters.retry_attempts;
        if is_short || (asks_for_requests && filters.min_duration.positive().is_none()) {
            return;
        }
        let mut line = Vec::with_capacity(512);
        self.layout.push_connection(&mut line, record);
        self.writer.push(&line);
    }

    /// Opens the file again, after somebody has renamed it.
    ///
    /// # Errors
    /// Why it could not be opened; lines go on to the old file.
    pub fn reopen(&self) -> io::Result<()> {
        self.writer.reopen(FLUSH_PATIENCE)
    }

    /// Waits until the lines so far are written, for two seconds at most. Dropping does the same.
    pub fn flush(&self) {
        // The only error is that time is up, and the lines that are lost then are counted by whoever reads the log.
        let _ = self.writer.flush(FLUSH_PATIENCE);
    }
}

/// Whether any filter lets the request through, or there is none.
fn is_wanted(filters: &Filters, record: &Record<'_>) -> bool {
    let min_duration = filters.min_duration.positive();
    if filters.status_codes.is_empty() && !filters.retry_attempts && min_duration.is_none() {
        return true;
    }
    filters.status_codes.iter().any(|range| range.contains(record.response.status))
        || filters.retry_attempts && record.retries > 0
        || min_duration.is_some_and(|limit| record.duration > limit)
}

#[cfg(test)]
mod tests;
