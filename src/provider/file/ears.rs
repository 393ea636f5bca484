//! What the operating system tells of: the folders around everything that was read.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Source;
use super::burst::{Burst, is_change};
use super::found::Found;
use super::trail::trail;

/// What was heard since the last look.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) burst: Mutex<Burst>,
    pub(super) news: Notify,
    concerns: Mutex<Concerns>,
}

impl Heard {
    fn hear(&self, event: &notify::Result<Event>) {
        let lost = Event::new(notify::EventKind::Other);
        let event = match event {
            Ok(event) if event.need_rescan() => &lost,
            Ok(event) if !is_change(event.kind) || !self.concerns.lock().include(&event.paths) => return,
            Ok(event) => event,
            // Something was lost: a look will tell what.
            Err(_) => &lost,
        };
        self.burst.lock().note(event, Instant::now());
        self.news.notify_one();
    }
}

/// Which paths matter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Concerns {
    /// Everything within these folders does.
    folders: HashSet<PathBuf>,
    /// Single paths: the file itself, and links on the way.
    entries: HashSet<PathBuf>,
}

impl Concerns {
    fn of(source: &Source, found: &Found) -> Self {
        let mut concerns = Self::default();
        match source {
            Source::File(path) => concerns.entries.extend(trail(path)),
            Source::Folder(path) => {
                concerns.entries.extend(trail(path));
                for folder in &found.folders {
                    concerns.folders.extend(fs::canonicalize(folder));
                }
                let links = found.files.iter().chain(&found.folders).filter(|path| path.is_symlink());
                concerns.entries.extend(links.flat_map(|path| trail(path)));
            }
        }
        concerns
    }

    fn include(&self, paths: &[PathBuf]) -> bool {
        let concerns = |path: &PathBuf| {
            let within = path.parent().is_some_and(|folder| self.folders.contains(folder));
            within || self.folders.contains(path) || self.entries.contains(path)
        };
        paths.is_empty() || paths.iter().any(concerns)
    }

    /// What has to be watched to hear of it all.
    fn watched(&self, source: &Source) -> BTreeSet<PathBuf> {
        let parents = self.entries.iter().filter_map(|entry| entry.parent());
        let mut watched = parents.map(Path::to_owned).chain(self.folders.iter().cloned()).collect::<BTreeSet<_>>();
        if let Source::File(path) = source {
            // A single file that is mounted into a container changes without its folder knowing.
            watched.extend(fs::canonicalize(path));
        }
        watched
    }
}

/// Watches on behalf of one provider.
pub(super) struct Ears {
    watcher: Option<RecommendedWatcher>,
    heard: Arc<Heard>,
    /// What is watched, as device and inode: a folder that is made anew under its name is another one.
    armed: BTreeMap<PathBuf, (u64, u64)>,
    /// What could not be watched, or does not tell.
    deaf: BTreeSet<PathBuf>,
}

impl Ears {
    /// Listens to nothing yet. Without help of the operating system, it stays so.
    pub(super) fn new(heard: Arc<Heard>) -> Self {
        let listener = heard.clone();
        let watcher = notify::recommended_watcher(move |event| listener.hear(&event));
        let watcher = watcher
            .inspect_err(|error| log::warn!("changes of files are not reported, so they are looked for: {error}"));
        Self { watcher: watcher.ok(), heard, armed: BTreeMap::new(), deaf: BTreeSet::new() }
    }

    /// Without help of the operating system.
    #[cfg(test)]
    pub(super) fn deaf(heard: Arc<Heard>) -> Self {
        Self { watcher: None, heard, armed: BTreeMap::new(), deaf: BTreeSet::new() }
    }

    /// Whether changes may happen without being heard.
    pub(super) fn are_deaf(&self) -> bool {
        self.watcher.is_none() || !self.deaf.is_empty()
    }

    /// Listens to what a look has found, and no more to what is gone. Whether anything is listened to that was not before.
    pub(super) fn listen(&mut self, source: &Source, found: &Found) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let concerns = Concerns::of(source, found);
        let watched = concerns.watched(source);
        *self.heard.concerns.lock() = concerns;
        let gone = self.armed.keys().filter(|path| !watched.contains(*path)).cloned().collect::<Vec<_>>();
        for path in gone {
            self.armed.remove(&path);
            // It is an error if the folder is gone already, and no harm.
            let _ = watcher.unwatch(&path);
        }
        self.deaf.retain(|path| watched.contains(path));
        let mut is_new = false;
        for path in watched {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let identity = (metadata.dev(), metadata.ino());
            if self.armed.get(&path) == Some(&identity) {
                continue;
            }
            is_new = true;
            let result = watcher.watch(&path, RecursiveMode::NonRecursive);
            if (result.is_err() || is_remote(&path)) && self.deaf.insert(path.clone()) {
                let reason =
                    result.err().map_or_else(|| "its file system does not report".to_owned(), |e| e.to_string());
                log::info!("changes in {} are looked for each second: {reason}", path.display());
            }
            self.armed.insert(path, identity);
        }
        is_new
    }
}

/// Whether others may change files here without this machine hearing of it.
#[cfg(target_os = "linux")]
fn is_remote(path: &Path) -> bool {
    /// Magic numbers of Linux: NFS, SMB (three of them), FUSE, 9P, Ceph, AFS, overlayfs.
    const REMOTE: [u32; 9] =
        [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x5346_414f, 0x794c_7630];
    rustix::fs::statfs(path).is_ok_and(|status| REMOTE.contains(&(status.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn is_remote(_: &Path) -> bool {
    false
}
