//! The new process's side: take the sockets, say that all is checked, wait for the word, accept.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::message::{MAX_NOTES, MAX_SOCKETS, Message, Opaque, packets, weight};
use super::{SocketName, Sockets, VARIABLE};

/// The ancestor sends its sockets as the first thing; slower than this, it is not well.
const SOCKETS_WITHIN: Duration = Duration::from_secs(10);
/// It answers `ready` at once; slower than this, it is stuck and still owns its sockets.
const GO_WITHIN: Duration = Duration::from_secs(30);
/// Our messages are small and its buffer is empty.
const SENT_WITHIN: Duration = Duration::from_secs(5);

/// Why there is nothing to inherit though a predecessor is there: end the process.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// It died or closed the channel.
    #[error("the old process is gone")]
    Gone,
    /// It did not say anything in time.
    #[error("the old process keeps silent")]
    Silent,
    /// It said something else than expected.
    #[error("the old process cannot be understood: {0}")]
    Garbled(String),
    /// It did not wait any longer and serves on by itself.
    #[error("the old process has given up on this one and serves on")]
    GivenUp,
    /// The operating system refused.
    #[error("cannot take over: {0}")]
    System(#[from] io::Error),
}

/// How it came that this process is to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    /// The old process said `go`.
    HandedOver,
    /// The old process died before it could: the sockets are ours alone.
    Orphaned,
}

/// What a predecessor hands over to this process.
#[derive(Debug)]
pub struct Inheritance {
    channel: Channel,
    sockets: Sockets,
    secrets: Opaque,
    notes: Vec<Vec<u8>>,
    predecessor: u32,
}

impl Inheritance {
    /// Takes over what a predecessor hands over, if there is one; standard input is empty afterwards.
    ///
    /// Blocks for at most ten seconds; call it in `main` before a runtime stands, once.
    ///
    /// # Errors
    /// [`Denied`] when there is a predecessor with which it cannot be done.
    pub fn take() -> Result<Option<Self>, Denied> {
        let stdin = rustix::stdio::stdin();
        if std::env::var_os(VARIABLE).is_none() || !Channel::is_one(stdin) {
            return Ok(None);
        }
        let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(io::Error::from)?;
        let nothing = OpenOptions::new().read(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing).map_err(io::Error::from)?;
        Self::receive(socket, Instant::now() + SOCKETS_WITHIN).map(Some)
    }

