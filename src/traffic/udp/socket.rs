//! The socket of an entry point: bound, read in batches, and answered from the address that was asked.

use std::cell::RefCell;
use std::hash::Hash;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::table::Client;

/// The longest datagram that there can be, and some more.
const LARGEST: usize = 1 << 16;
/// Datagrams that one system call reads or sends. Each thread has room for so many of the longest, and memory for those that came.
const BATCH: usize = 16;
/// What the kernel is asked to keep for us while we are busy; it caps it with `net.core.rmem_max`.
const QUEUE_BYTES: usize = 4 << 20;

/// Makes a socket: `host:port`, `[v6]:port`, or `:port` for every address of both families.
///
/// # Errors
/// If the address cannot be read, resolved or bound.
pub fn bind(address: &str, reuse_port: bool) -> io::Result<std::net::UdpSocket> {
    if let Some(port) = address.strip_prefix(':') {
        let port = port.parse().map_err(|_| invalid(address))?;
        return match bind_one(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), reuse_port) {
            // A system without IPv6.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                bind_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), reuse_port)
            }
            bound => bound,
        };
    }
    let mut last = invalid(address);
    for address in address.to_socket_addrs()? {
        match bind_one(address, reuse_port) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn invalid(address: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("`{address}` is not an address to listen on"))
}

fn bind_one(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::UdpSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 as well; other addresses do not care.
        socket.set_only_v6(false)?;
    }
    // Not SO_REUSEADDR: with datagrams it would let a second one take the place.
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_recv_buffer_size(QUEUE_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket towards one server.
///
/// # Errors
/// If the system has no descriptor or port left, or no way there.
pub(super) fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.connect(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Where a datagram came from and where it was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    /// The client.
    pub(super) address: SocketAddr,
    /// Our address that it asked, where we have several.
    asked: Option<Asked>,
}

impl Client for Peer {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asked {
    V4(Ipv4Addr),
    V6 {
        ip: Ipv6Addr,
        /// The interface, where the address alone does not say it.
        interface: u32,
    },
}

/// The socket of an entry point.
#[derive(Debug)]
pub(super) struct Socket {
    io: UdpSocket,
    kind: Kind,
}

/// What the kernel says with each datagram. It notes in the headers how much that was, and reads there how much it may be the next
/// time: each kind needs headers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// From anywhere to one address of ours.
    V4,
    V6,
    /// From anywhere to any address of ours. It is said to which, so that the answer can come from there.
    EverywhereV4,
    EverywhereV6,
    /// From one server.
    Server,
}

impl Socket {
    /// Takes over a bound socket, on the current runtime.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let ip = socket.local_addr()?.ip();
        let kind = match ip {
            IpAddr::V4(_) if ip.is_unspecified() => Kind::EverywhereV4,
            IpAddr::V6(_) if ip.is_unspecified() => Kind::EverywhereV6,
            IpAddr::V4(_) => Kind::V4,
            IpAddr::V6(_) => Kind::V6,
        };
        match kind {
            Kind::EverywhereV4 => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            Kind::EverywhereV6 => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            Kind::V4 | Kind::V6 | Kind::Server => {}
        }
        Ok(Self { io: UdpSocket::from_std(socket)?, kind })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// A duplicate, for a successor.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.io.as_fd().try_clone_to_owned()
    }

    /// Waits until something has come.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// Reads what has come, a batch of it, and has `each` look at it. Says whether there may be more.
    ///
    /// # Errors
    /// Never `WouldBlock`.
    pub(super) fn read(&self, mut each: impl FnMut(Peer, &[u8])) -> io::Result<More> {
        read_ready(&self.io, || self.receive(&mut each))
    }

    /// The same, also if the runtime has not heard yet that there is something.
    ///
    /// # Errors
    /// Never `WouldBlock`.
    pub(super) fn read_at_once(&self, mut each: impl FnMut(Peer, &[u8])) -> io::Result<More> {
        match self.receive(&mut each) {
            Ok(BATCH) => Ok(More::Yes),
            Ok(_) => Ok(More::No),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(More::No),
            Err(error) => Err(error),
        }
    }

    fn receive(&self, each: &mut dyn FnMut(Peer, &[u8])) -> io::Result<usize> {
        let which = (self.io.as_raw_fd(), self.kind);
        WORKBENCH.with_borrow_mut(|bench| {
            bench.reader.receive(which, &mut |_, peer, data| peer.map_or((), |peer| each(peer, data)))
        })
    }

    /// Sends what a server has sent on to a client: all that is in `datagrams`. Says how many the system took.
    fn send(&self, sender: &mut Sender, datagrams: &[&[u8]], to: Peer) -> usize {
        let asked = to.asked;
        let mut sent = 0;
        while let Some(rest @ [_, ..]) = datagrams.get(sent..) {
            match sender.send(self.io.as_raw_fd(), rest, to.address, asked) {
                Ok(more @ 1..) => sent += more,
                // An address that cannot be answered from, as that of a broadcast.
                Err(error) if asked.is_some() && is_not_ours(&error) => {
                    sent += sender.send(self.io.as_raw_fd(), rest, to.address, None).unwrap_or(0);
                    break;
                }
                Ok(_) | Err(_) => break,
            }
        }
        sent
    }
}

