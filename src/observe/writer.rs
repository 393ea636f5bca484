//! One thread that writes lines for everyone: whoever has a line leaves it in a buffer and goes on, whatever the disk does.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::output::Output;
use super::shard::{self, Padded};

/// How long the thread lets lines gather before it writes them: one wake-up serves many lines.
const GATHER: Duration = Duration::from_millis(10);
/// How long the end of the process waits for a destination that takes nothing.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Buffers that a burst has made larger are given back.
const KEPT_CAPACITY: usize = 256 * 1024;

/// A bounded queue of lines and the thread that empties it.
#[derive(Debug)]
pub(crate) struct LineWriter {
    queue: Arc<Queue>,
    thread: Thread,
}

/// How many lines may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Buffers; as many as threads that write often.
    pub(crate) shards: usize,
    /// Bytes that may wait in each of them.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Queue {
    shards: Box<[Padded<Mutex<Lines>>]>,
    /// Bytes that may wait in each shard.
    limit: usize,
    /// Numbers lines, so that lines of several shards can be put back into order.
    next: Padded<AtomicU64>,
    dropped: Arc<AtomicU64>,
    /// Whether the thread will look at the shards without being woken.
    awake: AtomicBool,
    errands: Mutex<VecDeque<Errand>>,
}

#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    /// Number and length of each line.
    index: Vec<(u64, u32)>,
}

impl Lines {
    fn clear(&mut self) {
        self.text.clear();
        self.index.clear();
        if self.text.capacity() > KEPT_CAPACITY {
            self.text.shrink_to(KEPT_CAPACITY);
            self.index.shrink_to(KEPT_CAPACITY / 64);
        }
    }
}

/// What else the thread is asked to do, with where to say that it is done.
#[derive(Debug)]
enum Errand {
    Replace(Box<Output>, SyncSender<io::Result<()>>),
    Reopen(SyncSender<io::Result<()>>),
    Flush(SyncSender<io::Result<()>>),
    Stop(SyncSender<io::Result<()>>),
}

impl LineWriter {
    /// Starts the thread. Lines that find no room, or that the destination does not take, are counted in `dropped`.
    pub(crate) fn start(name: &str, output: Output, limits: Limits, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            shards: (0..limits.shards.max(1)).map(|_| Padded::default()).collect(),
            limit: limits.bytes,
            next: Padded::default(),
            dropped,
            awake: AtomicBool::new(true),
            errands: Mutex::default(),
        });
        let mut worker = Worker { queue: queue.clone(), output, spare: Vec::new(), merged: Vec::new(), failing: false };
        let handle = thread::Builder::new().name(name.to_owned()).spawn(move || worker.run())?;
        Ok(Self { queue, thread: handle.thread().clone() })
    }

    /// Leaves one line, which ends in a newline. Never waits for the destination.
    pub(crate) fn push(&self, line: &[u8]) {
        let queue = &*self.queue;
        let mut lines = queue.any_shard();
        if lines.text.len() + line.len() > queue.limit {
            drop(lines);
            queue.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The number is taken under the lock: within a shard the numbers rise.
        let number = queue.next.0.fetch_add(1, Ordering::Relaxed);
        lines.text.extend_from_slice(line);
        lines.index.push((number, line.len() as u32));
        let nearly_full = lines.text.len() > queue.limit / 2;
        drop(lines);
        if !queue.awake.load(Ordering::SeqCst) && !queue.awake.swap(true, Ordering::SeqCst) || nearly_full {
            self.thread.unpark();
        }
    }

    /// Opens the destination again after all lines left so far.
    ///
    /// # Errors
    /// Why it could not be opened; lines go on to the old file then.
    pub(crate) fn reopen(&self, patience: Duration) -> io::Result<()> {
        self.ask(Errand::Reopen, patience)
    }

    /// Goes on with another destination after all lines left so far.
    pub(crate) fn replace(&self, output: Output) -> io::Result<()> {
        self.ask(|done| Errand::Replace(Box::new(output), done), LAST_WORDS)
    }

    /// Waits until all lines left so far are written, but no longer than `patience`.
    pub(crate) fn flush(&self, patience: Duration) -> io::Result<()> {
        self.ask(Errand::Flush, patience)
    }

    fn ask(&self, errand: impl FnOnce(SyncSender<io::Result<()>>) -> Errand, patience: Duration) -> io::Result<()> {
        let (done, answer) = sync_channel(1);
        self.queue.errands.lock().push_back(errand(done));
        self.queue.awake.store(true, Ordering::SeqCst);
        self.thread.unpark();
        answer.recv_timeout(patience).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        let _ = self.ask(Errand::Stop, LAST_WORDS);
    }
}