    /// The sockets, to be claimed by the entry points.
    pub fn sockets(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// The secrets that the predecessor passed on; empty if it has none.
    pub fn secrets(&self) -> &[u8] {
        &self.secrets.0
    }

    /// What else it has passed on to spare this process work.
    pub fn notes(&self) -> &[Vec<u8>] {
        &self.notes
    }

    /// Everything is loaded and checked; what was not claimed is closed now.
    ///
    /// # Errors
    /// When it cannot be said; the next step will tell whether the old process lives.
    pub fn ready(&mut self) -> io::Result<()> {
        for name in self.sockets.unclaimed() {
            log::info!("no entry point claims the inherited socket {name}");
        }
        let unclaimed = self.sockets.close_unclaimed();
        let unclaimed = unclaimed.into_iter().filter_map(|at| u16::try_from(at).ok()).collect();
        match self.say(&Message::Ready { unclaimed }) {
            // Whether it is gone, and what follows from that, is decided in one place: while waiting for `go`.
            Err(error) if hung_up(&error) => Ok(()),
            other => other,
        }
    }

    /// Tells the old process why this one cannot follow it. End the process then; the old one serves on.
    pub fn failed(self, reason: &str) {
        if let Err(error) = self.say(&Message::Failed { reason: reason.to_owned() }) {
            log::warn!("cannot tell the old process what is wrong: {error}");
        }
    }

    /// Waits for the word to accept.
    ///
    /// # Errors
    /// When the old process keeps silent or is confused: it still has its sockets, so end this process.
    pub async fn wait_go(&mut self) -> Result<Succession, Denied> {
        let heard = tokio::time::timeout(GO_WITHIN, self.channel.receive()).await.map_err(|_| Denied::Silent)?;
        match heard {
            Ok(Some((Message::Go, _))) => Ok(Succession::HandedOver),
            Ok(Some((other, _))) => Err(Denied::Garbled(format!("it said {other:?} out of turn"))),
            Ok(None) => Ok(Succession::Orphaned),
            Err(error) => Err(explain(error)),
        }
    }

    /// The old process.
    pub fn predecessor(&self) -> u32 {
        self.predecessor
    }

    /// Tells the old process that this one accepts, so that it stops. Keep the bond for as long as this process serves.
    ///
    /// # Errors
    /// When the old process lives and does not listen any more, because this one took too long: stop, and end the process.
    pub fn accepting(self) -> Result<Bond, Denied> {
        match self.say(&Message::Accepting) {
            Ok(()) => {}
            // A dead one has no children.
            Err(error) if hung_up(&error) && parent() == Some(self.predecessor) => return Err(Denied::GivenUp),
            Err(error) => log::warn!("cannot tell the old process that we accept: {error}"),
        }
        Ok(Bond { channel: self.channel })
    }

    fn receive(socket: OwnedFd, deadline: Instant) -> Result<Self, Denied> {
        let channel = Channel::over(socket)?;
        let predecessor = channel.maker()?;
        let (mut sockets, mut secrets) = (Sockets::default(), Opaque::default());
        let (mut notes, mut noted) = (Vec::new(), 0);
        loop {
            let (message, received) = match channel.receive_by(deadline) {
                Ok(Some(heard)) => heard,
                Ok(None) => return Err(Denied::Gone),
                Err(error) => {
                    let denied = explain(error);
                    let reason = Message::Failed { reason: denied.to_string() };
                    let _ = channel.send_by(&reason, Instant::now() + SENT_WITHIN);
                    return Err(denied);
                }
            };
            let (names, last) = match message {
                Message::Sockets { names, last } => (names, last),
                Message::Secrets(passed_on) => {
                    secrets = passed_on;
                    continue;
                }
                Message::Note(Opaque(note)) => {
                    noted += weight(&note);
                    if noted > MAX_NOTES {
                        return Err(Denied::Garbled("it passes on too much".to_owned()));
                    }
                    notes.push(note);
                    continue;
                }
                other => return Err(Denied::Garbled(format!("it said {other:?} out of turn"))),
            };
            if sockets.len() + names.len() > MAX_SOCKETS {
                return Err(Denied::Garbled("it sends too many sockets".to_owned()));
            }
            for (name, socket) in names.into_iter().zip(received) {
                sockets.offer(name, socket);
            }
            if last {
                return Ok(Self { channel, sockets, secrets, notes, predecessor });
            }
        }
    }

    fn say(&self, message: &Message) -> io::Result<()> {
        self.channel.send_by(message, Instant::now() + SENT_WITHIN)
    }
}

/// The channel to the predecessor while it drains. Its closing tells it that we died, and it would accept again.
#[derive(Debug)]
pub struct Bond {
    channel: Channel,
}

impl Bond {
    /// Says that this process ends on purpose (or handed over itself), so that the old one does not take over again.
    pub fn leave(self) {
        let _ = self.channel.send_by(&Message::Leaving, Instant::now() + SENT_WITHIN);
    }

    /// Says that nobody is to wait at these sockets any more, of which the old process has duplicates: so that whoever connects there is
    /// refused, and the address is free, although it still drains.
    pub fn drop_sockets(&self, names: &[SocketName]) {
        for names in packets(names).into_iter().filter(|names| !names.is_empty()) {
            let message = Message::Dropped { names: names.to_vec() };
            if let Err(error) = self.channel.send_by(&message, Instant::now() + SENT_WITHIN)
                && !hung_up(&error)
            {
                log::warn!("cannot tell the old process which sockets are closed: {error}");
            }
        }
    }

