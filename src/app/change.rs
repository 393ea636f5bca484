//! A change of the entry points, worked out: what is opened, on which socket, and what cannot be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::config::address::Protocol;
use crate::config::entry_points::{EntryPoint, EntryPoints, Http, LifeCycle, Limits, Observability, Redirections};
use crate::config::entry_points::{TraceVerbosity, Transport, Udp};
use crate::config::{Address, Install};
use crate::problem::{Problem, Problems};
use crate::process::SocketName;
use crate::units::Name;

use super::grip::Grip;
use super::sockets::{self, Bound};

/// A socket that is open, as a change sees it.
pub(super) struct Standing {
    pub(super) number: u64,
    /// What it is called, by the address that its entry point was written with.
    pub(super) socket: SocketName,
    pub(super) grip: Grip,
    /// Whether its entry point still has it. Others are on their way out.
    pub(super) is_owned: bool,
    /// Whether systemd holds it as well. Then it stays, since systemd would let clients wait there for nobody.
    pub(super) is_held: bool,
}

/// A change of the entry points.
pub(super) struct Change {
    /// The settings that shall be in force.
    pub(super) install: Install,
    /// Sockets for entry points that get another one, or other options.
    pub(super) sockets: BTreeMap<Name, Bound>,
    /// Those that are open and go on under other options, or with another entry point.
    pub(super) taken: BTreeSet<u64>,
    /// Entry points that only get other bounds for their sessions.
    pub(super) bounds: Vec<Name>,
    /// What could not be done. What is not done for this reason stays as it was.
    pub(super) problems: Problems,
}

/// Works out how to come from `running` to `wanted`, and binds what has to be bound. Blocks.
pub(super) fn work_out(running: &Install, mut wanted: EntryPoints, standing: &[Standing], threads: usize) -> Change {
    for held in standing.iter().filter(|one| one.is_owned && one.is_held) {
        let before = running.entry_points.get(&held.socket.entry_point);
        if let (Some(before), Some(wanted)) = (before, wanted.get_mut(&held.socket.entry_point)) {
            wanted.address = before.address.clone();
        }
    }
    let mut work = Work {
        running,
        wanted,
        standing,
        threads,
        bound: BTreeMap::new(),
        taken: BTreeMap::new(),
        problems: Problems::new(),
    };
    while work.needs_another_look() {}
    work.finish()
}

struct Work<'a> {
    running: &'a Install,
    wanted: EntryPoints,
    standing: &'a [Standing],
    threads: usize,
    /// New sockets.
    bound: BTreeMap<Name, Bound>,
    /// Duplicates of sockets that are open, with the number of each.
    taken: BTreeMap<Name, (u64, Bound)>,
    problems: Problems,
}

/// Where an entry point gets its socket from.
enum Source<'a> {
    /// It goes on as it is.
    Untouched,
    /// One that is open: its own, or one that nobody else wants any more.
    Open(&'a Standing),
    /// Its address has to be bound.
    Address,
}

impl<'a> Work<'a> {
    /// Gets sockets for all who need one. If one cannot be had, who asked for it stays as it was; then all has to be looked at again,
    /// because others may have counted on the address that it would have left.
    fn needs_another_look(&mut self) -> bool {
        self.taken.clear();
        let mut install = self.install();
        if let Some((name, message)) = install.find_redirections().into_iter().next() {
            let path = format!("entryPoints.{name}.http.redirections.entryPoint.to");
            return self.give_up(&name, Problem::at(path, message));
        }
        let names: Vec<Name> = self.wanted.keys().cloned().collect();
        for name in names {
            let Some(entry_point) = self.wanted.get(&name) else { continue };
            let socket = sockets::name(&name, entry_point);
            let got = match self.source(&name, entry_point) {
                Source::Untouched => continue,
                Source::Open(one) => {
                    one.grip.sockets().map(|bound| drop(self.taken.insert(name.clone(), (one.number, bound))))
                }
                Source::Address if self.bound.contains_key(&name) => continue,
                Source::Address => {
                    self.bind(&socket, entry_point).map(|bound| drop(self.bound.insert(name.clone(), bound)))
                }
            };
            if let Err(error) = got {
                return self.give_up(&name, sockets::not_listening(&socket, &error));
            }
        }
        false
    }

