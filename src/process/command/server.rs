//! The listening side: who may connect, how much they may say, how long they may take.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::{Answer, Command, Line, MAX_LINE};
use crate::problem::Problem;

/// More people than that at one control socket are a mistake.
const MAX_CLIENTS: usize = 16;
/// Longest command line in bytes.
const MAX_COMMAND: u64 = 4096;
/// A client that says nothing for so long is gone.
const SPEAK_WITHIN: Duration = Duration::from_secs(30);
/// The longest command is an upgrade: a minute to get ready, and a bit.
const ANSWER_WITHIN: Duration = Duration::from_secs(180);

/// A command that came in, to be answered. Not answering tells the client that it failed.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// The bound control socket; its file goes with it, unless another process owns the path by then.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

impl Control {
    /// Binds it, readable by our user alone. A successor replaces its predecessor's file in one step. A file that another process
    /// answers on is left to that one. Needs a runtime.
    ///
    /// A successor binds before it says that it accepts, so that the next command finds it. If it dies, its ancestor binds again.
    ///
    /// # Errors
    /// A problem in words for people.
    pub fn bind(path: &Path, instead_of: InsteadOf) -> Result<Self, Problem> {
        let trouble =
            |error: io::Error| Problem::at("control.socket", format!("cannot bind {}: {error}", path.display()));
        if who_answers(path).is_some_and(|pid| instead_of != InsteadOf::Process(pid)) {
            let text = format!("another process answers on {}", path.display());
            return Err(Problem::at("control.socket", text).with_help("end it, or name another path"));
        }
        if path.symlink_metadata().is_ok_and(|found| !is_socket(&found)) {
            let text = format!("{} exists and is not a socket", path.display());
            return Err(Problem::at("control.socket", text));
        }
        // Bound under another name first, so that the path never leads nowhere.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let _ = std::fs::remove_file(&beside);
        let bound = || -> io::Result<Self> {
            let listener = UnixListener::bind(&beside)?;
            std::fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
            let file = beside.symlink_metadata()?;
            std::fs::rename(&beside, path)?;
            Ok(Self { listener, path: path.to_owned(), file: (file.dev(), file.ino()) })
        };
        bound().map_err(|error| {
            let _ = std::fs::remove_file(&beside);
            trouble(error)
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes commands from our own user and root and passes them on, until the receiver is gone. Clients that are connected when
    /// this future is dropped are served on.
    pub async fn serve(self, requests: mpsc::Sender<Request>) {
        let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        log::warn!("control socket: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = requests.closed() => return,
            };
            if !is_trusted(&stream) {
                continue;
            }
            let Ok(place) = Arc::clone(&clients).try_acquire_owned() else {
                log::warn!("control socket: more than {MAX_CLIENTS} clients at once");
                continue;
            };
            let requests = requests.clone();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, requests).await {
                    log::debug!("control socket: {error}");
                }
                drop(place);
            });
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let still_ours = self.path.symlink_metadata().is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if still_ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whose place a control socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsteadOf {
    /// A fresh start.
    Nobody,
    /// The process before in an upgrade, or the one after that died.
    Process(u32),
}

/// The process that takes commands there; another gateway may have been told the same path.
fn who_answers(path: &Path) -> Option<u32> {
    let stream = std::os::unix::net::UnixStream::connect(path).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

fn is_socket(found: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&found.file_type())
}

fn is_trusted(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw() => true,
        Ok(peer) => {
            log::warn!("control socket: user {} was turned away", peer.uid());
            false
        }
        Err(error) => {
            log::warn!("control socket: cannot tell who connects: {error}");
            false
        }
    }
}

async fn converse(stream: UnixStream, requests: mpsc::Sender<Request>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = timeout(SPEAK_WITHIN, (&mut reader).take(MAX_COMMAND).read_until(b'\n', &mut line)).await;
        if read.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let answer = match serde_json::from_slice::<Line>(&line) {
            Ok(Line { command }) if whole => ask(command, &requests).await,
            Ok(_) => Answer::refused("a command ends with a line feed"),
            Err(error) => Answer::refused(format!("not understood: {error}")),
        };
        timeout(SPEAK_WITHIN, writer.write_all(&written(&answer))).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if !whole {
            return Ok(());
        }
    }
}

