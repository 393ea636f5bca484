//! Which servers of a service are up.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::metrics::Named;

/// The servers of one service, by URL or address. Empty until somebody says something.
#[derive(Debug, Default)]
pub struct ServerStates(Mutex<Option<Box<States>>>);

#[derive(Debug, Default)]
struct States {
    up: BTreeMap<Box<str>, bool>,
    /// Whether `up` names all servers that there are.
    complete: bool,
}

impl ServerStates {
    /// Says whether a server is up.
    ///
    /// One that [`ServerStates::set_all`] did not name is ignored: it is the last word of a check of a pool that has been replaced.
    pub fn set(&self, server: &str, up: bool) {
        let mut states = self.0.lock();
        let states = states.get_or_insert_default();
        match states.up.get_mut(server) {
            Some(state) => *state = up,
            None if states.complete => {}
            None => _ = states.up.insert(server.into(), up),
        }
    }

    /// Says which servers there are. New ones count as up; those that are not named are forgotten.
    pub fn set_all<'s>(&self, servers: impl IntoIterator<Item = &'s str>) {
        let mut states = self.0.lock();
        let states = states.get_or_insert_default();
        let up = servers.into_iter().map(|it| (it.into(), states.up.get(it).copied().unwrap_or(true))).collect();
        **states = States { up, complete: true };
    }

    /// Each server, and whether it is up.
    pub(super) fn each(&self, mut see: impl FnMut(&str, bool)) {
        if let Some(states) = &*self.0.lock() {
            states.up.iter().for_each(|(server, up)| see(server, *up));
        }
    }
}

/// What is told of a TCP service.
#[derive(Debug, Default)]
pub struct TcpServiceMeters {
    pub(super) name: Arc<str>,
    /// Its servers.
    pub servers: ServerStates,
}

impl TcpServiceMeters {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl Named for TcpServiceMeters {
    fn name(&self) -> (&str, &str) {
        (&self.name, "")
    }
}
