//! A change of the entry points, worked out: what is opened, on which socket, and what cannot be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::config::address::Protocol;
use crate::config::entry_points::{EntryPoint, EntryPoints, Http, LifeCycle, Limits, Observability, Redirections};
use crate::config::entry_points::{TraceVerbosity, Transport, Udp};
use crate::config::own::Own;
use crate::config::{Address, Install};
use crate::problem::{Problem, Problems};
use crate::process::{self, SocketName};
use crate::units::Name;

use super::grip::Grip;
use super::held::Held;
use super::sockets::{self, Bound};

/// A socket that is open, as a change sees it.
pub(super) struct Standing {
    pub(super) number: u64,
    /// What it is called, by the address that its entry point was written with, or where systemd has bound it.
    pub(super) socket: SocketName,
    pub(super) grip: Grip,
    /// Whether its entry point still has it. Others are on their way out.
    pub(super) is_owned: bool,
    /// Which of the sockets that systemd holds it is. Those stay open when they are closed here.
    pub(super) held: Vec<usize>,
}

/// A socket for an entry point that gets another one, or other options.
#[derive(Debug)]
pub(super) struct Placed {
    /// What it is called.
    pub(super) socket: SocketName,
    pub(super) bound: Bound,
    /// Which of the sockets that systemd holds it is.
    pub(super) held: Vec<usize>,
}

/// A change of the entry points.
pub(super) struct Change {
    /// The settings that shall be in force.
    pub(super) install: Install,
    /// Sockets for entry points that get another one, or other options.
    pub(super) sockets: BTreeMap<Name, Placed>,
    /// Those that are open and go on under other options, or with another entry point.
    pub(super) taken: BTreeSet<u64>,
    /// Entry points that only get other bounds for their sessions.
    pub(super) bounds: Vec<Name>,
    /// What could not be done, and stays as it was; and warnings about what was.
    pub(super) problems: Problems,
}

/// What a change begins with.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) running: &'a Install,
    pub(super) standing: &'a [Standing],
    pub(super) held: &'a Held,
    /// Threads that carry traffic.
    pub(super) threads: usize,
}

/// Works out how to come from what there is to `wanted`, and binds what has to be bound. Blocks.
pub(super) fn work_out(before: Before<'_>, mut wanted: Install) -> Change {
    keep_spread(before, &mut wanted.entry_points);
    let mut work = Work {
        before,
        wanted,
        bound: BTreeMap::new(),
        taken: BTreeMap::new(),
        failed: BTreeSet::new(),
        unserved: BTreeSet::new(),
        problems: Problems::new(),
    };
    while work.needs_another_look() {}
    work.finish()
}

struct Work<'a> {
    before: Before<'a>,
    wanted: Install,
    /// New sockets.
    bound: BTreeMap<Name, Placed>,
    /// Duplicates of sockets that are open, with the number of each if an entry point has it.
    taken: BTreeMap<Name, (Option<u64>, Placed)>,
    /// Those that cannot have a socket though nothing about them is new.
    failed: BTreeSet<Name>,
    /// Things of the gateway's own that stay where they were.
    unserved: BTreeSet<Own>,
    problems: Problems,
}

/// Where an entry point gets its socket from.
enum Source<'a> {
    /// It goes on as it is.
    Untouched,
    /// One that is open: its own, or one that nobody else wants any more.
    Open(&'a Standing),
    /// One that systemd holds and that nobody has.
    Held(Vec<usize>),
    /// Its address has to be bound.
    Address,
}

impl<'a> Work<'a> {
    /// Gets sockets for all who need one. If one cannot be had, who asked for it stays as it was; then all has to be looked at again,
    /// because others may have counted on the address that it would have left.
    fn needs_another_look(&mut self) -> bool {
        self.taken.clear();
        if let Some(own) = Own::all(&self.wanted).into_iter().find(|own| !self.is_servable(own)) {
            return self.keep_own(&own);
        }
        if let Some((name, message)) = self.wanted.clone().find_redirections().into_iter().next() {
            let path = format!("entryPoints.{name}.http.redirections.entryPoint.to");
            return self.give_up(&name, Problem::at(path, message));
        }
        let names: Vec<Name> =
            self.wanted.entry_points.keys().filter(|name| !self.failed.contains(*name)).cloned().collect();
        for name in names {
            let Some(entry_point) = self.wanted.entry_points.get(&name) else { continue };
            let socket = sockets::name(&name, entry_point);
            let got = match self.source(&name, &socket, entry_point) {
                Source::Untouched => continue,
                Source::Open(one) => self.take(&name, socket.clone(), one),
                Source::Held(which) => self.take_held(&name, which),
                Source::Address if self.bound.contains_key(&name) => continue,
                Source::Address => self.bind(&socket, entry_point).map(|bound| {
                    self.bound.insert(name.clone(), Placed { socket: socket.clone(), bound, held: Vec::new() });
                }),
            };
            if let Err(error) = got {
                return self.give_up(&name, self.not_listening(&socket, &error));
            }
        }
        false
    }

