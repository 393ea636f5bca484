//! All entry points together, as a drain, a hand-over and a reload see them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;

use crate::config::install::Install;
use crate::problem::{Problem, Problems};
use crate::process::SocketName;
use crate::process::drain::{self, Counts, Cut, Door, Draining};
use crate::units::Name;

use super::assemble::{Listener, Listeners};
use super::change::{self, Before, Change, Placed, Standing};
use super::grip::Grip;
use super::held::Held;
use super::opener::Opener;
use super::{App, options, sockets};

mod leaving;

use leaving::Leaving;

/// How long a reload waits until addresses are free that it has closed.
const CLOSES_WITHIN: Duration = Duration::from_secs(1);

/// All entry points together.
pub(super) struct Doors {
    app: Arc<App>,
    opener: Opener,
    state: Mutex<State>,
    /// The sockets that systemd holds as well; none once this process is to end.
    held: Mutex<Arc<Held>>,
    /// Itself, for the tasks of those that are leaving.
    this: Weak<Self>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<Name, Open>,
    /// Those that are closed, and those of other options: some of their connections are still there.
    leaving: Vec<Leaving>,
    /// Numbers that were given to them.
    numbers: u64,
    /// Sockets that a predecessor has as well, as it calls them, and their cookies.
    inherited: Vec<(SocketName, u64)>,
}

/// An entry point that accepts.
struct Open {
    number: u64,
    socket: SocketName,
    grip: Grip,
    /// Its connections, with those that are leaving.
    crowd: Arc<AtomicUsize>,
    /// Which of the sockets that systemd holds it has.
    held: Vec<usize>,
}

impl Doors {
    /// Opens all entry points of a process that starts.
    ///
    /// # Errors
    /// If one of them cannot be opened.
    pub(super) fn open(app: Arc<App>, opener: Opener, listeners: Listeners) -> io::Result<Arc<Self>> {
        let (install, entry_points) = (app.install(), app.entry_points());
        let mut state = State::default();
        for Listener { name, socket, bound, held, inherited } in listeners.entry_points {
            if !inherited.is_empty() {
                // Not before it is this process's word that counts.
                let shares = install.entry_points.get(&name).is_some_and(|one| one.reuse_port);
                note(&name, bound.set_reuse_port(shares));
            }
            let crowd = Arc::<AtomicUsize>::default();
            let grip = opener.open((&install, &entry_points), &name, bound, crowd.clone())?;
            state.numbers += 1;
            state.inherited.extend(inherited);
            state.open.insert(name, Open { number: state.numbers, socket, grip, crowd, held });
        }
        for open in state.open.values() {
            open.begin();
        }
        let (state, held) = (Mutex::new(state), Mutex::new(Arc::new(listeners.held)));
        Ok(Arc::new_cyclic(|this| Self { app, opener, state, held, this: this.clone() }))
    }

    /// Duplicates of the sockets, for a successor: also of those that are on their way out, as they may be wanted again by now.
    pub(super) fn duplicates(&self) -> io::Result<Vec<(SocketName, OwnedFd)>> {
        let mut duplicates = self.held.lock().duplicates()?;
        let state = self.state.lock();
        for open in state.open.values().filter(|open| open.held.is_empty() && open.grip.is_open()) {
            duplicates.extend(open.grip.duplicates()?.into_iter().map(|socket| (open.socket.clone(), socket)));
        }
        for leaving in state.leaving.iter().rev().filter(|leaving| leaving.held.is_empty()) {
            // It may be closed already.
            let Ok(sockets) = leaving.grip.duplicates() else { continue };
            // One that was left and taken up again is the same socket. Of two that have one name, the successor takes the first.
            let is_offered = |(name, offered): &(SocketName, OwnedFd)| {
                *name == leaving.socket || sockets.iter().any(|socket| sockets::is_same(offered, socket))
            };
            if !duplicates.iter().any(is_offered) {
                duplicates.extend(sockets.into_iter().map(|socket| (leaving.socket.clone(), socket)));
            }
        }
        Ok(duplicates)
    }

    /// The successor accepts, and did not want these. Nobody is to wait there; and what is on its way out here and taken up again there
    /// accepts nobody here.
    pub(super) fn hand_over(&self, unclaimed: &[SocketName]) {
        self.close_dropped(unclaimed);
        for leaving in self.state.lock().leaving.iter().filter(|leaving| leaving.held.is_empty()) {
            if !unclaimed.contains(&leaving.socket) {
                leaving.grip.let_go();
            }
        }
    }

    /// Lets go of the sockets. Those of a successor stay open.
    pub(super) fn let_go(&self) {
        self.each_open(Grip::let_go);
        *self.held.lock() = Arc::default();
    }

