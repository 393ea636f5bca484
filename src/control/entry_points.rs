//! The entry points as routers see them: which there are, and which are on their way out.

use std::sync::Arc;

use crate::config::address::Protocol;
use crate::config::entry_points::{EntryPoint, EntryPoints as Written};
use crate::config::{Install, RouterTls};
use crate::units::Name;

/// The entry points of a process, and those that were closed. A name keeps its place while anybody is there who came by it:
/// connections know their entry point by its number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntryPoints {
    /// Those for TCP, in the order of [`crate::exchange::Client::entry_point_index`].
    pub tcp: Vec<EntryPointModel>,
    /// Those for UDP, in the order of their own indices.
    pub udp: Vec<UdpEntryPointModel>,
    /// Those that are open, as written.
    pub written: Arc<Written>,
}

/// What an entry point gives to the routers that it serves.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryPointModel {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is there for routers.
    pub standing: Standing,
    /// Whether routers without `entryPoints` are served here.
    pub is_default: bool,
    /// Middlewares in front of every router's own.
    pub middlewares: Box<[Name]>,
    /// What routers ask of TLS that do not say so themselves; `None` leaves them without TLS.
    pub tls: Option<RouterTls>,
}

/// An entry point for UDP.
#[derive(Clone, Debug, PartialEq)]
pub struct UdpEntryPointModel {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is there for routers.
    pub standing: Standing,
}

/// Whether an entry point is there for routers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    #[default]
    Open,
    /// It is not. Who came before it was closed is served by the routes that it had then.
    Leaving,
    /// It is not, and nobody is left of those who came before.
    Gone,
}

impl EntryPoints {
    /// Those of a process that starts.
    pub fn of(install: &Install) -> Self {
        Self::default().followed_by(install)
    }

    /// Those of `install`, each that was there before in its place. Those that are not there any more are leaving; the place of one
    /// that nobody is left of is another's.
    pub fn followed_by(&self, install: &Install) -> Self {
        let mut next = self.clone();
        for entry_point in &mut next.tcp {
            leave(&mut entry_point.standing);
        }
        for entry_point in &mut next.udp {
            leave(&mut entry_point.standing);
        }
        let defaults = install.default_entry_points();
        for (name, written) in &install.entry_points {
            match written.address.protocol {
                Protocol::Tcp => {
                    let model = EntryPointModel::of(name, written, defaults.contains(name));
                    put(&mut next.tcp, model, |one| (&*one.name, one.standing));
                }
                Protocol::Udp => {
                    let model = UdpEntryPointModel { name: name.as_str().into(), standing: Standing::Open };
                    put(&mut next.udp, model, |one| (&*one.name, one.standing));
                }
            }
        }
        next.written = Arc::new(install.entry_points.clone());
        next
    }

    /// The same, once nobody is left of those who came to these before they were closed.
    pub fn without(&self, is_left: impl Fn(Protocol, &str) -> bool) -> Self {
        let mut next = self.clone();
        for EntryPointModel { name, standing, .. } in &mut next.tcp {
            forget(standing, is_left(Protocol::Tcp, name));
        }
        for UdpEntryPointModel { name, standing } in &mut next.udp {
            forget(standing, is_left(Protocol::Udp, name));
        }
        next
    }

    /// The index of an entry point that is open.
    pub fn index(&self, protocol: Protocol, name: &str) -> Option<usize> {
        match protocol {
            Protocol::Tcp => self.tcp.iter().position(|one| one.is_open() && *one.name == *name),
            Protocol::Udp => self.udp.iter().position(|one| one.is_open() && *one.name == *name),
        }
    }

    /// Names of those that routers without `entryPoints` are served at.
    pub fn defaults(&self) -> Vec<&str> {
        let mut names: Vec<_> =
            self.tcp.iter().filter(|one| one.is_open() && one.is_default).map(|one| &*one.name).collect();
        names.sort_unstable();
        names
    }
}

impl EntryPointModel {
    fn of(name: &Name, written: &EntryPoint, is_default: bool) -> Self {
        Self {
            name: name.as_str().into(),
            standing: Standing::Open,
            is_default,
            middlewares: written.http.middlewares.clone().into(),
            tls: written.http.tls.clone(),
        }
    }

    /// Whether routers may be attached to it.
    pub fn is_open(&self) -> bool {
        self.standing == Standing::Open
    }
}

impl UdpEntryPointModel {
    /// Whether routers may be attached to it.
    pub fn is_open(&self) -> bool {
        self.standing == Standing::Open
    }
}

fn leave(standing: &mut Standing) {
    if *standing == Standing::Open {
        *standing = Standing::Leaving;
    }
}

fn forget(standing: &mut Standing, is_left: bool) {
    if *standing == Standing::Leaving && !is_left {
        *standing = Standing::Gone;
    }
}

/// Puts a model in the place that its name has, or in one that nobody is left at, or behind all others.
fn put<M>(models: &mut Vec<M>, model: M, look: impl Fn(&M) -> (&str, Standing)) {
    let (name, _) = look(&model);
    let own = models.iter().position(|known| look(known).0 == name);
    let place = own.or_else(|| models.iter().position(|known| look(known).1 == Standing::Gone));
    match place.and_then(|at| models.get_mut(at)) {
        Some(place) => *place = model,
        None => models.push(model),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, load};

    fn install(text: &str) -> Install {
        let (install, problems) = load::install_text(text, Format::Yaml, "f");
        assert!(problems.is_empty(), "{problems}");
        install
    }

    fn check(entry_points: &EntryPoints, tcp: &[(&str, Standing)], udp: &[(&str, Standing)]) {
        let found: Vec<_> = entry_points.tcp.iter().map(|one| (&*one.name, one.standing)).collect();
        assert_eq!(found, tcp);
        let found: Vec<_> = entry_points.udp.iter().map(|one| (&*one.name, one.standing)).collect();
        assert_eq!(found, udp);
    }

    #[test]
    fn names_keep_their_places() {
        use Standing::{Gone, Leaving, Open};
        let first = EntryPoints::of(&install("entryPoints: {b: {address: ':1'}, d: {address: ':1/udp'}}"));
        check(&first, &[("b", Open)], &[("d", Open)]);
        let second = first.followed_by(&install("entryPoints: {a: {address: ':1'}, d: {address: ':2'}}"));
        check(&second, &[("b", Leaving), ("a", Open), ("d", Open)], &[("d", Leaving)]);
        assert_eq!((second.index(Protocol::Tcp, "b"), second.index(Protocol::Tcp, "d")), (None, Some(2)));
        assert_eq!(second.defaults(), ["a", "d"]);
        let third = second.without(|protocol, _| protocol == Protocol::Udp);
        check(&third, &[("b", Gone), ("a", Open), ("d", Open)], &[("d", Leaving)]);
        let fourth =
            third.followed_by(&install("entryPoints: {b: {address: ':1', asDefault: true}, a: {address: ':3'}}"));
        check(&fourth, &[("b", Open), ("a", Open), ("d", Leaving)], &[("d", Leaving)]);
        assert_eq!(fourth.defaults(), ["b"]);
        let fifth = third.followed_by(&install("entryPoints: {e: {address: ':1'}, f: {address: ':2'}}"));
        check(&fifth, &[("e", Open), ("a", Leaving), ("d", Leaving), ("f", Open)], &[("d", Leaving)]);
    }
}
