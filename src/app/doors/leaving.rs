//! Entry points on their way out: what is left of those that were replaced or closed, and how it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::grip::Grip;
use super::super::{options, sockets};
use super::{Doors, Open, State};
use crate::config::address::Protocol as Carries;
use crate::config::install::Install;
use crate::process::SocketName;
use crate::process::drain::{self, Cause, Door, Drain, Draining, Plan};

/// One that has been replaced or is to be closed.
pub(super) struct Leaving {
    pub(super) number: u64,
    pub(super) socket: SocketName,
    pub(super) grip: Grip,
    pub(super) held: Vec<usize>,
}

impl Doors {
    /// Ends one that has been replaced, or is to be closed, without hurting anyone. Itself, if its sockets close at once.
    ///
    /// Where the socket goes on under other options, nobody has to end for them: the process goes on, and whatever has begun has all the
    /// time that it needs. Where the address is left, all ends as in a stop, since whoever balances between addresses has to notice, too.
    pub(super) fn leave(
        &self,
        state: &mut State,
        open: Open,
        is_taken: bool,
        (install, running): (&Install, &Install),
    ) -> Option<Grip> {
        let Open { number, socket, grip, held, .. } = open;
        let before = running.entry_points.get(&socket.entry_point);
        let plan = before.map_or_else(Plan::default, |before| options::drain_one(install, before));
        let after = install.entry_points.get(&socket.entry_point);
        let goes_on =
            is_taken && after.is_some_and(|after| sockets::protocol(after.address.protocol) == socket.protocol);
        log::info!(event = "leaving"; "{socket} is left: {}", grip.active());
        grip.set_draining(Draining::On);
        // Another has the socket, and takes who comes from now on.
        let plan = if is_taken { Plan { accept_grace: Duration::ZERO, ..plan } } else { plan };
        if is_taken {
            grip.let_go();
        } else if plan.accept_grace.is_zero() {
            grip.close();
        }
        state.leaving.push(Leaving { number, socket, grip: grip.clone(), held });
        let (doors, left) = (self.this.clone(), grip.clone());
        let task = async move {
            if goes_on {
                left.close_idle(plan.idle_spread);
                left.closed().await;
                left.over().await;
            } else {
                let drain = Drain::new(plan, Cause::Stop, Instant::now());
                drain::run(drain, Arc::new(left), std::future::pending()).await;
            }
            if let Some(doors) = doors.upgrade() {
                doors.ended(number).await;
            }
        };
        tokio::spawn(task);
        plan.accept_grace.is_zero().then_some(grip)
    }

    /// One that was left has ended. A reload that is under way goes on first: it has worked out by now which place each name has.
    async fn ended(&self, number: u64) {
        let _turn = self.app.pipeline.turn().await;
        self.forget(number);
    }

    fn forget(&self, number: u64) {
        let mut state = self.state.lock();
        state.leaving.retain(|leaving| leaving.number != number);
        let is_left = |carries: Carries, name: &str| {
            let protocol = sockets::protocol(carries);
            // One that accepts may be on its way out already, as far as routes are concerned.
            let mut all = state.leaving.iter().map(|one| &one.socket).chain(state.open.values().map(|one| &one.socket));
            all.any(|socket| socket.protocol == protocol && socket.entry_point.as_str() == name)
        };
        self.app.forget(is_left);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::super::assemble::{Listener, Listeners};
    use super::super::super::opener::Opener;
    use super::super::super::{App, Start};
    use super::*;
    use crate::config::{Format, load};
    use crate::control::Standing;
    use crate::units::Name;

    fn install(names: &[&str]) -> Install {
        let lines: String = names.iter().map(|name| format!("  {name}: {{address: '127.0.0.1:0'}}\n")).collect();
        let (install, problems) = load::install_text(&format!("entryPoints:\n{lines}"), Format::Yaml, "f");
        assert!(problems.is_empty(), "{problems}");
        install
    }

    /// Doors with these entry points, each at a port that the system chooses.
    fn doors(names: &[&str]) -> Arc<Doors> {
        let runtime = tokio::runtime::Handle::current();
        let start = Start { install: install(names), ..Start::default() };
        let app = Arc::new(App::new(start, runtime.clone()).map_err(|problems| problems.to_string()).unwrap());
        let mut listeners = Listeners::default();
        for (name, entry_point) in &app.install().entry_points {
            let socket = sockets::name(name, entry_point);
            let bound = sockets::bind(&socket, entry_point, 1).unwrap();
            let (held, inherited) = (Vec::new(), Vec::new());
            listeners.entry_points.push(Listener { name: name.clone(), socket, bound, held, inherited });
        }
        let opener = Opener::new(app.clone(), None, runtime);
        Doors::open(app, opener, listeners).unwrap()
    }

    fn standings(doors: &Doors) -> Vec<(String, Standing)> {
        doors.app.entry_points().tcp.iter().map(|one| (one.name.to_string(), one.standing)).collect()
    }

    fn number(doors: &Doors, name: &str) -> u64 {
        let state = doors.state.lock();
        let leaving = state.leaving.iter().find(|one| one.socket.entry_point == Name::from(name));
        leaving.map(|one| one.number).unwrap()
    }

    /// Somebody may end while a reload is under way that takes away another: that one is still there, and keeps its routes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_end_of_one_does_not_meddle_with_a_reload() {
        let doors = doors(&["x", "y", "z"]);
        let turn = doors.app.pipeline.turn().await;
        let remove = |names: &[&str]| {
            let (running, wanted) = (doors.app.install(), install(names));
            let prepared = doors.prepare(wanted);
            doors.app.follow(prepared.install.clone());
            (prepared, running)
        };
        let (prepared, running) = remove(&["y", "z"]);
        doors.replace(prepared, &running);
        let x = number(&doors, "x");
        // The next reload has begun: routes are gone by now, and the entry point is not.
        let (prepared, running) = remove(&["z"]);
        let expected = |x| {
            let all = [("x", x), ("y", Standing::Leaving), ("z", Standing::Open)];
            all.map(|(name, standing)| (name.to_owned(), standing)).to_vec()
        };
        let mut ended = std::pin::pin!(doors.ended(x));
        assert!(ended.as_mut().now_or_never().is_none(), "it waits for the end of the reload");
        assert_eq!(standings(&doors), expected(Standing::Leaving));
        // Even if it did not.
        doors.forget(x);
        assert_eq!(standings(&doors), expected(Standing::Gone));
        doors.replace(prepared, &running);
        let y = number(&doors, "y");
        drop(turn);
        ended.await;
        doors.ended(y).await;
        assert_eq!(standings(&doors)[1], ("y".to_owned(), Standing::Gone));
    }
}
