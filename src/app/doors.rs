//! All entry points together, as a drain and a hand-over see them.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::process::SocketName;
use crate::process::drain::{Counts, Cut, Door, Draining};
use crate::traffic::entrypoint::Handle;
use crate::traffic::udp;

/// How long idle connections are left alone after the drain was announced: a client's next request may be on its way.
const IDLE_GRACE: Duration = Duration::from_millis(500);

/// All entry points together.
pub(super) struct Doors {
    handles: Vec<(SocketName, Handle)>,
    udp: Vec<(SocketName, udp::Handle)>,
}

impl Doors {
    pub(super) fn new(handles: Vec<(SocketName, Handle)>, udp: Vec<(SocketName, udp::Handle)>) -> Self {
        Self { handles, udp }
    }

    /// Duplicates of the sockets, for a successor.
    pub(super) fn duplicates(&self) -> io::Result<Vec<(SocketName, OwnedFd)>> {
        let mut duplicates = Vec::with_capacity(self.handles.len() + self.udp.len());
        for (name, handle) in &self.handles {
            duplicates.push((name.clone(), handle.duplicate_listener()?));
        }
        for (name, handle) in &self.udp {
            duplicates.extend(handle.duplicate_sockets()?.into_iter().map(|socket| (name.clone(), socket)));
        }
        Ok(duplicates)
    }

    /// Lets go of the sockets. Those of a successor stay open.
    pub(super) fn let_go(&self) {
        self.each(Handle::close_listener);
        self.each_udp(udp::Handle::let_go);
    }

    fn each_udp(&self, act: impl Fn(&udp::Handle)) {
        for (_, handle) in &self.udp {
            act(handle);
        }
    }

    fn each(&self, act: impl Fn(&Handle)) {
        for (_, handle) in &self.handles {
            act(handle);
        }
    }
}

impl Door for Doors {
    fn stop_accepting(&self) {
        self.each(Handle::stop_accepting);
        self.each_udp(udp::Handle::stop_reading);
    }

    fn close(&self) {
        self.each(Handle::close_after_last);
        self.each_udp(udp::Handle::close_after_last);
    }

    fn resume_accepting(&self) {
        self.each(Handle::resume_accepting);
        self.each_udp(udp::Handle::resume_reading);
    }

    fn set_draining(&self, draining: Draining) {
        self.each(|handle| handle.set_draining(draining == Draining::On));
    }

    fn close_idle(&self, spread: Duration) {
        self.each(|handle| handle.close_idle_after(IDLE_GRACE.min(spread), spread.saturating_sub(IDLE_GRACE)));
    }

    fn cut(&self, what: Cut) {
        self.each(Handle::force_close);
        if what == Cut::All {
            self.each(Handle::force_close_upgraded);
            self.each_udp(udp::Handle::cut);
        }
    }

    fn active(&self) -> Counts {
        // Idle connections and those with a request are not told apart: both end by themselves once the drain has begun.
        let requests = self.handles.iter().map(|(_, handle)| handle.connections()).sum();
        let upgraded: usize = self.handles.iter().map(|(_, handle)| handle.upgraded_connections()).sum();
        let sessions: usize = self.udp.iter().map(|(_, handle)| handle.sessions()).sum();
        Counts { idle: 0, requests, tunnels: upgraded + sessions }
    }
}
