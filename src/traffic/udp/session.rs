//! One client and one server: a socket of its own, and a task that passes answers on until both are silent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::socket::{self, More, Passed, Peer};
use super::{Lane, Shared};
use crate::observe::datagrams::{DatagramMeters, Direction, Lost};
use crate::service::udp::{Pick, Server};

/// One client and one server.
#[derive(Debug)]
pub(super) struct Session {
    client: Peer,
    server: Arc<Server>,
    address: SocketAddr,
    io: UdpSocket,
    service: Arc<DatagramMeters>,
    /// When either side last sent something, in milliseconds since the lane's epoch.
    active_at: AtomicU64,
    /// Whether its server has ever answered.
    is_answered: AtomicBool,
    /// Whether its client has none or another one by now: it only passes on what is still on its way.
    is_retired: AtomicBool,
    end: Notify,
}

impl Session {
    /// Opens a socket towards the server.
    ///
    /// # Errors
    /// If the system has none left, or no way there.
    pub(super) fn open(client: Peer, Pick { server, address, meters }: Pick, active_at: u64) -> io::Result<Self> {
        Ok(Self {
            client,
            server,
            address,
            io: socket::connect(address)?,
            service: meters,
            active_at: AtomicU64::new(active_at),
            is_answered: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
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

    /// Ends it at once.
    pub(super) fn end(&self) {
        self.end.notify_one();
    }

    /// Has it end as soon as what is on its way may be expected to have come.
    pub(super) fn retire(&self) {
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
        self.pass_on(&lane, shared.timeout()).await;
        lane.leave(&self);
        self.service.closed();
        shared.closed();
    }

    async fn pass_on(&self, lane: &Arc<Lane>, timeout: Duration) {
        let mut is_last_round = false;
        let mut idle = std::pin::pin!(tokio::time::sleep(timeout));
        loop {
            tokio::select! {
                biased;
                () = self.end.notified() => return,
                ready = socket::readable(&self.io) => {
                    match ready.and_then(|()| socket::pass_on(&self.io, &lane.socket, self.client)) {
                        Ok((passed, more)) => {
                            self.note(passed, &lane.shared);
                            if more == More::Yes {
                                // A server that never stops must not keep this thread for itself.
                                tokio::task::yield_now().await;
                            }
                        }
                        Err(error) => {
                            if error.kind() == io::ErrorKind::ConnectionRefused {
                                self.blame();
                            }
                            return;
                        }
                    }
                }
                () = &mut idle => {
                    let until = self.active_until(lane);
                    let is_over = Instant::now() >= until;
                    if is_over || !self.server.is_at(self.address) {
                        // From here on nothing more is forwarded. What was up to now shall be answered.
                        lane.leave(self);
                        self.retire();
                    }
                    let until = self.active_until(lane);
                    if is_last_round || Instant::now() >= until {
                        return;
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
        (0..lost).for_each(|_| shared.meters.dropped(Lost::NotReturned));
    }
}
