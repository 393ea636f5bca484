//! All entry points together, as a drain, a hand-over and a reload see them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;

use crate::config::address::Protocol as Carries;
use crate::config::entry_points::EntryPoints;
use crate::config::install::Install;
use crate::problem::{Problem, Problems};
use crate::process::drain::{self, Cause, Counts, Cut, Door, Drain, Draining};
use crate::process::{Protocol, SocketName};
use crate::units::Name;

use super::assemble::Listener;
use super::change::{self, Change, Standing};
use super::grip::Grip;
use super::opener::Opener;
use super::{App, options, sockets};

/// How long a reload waits until addresses are free that it has closed.
const CLOSES_WITHIN: Duration = Duration::from_secs(1);

/// All entry points together.
pub(super) struct Doors {
    app: Arc<App>,
    opener: Opener,
    state: Mutex<State>,
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
}

/// An entry point that accepts.
struct Open {
    number: u64,
    socket: SocketName,
    grip: Grip,
    /// Its connections, with those that are leaving.
    crowd: Arc<AtomicUsize>,
    is_held: bool,
}

/// One that does not accept any more.
struct Leaving {
    number: u64,
    socket: SocketName,
    grip: Grip,
}

impl Doors {
    /// Opens all entry points of a process that starts.
    ///
    /// # Errors
    /// If one of them cannot be opened.
    pub(super) fn open(app: Arc<App>, opener: Opener, listeners: Vec<Listener>) -> io::Result<Arc<Self>> {
        let (install, entry_points) = (app.install(), app.entry_points());
        let mut state = State::default();
        for Listener { name, socket, bound, is_held } in listeners {
            let crowd = Arc::<AtomicUsize>::default();
            let grip = opener.open((&install, &entry_points), &name, bound, crowd.clone())?;
            state.numbers += 1;
            state.open.insert(name, Open { number: state.numbers, socket, grip, crowd, is_held });
        }
        for open in state.open.values() {
            open.begin();
        }
        Ok(Arc::new_cyclic(|this| Self { app, opener, state: Mutex::new(state), this: this.clone() }))
    }

    /// Duplicates of the sockets, for a successor.
    pub(super) fn duplicates(&self) -> io::Result<Vec<(SocketName, OwnedFd)>> {
        let state = self.state.lock();
        let mut duplicates = Vec::with_capacity(state.open.len());
        for open in state.open.values() {
            duplicates.extend(open.grip.duplicates()?.into_iter().map(|socket| (open.socket.clone(), socket)));
        }
        Ok(duplicates)
    }

    /// Lets go of the sockets. Those of a successor stay open.
    pub(super) fn let_go(&self) {
        self.each_open(Grip::let_go);
    }

    fn each_open(&self, act: impl Fn(&Grip)) {
        self.state.lock().open.values().for_each(|open| act(&open.grip));
    }

    fn each(&self, act: impl Fn(&Grip)) {
        let state = self.state.lock();
        state.open.values().for_each(|open| act(&open.grip));
        state.leaving.iter().for_each(|leaving| act(&leaving.grip));
    }