impl Queue {
    /// This thread's shard, or the next one that nobody holds.
    fn any_shard(&self) -> MutexGuard<'_, Lines> {
        let own = shard::of_this_thread();
        let count = self.shards.len();
        (0..count)
            .find_map(|step| self.shards[(own + step) % count].0.try_lock())
            .unwrap_or_else(|| self.shards[own % count].0.lock())
    }

    fn is_empty(&self) -> bool {
        self.errands.lock().is_empty() && self.shards.iter().all(|shard| shard.0.lock().text.is_empty())
    }
}

/// The thread's own side.
struct Worker {
    queue: Arc<Queue>,
    output: Output,
    /// One emptied buffer per shard, to be swapped in.
    spare: Vec<Lines>,
    merged: Vec<u8>,
    /// Whether the last write failed; said once, not per line.
    failing: bool,
}

impl Worker {
    fn run(&mut self) {
        loop {
            let errand = self.queue.errands.lock().pop_front();
            let wrote = self.drain();
            match errand {
                Some(Errand::Stop(done)) => {
                    let _ = done.send(Ok(()));
                    return;
                }
                Some(Errand::Flush(done)) => drop(done.send(Ok(()))),
                Some(Errand::Reopen(done)) => drop(done.send(self.output.reopen())),
                Some(Errand::Replace(output, done)) => {
                    self.output = *output;
                    drop(done.send(Ok(())));
                }
                None if wrote => thread::park_timeout(GATHER),
                None => self.sleep(),
            }
        }
    }

    /// Sleeps until somebody leaves a line. Whoever does so after the flag is down wakes us; whoever did before is seen.
    fn sleep(&self) {
        self.queue.awake.store(false, Ordering::SeqCst);
        if self.queue.is_empty() {
            thread::park();
        } else {
            self.queue.awake.store(true, Ordering::SeqCst);
        }
        // The first line has come: let more of them gather, unless there is an errand.
        if self.queue.errands.lock().is_empty() {
            thread::park_timeout(GATHER);
        }
    }

    /// Writes what waits. Whether there was any.
    fn drain(&mut self) -> bool {
        let queue = self.queue.clone();
        let mut batch: Vec<Lines> = Vec::with_capacity(queue.shards.len());
        for shard in &queue.shards {
            let mut lines = shard.0.lock();
            if !lines.text.is_empty() {
                batch.push(mem::replace(&mut *lines, self.spare.pop().unwrap_or_default()));
            }
        }
        match batch.as_slice() {
            [] => return false,
            [lines] => self.write(&lines.text),
            _ => {
                let mut merged = mem::take(&mut self.merged);
                merge(&batch, &mut merged);
                self.write(&merged);
                merged.clear();
                merged.shrink_to(KEPT_CAPACITY);
                self.merged = merged;
            }
        }
        for mut lines in batch {
            lines.clear();
            self.spare.push(lines);
        }
        true
    }

    fn write(&mut self, lines: &[u8]) {
        match self.output.write(lines) {
            Ok(()) => self.failing = false,
            Err(lost) => {
                self.queue.dropped.fetch_add(lost.lines, Ordering::Relaxed);
                if !mem::replace(&mut self.failing, true) {
                    // Not through the log: this may be the log.
                    let _ = writeln!(io::stderr(), "write log lines: {}", lost.error);
                }
            }
        }
    }
}

