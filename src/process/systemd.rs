//! systemd: telling it how we are (`sd_notify`), feeding its watchdog, and adopting the sockets it bound for us.

use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use listenfd::ListenFd;

use super::handover::{BoundBy, Protocol, SocketName, Sockets};
use crate::units::Name;

/// The supervisor that started us, if there is one: it listens on `NOTIFY_SOCKET`.
///
/// Every message is one datagram, sent without waiting; without a supervisor nothing happens.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    address: Option<SocketAddr>,
}

impl Supervisor {
    /// As the environment says. A successor inherits the variable, so it can speak for itself.
    pub fn from_environment() -> Self {
        Self::at(std::env::var_os("NOTIFY_SOCKET").and_then(|path| path.into_string().ok()).as_deref())
    }

    /// Serving, as the service's main process. Also for a successor, and for one that takes over again after its heir died.
    pub fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}\nSTATUS=Serving", std::process::id()));
    }

    /// Reading the configuration again; [`Supervisor::ready`] ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1_000));
    }

    /// On the way to the end. Not to be said by a process that has a successor.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Draining");
    }

    /// Asks for the time that a drain may take, in case the unit file gives less. Has to come after the stop has begun.
    pub fn extend_timeout(&self, by: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    /// Feeds the watchdog at half its interval for as long as `probe` answers `true` within it. Runs for ever; without a watchdog
    /// it does nothing. A process that has a successor stops feeding, so that the successor is watched.
    pub async fn feed_watchdog<P, F>(&self, interval: Option<Duration>, mut probe: P)
    where
        P: FnMut() -> F,
        F: Future<Output = bool>,
    {
        let Some(interval) = interval else { return std::future::pending().await };
        let mut beat = tokio::time::interval(interval / 2);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            match tokio::time::timeout(interval / 2, probe()).await {
                Ok(true) => self.tell("WATCHDOG=1"),
                Ok(false) => log::warn!("the watchdog stays hungry: the probe failed"),
                Err(_) => log::warn!("the watchdog stays hungry: the probe takes too long"),
            }
        }
    }

    fn at(path: Option<&str>) -> Self {
        let address = path.filter(|path| !path.is_empty()).map(|path| match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(path),
        });
        match address.transpose() {
            Ok(address) => Self { address },
            Err(error) => {
                log::warn!("NOTIFY_SOCKET is no address: {error}");
                Self::default()
            }
        }
    }

    fn tell(&self, message: &str) {
        let Some(address) = &self.address else { return };
        let send = || -> io::Result<()> {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.send_to_addr(message.as_bytes(), address)?;
            Ok(())
        };
        if let Err(error) = send() {
            log::warn!("cannot tell the supervisor: {error}");
        }
    }
}

/// The watchdog's interval, if the supervisor watches this process. Feed it more often than that.
pub fn watchdog_interval() -> Option<Duration> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>());
    interval(number("WATCHDOG_USEC").and_then(Result::ok), number("WATCHDOG_PID"), u64::from(std::process::id()))
}

fn interval(
    micros: Option<u64>,
    meant_for: Option<Result<u64, std::num::ParseIntError>>,
    we_are: u64,
) -> Option<Duration> {
    let ours = meant_for.is_none_or(|pid| pid == Ok(we_are));
    micros.filter(|micros| ours && *micros > 1).map(Duration::from_micros)
}

/// Takes the sockets that systemd bound for this process; their `FileDescriptorName=` is the entry point's name.
///
/// Call it in `main` before any thread and only once. What cannot be served is told in the second value, one line each.
pub fn adopt_sockets() -> (Sockets, Vec<String>) {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let mut adopted = (Sockets::default(), Vec::new());
    // The crate would also take sockets meant for nobody in particular; systemd always says for whom.
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return adopted;
    }
    let names = variable("LISTEN_FDNAMES");
    match variable("LISTEN_FDS").parse::<usize>() {
        Ok(count) if count <= MAX_ADOPTED => {}
        _ => {
            adopted.1.push(format!("LISTEN_FDS must be a number up to {MAX_ADOPTED}"));
            return adopted;
        }
    }
    let mut sockets = ListenFd::from_env();
    let mut names = names.split(':');
    for at in 0..sockets.len() {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
        match adopt(&mut sockets, at).and_then(|socket| named(name, socket)) {
            Ok((name, socket)) => adopted.0.offer(name, socket),
            Err(error) => adopted.1.push(format!("socket `{name}` from systemd: {error}")),
        }
    }
    adopted
}