    /// Closes sockets that the successor does not have any more, so that nobody waits there for a process which only drains. It calls
    /// them as they were offered.
    pub(super) fn close_dropped(&self, names: &[SocketName]) {
        let state = self.state.lock();
        for open in state.open.values().filter(|open| open.held.is_empty()) {
            if names.contains(&open.socket) {
                open.grip.close();
            }
        }
    }

    /// Sockets that a predecessor has as well and that nobody here has any more since the last time. Another entry point may have one by
    /// now, and others may be at its address, so that names do not tell.
    pub(super) fn take_dropped(&self) -> Vec<SocketName> {
        let state = &mut *self.state.lock();
        let used: BTreeSet<u64> = state.open.values().flat_map(|open| open.grip.cookies()).collect();
        let inherited = std::mem::take(&mut state.inherited).into_iter();
        let (used, dropped): (Vec<_>, Vec<_>) = inherited.partition(|(_, cookie)| used.contains(cookie));
        state.inherited = used;
        // Several sockets of one entry point have one name.
        let names: BTreeSet<SocketName> = dropped.into_iter().map(|(name, _)| name).collect();
        names.into_iter().collect()
    }

    /// Serves again, since the successor has died: accepts, and opens what was closed for its sake. Blocks.
    pub(super) fn reopen(&self) {
        let running = self.app.install();
        drain::resume(self);
        for (name, open) in &self.state.lock().open {
            // The successor may have had other wishes.
            let shares = running.entry_points.get(name).is_some_and(|one| one.reuse_port);
            if open.held.is_empty() && open.grip.is_open() {
                note(name, open.grip.sockets().and_then(|sockets| sockets.set_reuse_port(shares)));
            }
        }
        if self.is_all_open() {
            return;
        }
        let prepared = self.prepare((*running).clone());
        for problem in &prepared.problems {
            log::error!("{problem}");
        }
        self.replace(prepared, &running);
    }

    /// Where the entry point of this name listens.
    pub(super) fn address(&self, name: &str) -> Option<SocketAddr> {
        self.state.lock().open.get(name).map(|open| open.grip.address())
    }

    /// Whether each entry point has a socket.
    pub(super) fn is_all_open(&self) -> bool {
        self.state.lock().open.values().all(|open| open.grip.is_open())
    }

    fn each_open(&self, act: impl Fn(&Grip)) {
        self.state.lock().open.values().for_each(|open| act(&open.grip));
    }

    fn each(&self, act: impl Fn(&Grip)) {
        let state = self.state.lock();
        state.open.values().for_each(|open| act(&open.grip));
        state.leaving.iter().for_each(|leaving| act(&leaving.grip));
    }

    /// Makes ready what is to be opened so that the entry points of `wanted` are there. Nothing has changed then; what cannot be done is
    /// among the problems. Blocks.
    pub(super) fn prepare(&self, wanted: Install) -> Prepared {
        let (running, held) = (self.app.install(), self.held.lock().clone());
        let standing = self.state.lock().standing();
        let before =
            Before { running: &running, standing: &standing, held: &held, threads: options::threads(&running) };
        let mut change = change::work_out(before, wanted);
        let entry_points = self.app.entry_points().followed_by(&change.install);
        let mut opened = BTreeMap::new();
        for (name, Placed { socket, bound, held }) in std::mem::take(&mut change.sockets) {
            let crowd = self.state.lock().open.get(&name).map(|open| open.crowd.clone()).unwrap_or_default();
            match self.opener.open((&change.install, &entry_points), &name, bound, crowd.clone()) {
                Ok(grip) => drop(opened.insert(name, Open { number: 0, socket, grip, crowd, held })),
                Err(error) => {
                    // The system has run out of something. Half of a change is worse than none.
                    opened.values().for_each(|open: &Open| open.grip.let_go());
                    let problem = Problem::at(format!("entryPoints.{name}"), format!("cannot be opened: {error}"));
                    let problem = problem.with_help("all entry points stay as they were");
                    return Prepared { problems: problem.into(), ..Prepared::nothing(running) };
                }
            }
        }
        let Change { install, taken, bounds, problems, .. } = change;
        Prepared { install: Arc::new(install), opened, taken, bounds, problems }
    }

