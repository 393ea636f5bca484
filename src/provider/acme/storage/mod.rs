//! `acme.json`, for all resolvers that share it. One process writes at a time; a file that cannot be read is never overwritten.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use super::patience::Remembered;

mod document;
mod file;

use document::{Document, part};
use file::{LIMIT_BYTES, read, replace};

pub(super) use document::{Account, Kept, Registration, Stored};

/// What the file beside the storage is called that has what servers have refused.
const REFUSALS: &str = ".refusals";

/// The file, for all resolvers that share it.
pub(super) struct Storage {
    path: PathBuf,
    /// What was read or written last: a file that goes away takes no certificate with it.
    last: Mutex<Option<Document>>,
    /// One change at a time: two that had read the same would each write without the other.
    changing: Mutex<()>,
    held: Mutex<Weak<Held>>,
}

/// The right to write, against other processes. Dropped by the last that works.
#[derive(Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "its end is what it is for")] File);

impl Storage {
    pub(super) fn new(path: &str) -> Arc<Self> {
        Arc::new(Self {
            path: path.into(),
            last: Mutex::new(None),
            changing: Mutex::new(()),
            held: Mutex::new(Weak::new()),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The part of one resolver as it is now. Blocks.
    ///
    /// # Errors
    /// A sentence without a subject, for a problem at the setting. The last good content stays what it was.
    pub(super) fn load(&self, resolver: &str) -> Result<Kept, String> {
        let document = self.read()?;
        part(&document, resolver)
    }

    /// What was read last, whatever has become of the file since.
    pub(super) fn last(&self, resolver: &str) -> Kept {
        self.last.lock().as_ref().and_then(|document| part(document, resolver).ok()).unwrap_or_default()
    }

    /// Changes the part of one resolver. Whoever calls holds the right to. Blocks until it is on the disk.
    ///
    /// # Errors
    /// A sentence without a subject. The file is as it was.
    pub(super) fn update(&self, _: &Held, resolver: &str, change: impl FnOnce(&mut Kept)) -> Result<(), String> {
        let _alone = self.changing.lock();
        let mut document = self.read()?;
        let mut kept = part(&document, resolver)?;
        change(&mut kept);
        let kept = serde_json::to_value(kept).map_err(|error| error.to_string())?;
        document.insert(resolver.to_owned(), kept);
        self.write(&document).map_err(|error| format!("cannot be written: {error}"))?;
        *self.last.lock() = Some(document);
        Ok(())
    }

    /// The right to write, if no other process has it.
    ///
    /// # Errors
    /// If the lock's file cannot be made.
    pub(super) fn hold(&self) -> Result<Option<Arc<Held>>, String> {
        let mut held = self.held.lock();
        if let Some(held) = held.upgrade() {
            return Ok(Some(held));
        }
        let path = self.beside(".lock");
        // Not the file itself: that is replaced with each change.
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| format!("cannot be locked: {}: {error}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let new = Arc::new(Held(file));
                *held = Arc::downgrade(&new);
                Ok(Some(new))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(format!("cannot be locked: {}: {error}", path.display())),
        }
    }

    fn read(&self) -> Result<Document, String> {
        let mut last = self.last.lock();
        let text = match read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(last.clone().unwrap_or_default()),
            Err(error) => return Err(format!("cannot be read: {error}")),
        };
        // An empty one is what people make to set its permissions.
        let document: Document = if text.trim_ascii().is_empty() {
            last.clone().unwrap_or_default()
        } else {
            serde_json::from_slice(&text).map_err(|error| format!("is not valid: {error}"))?
        };
        *last = Some(document.clone());
        Ok(document)
    }

    fn write(&self, document: &Document) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(document)?;
        if text.len() as u64 > LIMIT_BYTES {
            // It could not be read again.
            return Err(io::Error::other(format!("it would be larger than {LIMIT_BYTES} bytes")));
        }
        replace(&self.path, &text)
    }

    /// What a resolver had to do with servers that refuse, from the file beside the storage. It is no loss if that cannot be read.
    pub(super) fn remembered(&self, resolver: &str) -> Vec<Remembered> {
        self.all_remembered().remove(resolver).unwrap_or_default()
    }

    /// Keeps that. Whoever calls holds the right to. Blocks until it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn remember(&self, _: &Held, resolver: &str, refusals: Vec<Remembered>) -> io::Result<()> {
        let _alone = self.changing.lock();
        let mut all = self.all_remembered();
        if refusals.is_empty() {
            all.remove(resolver);
        } else {
            all.insert(resolver.to_owned(), refusals);
        }
        replace(&self.beside(REFUSALS), &serde_json::to_vec_pretty(&all)?)
    }

    fn all_remembered(&self) -> BTreeMap<String, Vec<Remembered>> {
        let path = self.beside(REFUSALS);
        let told = |error: &dyn fmt::Display| log::warn!("{} cannot be read: {error}", path.display());
        match read(&path) {
            Ok(text) => serde_json::from_slice(&text).inspect_err(|error| told(error)).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                told(&error);
                BTreeMap::new()
            }
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(ending);
        path.into()
    }
}

#[cfg(test)]
mod tests;
