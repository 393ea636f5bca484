//! Sockets that came from elsewhere (a predecessor, systemd), waiting for the entry points that claim them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::units::Name;

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// A listening TCP socket.
    Tcp,
    /// A bound UDP socket.
    Udp,
    /// A listening Unix stream socket.
    Unix,
}

impl Protocol {
    /// Reads it off a socket.
    ///
    /// # Errors
    /// When it is no socket we could serve: a kind we do not know, or a stream socket that does not listen.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let domain = sockopt::socket_domain(socket)?;
        let kind = sockopt::socket_type(socket)?;
        let protocol = match (domain, kind) {
            (AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM) => Self::Tcp,
            (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) => return Ok(Self::Udp),
            (AddressFamily::UNIX, SocketType::STREAM) => Self::Unix,
            _ => return Err(io::Error::other("neither TCP, UDP nor a Unix stream")),
        };
        if sockopt::socket_acceptconn(socket)? { Ok(protocol) } else { Err(io::Error::other("does not listen")) }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
        })
    }
}

/// Who bound a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BoundBy {
    /// This program, or one before it.
    #[default]
    Gateway,
    /// systemd, which holds it as well: it is open for as long as its unit says.
    Systemd,
}

/// Which socket: its entry point, what it carries, and its address as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketName {
    /// The entry point it belongs to; that of its unit, if systemd bound it.
    pub entry_point: Name,
    /// What it carries.
    pub protocol: Protocol,
    /// `[::]:443`, `127.0.0.1:80` or a path, always written the same way by one program version and the next. Where it really is, if
    /// systemd bound it.
    pub address: String,
    /// Who bound it.
    pub bound_by: BoundBy,
}

impl SocketName {
    /// Whether its address, as text, is this one. Names of hosts are not resolved, and never are.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        match self.address.strip_prefix(':') {
            Some(port) => address.ip().is_unspecified() && port.parse() == Ok(address.port()),
            None => self.address.parse() == Ok(address),
        }
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.entry_point, self.address, self.protocol)
    }
}

/// Sockets on offer, each to be claimed once. Those nobody claims are closed with this value.
#[derive(Debug, Default)]
pub struct Sockets {
    offers: Vec<Offer>,
}

#[derive(Debug)]
struct Offer {
    name: SocketName,
    /// Where it is, if systemd bound it.
    address: Option<SocketAddr>,
    socket: Option<OwnedFd>,
}

/// A socket that was on offer.
#[derive(Debug)]
pub struct Claimed {
    /// What its giver calls it.
    pub name: SocketName,
    /// Itself, non-blocking and closed on exec.
    pub socket: OwnedFd,
}

impl Sockets {
    /// Offers a socket under the name that its giver has for it.
    pub fn offer(&mut self, name: SocketName, socket: OwnedFd) {
        let is_systemds = name.bound_by == BoundBy::Systemd;
        let address = is_systemds.then(|| rustix::net::getsockname(&socket).ok()?.try_into().ok()).flatten();
        self.offers.push(Offer { name, address, socket: Some(socket) });
    }

    /// Takes the socket for `name`.
    ///
    /// First the one of exactly that name; then the one that systemd bound for this entry point, wherever it did: it binds by its own
    /// unit files. Then one with the same address whose entry point had another name before, because that address cannot be bound twice.
    pub fn claim(&mut self, name: &SocketName) -> Option<Claimed> {
        let at = self.fitting(name).next()?;
        self.take(at)
    }

    /// Takes all sockets for `name`: there are several where the system spreads what comes in, and one that nobody reads from would
    /// swallow its part. Chosen as by [`Sockets::claim`].
    pub fn claim_all(&mut self, name: &SocketName) -> Vec<Claimed> {
        let fitting: Vec<usize> = self.fitting(name).collect();
        fitting.into_iter().filter_map(|at| self.take(at)).collect()
    }

    /// Takes those of systemd that nobody has claimed.
    pub fn take_held(&mut self) -> Vec<Claimed> {
        let held = |offer: &Offer| offer.socket.is_some() && offer.name.bound_by == BoundBy::Systemd;
        let held: Vec<usize> = (0..self.offers.len()).filter(|at| self.offers.get(*at).is_some_and(held)).collect();
        held.into_iter().filter_map(|at| self.take(at)).collect()
    }

    fn take(&mut self, at: usize) -> Option<Claimed> {
        let Offer { name, socket, .. } = self.offers.get_mut(at)?;
        let socket = socket.take()?;
        match rustix::io::ioctl_fionbio(&socket, true) {
            Ok(()) => Some(Claimed { name: name.clone(), socket }),
            Err(error) => {
                log::warn!("cannot use the inherited socket {name}: {error}");
                None
            }
        }
    }

    /// Those that fit best, and are there.
    fn fitting<'s>(&'s self, name: &'s SocketName) -> impl Iterator<Item = usize> + 's {
        let fits = |offer: &Offer| {
            let SocketName { entry_point, protocol, address, bound_by } = &offer.name;
            match offer.socket.is_some() && *protocol == name.protocol {
                false => None,
                true if offer.name == *name => Some(0),
                true if *bound_by == BoundBy::Systemd && *entry_point == name.entry_point => Some(1),
                true => {
                    let is_there = *address == name.address || offer.address.is_some_and(|address| name.is_at(address));
                    is_there.then_some(2)
                }
            }
        };
        let best = self.offers.iter().filter_map(fits).min();
        let of_the_best = move |offer: &Offer| fits(offer).is_some_and(|fit| Some(fit) == best);
        (0..self.offers.len()).filter(move |at| self.offers.get(*at).is_some_and(&of_the_best))
    }