    /// Makes ready what is to be opened so that `wanted` are the entry points. Nothing has changed then; what cannot be done is among
    /// the problems. Blocks.
    pub(super) fn prepare(&self, wanted: EntryPoints) -> Prepared {
        let running = self.app.install();
        let standing = self.state.lock().standing();
        let mut change = change::work_out(&running, wanted, &standing, options::threads(&running));
        let entry_points = self.app.entry_points().followed_by(&change.install);
        let mut opened = BTreeMap::new();
        for (name, bound) in std::mem::take(&mut change.sockets) {
            let Some(entry_point) = change.install.entry_points.get(&name) else { continue };
            let crowd = self.state.lock().open.get(&name).map(|open| open.crowd.clone()).unwrap_or_default();
            if entry_point.reuse_port {
                note(&name, bound.set_reuse_port(true));
            }
            match self.opener.open((&change.install, &entry_points), &name, bound, crowd.clone()) {
                Ok(grip) => drop(opened.insert(name, (grip, crowd))),
                Err(error) => {
                    // The system has run out of something. Half of a change is worse than none.
                    opened.values().for_each(|(grip, _): &(Grip, _)| grip.let_go());
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
        for (name, (grip, crowd)) in opened {
            let Some(entry_point) = install.entry_points.get(&name) else { continue };
            state.numbers += 1;
            let socket = sockets::name(&name, entry_point);
            let is_same =
                |open: &Open| open.socket.protocol == socket.protocol && open.socket.address == socket.address;
            let is_held = state.open.values().any(|open| open.is_held && taken.contains(&open.number) && is_same(open));
            let open = Open { number: state.numbers, socket, grip, crowd, is_held };
            open.begin();
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
        for (name, open) in &state.open {
            let shares = |install: &Install| install.entry_points.get(name).is_some_and(|one| one.reuse_port);
            if shares(&install) && !shares(running) {
                note(name, open.grip.sockets().and_then(|sockets| sockets.set_reuse_port(true)));
            }
        }
        let closed = old.iter().map(|open| open.grip.clone()).collect();
        for open in old {
            let is_taken = taken.contains(&open.number);
            if open.is_held && !is_taken {
                log::warn!("systemd listens for {} still: whoever connects there waits in vain", open.socket);
            }
            self.leave(&mut state, open, is_taken, (&install, running));
        }
        for leaving in state.leaving.iter().filter(|leaving| taken.contains(&leaving.number)) {
            leaving.grip.let_go();
        }
        closed
    }

    /// Ends one that has been replaced, or is to be closed, without hurting anyone.
    ///
    /// As the process goes on, nobody has to end because options are others: then whatever has begun has all the time that it needs. Only
    /// those of an entry point that is gone are cut when their time is up, and sessions at an address that nobody is to use any more.
    fn leave(&self, state: &mut State, open: Open, is_taken: bool, (install, running): (&Install, &Install)) {
        let Open { number, socket, grip, .. } = open;
        let before = running.entry_points.get(&socket.entry_point);
        let plan = before.map_or_else(drain::Plan::default, |before| options::drain_one(install, before));
        let is_there = install.entry_points.contains_key(&socket.entry_point);
        log::info!(event = "leaving"; "{socket} is left: {}", grip.active());
        grip.set_draining(Draining::On);
        if is_taken {
            grip.let_go();
        } else if is_there || plan.accept_grace.is_zero() {
            grip.close();
        }
        let has_all_time = is_there && (is_taken || socket.protocol == Protocol::Tcp);
        state.leaving.push(Leaving { number, socket, grip: grip.clone() });
        let doors = self.this.clone();
        let task = async move {
            if has_all_time {
                grip.close_idle(plan.idle_spread);
                grip.closed().await;
                grip.over().await;
            } else {
                let door = Arc::new(grip);
                drain::run(Drain::new(plan, Cause::Stop, Instant::now()), door, std::future::pending()).await;
            }
            if let Some(doors) = doors.upgrade() {
                doors.forget(number);
            }
        };
        tokio::spawn(task);
    }

    /// One that was left has ended.
    fn forget(&self, number: u64) {
        let mut state = self.state.lock();
        state.leaving.retain(|leaving| leaving.number != number);
        let is_left = |carries: Carries, name: &str| {
            let protocol = sockets::protocol(carries);
            state.leaving.iter().any(|one| one.socket.protocol == protocol && one.socket.entry_point.as_str() == name)
        };
        self.app.forget(is_left);
    }
}

impl State {
    /// All sockets that are open.
    fn standing(&self) -> Vec<Standing> {
        let owned = self.open.values().map(|open| Standing {
            number: open.number,
            socket: open.socket.clone(),
            grip: open.grip.clone(),
            is_owned: true,
            is_held: open.is_held,
        });
        let left = self.leaving.iter().map(|leaving| Standing {
            number: leaving.number,
            socket: leaving.socket.clone(),
            grip: leaving.grip.clone(),
            is_owned: false,
            is_held: false,
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
    opened: BTreeMap<Name, (Grip, Arc<AtomicUsize>)>,
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
