//! The old process's side: start a successor, give it the sockets, let it go ahead, watch over it.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::channel::Channel;
use super::message::{
    MAX_FIELD, MAX_NOTE, MAX_NOTES, MAX_SECRETS, MAX_SOCKETS, Message, Opaque, VERSION, packets, weight,
};
use super::{SocketName, VARIABLE};

/// How long the phases may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the start of the successor until it is ready: it reads and checks its whole configuration in this time.
    pub ready: Duration,
    /// From `go` until it accepts.
    pub accepting: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { ready: Duration::from_secs(60), accepting: Duration::from_secs(10) }
    }
}

/// Why there is no successor. Each reads as one line; the old process serves on in every case.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There can be one successor at a time.
    #[error("an upgrade is under way already")]
    Underway,
    /// The program cannot be started: missing, not executable, of another machine.
    #[error("cannot start {}: {error}", program.display())]
    Start {
        /// Which program.
        program: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// More sockets, longer names or more secrets than a hand-over carries.
    #[error("too many or too long socket names, or too many secrets, for a hand-over")]
    TooMuch,
    /// It looked at its configuration and said no.
    #[error("the new process refuses: {0}")]
    Refused(String),
    /// It ended before it was accepting.
    #[error("the new process ended too early ({0})")]
    Ended(String),
    /// It did not get ready in time and was killed.
    #[error("the new process was not ready within {0:?}")]
    NotReady(Duration),
    /// It was told to go and did not say that it accepts; it was asked to end, not killed, because it may serve someone.
    #[error("the new process {pid} did not start to accept within {after:?} and was asked to end")]
    NotAccepting {
        /// Its process id.
        pid: u32,
        /// How long we waited.
        after: Duration,
    },
    /// It said something else than expected.
    #[error("the new process cannot be understood: {0}")]
    Garbled(String),
    /// The operating system would not carry a message, for example with too many descriptors in flight.
    #[error("cannot talk to the new process: {0}")]
    Channel(io::Error),
}

/// What a successor is given besides the sockets. What it means is known to it, and not here.
#[derive(Clone, Debug, Default)]
pub struct Bequest {
    /// What only the two may know, 4096 bytes at most.
    pub secrets: Vec<u8>,
    /// What spares it work, in pieces of 60,000 bytes at most. Those that are longer, and those after the first 32 MiB, are left out.
    pub notes: Vec<Vec<u8>>,
}

/// Starts successors of this process, one at a time.
#[derive(Debug)]
pub struct Handover {
    program: PathBuf,
    arguments: Vec<OsString>,
    deadlines: Deadlines,
    underway: Arc<AtomicBool>,
}