    /// Puts what was made ready into force, once the routes of new entry points are. Those that are closed by it are told.
    pub(super) fn replace(&self, prepared: Prepared, running: &Install) -> Vec<Grip> {
        let Prepared { install, opened, taken, bounds, .. } = prepared;
        let mut state = self.state.lock();
        let mut old = Vec::new();
        let placed: BTreeSet<Name> = opened.keys().cloned().collect();
        for (name, open) in opened {
            state.numbers += 1;
            open.begin();
            let open = Open { number: state.numbers, ..open };
            old.extend(state.open.insert(name, open));
        }
        let gone: Vec<Name> =
            state.open.keys().filter(|name| !install.entry_points.contains_key(*name)).cloned().collect();
        old.extend(gone.iter().filter_map(|name| state.open.remove(name)));
        for name in bounds {
            if let (Some(Open { grip: Grip::Udp(handle), .. }), Some(entry_point)) =
                (state.open.get(&name), install.entry_points.get(&name))
            {
                handle.set_bounds(options::bounds(entry_point, &install));
            }
        }
        for (name, open) in state.open.iter().filter(|(_, open)| open.held.is_empty()) {
            let shares = |install: &Install| install.entry_points.get(name).is_some_and(|one| one.reuse_port);
            if placed.contains(name) || shares(&install) != shares(running) {
                note(name, open.grip.sockets().and_then(|sockets| sockets.set_reuse_port(shares(&install))));
            }
        }
        let mut closed = Vec::new();
        for open in old {
            let is_had = |at: &usize| state.open.values().any(|open| open.held.contains(at));
            if !open.held.is_empty() && !open.held.iter().any(is_had) {
                log::warn!("systemd listens for {} still: whoever connects there waits in vain", open.socket);
            }
            let is_taken = taken.contains(&open.number);
            closed.extend(self.leave(&mut state, open, is_taken, (&install, running)));
        }
        for leaving in state.leaving.iter().filter(|leaving| taken.contains(&leaving.number)) {
            leaving.grip.let_go();
        }
        closed
    }
}

impl State {
    /// All sockets that are open.
    fn standing(&self) -> Vec<Standing> {
        let owned = self.open.values().map(|open| Standing {
            number: open.number,
            socket: open.socket.clone(),
            grip: open.grip.clone(),
            // What was closed for a successor's sake is nobody's.
            is_owned: open.grip.is_open(),
            held: open.held.clone(),
        });
        let left = self.leaving.iter().map(|leaving| Standing {
            number: leaving.number,
            socket: leaving.socket.clone(),
            grip: leaving.grip.clone(),
            is_owned: false,
            held: leaving.held.clone(),
        });
        owned.chain(left).collect()
    }
}

impl Open {
    fn begin(&self) {
        self.grip.resume_accepting();
        log::info!(event = "listening"; "entry point {} listens on {}", self.grip.name(), self.grip.address());
    }
}

/// Entry points that are ready to be opened, and what is to change besides.
pub(super) struct Prepared {
    /// The settings that shall be in force.
    pub(super) install: Arc<Install>,
    opened: BTreeMap<Name, Open>,
    taken: BTreeSet<u64>,
    bounds: Vec<Name>,
    /// What cannot be done, and stays as it was.
    pub(super) problems: Problems,
}

impl Prepared {
    /// Everything stays as it is.
    pub(super) fn nothing(install: Arc<Install>) -> Self {
        Self { install, opened: BTreeMap::new(), taken: BTreeSet::new(), bounds: Vec::new(), problems: Problems::new() }
    }
}

/// Waits until the addresses are free that were closed, but not for ever.
pub(super) async fn until_closed(grips: &[Grip]) {
    let all = join_all(grips.iter().map(Grip::closed));
    if tokio::time::timeout(CLOSES_WITHIN, all).await.is_err() {
        log::debug!("addresses are not free yet");
    }
}

fn note(name: &Name, shared: io::Result<()>) {
    if let Err(error) = shared {
        log::warn!("others cannot listen on the address of entry point {name}: {error}");
    }
}

impl Door for Doors {
    fn stop_accepting(&self) {
        self.each_open(Grip::stop_accepting);
    }

    fn close(&self) {
        self.each(Grip::close);
        *self.held.lock() = Arc::default();
    }

    fn resume_accepting(&self) {
        self.each_open(Grip::resume_accepting);
    }

    fn set_draining(&self, draining: Draining) {
        // Those that are leaving are draining whatever happens.
        self.each_open(|grip| grip.set_draining(draining));
    }

    fn close_idle(&self, spread: Duration) {
        self.each(|grip| grip.close_idle(spread));
    }

    fn cut(&self, what: Cut) {
        self.each(|grip| grip.cut(what));
    }

    fn active(&self) -> Counts {
        let state = self.state.lock();
        let grips = state.open.values().map(|open| &open.grip).chain(state.leaving.iter().map(|leaving| &leaving.grip));
        grips.map(Grip::active).fold(Counts::default(), |sum, counts| sum + counts)
    }
}
