//! The grip on one entry point that runs, whatever it carries: what a drain does with it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::process::Protocol;
use crate::process::drain::{Counts, Cut, Door, Draining};
use crate::traffic::{entrypoint, udp};

use super::sockets::{self, Bound};

/// How long idle connections are left alone after the drain was announced: a client's next request may be on its way.
const IDLE_GRACE: Duration = Duration::from_millis(500);

/// The grip on one entry point that runs. Clones grip the same one.
#[derive(Clone, Debug)]
pub(super) enum Grip {
    Tcp(entrypoint::Handle),
    Udp(udp::Handle),
}

impl Grip {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Tcp(handle) => handle.name(),
            Self::Udp(handle) => handle.name(),
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Tcp(handle) => handle.address(),
            Self::Udp(handle) => handle.address(),
        }
    }

    /// Whether its sockets are not closed, nor about to be.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Tcp(handle) => handle.is_open(),
            Self::Udp(handle) => handle.is_open(),
        }
    }

    /// Duplicates of its sockets: one, or several for UDP; `NotConnected` if they are closed.
    pub(super) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        match self {
            Self::Tcp(handle) => Ok(vec![handle.duplicate_listener()?]),
            Self::Udp(handle) => handle.duplicate_sockets(),
        }
    }

    /// What tells its sockets from all others, in whichever process they are; nothing if they are closed.
    pub(super) fn cookies(&self) -> Vec<u64> {
        self.duplicates().unwrap_or_default().iter().filter_map(|socket| sockets::cookie(socket).ok()).collect()
    }

    /// The same, to be used by another entry point.
    pub(super) fn sockets(&self) -> io::Result<Bound> {
        let protocol = match self {
            Self::Tcp(_) => Protocol::Tcp,
            Self::Udp(_) => Protocol::Udp,
        };
        Bound::from(protocol, self.duplicates()?).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Leaves its sockets to others that hold them, with whoever waits there.
    pub(super) fn let_go(&self) {
        match self {
            Self::Tcp(handle) => handle.close_listener(),
            Self::Udp(handle) => handle.let_go(),
        }
    }

    /// Waits until its sockets are closed, or kept by sessions only.
    pub(super) async fn closed(&self) {
        match self {
            Self::Tcp(handle) => handle.listener_closed().await,
            Self::Udp(handle) => handle.sockets_closed().await,
        }
    }

    /// Waits until nobody is left.
    pub(super) async fn over(&self) {
        match self {
            Self::Tcp(handle) => {
                // A connection becomes a tunnel, but a tunnel nothing else.
                handle.drained().await;
                handle.upgraded_drained().await;
            }
            Self::Udp(handle) => handle.over().await,
        }
    }
}

impl Door for Grip {
    fn stop_accepting(&self) {
        match self {
            Self::Tcp(handle) => handle.stop_accepting(),
            Self::Udp(handle) => handle.stop_reading(),
        }
    }

    fn close(&self) {
        match self {
            Self::Tcp(handle) => handle.close_after_last(),
            Self::Udp(handle) => handle.close_after_last(),
        }
    }

    fn resume_accepting(&self) {
        match self {
            Self::Tcp(handle) => handle.resume_accepting(),
            Self::Udp(handle) => handle.resume_reading(),
        }
    }

    fn set_draining(&self, draining: Draining) {
        if let Self::Tcp(handle) = self {
            handle.set_draining(draining == Draining::On);
        }
    }

    fn close_idle(&self, spread: Duration) {
        if let Self::Tcp(handle) = self {
            handle.close_idle_after(IDLE_GRACE.min(spread), spread.saturating_sub(IDLE_GRACE));
        }
    }

    fn cut(&self, what: Cut) {
        match self {
            Self::Tcp(handle) => {
                handle.force_close();
                if what == Cut::All {
                    handle.force_close_upgraded();
                }
            }
            Self::Udp(handle) if what == Cut::All => handle.cut(),
            Self::Udp(_) => {}
        }
    }

    fn active(&self) -> Counts {
        // Idle connections and those with a request are not told apart: both end by themselves once the drain has begun.
        match self {
            Self::Tcp(handle) => {
                // Asked first: whoever has been taken since then is counted.
                let last = usize::from(handle.is_taking_last());
                let (requests, tunnels) = (handle.connections().max(last), handle.upgraded_connections());
                Counts { idle: 0, requests, tunnels }
            }
            Self::Udp(handle) => {
                let last = usize::from(handle.is_reading_last());
                Counts { idle: 0, requests: 0, tunnels: handle.sessions().max(last) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::sync::Arc;

    use async_trait::async_trait;
    use pingora::apps::{HttpServerApp, ReusedHttpStream};
    use pingora::protocols::http::ServerSession;
    use pingora::server::ShutdownWatch;

    use super::*;
    use crate::exchange::{Client, Fault};
    use crate::observe::metrics::{self, Metrics};
    use crate::traffic::entrypoint::{Observer, Options};

    struct Nothing;

    #[async_trait]
    impl HttpServerApp for Nothing {
        async fn process_new_http(self: &Arc<Self>, _: ServerSession, _: &ShutdownWatch) -> Option<ReusedHttpStream> {
            None
        }
    }

    impl Observer for Nothing {
        fn refused(&self, _: &Client, _: Fault, _: &[u8]) {}
    }

    fn tcp(listener: TcpListener) -> Grip {
        let options = Options::new("test", 0);
        let app = Arc::new(Nothing);
        Grip::Tcp(entrypoint::start(options, listener, app.clone(), app, None).unwrap())
    }

    fn listener() -> TcpListener {
        entrypoint::bind("127.0.0.1:0", false).unwrap()
    }

    fn udp() -> Grip {
        let metrics = Metrics::new(&metrics::Settings::default(), 1);
        let bounds = udp::Bounds { timeout: Duration::from_secs(1), sessions: 1 };
        let options = udp::Options { name: "test".into(), index: 0, bounds };
        let meters = (metrics.udp_entry_point("test"), metrics.entry_point("test"));
        let socket = udp::bind("127.0.0.1:0", false).unwrap();
        Grip::Udp(udp::start(options, vec![socket], Arc::default(), meters).unwrap())
    }

    /// Nobody is counted before the task has had its turn that takes them. Until then it is not over.
    #[tokio::test]
    async fn it_is_not_over_before_the_last_ones_are_taken() {
        for grip in [tcp(listener()), udp()] {
            let client = matches!(grip, Grip::Tcp(_)).then(|| TcpStream::connect(grip.address()).unwrap());
            assert!(grip.active().is_empty());
            grip.close();
            assert!(!grip.active().is_empty(), "the task has not run yet: {grip:?}");
            grip.closed().await;
            assert_eq!(grip.active().requests, usize::from(client.is_some()));
            drop(client);
            grip.over().await;
            assert!(grip.active().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_closes_at_once_although_the_system_lets_nobody_in() {
        let listener = listener();
        // Each accept fails from now on.
        socket2::SockRef::from(&listener).shutdown(Shutdown::Both).unwrap();
        let grip = tcp(listener);
        // So often that the pauses are long.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = tokio::time::Instant::now();
        grip.close();
        grip.closed().await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
