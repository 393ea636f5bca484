//! A gateway whose static configuration is a file that tests rewrite, and clients of its entry points.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket, UnixStream};

use super::gateway::Gateway;
use super::peer::{PATIENCE, Peer, soon, until};
use super::server::{Server, Step, ok};
use super::tool::Told;

/// An address for a program that binds it itself: none that the system gives to the many clients of the other tests.
pub(crate) fn free() -> SocketAddr {
    let ports = std::iter::repeat_with(|| fastrand::u16(20_000..30_000));
    let mut addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let is_free = |address: &SocketAddr| {
        std::net::TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok()
    };
    addresses.find(is_free).unwrap()
}

/// What an answer says of its connection that does not end it.
pub(crate) const KEPT: Option<&str> = Some("keep-alive");

/// A gateway whose static configuration is a file that tests rewrite.
pub(crate) struct House {
    pub(crate) gateway: Gateway,
    pub(crate) server: Server,
    pub(crate) file: PathBuf,
    pub(crate) heirs: Vec<u32>,
}

impl House {
    /// With these entry points, each a line of YAML, and this beside the routers to the server.
    pub(crate) async fn start(entry_points: &[&str], dynamic: &str) -> Self {
        Self::with(entry_points, "", dynamic).await
    }

    /// With more static configuration.
    pub(crate) async fn with(entry_points: &[&str], more: &str, dynamic: &str) -> Self {
        Self::activated(Vec::new(), entry_points, more, dynamic).await
    }

    /// With sockets that somebody else has bound and holds as well, as systemd does.
    pub(crate) async fn activated(
        sockets: Vec<(&str, OwnedFd)>,
        entry_points: &[&str],
        more: &str,
        dynamic: &str,
    ) -> Self {
        let server = server().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("static.yaml");
        fs::write(&file, text(&folder.path().display().to_string(), entry_points, more)).unwrap();
        fs::write(folder.path().join("dynamic.yaml"), routing(&server, dynamic)).unwrap();
        let argument = file.display().to_string();
        let arguments = ["run", "--configFile", &argument];
        let gateway = match sockets.is_empty() {
            true => Gateway::bare(&arguments, folder).await,
            false => Gateway::activated(sockets, &arguments, folder).await,
        };
        Self { gateway, server, file, heirs: Vec::new() }
    }

    pub(crate) fn write(&self, entry_points: &[&str], more: &str) {
        // A file that replaces another is written to the disk at once, for which a busy one takes its time.
        fs::remove_file(&self.file).unwrap();
        fs::write(&self.file, text(&self.gateway.folder().display().to_string(), entry_points, more)).unwrap();
    }

    /// Has these entry points come into force.
    pub(crate) async fn reload(&self, entry_points: &[&str]) -> Told {
        self.write(entry_points, "");
        self.gateway.told("reload").await
    }

    /// The same, of which nothing may fail.
    pub(crate) async fn follow(&self, entry_points: &[&str]) -> Told {
        let told = self.reload(entry_points).await;
        assert_eq!(told.code, Some(0), "{told:?}");
        told
    }

