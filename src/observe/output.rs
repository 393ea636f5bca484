//! Where lines end up: standard output, or a file that is appended to, reopened and rotated.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use super::rotation::{Rotation, set_aside};

const WOULD_BLOCK_PAUSE: Duration = Duration::from_millis(10);
/// A pipe takes so much in one piece (`PIPE_BUF` of Linux), and never another writer's bytes in between.
const WHOLE_IN_A_PIPE: usize = 4096;

/// A destination of lines, owned by one writer thread.
#[derive(Debug)]
pub(crate) struct Output {
    path: Option<PathBuf>,
    file: File,
    size: u64,
    rotation: Option<Rotation>,
    /// Others may write there, too, and the system keeps only small writes whole: a pipe, the journal's socket, a terminal.
    shared: bool,
    /// The last write failed half way: the next one starts on a line of its own.
    torn: bool,
}

/// A write that the destination did not take.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Why.
    pub(crate) error: io::Error,
    /// How many lines it has cost.
    pub(crate) lines: u64,
}

impl Output {
    /// Standard output.
    pub(crate) fn stdout() -> io::Result<Self> {
        // A descriptor of our own, because the standard library's handle flushes at every line.
        Ok(Self::descriptor(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }

    /// A file, appended to; made if there is none.
    pub(crate) fn file(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let (file, size) = open(path)?;
        Ok(Self { path: Some(path.to_owned()), shared: is_shared(&file), file, size, rotation, torn: false })
    }

    /// Standard output if `path` is empty, otherwise the file.
    pub(crate) fn at(path: &str, rotation: Option<Rotation>) -> io::Result<Self> {
        if path.is_empty() { Self::stdout() } else { Self::file(Path::new(path), rotation) }
    }

    /// Something that is open already and stays so.
    pub(crate) fn descriptor(file: File) -> Self {
        Self { path: None, shared: is_shared(&file), file, size: 0, rotation: None, torn: false }
    }

    /// Opens the path again, after somebody has renamed the file. If that fails, lines go on to the old file.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            (self.file, self.size) = open(path)?;
            self.shared = is_shared(&self.file);
            self.torn = false;
        }
        Ok(())
    }

    /// Writes whole lines.
    pub(crate) fn write(&mut self, lines: &[u8]) -> Result<(), Lost> {
        self.rotate_before(lines.len() as u64);
        let written = if self.torn { self.write_all(b"\n").map_err(|(error, _)| (error, lines)) } else { Ok(()) };
        written
            .and_then(|()| self.write_all(lines))
            .map_err(|(error, rest)| Lost { error, lines: rest.iter().filter(|byte| **byte == b'\n').count() as u64 })
    }

    /// Writes all, or returns what is left.
    fn write_all<'a>(&mut self, mut rest: &'a [u8]) -> Result<(), (io::Error, &'a [u8])> {
        while !rest.is_empty() {
            let piece = if self.shared { whole_lines(rest, WHOLE_IN_A_PIPE) } else { rest };
            match self.file.write(piece) {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), rest)),
                Ok(count) => {
                    self.torn = rest[count - 1] != b'\n';
                    self.size += count as u64;
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever started us may have made our standard output non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(WOULD_BLOCK_PAUSE),
                Err(error) => return Err((error, rest)),
            }
        }
        Ok(())
    }

    /// Sets the file aside if `more` bytes would make it too large. A failure leaves the file growing: lines come first.
    fn rotate_before(&mut self, more: u64) {
        let (Some(path), Some(rotation)) = (&self.path, &self.rotation) else { return };
        if self.size == 0 || self.size + more <= rotation.max_bytes {
            return;
        }
        match set_aside(path, rotation, SystemTime::now()).and_then(|()| open(path)) {
            Ok((file, size)) => {
                self.file = file;
                self.size = size;
                self.torn = false;
            }
            // Try again once as much has been written again, not at every line.
            Err(_) => self.size = 0,
        }
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt;
    // Lines hold addresses and paths: readable by the owner and its group alone.
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn is_shared(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| !metadata.is_file())
}

/// As many of the first lines as fit into `most` bytes, but at least one.
fn whole_lines(lines: &[u8], most: usize) -> &[u8] {
    if lines.len() <= most {
        return lines;
    }
    let is_end = |byte: &u8| *byte == b'\n';
    let last = lines[..most].iter().rposition(is_end);
    let end = last.or_else(|| lines.iter().position(is_end)).map_or(lines.len(), |at| at + 1);
    &lines[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopens_after_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut output = Output::file(&path, None).unwrap();
        output.write(b"one\n").unwrap();
        std::fs::rename(&path, folder.path().join("a.log.1")).unwrap();
        output.write(b"two\n").unwrap();
        output.reopen().unwrap();
        output.write(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("a.log.1")).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("logs");
        std::fs::create_dir(&inner).unwrap();
        let mut output = Output::file(&inner.join("a.log"), None).unwrap();
        std::fs::rename(&inner, folder.path().join("gone")).unwrap();
        assert!(output.reopen().is_err());
        output.write(b"still here\n").unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("gone/a.log")).unwrap(), "still here\n");
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_a_hang() {
        let mut output = Output::file(Path::new("/dev/full"), None).unwrap();
        assert!(output.write(b"line\n").is_err());
    }

    #[test]
    fn half_a_line_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut output = Output::file(&path, None).unwrap();
        output.write(b"hal").unwrap();
        output.write(b"whole\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hal\nwhole\n");
    }

    #[test]
    fn pieces_end_with_lines() {
        let check = |lines: &str, expected: &str| assert_eq!(whole_lines(lines.as_bytes(), 6), expected.as_bytes());
        check("a\nb\n", "a\nb\n");
        check("ab\ncd\nef\n", "ab\ncd\n");
        check("abc\ndef\n", "abc\n");
        check("longer than that\nb\n", "longer than that\n");
        check("without an end", "without an end");
    }

    /// Process log, access log and the process after an upgrade may write into one pipe, while its reader is slow.
    #[test]
    fn lines_of_two_writers_stay_whole_in_a_full_pipe() {
        let (reader, writer) = io::pipe().unwrap();
        let line = |letter: char| format!("{}\n", String::from(letter).repeat(700));
        let write = |letter: char| {
            let mut output = Output::descriptor(File::from(std::os::fd::OwnedFd::from(writer.try_clone().unwrap())));
            move || {
                for _ in 0..20 {
                    output.write(line(letter).repeat(300).as_bytes()).unwrap();
                }
            }
        };
        let writers = ['a', 'b'].map(|letter| thread::spawn(write(letter)));
        drop(writer);
        let mut count = 0;
        for found in io::BufRead::lines(io::BufReader::with_capacity(1000, reader)) {
            let found = found.unwrap();
            assert!(found.len() == 700 && (found.starts_with('a') == found.ends_with('a')), "{found}");
            count += 1;
        }
        assert_eq!(count, 12_000);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    }
}
