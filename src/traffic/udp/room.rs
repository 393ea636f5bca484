//! Room for a new session where there are as many as may be: which one is given up for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::session::Session;
use super::{Desk, Lane};
use crate::observe::datagrams::{Lost, SessionEnding};

impl Lane {
    /// Gives an old session up for a new one, if there are as many as may be.
    pub(super) fn make_room(&self, desk: &mut Desk) -> Result<(), Lost> {
        let most = self.shared.sessions.load(Ordering::Relaxed);
        let open = self.shared.open.load(Ordering::Acquire);
        if open < most {
            return Ok(());
        }
        // Those given up take a moment to close their sockets. They may be a few more for that long, and no more than a few.
        if open >= most.saturating_add(most / 8).saturating_add(1) {
            return Err(Lost::TooMany);
        }
        self.give_up_oldest(desk).ok_or(Lost::TooMany)?.end(SessionEnding::GivenUp);
        self.shared.meters.evicted();
        Ok(())
    }

    /// Takes out the session whose client has been silent for longest. Where the system spreads clients over several sockets, that may
    /// be one of another socket: they share their places, however unevenly their clients came.
    fn give_up_oldest(&self, desk: &mut Desk) -> Option<Arc<Session>> {
        let here = desk.silent_since();
        // Nobody waits for another's desk while holding his own. One that is in use just now is left alone.
        let others = self.shared.lanes().filter(|lane| !std::ptr::eq(&raw const **lane, self));
        let since = |lane: Arc<Self>| {
            let since = lane.desk.try_lock()?.silent_since()?;
            Some((since, lane))
        };
        let elsewhere = others.filter_map(since).min_by_key(|(since, _)| *since);
        elsewhere
            .filter(|(since, _)| here.is_none_or(|here| *since < here))
            .and_then(|(_, lane)| lane.desk.try_lock().and_then(|mut desk| desk.give_up_oldest()))
            .or_else(|| desk.give_up_oldest())
    }
}

impl Desk {
    /// When the client last sent something whose session would be given up first.
    fn silent_since(&self) -> Option<u64> {
        self.table.oldest(|session| session.is_answered()).map(|(since, _)| since)
    }

    fn give_up_oldest(&mut self) -> Option<Arc<Session>> {
        self.table.give_up_oldest(|session| session.is_answered())
    }
}