    /// Ends the process that took over last, by force, and waits until the one before it serves again.
    pub(crate) async fn lose_heir(&mut self) {
        let heir = self.heirs.pop().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).unwrap();
        let before = self.gateway.log().matches("serving again").count();
        kill_process(heir, Signal::KILL).unwrap();
        until(|| self.gateway.log().matches("serving again").count() > before).await;
        // It takes commands once it is done.
        let pid = self.heirs.last().copied().unwrap_or_else(|| self.gateway.pid());
        let socket = self.gateway.folder().join("control");
        let by = Instant::now() + PATIENCE;
        while status(&socket).await.is_none_or(|status| status["detail"]["pid"] != pid) {
            assert!(Instant::now() < by, "{}", self.gateway.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn upgrade(&mut self) -> u32 {
        let told = self.gateway.told("upgrade").await;
        assert_eq!(told.code, Some(0), "{told:?}");
        let heir = told.out.split(' ').find_map(|word| word.parse().ok()).unwrap();
        self.heirs.push(heir);
        heir
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for pid in self.heirs.iter().filter_map(|pid| i32::try_from(*pid).ok().and_then(Pid::from_raw)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// What a gateway says at its control socket, if one takes commands there.
pub(crate) async fn status(socket: &Path) -> Option<serde_json::Value> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    stream.write_all(b"{\"command\":\"status\"}\n").await.ok()?;
    let mut line = String::new();
    soon(BufReader::new(stream).read_line(&mut line)).await.ok()?;
    serde_json::from_str(&line).ok()
}

pub(crate) fn text(folder: &str, entry_points: &[&str], more: &str) -> String {
    let entry_points: String = entry_points.iter().map(|line| format!("  {line}\n")).collect();
    format!(
        "entryPoints:\n{entry_points}log: {{filePath: {folder}/process.log, level: DEBUG, format: json}}\n\
         control: {{socket: {folder}/control}}\nproviders: {{providersThrottleDuration: 10ms, \
         file: {{filename: {folder}/dynamic.yaml}}}}\nthreads: 2\n{more}\n"
    )
}

/// Everything goes to the server, and what comes in at `more` may go there by a router of its own.
pub(crate) fn routing(server: &Server, more: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: one}}
    only: {{rule: 'Path(`/only`)', priority: 100, entryPoints: [more], service: one, middlewares: [tag]}}
  middlewares:
    tag: {{headers: {{customResponseHeaders: {{X-Tag: only}}}}}}
  services: {{one: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
{more}",
        server.url()
    )
}

pub(crate) async fn server() -> Server {
    Server::start(|received| match received.path() {
        "/ws" => vec![
            Step::Send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
            ),
            Step::Echo,
        ],
        "/held" => [vec![Step::WaitForTest], ok("held")].concat(),
        _ => ok("ok"),
    })
    .await
}

pub(crate) fn texts(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).collect()
}

pub(crate) async fn websocket(address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address).await;
    peer.send(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert_eq!(peer.response_to("GET").await.unwrap().status, 101);
    peer
}

pub(crate) async fn says_back(peer: &mut Peer, words: &str) {
    peer.send(words).await;
    assert_eq!(peer.bytes(words.len()).await, words.as_bytes());
}

pub(crate) async fn get(address: SocketAddr, target: &str) -> u16 {
    Peer::connect(address).await.get(target, "").await.status
}

pub(crate) async fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err()
}

pub(crate) async fn until_refused(address: SocketAddr) {
    let by = Instant::now() + PATIENCE;
    while !refuses(address).await {
        assert!(Instant::now() < by, "{address} is still open");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The lines that a reload says beside its first.
pub(crate) fn lines(told: &Told) -> Vec<&str> {
    told.out.lines().skip(1).collect()
}

/// Servers for datagrams that say who asked, and what.
pub(crate) async fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 10];
        while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(format!("{name} {}", from.port()).as_bytes(), from).await;
        }
    });
    address
}

pub(crate) async fn client(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    socket
}

/// Who answered, and in which session.
pub(crate) async fn ask(client: &UdpSocket) -> String {
    let mut buffer = [0; 100];
    client.send(b"?").await.unwrap();
    let length = soon(client.recv(&mut buffer)).await.unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// TCP sockets of a process that listen.
pub(crate) fn listening(pid: u32) -> usize {
    let links =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|it| fs::read_link(it.unwrap().path()).ok());
    let inodes: BTreeSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    // Columns: number, local, remote, state (0A listens), queues, timer, retransmits, uid, timeout, inode.
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes_of =
        rows.filter(|row| row.len() > 9 && row[3] == "0A" && inodes.contains(row[9])).map(|row| row[9].to_owned());
    inodes_of.collect::<BTreeSet<_>>().len()
}
