//! When to look: changes come in bursts, and one look after a burst is enough.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};

/// A look follows when nothing has happened for so long.
pub(super) const QUIET: Duration = Duration::from_millis(60);
/// A look waits no longer than this after the first change, so that endless writing does not put it off.
const PATIENCE: Duration = Duration::from_millis(400);
/// Most files whose writers are waited for.
const WRITER_LIMIT: usize = 1024;

/// Changes since the last look.
#[derive(Debug, Default)]
pub(super) struct Burst {
    span: Option<(Instant, Instant)>,
    /// Files that are being written: their writers have not closed them.
    unclosed: HashSet<PathBuf>,
}

impl Burst {
    /// Takes note of a change that concerns us.
    pub(super) fn note(&mut self, event: &Event, now: Instant) {
        let first = self.span.map_or(now, |(first, _)| first);
        self.span = Some((first, now));
        match event.kind {
            // Only Linux tells when a writer closes a file.
            EventKind::Modify(ModifyKind::Data(_)) if cfg!(target_os = "linux") => {
                let room = self.unclosed.len() < WRITER_LIMIT;
                self.unclosed.extend(event.paths.iter().filter(|_| room).cloned());
            }
            EventKind::Modify(ModifyKind::Metadata(_)) => {}
            _ => {
                for path in &event.paths {
                    self.unclosed.remove(Path::new(path));
                }
            }
        }
    }

    /// When to look, if there is a reason.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, last) = self.span?;
        let latest = first + PATIENCE;
        Some(if self.unclosed.is_empty() { latest.min(last + QUIET) } else { latest })
    }

    /// Forgets everything, because a look follows.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Whether an event can mean that a file has changed: reading is none of them.
pub(super) fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::DataChange;

    use super::*;

    const MODIFY: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSE: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

    fn event(kind: EventKind) -> Event {
        Event::new(kind).add_path("/a.yaml".into())
    }

    #[test]
    fn waits_for_quiet_for_writers_and_not_forever() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut burst = Burst::default();
        assert_eq!(burst.due(), None);
        burst.note(&event(MODIFY), start);
        assert_eq!(burst.due(), Some(at(400)), "the writer has not closed it");
        burst.note(&event(CLOSE), at(10));
        assert_eq!(burst.due(), Some(at(70)));
        for millis in (20..=380).step_by(20) {
            burst.note(&event(CLOSE), at(millis));
        }
        assert_eq!(burst.due(), Some(at(400)));
        burst.clear();
        assert_eq!(burst.due(), None);
    }

    #[test]
    fn reading_is_no_change() {
        assert!(!is_change(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!is_change(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(is_change(CLOSE));
        assert!(is_change(MODIFY));
    }
}