impl Handover {
    /// Hands over to the program this process was started from, with the same arguments.
    ///
    /// Call it at start: once the file is replaced, the operating system no longer tells its path.
    ///
    /// # Errors
    /// When the path of the program cannot be found.
    pub fn to_same_program() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let called = arguments.next().unwrap_or_default();
        Ok(Self::new(program_path(Path::new(&called))?, arguments.collect()))
    }

    /// Hands over to `program`, called with `arguments` (without its own name).
    pub fn new(program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { program, arguments, deadlines: Deadlines::default(), underway: Arc::default() }
    }

    /// With other deadlines.
    #[must_use]
    pub fn within(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// The program that will be started.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts a successor, gives it duplicates of `sockets` and what is `bequest`, and waits until it has loaded and checked
    /// everything.
    ///
    /// # Errors
    /// A [`Failure`]; the successor is gone then.
    pub async fn begin(&self, sockets: &[(SocketName, BorrowedFd<'_>)], bequest: &Bequest) -> Result<Heir, Failure> {
        let permit = Permit::take(&self.underway)?;
        let too_long = |name: &SocketName| name.entry_point.as_str().len().max(name.address.len()) > MAX_FIELD;
        let too_many = bequest.secrets.len() > MAX_SECRETS || sockets.len() > MAX_SOCKETS;
        if too_many || sockets.iter().any(|(name, _)| too_long(name)) {
            return Err(Failure::TooMuch);
        }
        let mut heir = self.start(permit).map_err(|error| Failure::Start { program: self.program.clone(), error })?;
        match timeout(self.deadlines.ready, heir.prepare(sockets, bequest)).await {
            Ok(Ok(unclaimed)) => {
                let named = |at: u16| sockets.get(usize::from(at)).map(|(name, _)| name.clone());
                heir.unclaimed = unclaimed.into_iter().filter_map(named).collect();
                Ok(heir)
            }
            Ok(Err(failure)) => {
                heir.kill().await;
                Err(failure)
            }
            Err(_) => {
                heir.kill().await;
                Err(Failure::NotReady(self.deadlines.ready))
            }
        }
    }

    fn start(&self, permit: Permit) -> io::Result<Heir> {
        let (channel, theirs) = Channel::pair()?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::from(theirs))
            .env(VARIABLE, VERSION.to_string())
            // systemd's sockets come through the channel now, and these two name the process that they were meant for.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_PID")
            .spawn()?;
        let life = Life { pid: child.id().unwrap_or_default(), child, channel, _permit: permit };
        Ok(Heir { life: Some(life), accepting_within: self.deadlines.accepting, unclaimed: Vec::new() })
    }
}

/// A successor that has checked everything and waits. Dropped, it is killed: it serves nobody yet.
#[derive(Debug)]
pub struct Heir {
    life: Option<Life>,
    accepting_within: Duration,
    unclaimed: Vec<SocketName>,
}

#[derive(Debug)]
struct Life {
    pid: u32,
    child: Child,
    channel: Channel,
    _permit: Permit,
}

impl Heir {
    /// The sockets it did not want, because its configuration has no such entry point: close them once it accepts.
    pub fn unclaimed(&self) -> &[SocketName] {
        &self.unclaimed
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.life.as_ref().map_or(0, |life| life.pid)
    }

    /// Lets it accept and waits until it does. From here on it is never killed.
    ///
    /// # Errors
    /// When it ended, or did not accept in time: go on accepting.
    pub async fn go(mut self) -> Result<Successor, Failure> {
        let Some(mut life) = self.life.take() else {
            return Err(Failure::Ended("before it was told to go".to_owned()));
        };
        let after = self.accepting_within;
        match timeout(after, life.go()).await {
            Ok(Ok(())) => Ok(Successor { life, unclaimed: std::mem::take(&mut self.unclaimed) }),
            Ok(Err(failure)) => {
                if !matches!(failure, Failure::Ended(_)) {
                    life.ask_to_end();
                }
                Err(failure)
            }
            Err(_) => {
                life.ask_to_end();
                Err(Failure::NotAccepting { pid: life.pid, after })
            }
        }
    }

    async fn prepare(
        &mut self,
        sockets: &[(SocketName, BorrowedFd<'_>)],
        Bequest { secrets, notes }: &Bequest,
    ) -> Result<Vec<u16>, Failure> {
        let Some(life) = &mut self.life else { return Err(Failure::Ended("before it was ready".to_owned())) };
        if !secrets.is_empty() {
            life.tell(&Message::Secrets(Opaque(secrets.clone())), &[]).await?;
        }
        for note in fitting(notes) {
            life.tell(&Message::Note(Opaque(note.clone())), &[]).await?;
        }
        life.send_sockets(sockets).await?;
        match life.hear().await? {
            Message::Ready { unclaimed } => Ok(unclaimed),
            Message::Failed { reason } => Err(Failure::Refused(one_line(&reason))),
            other => Err(unexpected(&other)),
        }
    }

    async fn kill(&mut self) {
        if let Some(mut life) = self.life.take()
            && let Err(error) = life.child.kill().await
        {
            log::warn!("cannot kill the successor {}: {error}", life.pid);
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if let Some(life) = &mut self.life {
            let _ = life.child.start_kill();
        }
    }
}

/// How a successor went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It ended on purpose: nobody is to take over again.
    Left,
    /// It died; the text says how. Accept again.
    Died(String),
}

/// What a successor has to say while its predecessor drains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It is gone.
    Gone(Departure),
    /// It has closed these sockets: nobody is to wait there any more.
    Dropped(Vec<SocketName>),
}

/// A successor that accepts. While it lives, no other upgrade begins here.
#[derive(Debug)]
pub struct Successor {
    life: Life,
    unclaimed: Vec<SocketName>,
}

impl Successor {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.life.pid
    }

    /// The sockets it did not want.
    pub fn unclaimed(&self) -> &[SocketName] {
        &self.unclaimed
    }

    /// Passes on the wish to read the configuration again.
    pub fn tell_to_reload(&self) {
        self.life.send(rustix::process::Signal::HUP);
    }

    /// Waits until it says something, or goes. Await it while draining; if it died, resume accepting. Safe to drop and call again.
    pub async fn word(&mut self) -> Word {
        let departure = loop {
            match self.life.channel.receive().await {
                Ok(Some((Message::Leaving, _))) => break Departure::Left,
                Ok(Some((Message::Dropped { names }, _))) => return Word::Dropped(names),
                Ok(Some((other, _))) => log::warn!("the successor said {other:?} out of turn"),
                Ok(None) => break Departure::Died(self.life.ending().await),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    log::warn!("the successor cannot be understood: {error}");
                }
                Err(error) => break Departure::Died(format!("lost: {error}")),
            }
        };
        Word::Gone(departure)
    }
}