/// What was passed on in one go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
    /// How many the system did not take.
    pub(super) lost: u64,
}

/// Passes what a server has sent, a batch of it, on to its client.
///
/// # Errors
/// What the server's socket says: above all `ConnectionRefused`, if nobody listens there. Never `WouldBlock`.
pub(super) fn pass_on(server: &UdpSocket, client: &Socket, to: Peer) -> io::Result<(Passed, More)> {
    let mut passed = Passed::default();
    let fd = server.as_raw_fd();
    let more = read_ready(server, || {
        WORKBENCH.with_borrow_mut(|Workbench { reader, sender, .. }| {
            let mut datagrams: [&[u8]; BATCH] = [&[]; BATCH];
            let received = reader.receive((fd, Kind::Server), &mut |at, _, data| datagrams[at] = data)?;
            let sent = client.send(sender, &datagrams[..received], to);
            passed.datagrams = sent as u64;
            passed.bytes = datagrams[..sent].iter().map(|data| data.len() as u64).sum();
            passed.lost = (received - sent) as u64;
            Ok(received)
        })
    })?;
    Ok((passed, more))
}

/// Waits until a server has sent something.
///
/// # Errors
/// What is wrong with it: above all `ConnectionRefused`, if nobody listens there.
pub(super) async fn readable(server: &UdpSocket) -> io::Result<()> {
    loop {
        // A socket with an error alone is not readable.
        if server.ready(Interest::READABLE | Interest::ERROR).await?.is_readable() {
            return Ok(());
        }
        if let Some(error) = server.take_error()? {
            return Err(error);
        }
        // Somebody else has taken it.
        let _ = server.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}

/// Whether there may be more to read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    Yes,
    No,
}

/// Reads from a socket that is readable. A batch that is not full has emptied it: the runtime is told so at once, which saves the
/// system call that would only find that out.
fn read_ready(socket: &UdpSocket, mut read: impl FnMut() -> io::Result<usize>) -> io::Result<More> {
    let mut failure = None;
    let outcome = socket.try_io(Interest::READABLE, || match read() {
        Ok(BATCH) => Ok(()),
        Ok(_) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        // A pending error was taken, and what waits behind it is still there.
        Err(error) => {
            failure = Some(error);
            Ok(())
        }
    });
    match (failure, outcome) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(More::Yes),
        (None, Err(_)) => Ok(More::No),
    }
}

fn is_not_ours(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENODEV | libc::EACCES))
}

thread_local! {
    static WORKBENCH: RefCell<Workbench> = RefCell::new(Workbench { reader: Reader::new(), sender: Sender::new() });
}

/// What a thread reads into and sends from. No datagram stays here.
struct Workbench {
    reader: Reader,
    sender: Sender,
}

struct Reader {
    /// By [`Kind`], each when it is first needed.
    headers: [Option<MultiHeaders<SockaddrStorage>>; 5],
    /// Zeroed by the system, page by page, when it is first written to.
    space: Box<[u8]>,
}

impl Reader {
    fn new() -> Self {
        Self { headers: std::array::from_fn(|_| None), space: vec![0; BATCH * LARGEST].into() }
    }

    /// Reads a batch and calls `each` with the place of each datagram in it, its sender, and what is in it.
    fn receive<'r>(
        &'r mut self,
        (fd, kind): (RawFd, Kind),
        each: &mut dyn FnMut(usize, Option<Peer>, &'r [u8]),
    ) -> io::Result<usize> {
        let headers = self.headers[kind as usize].get_or_insert_with(|| match kind {
            Kind::EverywhereV4 | Kind::EverywhereV6 => headers(nix::cmsg_space!(libc::in6_pktinfo)),
            Kind::V4 | Kind::V6 | Kind::Server => MultiHeaders::preallocate(BATCH, None),
        });
        let mut chunks = self.space.chunks_exact_mut(LARGEST);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        let mut lengths = [(0, None); BATCH];
        let mut count = 0;
        let mut is_cut = false;
        for message in recvmmsg(fd, headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)? {
            let asked = match message.cmsgs() {
                Ok(mut found) => found.find_map(asked),
                Err(_) => {
                    is_cut = true;
                    None
                }
            };
            let peer = message.address.and_then(socket_address).map(|address| Peer { address, asked });
            lengths[count] = (message.bytes, peer);
            count += 1;
        }
        if is_cut {
            self.headers[kind as usize] = None;
        }
        for (at, (data, (length, peer))) in self.space.chunks_exact(LARGEST).zip(lengths).take(count).enumerate() {
            each(at, peer, data.get(..length).unwrap_or(data));
        }
        Ok(count)
    }
}

