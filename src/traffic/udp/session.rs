//! One client and one server: a socket of its own, and a task that passes answers on until both are silent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::socket::{self, More, Passed, Peer};
use super::{Lane, Shared};
use crate::observe::datagrams::{DatagramMeters, Direction, Lost, SessionEnding};
use crate::service::udp::{Pick, Server};

/// One client and one server.
#[derive(Debug)]
pub(super) struct Session {
    client: Peer,
    server: Arc<Server>,
    address: SocketAddr,
    io: UdpSocket,
    service: Arc<DatagramMeters>,
    /// When it was opened, in milliseconds since the lane's epoch.
    opened_at: u64,
    /// When either side last sent something, in milliseconds since the lane's epoch.
    active_at: AtomicU64,
    /// Whether its server has ever answered.
    is_answered: AtomicBool,
    /// Whether its client has none or another one by now: it only passes on what is still on its way.
    is_retired: AtomicBool,
    /// How it ends, if nothing else comes in between.
    ending: Mutex<SessionEnding>,
    end: Notify,
}

impl Session {
    /// Opens a socket towards the server.
    ///
    /// # Errors
    /// If the system has none left, or no way there.
    pub(super) fn open(client: Peer, Pick { server, address, meters }: Pick, now: u64) -> io::Result<Self> {
        Ok(Self {
            client,
            server,
            address,
            io: socket::connect(address)?,
            service: meters,
            opened_at: now,
            active_at: AtomicU64::new(now),
            is_answered: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            ending: Mutex::new(SessionEnding::Silent),
            end: Notify::new(),
        })
    }

    pub(super) fn client(&self) -> Peer {
        self.client
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub(super) fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    /// Passes a datagram on to the server.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody listened there for an earlier one; this one is not sent then.
    pub(super) fn forward(&self, data: &[u8], now: u64) -> io::Result<()> {
        socket::send(&self.io, data)?;
        self.active_at.store(now, Ordering::Relaxed);
        self.service.carried(Direction::Received, 1, data.len() as u64);
        Ok(())
    }

    /// Counters of the service that it belongs to.
    pub(super) fn service(&self) -> &DatagramMeters {
        &self.service
    }

    /// Ends it at once.
    pub(super) fn end(&self, ending: SessionEnding) {
        *self.ending.lock() = ending;
        self.end.notify_one();
    }

    /// Its server is not meant any more: has it end as soon as what is on its way may be expected to have come.
    pub(super) fn replace(&self) {
        *self.ending.lock() = SessionEnding::Replaced;
        self.retire();
    }

    fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Nobody listens at the server's address.
    pub(super) fn blame(&self) {
        log::debug!(server = self.server.text(), address:% = self.address; "nobody listens there for datagrams");
        self.server.refuse(self.address, Instant::now().into_std());
    }

    /// Passes answers on until neither side has sent anything for the time that the entry point says.
    pub(super) async fn run(self: Arc<Self>, lane: Arc<Lane>) {
        let shared = lane.shared.clone();
        self.service.opened();
        let ending = self.pass_on(&lane, shared.timeout()).await;
        lane.leave(&self);
        let lasted = Duration::from_millis(shared.now().saturating_sub(self.opened_at));
        self.service.closed(ending, lasted);
        shared.closed(ending, lasted);
    }

    async fn pass_on(&self, lane: &Arc<Lane>, timeout: Duration) -> SessionEnding {
        let mut is_last_round = false;
        let mut idle = std::pin::pin!(tokio::time::sleep(timeout));
        loop {
            tokio::select! {
                biased;
                () = self.end.notified() => return *self.ending.lock(),
                ready = socket::readable(&self.io) => {
                    match ready.and_then(|()| socket::pass_on(&self.io, &lane.socket, self.client)) {
                        Ok((passed, more)) => {
                            self.note(passed, &lane.shared);
                            if more == More::Yes {
                                // A server that never stops must not keep this thread for itself.
                                tokio::task::yield_now().await;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                            self.blame();
                            return SessionEnding::Refused;
                        }
                        Err(_) => return SessionEnding::Broken,
                    }
                }
                () = &mut idle => {
                    let until = self.active_until(lane);
                    let (is_over, is_elsewhere) = (Instant::now() >= until, !self.server.is_at(self.address));
                    if is_over || is_elsewhere {
                        // From here on nothing more is forwarded. What was up to now shall be answered.
                        lane.leave(self);
                        if is_elsewhere { self.replace() } else { self.retire() }
                    }
                    let until = self.active_until(lane);
                    if is_last_round || Instant::now() >= until {
                        return *self.ending.lock();
                    }
                    is_last_round = self.is_retired.load(Ordering::Relaxed);
                    idle.as_mut().reset(until);
                }
            }
        }
    }

    /// When it has been silent for long enough, if it is from now on.
    fn active_until(&self, lane: &Lane) -> Instant {
        lane.shared.at(self.active_at.load(Ordering::Relaxed)) + lane.shared.timeout()
    }

    fn note(&self, Passed { datagrams, bytes, lost }: Passed, shared: &Shared) {
        if datagrams + lost == 0 {
            return;
        }
        self.active_at.store(shared.now(), Ordering::Relaxed);
        self.is_answered.store(true, Ordering::Relaxed);
        shared.meters.carried(Direction::Sent, datagrams, bytes);
        self.service.carried(Direction::Sent, datagrams, bytes);
        if lost > 0 {
            shared.meters.dropped(Lost::NotReturned, lost);
            self.service.dropped(Lost::NotReturned, lost);
        }
    }
}

/// Whether a datagram could not be sent for a reason that the next one may not have.
pub(super) fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, OutOfMemory, WouldBlock};
    const NO_BUFFERS: i32 = 105;
    const TOO_LONG: i32 = 90;
    matches!(error.kind(), WouldBlock | Interrupted | OutOfMemory)
        || matches!(error.raw_os_error(), Some(NO_BUFFERS | TOO_LONG))
}