impl Life {
    async fn send_sockets(&mut self, sockets: &[(SocketName, BorrowedFd<'_>)]) -> Result<(), Failure> {
        let names: Vec<SocketName> = sockets.iter().map(|(name, _)| name.clone()).collect();
        let mut descriptors = sockets.iter().map(|(_, socket)| *socket);
        let mut left = names.len();
        for packet in packets(&names) {
            left -= packet.len();
            let message = Message::Sockets { names: packet.to_vec(), last: left == 0 };
            let with: Vec<BorrowedFd<'_>> = descriptors.by_ref().take(packet.len()).collect();
            self.tell(&message, &with).await?;
        }
        Ok(())
    }

    async fn go(&mut self) -> Result<(), Failure> {
        self.tell(&Message::Go, &[]).await?;
        match self.hear().await? {
            Message::Accepting => Ok(()),
            Message::Failed { reason } => Err(Failure::Refused(one_line(&reason))),
            other => Err(unexpected(&other)),
        }
    }

    async fn tell(&mut self, message: &Message, sockets: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        match self.channel.send(message, sockets).await {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                // It may have said why before it went.
                match self.hear().await? {
                    Message::Failed { reason } => Err(Failure::Refused(one_line(&reason))),
                    _ => Err(Failure::Ended(self.ending().await)),
                }
            }
            Err(error) => Err(Failure::Channel(error)),
        }
    }

    async fn hear(&mut self) -> Result<Message, Failure> {
        match self.channel.receive().await {
            Ok(Some((message, _))) => Ok(message),
            Ok(None) => Err(Failure::Ended(self.ending().await)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Failure::Garbled(error.to_string())),
            Err(error) => Err(Failure::Channel(error)),
        }
    }

    /// How it ended, after its end of the channel closed.
    async fn ending(&mut self) -> String {
        match timeout(Duration::from_secs(1), self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it closed the channel but lives".to_owned(),
        }
    }

    fn ask_to_end(&self) {
        // First of all: whoever comes to accept while the signal is on its way must learn that nobody waits for it.
        self.channel.stop_listening();
        self.send(rustix::process::Signal::TERM);
    }

    fn send(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = rustix::process::kill_process(pid, signal)
        {
            log::warn!("cannot send {signal:?} to the successor {}: {error}", self.pid);
        }
    }
}

/// The right to the one hand-over.
#[derive(Debug)]
struct Permit(Arc<AtomicBool>);

impl Permit {
    fn take(underway: &Arc<AtomicBool>) -> Result<Self, Failure> {
        if underway.swap(true, Ordering::AcqRel) { Err(Failure::Underway) } else { Ok(Self(Arc::clone(underway))) }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn unexpected(message: &Message) -> Failure {
    Failure::Garbled(format!("it said {message:?} out of turn"))
}

/// The notes that are sent.
fn fitting(notes: &[Vec<u8>]) -> impl Iterator<Item = &Vec<u8>> {
    let mut left = MAX_NOTES;
    notes.iter().filter(|note| note.len() <= MAX_NOTE).take_while(move |note| {
        let fits = weight(note) <= left;
        left = left.saturating_sub(weight(note));
        fits
    })
}

fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control()).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The path to start the program by. The name it was called by, if it leads to the running file: behind a link such as
/// `current/portcullis` the next version shall be found there. Otherwise the running file's own path.
fn program_path(called: &Path) -> io::Result<PathBuf> {
    let running = std::env::current_exe()?;
    let found = if called.components().count() > 1 {
        std::path::absolute(called).ok()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(called)).find(|file| file.is_file())
    };
    Ok(choose(found, running))
}

/// A running file that was replaced before anybody asked has no path any more: its own name stands for the next version.
fn choose(found: Option<PathBuf>, running: PathBuf) -> PathBuf {
    found.filter(|found| !running.exists() || is_same_file(found, &running)).unwrap_or(running)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_called_by_wins_over_the_file_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("current");
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &link).unwrap();
        assert_eq!(program_path(&link).unwrap(), link);
        assert_eq!(program_path(Path::new("/bin/sh")).unwrap(), std::env::current_exe().unwrap());
    }

    #[test]
    fn a_file_that_is_gone_is_looked_for_by_the_name_it_was_called_by() {
        let called = std::env::current_exe().unwrap();
        let running = PathBuf::from(format!("{} (deleted)", called.display()));
        assert_eq!(choose(Some(called.clone()), running), called);
    }

    #[test]
    fn notes_that_are_too_much_are_left_out() {
        let (long, short) = (vec![0; MAX_NOTE + 1], vec![0; MAX_NOTE]);
        assert_eq!(fitting(&[long, short.clone()]).count(), 1);
        for note in [short, Vec::new()] {
            let most = MAX_NOTES / weight(&note);
            assert_eq!(fitting(&vec![note; most + 2]).count(), most);
        }
    }

    #[test]
    fn a_reason_becomes_one_line() {
        assert_eq!(one_line("a: x\n\tb: y\r\n\x1b[31m"), "a: x; b: y; [31m");
    }
}