    /// The names of those nobody claimed yet.
    pub fn unclaimed(&self) -> impl Iterator<Item = &SocketName> {
        self.offers.iter().filter(|offer| offer.socket.is_some()).map(|offer| &offer.name)
    }

    /// Closes those nobody claimed and says, by their place in the offer, which they were.
    pub(super) fn close_unclaimed(&mut self) -> Vec<usize> {
        let mut closed = Vec::new();
        for (at, offer) in self.offers.iter_mut().enumerate() {
            if offer.socket.take().is_some() {
                closed.push(at);
            }
        }
        closed
    }

    /// How many were offered, claimed or not.
    pub fn len(&self) -> usize {
        self.offers.len()
    }

    /// Whether none was offered.
    pub fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    fn name(entry_point: &str, address: &str) -> SocketName {
        let bound_by = BoundBy::Gateway;
        SocketName { entry_point: entry_point.into(), protocol: Protocol::Tcp, address: address.to_owned(), bound_by }
    }

    fn systemds(entry_point: &str, address: &str) -> SocketName {
        SocketName { bound_by: BoundBy::Systemd, ..name(entry_point, address) }
    }

    fn socket() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn each_socket_is_claimed_once_and_by_the_best_name() {
        let mut sockets = Sockets::default();
        sockets.offer(name("web", ":80"), socket());
        sockets.offer(name("web", ":81"), socket());
        sockets.offer(systemds("tls", "[::]:443"), socket());
        sockets.offer(name("old", ":90"), socket());
        assert!(sockets.claim(&name("web", ":81")).is_some());
        assert!(sockets.claim(&name("web", ":81")).is_none(), "claimed already, and :80 is another address");
        assert!(sockets.claim(&name("tls", "0.0.0.0:443")).is_some(), "systemd's address need not match");
        assert!(sockets.claim(&name("new", ":90")).is_some(), "renamed entry point");
        assert!(sockets.claim(&SocketName { protocol: Protocol::Udp, ..name("web", ":80") }).is_none());
        assert_eq!(sockets.unclaimed().map(|name| name.address.as_str()).collect::<Vec<_>>(), [":80"]);
        assert_eq!(sockets.close_unclaimed(), [0]);
        assert_eq!(sockets.close_unclaimed(), Vec::<usize>::new());
    }

    #[test]
    fn all_sockets_of_a_name_are_claimed_together() {
        let mut sockets = Sockets::default();
        for name in [name("dns", ":53"), name("dns", ":53"), name("old", ":54"), name("old", ":54"), name("web", ":80")]
        {
            sockets.offer(name, socket());
        }
        sockets.offer(systemds("log", "[::]:514"), socket());
        sockets.offer(systemds("log", "127.0.0.1:514"), socket());
        let mut count = |entry_point: &str, address: &str| sockets.claim_all(&name(entry_point, address)).len();
        assert_eq!((count("dns", ":53"), count("dns", ":53")), (2, 0));
        assert_eq!((count("log", ":514"), count("log", ":514")), (2, 0));
        assert_eq!((count("new", ":54"), count("new", ":54")), (2, 0), "renamed");
        assert_eq!(count("web", ":1"), 0);
    }

    #[test]
    fn what_systemd_bound_is_known_as_such_wherever_it_goes() {
        let (mut sockets, port) = (Sockets::default(), socket());
        let at: SocketAddr = rustix::net::getsockname(&port).unwrap().try_into().unwrap();
        sockets.offer(systemds("web", &at.to_string()), port);
        sockets.offer(systemds("spare", "127.0.0.1:1"), socket());
        sockets.offer(name("own", ":80"), socket());
        // By address it is found as well, if nobody has its name.
        let claimed = sockets.claim(&name("renamed", &at.to_string())).unwrap();
        assert_eq!(claimed.name, systemds("web", &at.to_string()));
        let held: Vec<SocketName> = sockets.take_held().into_iter().map(|claimed| claimed.name).collect();
        assert_eq!(held, [systemds("spare", "127.0.0.1:1")]);
        assert_eq!(sockets.close_unclaimed(), [2]);
    }

    #[test]
    fn addresses_are_compared_as_they_are_meant() {
        for (text, address, expected) in [
            (":80", "[::]:80", true),
            (":80", "0.0.0.0:80", true),
            (":80", "127.0.0.1:80", false),
            (":80", "[::]:81", false),
            ("[::]:80", "[::]:80", true),
            ("0.0.0.0:80", "[::]:80", false),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("localhost:80", "127.0.0.1:80", false),
            (":", "[::]:80", false),
        ] {
            assert_eq!(name("a", text).is_at(address.parse().unwrap()), expected, "{text} {address}");
        }
    }

    #[test]
    fn protocols_are_read_off_the_socket() {
        assert_eq!(Protocol::of(socket().as_fd()).unwrap(), Protocol::Tcp);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(Protocol::of(udp.as_fd()).unwrap(), Protocol::Udp);
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Protocol::of(one.as_fd()).is_err(), "connected, not listening");
    }
}