    fn source(&self, name: &Name, entry_point: &EntryPoint) -> Source<'a> {
        match (self.moves(name), self.own(name)) {
            (false, Some(_)) if !self.is_treated_otherwise(name) => Source::Untouched,
            (false, Some(own)) => Source::Open(own),
            _ => self.left_at(entry_point).map_or(Source::Address, Source::Open),
        }
    }

    /// The socket that an entry point has.
    fn own(&self, name: &Name) -> Option<&'a Standing> {
        self.standing.iter().find(|one| one.is_owned && one.socket.entry_point == *name)
    }

    /// Whether an entry point does not want the socket any more that it has.
    fn moves(&self, name: &Name) -> bool {
        let address =
            |entry_points: &EntryPoints| entry_points.get(name).map(|entry_point| entry_point.address.clone());
        address(&self.running.entry_points) != address(&self.wanted)
    }

    /// Whether new connections are to be treated otherwise than those that there are. Of UDP nothing is such that its sessions could not
    /// go on.
    fn is_treated_otherwise(&self, name: &Name) -> bool {
        match (self.running.entry_points.get(name), self.wanted.get(name)) {
            (Some(before), Some(after)) if after.address.protocol == Protocol::Tcp => {
                treatment(before) != treatment(after)
            }
            _ => false,
        }
    }

    /// A socket at the address of an entry point that its own does not want any more.
    fn left_at(&self, entry_point: &EntryPoint) -> Option<&'a Standing> {
        let is_there = |one: &&Standing| {
            let wanted = sockets::name(&one.socket.entry_point, entry_point);
            entry_point.address.port != 0 && wanted == one.socket
        };
        // It may have been closed for good.
        self.standing.iter().filter(is_there).find(|one| self.is_left(one) && one.grip.sockets().is_ok())
    }

    fn is_left(&self, one: &Standing) -> bool {
        !one.is_owned || self.moves(&one.socket.entry_point)
    }

    /// Binds an address. One of our own that overlaps with it may still be open: it is about to be closed.
    fn bind(&self, socket: &SocketName, entry_point: &EntryPoint) -> io::Result<Bound> {
        let bound = sockets::bind(socket, entry_point, self.threads);
        if !matches!(&bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            return bound;
        }
        let is_in_the_way = |one: &&Standing| {
            let is_at_port = one.grip.address().port() == entry_point.address.port;
            is_at_port && one.socket.protocol == socket.protocol && self.is_left(one)
        };
        let in_the_way = self.standing.iter().filter(is_in_the_way);
        let in_the_way: Vec<Bound> = in_the_way.filter_map(|one| one.grip.sockets().ok()).collect();
        if in_the_way.is_empty() {
            return bound;
        }
        in_the_way.iter().try_for_each(|old| old.set_reuse_port(true))?;
        let shared = EntryPoint { reuse_port: true, ..entry_point.clone() };
        let bound = sockets::bind(socket, &shared, if entry_point.reuse_port { self.threads } else { 1 });
        if !entry_point.reuse_port {
            in_the_way.iter().chain(&bound).try_for_each(|one| one.set_reuse_port(false))?;
        }
        bound
    }

    /// Takes back what is wanted of an entry point, for this reason. Whether anything is different then.
    fn give_up(&mut self, name: &Name, problem: Problem) -> bool {
        self.bound.remove(name);
        let before = self.running.entry_points.get(name);
        if before.is_some() && before == self.wanted.get(name) {
            return self.keep_target(name, problem);
        }
        let (help, is_news) = match before {
            Some(before) => {
                self.wanted.insert(name.clone(), before.clone());
                ("the entry point stays as it was", true)
            }
            None => ("the entry point stays closed", self.wanted.remove(name).is_some()),
        };
        self.problems.push(problem.with_help(help));
        is_news
    }

    /// An entry point that stays as it was cannot do without the one that it leads to.
    fn keep_target(&mut self, name: &Name, problem: Problem) -> bool {
        let redirection =
            self.running.entry_points.get(name).and_then(|one| one.http.redirections.entry_point.as_ref());
        let target = redirection.and_then(|to| self.running.entry_points.get_key_value(&*to.to));
        let Some((target, as_it_was)) = target else { return false };
        self.problems.push(problem.with_help(format!("entry point `{target}` stays as it was")));
        self.wanted.insert(target.clone(), as_it_was.clone()).as_ref() != Some(as_it_was)
    }

    fn install(&self) -> Install {
        Install { entry_points: self.wanted.clone(), ..self.running.clone() }
    }

    fn finish(self) -> Change {
        let mut install = self.install();
        // What leads nowhere has been given up.
        install.find_redirections();
        let (mut sockets, mut taken) = (self.bound, BTreeSet::new());
        for (name, (number, bound)) in self.taken {
            let at = self.wanted.get(&name).map(|entry_point| sockets::name(&name, entry_point).address);
            // Several may have left the same address one after the other. None of them may have what comes from now on.
            let others = self.standing.iter().filter(|one| !one.is_owned && Some(&one.socket.address) == at.as_ref());
            taken.extend(others.map(|one| one.number).chain([number]));
            sockets.insert(name, bound);
        }
        let is_bounded_otherwise = |(name, after): &(&Name, &EntryPoint)| {
            let before = self.running.entry_points.get(*name);
            let is_udp = after.address.protocol == Protocol::Udp;
            before.is_some_and(|before| {
                is_udp && (&before.udp, before.limits.max_sessions) != (&after.udp, after.limits.max_sessions)
            })
        };
        let bounds = self.wanted.iter().filter(is_bounded_otherwise).map(|(name, _)| name.clone());
        let bounds = bounds.filter(|name| !sockets.contains_key(name)).collect();
        Change { install, sockets, taken, bounds, problems: self.problems }
    }
}

/// What of an entry point its connections carry with them. The rest is what routers are told, or what holds for the socket alone.
fn treatment(entry_point: &EntryPoint) -> EntryPoint {
    let EntryPoint { transport, http, observability, limits, .. } = entry_point.clone();
    EntryPoint {
        address: Address::any(0),
        reuse_port: false,
        as_default: false,
        udp: Udp::default(),
        transport: Transport { life_cycle: LifeCycle::default(), ..transport },
        http: Http { redirections: Redirections::default(), middlewares: Vec::new(), tls: None, ..http },
        observability: Observability { tracing: true, trace_verbosity: TraceVerbosity::Minimal, ..observability },
        limits: Limits { max_sessions: None, ..limits },
        ..entry_point.clone()
    }
}
