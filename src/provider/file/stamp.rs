//! Whether a file is still the one that was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// A second write within the clock tick of the first leaves the same stamp: a change this young may hide another.
const TICK: Duration = Duration::from_secs(2);

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Size in bytes.
    pub(super) fn length(self) -> u64 {
        self.length
    }

    /// Whether an equal stamp means an equal file, if the file was read at `now`.
    pub(super) fn is_certain(self, now: SystemTime) -> bool {
        let second = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(0));
        let changed = SystemTime::UNIX_EPOCH + second;
        let age = now.duration_since(changed).unwrap_or_else(|error| error.duration());
        age > TICK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_change_is_not_trusted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(&file.as_file().metadata().unwrap());
        let now = SystemTime::now();
        assert!(!stamp.is_certain(now));
        assert!(stamp.is_certain(now + Duration::from_secs(10)));
    }
}