/// More sockets than that in one unit are a mistake.
const MAX_ADOPTED: usize = 1024;

fn adopt(sockets: &mut ListenFd, at: usize) -> io::Result<OwnedFd> {
    if let Ok(Some(tcp)) = sockets.take_tcp_listener(at) {
        return Ok(tcp.into());
    }
    if let Ok(Some(udp)) = sockets.take_udp_socket(at) {
        return Ok(udp.into());
    }
    match sockets.take_unix_listener(at)? {
        Some(unix) => Ok(unix.into()),
        None => Err(io::Error::other("taken already")),
    }
}

fn named(name: &str, socket: OwnedFd) -> io::Result<(SocketName, OwnedFd)> {
    let protocol = Protocol::of(socket.as_fd())?;
    let mut address = String::new();
    let local = rustix::net::getsockname(&socket)?;
    match std::net::SocketAddr::try_from(local.clone()) {
        Ok(local) => write!(address, "{local}").map_err(io::Error::other)?,
        Err(_) => {
            let local = rustix::net::SocketAddrUnix::try_from(local)?;
            if let Some(path) = local.path() {
                address = path.to_string_lossy().into_owned();
            }
        }
    }
    Ok((SocketName { entry_point: Name::from(name), protocol, address, bound_by: BoundBy::Systemd }, socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        let length = listener.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn listener(path: &std::path::Path) -> UnixDatagram {
        let listener = UnixDatagram::bind(path).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        listener
    }

    #[test]
    fn messages_are_datagrams() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = listener(&path);
        let supervisor = Supervisor::at(path.to_str());
        supervisor.ready();
        assert_eq!(heard(&listener), format!("READY=1\nMAINPID={}\nSTATUS=Serving", std::process::id()));
        supervisor.extend_timeout(Duration::from_millis(1500));
        assert_eq!(heard(&listener), "EXTEND_TIMEOUT_USEC=1500000");
        supervisor.reloading();
        assert!(heard(&listener).starts_with("RELOADING=1\nMONOTONIC_USEC="));
    }

    #[test]
    fn abstract_names_and_nobody_at_all() {
        let name = format!("portcullis-test-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Supervisor::at(Some(&format!("@{name}"))).stopping();
        assert_eq!(heard(&listener), "STOPPING=1\nSTATUS=Draining");
        Supervisor::at(None).ready();
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_only_while_the_probe_is_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = listener(&path);
        listener.set_nonblocking(true).unwrap();
        let supervisor = Supervisor::at(path.to_str());
        let mut beats = 0;
        let probe = || {
            beats += 1;
            std::future::ready(beats <= 2)
        };
        let feed = supervisor.feed_watchdog(Some(Duration::from_secs(10)), probe);
        let _ = tokio::time::timeout(Duration::from_secs(22), feed).await;
        assert_eq!((heard(&listener), heard(&listener)), ("WATCHDOG=1".to_owned(), "WATCHDOG=1".to_owned()));
        assert!(listener.recv(&mut [0; 64]).is_err(), "hungry");
        assert_eq!(beats, 5);
    }

    #[test]
    fn a_watchdog_meant_for_another_process_is_not_ours() {
        let check = |micros, pid: Option<&str>, expected: Option<u64>| {
            let found = interval(micros, pid.map(str::parse), 7);
            assert_eq!(found, expected.map(Duration::from_micros));
        };
        check(Some(10), None, Some(10));
        check(Some(10), Some("7"), Some(10));
        check(Some(10), Some("8"), None);
        check(Some(10), Some("x"), None);
        check(Some(0), None, None);
        check(None, Some("7"), None);
    }
}
