//! Sockets that systemd has bound for this service, and holds as well.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use crate::process::handover::Claimed;
use crate::process::{BoundBy, Protocol, SocketName};

use super::sockets::Bound;

/// All of them. They are open for as long as systemd says, whether an entry point has them or not: so this process keeps a duplicate of
/// each, and an entry point that comes later finds the one that is meant for it.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<Claimed>);

impl Held {
    /// Keeps a duplicate of one that was claimed, if systemd bound it. Its number here.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub(super) fn keep(&mut self, claimed: &Claimed) -> io::Result<Option<usize>> {
        if claimed.name.bound_by != BoundBy::Systemd {
            return Ok(None);
        }
        self.0.push(Claimed { name: claimed.name.clone(), socket: claimed.socket.try_clone()? });
        Ok(Some(self.0.len() - 1))
    }

    /// Keeps those that nobody claimed.
    pub(super) fn extend(&mut self, unclaimed: Vec<Claimed>) {
        self.0.extend(unclaimed);
    }

    /// Duplicates of all of them, for a successor.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub(super) fn duplicates(&self) -> io::Result<Vec<(SocketName, OwnedFd)>> {
        self.0.iter().map(|Claimed { name, socket }| Ok((name.clone(), socket.try_clone()?))).collect()
    }

    /// Those of them that a socket of this name is made of, if systemd has bound it for that entry point.
    pub(super) fn of(&self, name: &SocketName) -> Vec<usize> {
        self.those(name.protocol, |held| held.entry_point == name.entry_point)
    }

    /// Those of them that are not in use and that this entry point may have: those that bear its name, or else those at its address.
    pub(super) fn free_for(&self, name: &SocketName, used: &BTreeSet<usize>) -> Vec<usize> {
        let is_free = |mut which: Vec<usize>| {
            which.retain(|at| !used.contains(at));
            Some(which).filter(|which| !which.is_empty())
        };
        let there = || self.those(name.protocol, |held| held.address.parse().is_ok_and(|address| name.is_at(address)));
        is_free(self.of(name)).or_else(|| is_free(there())).unwrap_or_default()
    }

    /// Whether one of them is at that port, for whichever entry point.
    pub(super) fn at_port(&self, protocol: Protocol, port: u16) -> Option<&SocketName> {
        let is_there = |name: &&SocketName| {
            name.protocol == protocol && name.address.parse().is_ok_and(|it: std::net::SocketAddr| it.port() == port)
        };
        self.0.iter().map(|held| &held.name).find(is_there)
    }

    /// Duplicates of these, for an entry point: what it calls them, and themselves.
    ///
    /// # Errors
    /// If they are gone, or the system has no descriptor left.
    pub(super) fn duplicate(&self, which: &[usize]) -> io::Result<(SocketName, Bound)> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let held = which.iter().filter_map(|at| self.0.get(*at));
        let sockets = held.clone().map(|held| held.socket.try_clone()).collect::<io::Result<Vec<_>>>()?;
        let name = held.map(|held| &held.name).next().ok_or_else(gone)?;
        Ok((name.clone(), Bound::from(name.protocol, sockets).ok_or_else(gone)?))
    }

    fn those(&self, protocol: Protocol, is_meant: impl Fn(&SocketName) -> bool) -> Vec<usize> {
        let is_meant = |held: &Claimed| held.name.protocol == protocol && is_meant(&held.name);
        let which = (0..self.0.len()).filter(|at| self.0.get(*at).is_some_and(is_meant));
        // A listener has one socket; for UDP all of a name are read.
        if protocol == Protocol::Udp { which.collect() } else { which.take(1).collect() }
    }
}
