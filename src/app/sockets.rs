//! The sockets of entry points: named, bound, shared.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use socket2::SockRef;

use crate::config::EntryPoint;
use crate::config::address::Protocol as Written;
use crate::problem::Problem;
use crate::process::{BoundBy, Protocol, SocketName};
use crate::traffic::{entrypoint, udp};
use crate::units::Name;

/// The sockets of one entry point.
#[derive(Debug)]
pub(super) enum Bound {
    /// It listens.
    Tcp(TcpListener),
    /// One, or several that share the address.
    Udp(Vec<UdpSocket>),
}

impl Bound {
    /// Sockets that were bound elsewhere; `None` if there are none.
    pub(super) fn from(protocol: Protocol, sockets: Vec<OwnedFd>) -> Option<Self> {
        match protocol {
            Protocol::Tcp => sockets.into_iter().next().map(|socket| Self::Tcp(TcpListener::from(socket))),
            Protocol::Udp if sockets.is_empty() => None,
            Protocol::Udp => Some(Self::Udp(sockets.into_iter().map(UdpSocket::from).collect())),
            Protocol::Unix => None,
        }
    }

    /// Whether other processes of the same user may use the address as well.
    pub(super) fn reuse_port(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).reuse_port(),
            Self::Udp(sockets) => sockets.first().map_or(Ok(false), |socket| SockRef::from(socket).reuse_port()),
        }
    }

    /// Says whether other processes of the same user may use the address as well. To let nobody in any more helps only for UDP, and for
    /// addresses that nobody was ever let in at.
    pub(super) fn set_reuse_port(&self, reuse_port: bool) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).set_reuse_port(reuse_port),
            Self::Udp(sockets) => {
                sockets.iter().try_for_each(|socket| SockRef::from(socket).set_reuse_port(reuse_port))
            }
        }
    }
}

/// What the sockets of an entry point are called.
pub(super) fn name(name: &Name, EntryPoint { address, .. }: &EntryPoint) -> SocketName {
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.to_string() };
    SocketName {
        entry_point: name.clone(),
        protocol: protocol(address.protocol),
        address: format!("{host}:{}", address.port),
        bound_by: BoundBy::Gateway,
    }
}

/// What tells a socket from all others: its duplicates have the same, in whichever process they are.
///
/// # Errors
/// If the system cannot tell.
pub(super) fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::net::sockopt::socket_cookie(socket)?)
}

/// Whether these are duplicates of one socket.
pub(super) fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    matches!((cookie(one), cookie(other)), (Ok(one), Ok(other)) if one == other)
}

/// What carries it, in a hand-over's words.
pub(super) fn protocol(written: Written) -> Protocol {
    match written {
        Written::Tcp => Protocol::Tcp,
        Written::Udp => Protocol::Udp,
    }
}

/// Binds the sockets of an entry point.
///
/// # Errors
/// If the address cannot be read, resolved or bound.
pub(super) fn bind(socket: &SocketName, entry_point: &EntryPoint, threads: usize) -> io::Result<Bound> {
    match entry_point.address.protocol {
        Written::Tcp => entrypoint::bind(&socket.address, entry_point.reuse_port).map(Bound::Tcp),
        Written::Udp => bind_udp(&socket.address, entry_point, threads).map(Bound::Udp),
    }
}

/// One socket; with `reusePort` one for each thread, among which the system spreads the clients.
fn bind_udp(address: &str, entry_point: &EntryPoint, threads: usize) -> io::Result<Vec<UdpSocket>> {
    let first = udp::bind(address, entry_point.reuse_port)?;
    let mut sockets = vec![first];
    if entry_point.reuse_port {
        // Where the system has chosen the port, the others have to be told.
        let chosen = sockets[0].local_addr()?.to_string();
        let address = if entry_point.address.port == 0 { &*chosen } else { address };
        for _ in 1..threads.min(MAX_UDP_SOCKETS) {
            sockets.push(udp::bind(address, true)?);
        }
    }
    Ok(sockets)
}

/// Sockets of one entry point for UDP: more are no quicker.
const MAX_UDP_SOCKETS: usize = 8;

/// Says that an entry point does not get its address.
pub(super) fn not_listening(SocketName { entry_point, address, .. }: &SocketName, error: &io::Error) -> Problem {
    Problem::at(format!("entryPoints.{entry_point}.address"), format!("cannot listen on {address}: {error}"))
}