/// Sends batches. Headers have the room for control messages that they need, and no more, as the kernel reads all of it.
struct Sender {
    v4: MultiHeaders<SockaddrStorage>,
    v6: MultiHeaders<SockaddrStorage>,
    plain: MultiHeaders<SockaddrStorage>,
}

impl Sender {
    fn new() -> Self {
        Self {
            v4: headers(nix::cmsg_space!(libc::in_pktinfo)),
            v6: headers(nix::cmsg_space!(libc::in6_pktinfo)),
            plain: MultiHeaders::preallocate(BATCH, None),
        }
    }

    fn send(&mut self, fd: RawFd, datagrams: &[&[u8]], to: SocketAddr, asked: Option<Asked>) -> io::Result<usize> {
        let count = datagrams.len().min(BATCH);
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|at| [IoSlice::new(datagrams.get(at).copied().unwrap_or_default())]);
        let addresses = [Some(SockaddrStorage::from(to)); BATCH];
        let (slices, addresses) = (slices.iter().take(count), &addresses[..count]);
        let flags = MsgFlags::MSG_DONTWAIT;
        let sent = match asked {
            None => sendmmsg(fd, &mut self.plain, slices, addresses, [], flags)?.count(),
            Some(Asked::V4(ip)) => {
                let source = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                let info =
                    libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: libc::in_addr { s_addr: 0 } };
                sendmmsg(fd, &mut self.v4, slices, addresses, [ControlMessage::Ipv4PacketInfo(&info)], flags)?.count()
            }
            Some(Asked::V6 { ip, interface }) => {
                let info =
                    libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: interface };
                sendmmsg(fd, &mut self.v6, slices, addresses, [ControlMessage::Ipv6PacketInfo(&info)], flags)?.count()
            }
        };
        Ok(sent)
    }
}

fn headers(control: Vec<u8>) -> MultiHeaders<SockaddrStorage> {
    MultiHeaders::preallocate(BATCH, Some(control))
}

/// The address of ours that a control message tells. Not that of a group or a broadcast: nobody can answer from there.
fn asked(message: ControlMessageOwned) -> Option<Asked> {
    match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
            (!ip.is_unspecified()).then_some(Asked::V4(ip))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            let interface = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
            (!ip.is_multicast()).then_some(Asked::V6 { ip, interface })
        }
        _ => None,
    }
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

/// Sends to the server that a socket is connected to, whether the runtime knows that it is writable or not.
pub(super) fn send(server: &UdpSocket, data: &[u8]) -> io::Result<()> {
    SockRef::from(server).send(data).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_leave_from_the_address_that_was_asked() {
        let socket = Socket::new(bind(":0", false).unwrap()).unwrap();
        let port = socket.address().unwrap().port();
        let mut asked = vec!["127.0.0.2", "127.0.0.1"];
        if socket.address().unwrap().is_ipv6() {
            asked.push("::1");
        }
        for ip in asked {
            let to = SocketAddr::new(ip.parse().unwrap(), port);
            let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let client = UdpSocket::bind(SocketAddr::new(any, 0)).await.unwrap();
            // Connected: what comes from elsewhere is not received.
            client.connect(to).await.unwrap();
            // One without anything in it is a datagram, too.
            for data in [&b"question"[..], b""] {
                client.send(data).await.unwrap();
                socket.readable().await.unwrap();
                let mut sender = Sender::new();
                let mut count = 0;
                socket
                    .read(|peer, received| {
                        assert_eq!(received, data);
                        count += socket.send(&mut sender, &[b"answer", b"more"], peer);
                    })
                    .unwrap();
                assert_eq!(count, 2, "{ip}");
                let mut buffer = [0; 16];
                assert_eq!(client.recv(&mut buffer).await.unwrap(), 6);
                assert_eq!(client.recv(&mut buffer).await.unwrap(), 4);
            }
        }
    }

    #[test]
    fn a_port_is_shared_only_on_request() {
        let first = bind("127.0.0.1:0", true).unwrap();
        let address = first.local_addr().unwrap().to_string();
        assert!(bind(&address, true).is_ok());
        assert_eq!(bind(&address, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        for address in ["", ":", ":x", ":99999", "127.0.0.1", "127.0.0.1:x"] {
            assert!(bind(address, false).is_err(), "{address}");
        }
    }
}
