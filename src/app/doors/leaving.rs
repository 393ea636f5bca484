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
                doors.forget(number);
            }
        };
        tokio::spawn(task);
        plan.accept_grace.is_zero().then_some(grip)
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