    /// Waits until the old process has drained and is gone.
    pub async fn ancestor_gone(&self) {
        while let Ok(Some(_)) = self.channel.receive().await {}
    }
}

fn hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn parent() -> Option<u32> {
    u32::try_from(rustix::process::getppid()?.as_raw_nonzero().get()).ok()
}

fn explain(error: io::Error) -> Denied {
    match error.kind() {
        io::ErrorKind::TimedOut => Denied::Silent,
        io::ErrorKind::InvalidData => Denied::Garbled(error.to_string()),
        _ => Denied::System(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::super::message::MAX_NOTE;
    use super::super::{BoundBy, Protocol};
    use super::*;

    fn pair() -> (Channel, OwnedFd) {
        Channel::pair().unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn an_ancestor_that_passes_on_too_much_is_refused() {
        let (ancestor, ours) = pair();
        let heir = tokio::task::spawn_blocking(move || Inheritance::receive(ours, soon()));
        let note = vec![0; MAX_NOTE];
        for _ in 0..=MAX_NOTES / weight(&note) {
            ancestor.send(&Message::Note(Opaque(note.clone())), &[]).await.unwrap();
        }
        let refused = heir.await.unwrap();
        assert!(matches!(&refused, Err(Denied::Garbled(why)) if why.contains("too much")), "{refused:?}");
    }

    #[tokio::test]
    async fn an_ancestor_that_dies_leaves_its_sockets_to_us() {
        let (ancestor, ours) = pair();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, bound_by) = (":53".to_owned(), BoundBy::Gateway);
        let name = SocketName { entry_point: "dns".into(), protocol: Protocol::Udp, address, bound_by };
        let sockets = Message::Sockets { names: vec![name.clone()], last: true };
        ancestor.send(&Message::Secrets(Opaque(b"keys".to_vec())), &[]).await.unwrap();
        for note in ["one", "two"] {
            ancestor.send(&Message::Note(Opaque(note.into())), &[]).await.unwrap();
        }
        ancestor.send(&sockets, &[socket.as_fd()]).await.unwrap();
        let mut inheritance = Inheritance::receive(ours, soon()).unwrap();
        assert_eq!(inheritance.secrets(), b"keys");
        assert_eq!(inheritance.notes(), [b"one", b"two"]);
        assert!(inheritance.sockets().claim(&name).is_some());
        drop(ancestor);
        inheritance.ready().unwrap();
        assert_eq!(inheritance.wait_go().await.unwrap(), Succession::Orphaned);
        inheritance.accepting().unwrap().ancestor_gone().await;
    }

    #[tokio::test]
    async fn anything_but_sockets_is_denied() {
        let (ancestor, ours) = pair();
        drop(ancestor);
        assert!(matches!(Inheritance::receive(ours, soon()), Err(Denied::Gone)));

        let (ancestor, ours) = pair();
        ancestor.send(&Message::Go, &[]).await.unwrap();
        assert!(matches!(Inheritance::receive(ours, soon()), Err(Denied::Garbled(_))));

        let (_ancestor, ours) = pair();
        assert!(matches!(Inheritance::receive(ours, Instant::now()), Err(Denied::Silent)));

        let (ancestor, ours) = pair();
        let (address, bound_by) = (String::new(), BoundBy::Gateway);
        let names = vec![SocketName { entry_point: "a".into(), protocol: Protocol::Tcp, address, bound_by }];
        ancestor.send(&Message::Sockets { names, last: true }, &[]).await.unwrap();
        assert!(matches!(Inheritance::receive(ours, soon()), Err(Denied::Garbled(_))), "named, but not sent");
        let told = ancestor.receive().await.unwrap();
        assert!(matches!(told, Some((Message::Failed { .. }, _))), "and the ancestor hears of it");
    }
}