    fn source(&self, name: &Name, socket: &SocketName, entry_point: &EntryPoint) -> Source<'a> {
        match (self.moves(name), self.own(name)) {
            (false, Some(_)) if !self.is_treated_otherwise(name) => return Source::Untouched,
            (false, Some(own)) => return Source::Open(own),
            _ => {}
        }
        let owned = self.before.standing.iter().filter(|one| one.is_owned).map(|one| &one.held);
        let taken = self.taken.values().map(|(_, placed)| &placed.held);
        let used: BTreeSet<usize> = owned.chain(taken).flatten().copied().collect();
        let which = self.before.held.free_for(socket, &used);
        if !which.is_empty() {
            return Source::Held(which);
        }
        self.left_at(entry_point).map_or(Source::Address, Source::Open)
    }

    /// The socket that an entry point has.
    fn own(&self, name: &Name) -> Option<&'a Standing> {
        self.before.standing.iter().find(|one| one.is_owned && one.socket.entry_point == *name)
    }

    /// Whether an entry point does not want the socket any more that it has. One that systemd has bound for it is where it is, whatever
    /// address is written.
    fn moves(&self, name: &Name) -> bool {
        let (before, after) = match (self.before.running.entry_points.get(name), self.wanted.entry_points.get(name)) {
            (Some(before), Some(after)) => (&before.address, after),
            (before, after) => return before.is_some() != after.is_some(),
        };
        match self.own(name).filter(|own| !own.held.is_empty() && before.protocol == after.address.protocol) {
            Some(own) if self.is_fixed(own) => false,
            Some(own) => !sockets::name(name, after).is_at(own.grip.address()),
            None => *before != after.address,
        }
    }

    /// Whether systemd has bound a socket for the entry point that has it.
    fn is_fixed(&self, one: &Standing) -> bool {
        let named = self.before.held.of(&one.socket);
        one.held.iter().any(|at| named.contains(at))
    }

    /// Whether new connections are to be treated otherwise than those that there are. Of UDP nothing is such that its sessions could not
    /// go on.
    fn is_treated_otherwise(&self, name: &Name) -> bool {
        match (self.before.running.entry_points.get(name), self.wanted.entry_points.get(name)) {
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
            let is_its = || wanted.protocol == one.socket.protocol && wanted.is_at(one.grip.address());
            entry_point.address.port != 0 && if one.held.is_empty() { wanted == one.socket } else { is_its() }
        };
        // It may have been closed for good.
        let standing = self.before.standing.iter();
        standing.filter(is_there).find(|one| self.is_left(one) && !self.is_taken(one) && one.grip.sockets().is_ok())
    }

    /// Whether somebody else has been given the socket already.
    fn is_taken(&self, one: &Standing) -> bool {
        let is_it = |(number, placed): &(Option<u64>, Placed)| {
            *number == Some(one.number) || one.held.iter().any(|at| placed.held.contains(at))
        };
        self.taken.values().any(is_it)
    }

    fn is_left(&self, one: &Standing) -> bool {
        !one.is_owned || self.moves(&one.socket.entry_point)
    }

    fn take(&mut self, name: &Name, socket: SocketName, one: &Standing) -> io::Result<()> {
        let bound = one.grip.sockets()?;
        let socket = match one.held.is_empty() {
            true => socket,
            false => SocketName { entry_point: name.clone(), ..one.socket.clone() },
        };
        self.taken.insert(name.clone(), (Some(one.number), Placed { socket, bound, held: one.held.clone() }));
        Ok(())
    }

    fn take_held(&mut self, name: &Name, held: Vec<usize>) -> io::Result<()> {
        let (socket, bound) = self.before.held.duplicate(&held)?;
        let socket = SocketName { entry_point: name.clone(), ..socket };
        self.taken.insert(name.clone(), (None, Placed { socket, bound, held }));
        Ok(())
    }

    /// Binds an address. One of our own that overlaps with it may still be open: it is about to be closed.
    fn bind(&self, socket: &SocketName, entry_point: &EntryPoint) -> io::Result<Bound> {
        let threads = self.before.threads;
        let bound = sockets::bind(socket, entry_point, threads);
        if !matches!(&bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            return bound;
        }
        let is_in_the_way = |one: &&Standing| {
            let is_at_port = one.grip.address().port() == entry_point.address.port;
            // One that systemd holds as well would go on taking its part of what comes.
            let is_closing = self.is_left(one) && one.held.is_empty();
            is_at_port && one.socket.protocol == socket.protocol && is_closing
        };
        let in_the_way = self.before.standing.iter().filter(is_in_the_way);
        let in_the_way: Vec<Bound> = in_the_way.filter_map(|one| one.grip.sockets().ok()).collect();
        if in_the_way.is_empty() {
            return bound;
        }
        let settings = in_the_way.iter().map(Bound::reuse_port).collect::<io::Result<Vec<_>>>()?;
        let bound = in_the_way.iter().try_for_each(|old| old.set_reuse_port(true)).and_then(|()| {
            let shared = EntryPoint { reuse_port: true, ..entry_point.clone() };
            sockets::bind(socket, &shared, if entry_point.reuse_port { threads } else { 1 })
        });
        // They may stay where they are after all.
        in_the_way.iter().zip(settings).try_for_each(|(old, reuse_port)| old.set_reuse_port(reuse_port))?;
        let bound = bound?;
        bound.set_reuse_port(entry_point.reuse_port)?;
        Ok(bound)
    }

    fn not_listening(&self, socket: &SocketName, error: &io::Error) -> Problem {
        let problem = sockets::not_listening(socket, error);
        let port = socket.address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default();
        match self.before.held.at_port(socket.protocol, port).filter(|_| error.kind() == io::ErrorKind::AddrInUse) {
            Some(held) => {
                let message = format!("{}: systemd listens there for `{}`", problem.message, held.entry_point);
                Problem { message, ..problem }
            }
            None => problem,
        }
    }

    /// Takes back what is wanted of an entry point, for this reason. Whether anything is different then.
    fn give_up(&mut self, name: &Name, problem: Problem) -> bool {
        self.bound.remove(name);
        let before = self.before.running.entry_points.get(name);
        if before.is_some() && before == self.wanted.entry_points.get(name) {
            return self.keep_target(name, problem);
        }
        let (help, is_news) = match before {
            Some(before) => {
                self.wanted.entry_points.insert(name.clone(), before.clone());
                ("the entry point stays as it was", true)
            }
            None => ("the entry point stays closed", self.wanted.entry_points.remove(name).is_some()),
        };
        self.problems.push(problem.with_help(help));
        is_news
    }

    /// An entry point that stays as it was cannot do without the one that it leads to. One that was closed for a successor which died
    /// may have lost its address.
    fn keep_target(&mut self, name: &Name, problem: Problem) -> bool {
        let running = &self.before.running.entry_points;
        let redirection = running.get(name).and_then(|one| one.http.redirections.entry_point.as_ref());
        let target = redirection.and_then(|to| running.get_key_value(&*to.to));
        let Some((target, as_it_was)) =
            target.filter(|(target, was)| self.wanted.entry_points.get(*target) != Some(was))
        else {
            let is_news = self.failed.insert(name.clone());
            self.problems.extend(is_news.then_some(problem));
            return is_news;
        };
        self.problems.push(problem.with_help(format!("entry point `{target}` stays as it was")));
        self.wanted.entry_points.insert(target.clone(), as_it_was.clone());
        true
    }

    /// Whether a thing of the gateway's own has an entry point to be served at.
    fn is_servable(&self, own: &Own) -> bool {
        let listens = |name: &str| {
            let entry_point = self.wanted.entry_points.get(name);
            entry_point.is_some_and(|entry_point| entry_point.address.protocol == Protocol::Tcp)
        };
        own.entry_point(&self.wanted).is_none_or(listens)
    }

    /// A thing of the gateway's own whose new entry point cannot be had stays where it was, and so does that one.
    fn keep_own(&mut self, own: &Own) -> bool {
        let running = self.before.running;
        let missing = own.entry_point(&self.wanted).unwrap_or_default().to_owned();
        own.follow(&mut self.wanted, running);
        let before = own.entry_point(running).and_then(|name| running.entry_points.get_key_value(name));
        let mut problems = Problems::new();
        let help = match before {
            Some((name, as_it_was)) => {
                if self.wanted.entry_points.get(name).is_none_or(|now| now.address.protocol != Protocol::Tcp) {
                    self.wanted.entry_points.insert(name.clone(), as_it_was.clone());
                    let message = format!("stays as it was, as `{}` is served there", own.setting());
                    problems.push(Problem::at(format!("entryPoints.{name}"), message));
                }
                format!("it is served at `{name}` as before")
            }
            None => "it is not served, as before".to_owned(),
        };
        let problem = Problem::at(own.setting(), format!("entry point `{missing}` is not open"));
        let is_news = self.unserved.insert(own.clone());
        if is_news {
            self.problems.push(problem.with_help(help));
            self.problems.extend(problems);
        }
        is_news
    }

    fn finish(mut self) -> Change {
        let mut install = self.wanted.clone();
        // What leads nowhere has been given up.
        install.find_redirections();
        self.warn_of_what_acts_in_part();
        let Self { before: Before { running, standing, .. }, wanted, bound, taken: got, problems, .. } = self;
        let wanted = wanted.entry_points;
        let (mut sockets, mut taken) = (bound, BTreeSet::new());
        for (name, (number, placed)) in got {
            // Several may have left the same address one after the other. None of them may have what comes from now on.
            let is_there =
                |one: &SocketName| (one.protocol, &one.address) == (placed.socket.protocol, &placed.socket.address);
            let others = standing.iter().filter(|one| !one.is_owned && is_there(&one.socket));
            taken.extend(others.map(|one| one.number).chain(number));
            sockets.insert(name, placed);
        }
        let is_bounded_otherwise = |(name, after): &(&Name, &EntryPoint)| {
            let before = running.entry_points.get(*name);
            let is_udp = after.address.protocol == Protocol::Udp;
            before.is_some_and(|before| {
                is_udp && (&before.udp, before.limits.max_sessions) != (&after.udp, after.limits.max_sessions)
            })
        };
        let bounds = wanted.iter().filter(is_bounded_otherwise).map(|(name, _)| name.clone());
        let bounds = bounds.filter(|name| !sockets.contains_key(name)).collect();
        Change { install, sockets, taken, bounds, problems }
    }

    /// Another address says nothing where systemd has bound the socket; and who has joined an address cannot be sent away.
    fn warn_of_what_acts_in_part(&mut self) {
        for (name, after) in &self.wanted.entry_points {
            let Some(before) = self.before.running.entry_points.get(name).filter(|_| !self.moves(name)) else {
                continue;
            };
            if let Some(own) = self.own(name).filter(|_| before.address != after.address) {
                let message =
                    format!("systemd has bound the socket: it listens on {} all the same", own.grip.address());
                let problem = Problem::warning(format!("entryPoints.{name}.address"), message);
                self.problems.push(problem.with_help("change its socket unit"));
            }
            if before.reuse_port && !after.reuse_port && after.address.protocol == Protocol::Tcp {
                let message = "processes of the same user can join until the address is closed for good";
                self.problems.push(Problem::warning(format!("entryPoints.{name}.reusePort"), message));
            }
        }
    }
}

/// Where the clients of one entry point for UDP are spread over several sockets, its address stays shared as long as it has these: the
/// system would give all of them to one, away from the sessions that they have.
fn keep_spread(before: Before<'_>, wanted: &mut EntryPoints) {
    for one in before.standing.iter().filter(|one| one.is_owned && one.socket.protocol == process::Protocol::Udp) {
        let Some(was) = before.running.entry_points.get(&one.socket.entry_point) else { continue };
        let Some(after) = wanted.get_mut(&one.socket.entry_point) else { continue };
        let is_spread = || one.grip.duplicates().is_ok_and(|sockets| sockets.len() > 1);
        if was.reuse_port && !after.reuse_port && was.address == after.address && is_spread() {
            after.reuse_port = true;
        }
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