/// Puts the lines of several shards into the order in which they were left.
fn merge(batch: &[Lines], merged: &mut Vec<u8>) {
    merged.reserve(batch.iter().map(|lines| lines.text.len()).sum());
    let mut cursors: Vec<(usize, usize)> = vec![(0, 0); batch.len()];
    loop {
        let next = batch
            .iter()
            .zip(&cursors)
            .enumerate()
            .filter_map(|(shard, (lines, (line, _)))| {
                lines.index.get(*line).map(|(number, length)| (*number, shard, *length))
            })
            .min();
        let Some((_, shard, length)) = next else { return };
        let (line, start) = &mut cursors[shard];
        let end = *start + length as usize;
        merged.extend_from_slice(&batch[shard].text[*start..end]);
        *start = end;
        *line += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    fn file_writer(shards: usize, bytes: usize) -> (tempfile::TempDir, LineWriter, Arc<AtomicU64>) {
        let folder = tempfile::tempdir().unwrap();
        let dropped = Arc::new(AtomicU64::new(0));
        let output = Output::file(&folder.path().join("a.log"), None).unwrap();
        let writer = LineWriter::start("test-log", output, Limits { shards, bytes }, dropped.clone()).unwrap();
        (folder, writer, dropped)
    }

    #[test]
    fn lines_of_many_threads_all_arrive_whole() {
        let (folder, writer, dropped) = file_writer(4, 1 << 20);
        thread::scope(|scope| {
            for thread in 0..8 {
                let writer = &writer;
                scope.spawn(move || (0..1000).for_each(|line| writer.push(format!("{thread} {line}\n").as_bytes())));
            }
        });
        drop(writer);
        let text = std::fs::read_to_string(folder.path().join("a.log")).unwrap();
        let mut next = [0; 8];
        for line in text.lines() {
            let (thread, number) = line.split_once(' ').unwrap();
            let thread: usize = thread.parse().unwrap();
            assert_eq!(number.parse::<usize>().unwrap(), next[thread], "in order within a thread");
            next[thread] += 1;
        }
        assert_eq!(next, [1000; 8]);
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn merges_by_number() {
        let lines = |index: &[(u64, u32)], text: &str| Lines { text: text.into(), index: index.into() };
        let batch = [lines(&[(0, 2), (3, 3)], "a\ndd\n"), lines(&[(1, 2), (2, 2)], "b\nc\n"), Lines::default()];
        let mut merged = Vec::new();
        merge(&batch, &mut merged);
        assert_eq!(merged, b"a\nb\nc\ndd\n");
    }

    #[test]
    fn flush_waits_for_the_lines() {
        let (folder, writer, _) = file_writer(2, 1 << 20);
        for number in 0..50 {
            writer.push(format!("{number}\n").as_bytes());
            writer.flush(Duration::from_secs(10)).unwrap();
            let text = std::fs::read_to_string(folder.path().join("a.log")).unwrap();
            assert!(text.ends_with(&format!("{number}\n")), "{text}");
        }
    }

    #[test]
    fn a_blocked_reader_costs_lines_but_no_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let dropped = Arc::new(AtomicU64::new(0));
        let output = Output::descriptor(File::from(OwnedFd::from(writer)));
        let writer =
            LineWriter::start("test-log", output, Limits { shards: 1, bytes: 64 * 1024 }, dropped.clone()).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let (mut left, patience) = (0, Duration::from_millis(20));
        while writer.flush(patience).is_ok() {
            writer.push(&line);
            left += 1;
        }
        // A pipe holds 64 KiB; the thread sits on the rest now.
        let started = Instant::now();
        (0..2000).for_each(|_| writer.push(&line));
        left += 2000;
        assert!(started.elapsed() < Duration::from_secs(2));
        let lost = dropped.load(Ordering::Relaxed);
        assert_eq!(lost, 2000 - 64);
        let reading = thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).unwrap();
            text.len()
        });
        writer.flush(Duration::from_secs(10)).unwrap();
        writer.push(&line);
        drop(writer);
        assert_eq!(reading.join().unwrap() as u64, (left + 1 - lost) * 1024);
    }

    #[test]
    fn a_full_disk_is_counted() {
        let dropped = Arc::new(AtomicU64::new(0));
        let output = Output::file(std::path::Path::new("/dev/full"), None).unwrap();
        let writer = LineWriter::start("test-log", output, Limits { shards: 2, bytes: 4096 }, dropped.clone()).unwrap();
        for _ in 0..7 {
            writer.push(b"line\n");
        }
        writer.flush(Duration::from_secs(10)).unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn another_destination_takes_over() {
        let (folder, writer, _) = file_writer(1, 4096);
        writer.push(b"one\n");
        writer.replace(Output::file(&folder.path().join("b.log"), None).unwrap()).unwrap();
        writer.push(b"two\n");
        writer.flush(Duration::from_secs(10)).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("a.log")).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(folder.path().join("b.log")).unwrap(), "two\n");
    }
}
