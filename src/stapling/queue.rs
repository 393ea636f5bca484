//! Whose turn it is to be asked about: few at once, fewer still at one responder. Those who wait stand in the line of their responder,
//! so that nobody has to go through all of them to find the next one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Fingerprint;

/// Most of them at one responder: one that hangs must not keep the others waiting.
pub(super) const AT_ONCE_TO_ONE: usize = 4;

/// The URL of a responder.
pub(super) type Responder = Arc<str>;

/// The lines of all responders.
#[derive(Default)]
pub(super) struct Queue {
    lines: HashMap<Responder, Line>,
    /// Where somebody waits and there is room, each once; whoever was served goes to the end.
    open: VecDeque<Responder>,
}

#[derive(Default)]
struct Line {
    asked: usize,
    waiting: VecDeque<Fingerprint>,
}

impl Line {
    fn is_open(&self) -> bool {
        self.asked < AT_ONCE_TO_ONE && !self.waiting.is_empty()
    }
}

impl Queue {
    /// Somebody waits from now on.
    pub(super) fn wait(&mut self, responder: &Responder, who: Fingerprint) {
        self.change(responder, |line| line.waiting.push_back(who));
    }

    /// Somebody waits from now on, in front of all others.
    pub(super) fn hurry(&mut self, responder: &Responder, who: Fingerprint) {
        self.change(responder, |line| line.waiting.push_front(who));
    }

    /// Somebody is being asked about that was not taken from here.
    pub(super) fn is_asked(&mut self, responder: &Responder) {
        self.change(responder, |line| line.asked += 1);
    }

    /// The responder is done with one.
    pub(super) fn is_done(&mut self, responder: &Responder) {
        self.change(responder, |line| line.asked = line.asked.saturating_sub(1));
    }

    /// Who is asked about now, if somebody waits where there is room.
    pub(super) fn next(&mut self) -> Option<(Responder, Fingerprint)> {
        while let Some(responder) = self.open.pop_front() {
            let Some(line) = self.lines.get_mut(&responder).filter(|line| line.is_open()) else { continue };
            let Some(who) = line.waiting.pop_front() else { continue };
            line.asked += 1;
            if line.is_open() {
                self.open.push_back(responder.clone());
            }
            return Some((responder, who));
        }
        None
    }

    fn change(&mut self, responder: &Responder, change: impl FnOnce(&mut Line)) {
        let line = self.lines.entry(responder.clone()).or_default();
        let was_open = line.is_open();
        change(line);
        if line.is_open() && !was_open {
            self.open.push_back(responder.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_responder_that_hangs_keeps_nobody_else_waiting() {
        let (slow, quick): (Responder, Responder) = ("slow".into(), "quick".into());
        let mut queue = Queue::default();
        for at in 0..10 {
            queue.wait(&slow, [at; 32]);
        }
        queue.wait(&quick, [100; 32]);
        queue.wait(&quick, [101; 32]);
        let asked: Vec<_> = std::iter::from_fn(|| queue.next()).map(|(_, who)| who[0]).collect();
        // By turns, each in the order in which they came.
        assert_eq!(asked, [0, 100, 1, 101, 2, 3]);
        queue.is_done(&quick);
        assert_eq!(queue.next(), None);
        queue.is_done(&slow);
        assert_eq!(queue.next(), Some((slow.clone(), [4; 32])));
        assert_eq!(queue.next(), None);
        // Whoever is in a hurry comes first.
        queue.hurry(&slow, [50; 32]);
        queue.is_done(&slow);
        assert_eq!(queue.next(), Some((slow.clone(), [50; 32])));
        // Those of before a change of the configuration count.
        let mut other = Queue::default();
        for _ in 0..AT_ONCE_TO_ONE {
            other.is_asked(&slow);
        }
        other.wait(&slow, [7; 32]);
        assert_eq!(other.next(), None);
        other.is_done(&slow);
        assert_eq!(other.next(), Some((slow, [7; 32])));
    }
}