async fn ask(command: Command, requests: &mpsc::Sender<Request>) -> Answer {
    let (reply, answer) = oneshot::channel();
    if requests.try_send(Request { command, reply }).is_err() {
        return Answer::refused("busy with other commands, or ending");
    }
    match timeout(ANSWER_WITHIN, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Answer::refused("the process ended before it could answer"),
        Err(_) => Answer::refused(format!("not done within {ANSWER_WITHIN:?}; it may still happen")),
    }
}

fn written(answer: &Answer) -> Vec<u8> {
    let write = |answer: &Answer| {
        let mut line = serde_json::to_vec(answer).unwrap_or_default();
        line.push(b'\n');
        line
    };
    let line = write(answer);
    if line.len() as u64 <= MAX_LINE {
        return line;
    }
    let most = answer.problems.iter().take(100).map(|problem| problem.chars().take(500).collect()).collect();
    write(&Answer { problems: most, detail: None, ..answer.clone() })
}

#[cfg(test)]
mod tests {
    use super::super::send;
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn told(path: &Path, command: Command) -> Result<Answer, Problem> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || send(&path, command, SOON)).await.unwrap()
    }

    fn answering(control: Control, name: &'static str) -> tokio::task::JoinHandle<()> {
        let (sender, mut requests) = mpsc::channel::<Request>(4);
        tokio::spawn(async move {
            let answers = async {
                while let Some(request) = requests.recv().await {
                    let _ = request.reply.send(Answer::done(format!("{name} {:?}", request.command)));
                }
            };
            tokio::join!(control.serve(sender), answers);
        })
    }

    #[tokio::test]
    async fn a_command_gets_its_answer_and_only_we_may_ask() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let serving = answering(Control::bind(&path, InsteadOf::Nobody).unwrap(), "first");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(told(&path, Command::Reload).await.unwrap(), Answer::done("first Reload"));
        for instead_of in [InsteadOf::Nobody, InsteadOf::Process(1)] {
            assert!(Control::bind(&path, instead_of).is_err(), "somebody else answers there");
        }
        serving.abort();
        let _ = serving.await;
        assert!(!path.exists(), "the file goes with the socket");
        let problem = told(&path, Command::Reload).await.unwrap_err().to_string();
        assert!(problem.contains("cannot connect"), "{problem}");
    }

    #[tokio::test]
    async fn a_successor_takes_the_path_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let old = answering(Control::bind(&path, InsteadOf::Nobody).unwrap(), "old");
        let mut client = UnixStream::connect(&path).await.unwrap();
        let new = answering(Control::bind(&path, InsteadOf::Process(std::process::id())).unwrap(), "new");
        assert_eq!(told(&path, Command::Status).await.unwrap(), Answer::done("new Status"));
        client.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
        let mut line = String::new();
        BufReader::new(&mut client).read_line(&mut line).await.unwrap();
        assert!(line.contains("old Status"), "{line}");
        old.abort();
        let _ = old.await;
        assert_eq!(told(&path, Command::Drain).await.unwrap(), Answer::done("new Drain"));
        let again = answering(Control::bind(&path, InsteadOf::Process(std::process::id())).unwrap(), "again");
        new.abort();
        let _ = new.await;
        assert_eq!(told(&path, Command::Status).await.unwrap(), Answer::done("again Status"));
        again.abort();
    }

    #[tokio::test]
    async fn nonsense_is_answered_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let serving = answering(Control::bind(&path, InsteadOf::Nobody).unwrap(), "x");
        for nonsense in [b"hello\n".to_vec(), b"{\"command\":\"x\"}\n".to_vec(), vec![b' '; 10_000]] {
            let mut client = UnixStream::connect(&path).await.unwrap();
            client.write_all(&nonsense).await.unwrap();
            let mut line = String::new();
            BufReader::new(&mut client).read_line(&mut line).await.unwrap();
            assert!(line.contains("\"done\":false"), "{line}");
        }
        serving.abort();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "mine").unwrap();
        assert!(Control::bind(&path, InsteadOf::Process(std::process::id())).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
