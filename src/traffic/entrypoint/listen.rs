//! Listening sockets: made, and accepted from.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that may wait to be accepted; the kernel caps it with `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 65535;
/// Idle time before the kernel asks whether a client still lives, and between two questions.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(180);
/// First and longest pause after the system had nothing left to accept with.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Makes a listening socket: `host:port`, `[v6]:port`, or `:port` for every address of both families.
///
/// # Errors
/// If the address cannot be read, resolved or bound.
pub fn bind(address: &str, reuse_port: bool) -> io::Result<TcpListener> {
    if let Some(port) = address.strip_prefix(':') {
        let port = port.parse().map_err(|_| invalid(address))?;
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        return match bind_one(everywhere, reuse_port) {
            // A system without IPv6.
            Err(error) if matches!(error.raw_os_error(), Some(97 | 99)) => {
                bind_one(SocketAddr::from(([0, 0, 0, 0], port)), reuse_port)
            }
            bound => bound,
        };
    }
    let mut last = invalid(address);
    for address in address.to_socket_addrs()? {
        match bind_one(address, reuse_port) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn invalid(address: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("`{address}` is not an address to listen on"))
}

fn bind_one(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 as well; other addresses do not care.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Prepares a listening socket, ours or inherited. Accepted connections inherit the options: no system call for each.
pub(super) fn prepare(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEP_ALIVE).with_interval(TCP_KEEP_ALIVE))
}

/// How long to wait after failed accepts.
#[derive(Debug, Default)]
pub(super) struct BackOff(Duration);

impl BackOff {
    /// An accept failed: the pause before the next, or `None` if the failure was the client's alone.
    pub(super) fn after(&mut self, error: &io::Error) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
            return None;
        }
        // No descriptors, buffers or memory: spinning would only make it worse.
        self.0 = (self.0 * 2).clamp(PAUSE.0, PAUSE.1);
        Some(self.0)
    }

    /// An accept succeeded.
    pub(super) fn reset(&mut self) {
        self.0 = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_port_alone_takes_both_families() {
        let listener = bind(":0", false).unwrap();
        prepare(&listener).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect(("::1", port)).unwrap();
        }
    }

    #[test]
    fn a_port_is_shared_only_on_request() {
        let first = bind("127.0.0.1:0", true).unwrap();
        let address = first.local_addr().unwrap().to_string();
        assert!(bind(&address, true).is_ok());
        assert_eq!(bind(&address, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn nonsense_is_refused() {
        for address in ["", ":", ":x", ":99999", "127.0.0.1", "127.0.0.1:x"] {
            assert!(bind(address, false).is_err(), "{address}");
        }
    }

    #[test]
    fn exhaustion_backs_off_and_recovers() {
        let mut back_off = BackOff::default();
        let exhausted = io::Error::from_raw_os_error(24);
        let pauses: Vec<_> = (0..9).filter_map(|_| back_off.after(&exhausted)).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(back_off.after(&io::ErrorKind::ConnectionAborted.into()), None);
        back_off.reset();
        assert_eq!(back_off.after(&exhausted), Some(PAUSE.0));
    }
}
