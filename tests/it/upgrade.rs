//! A new program takes over while requests run; bad ones do not; and the end of it all.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::harness::calls::{Calls, message, status};
use crate::harness::gateway::Gateway;
use crate::harness::peer::{End, PATIENCE, Peer, soon, until};
use crate::harness::server::{Server, Step, ok};
use crate::harness::tls::{Authority, quoted, shake_hands};
use crate::harness::tool::Told;

/// A gateway whose program is a file of its own, with all processes that come after it.
struct Line {
    gateway: Gateway,
    folder: TempDir,
    heirs: Vec<u32>,
}

impl Line {
    async fn start(flags: &[&str], server: &Server) -> Self {
        Self::with(flags, server, "").await
    }

    /// With these lines of YAML as well.
    async fn with(flags: &[&str], server: &Server, more: &str) -> Self {
        let text = format!(
            "http:
  routers: {{all: {{rule: 'PathPrefix(`/`)', service: one}}}}
  services: {{one: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
{more}",
            server.url()
        );
        Self::configured(flags, text).await
    }

    /// With this dynamic configuration.
    async fn configured(flags: &[&str], text: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("portcullis");
        install(&program);
        let mut setup = Gateway::setup().program(&program).dynamic(text);
        for flag in flags {
            setup = setup.flag(flag);
        }
        Self { gateway: setup.start().await, folder, heirs: Vec::new() }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("portcullis")
    }

    /// Puts something else where the program was, in one step.
    fn replace_by(&self, text: &str, mode: u32) {
        let next = self.folder.path().join("next");
        fs::write(&next, text).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(next, self.program()).unwrap();
    }

    async fn upgrade(&mut self) -> Told {
        let told = self.gateway.told("upgrade").await;
        let words = told.out.split(' ').collect::<Vec<_>>();
        self.heirs.extend(words.iter().find_map(|word| word.parse::<u32>().ok()));
        told
    }

    /// The process that took over last.
    fn newest(&self) -> u32 {
        *self.heirs.last().expect("an heir")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for pid in &self.heirs {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// The program that was built, under another name: a link, or a copy where links do not reach.
fn install(to: &Path) {
    let built = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let beside = to.with_extension("next");
    if fs::hard_link(built, &beside).is_err() {
        fs::copy(built, &beside).unwrap();
    }
    fs::rename(beside, to).unwrap();
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
}

/// Clients that go on until they are told, and count what went wrong.
#[derive(Default)]
struct Traffic {
    over: AtomicBool,
    done: AtomicUsize,
    failed: AtomicUsize,
}

impl Traffic {
    fn judge(&self, good: bool) {
        if good { &self.done } else { &self.failed }.fetch_add(1, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// One request after the other; a connection that was announced to close is replaced.
    async fn keep_alive(self: Arc<Self>, address: SocketAddr) {
        while !self.is_over() {
            let mut peer = Peer::connect(address).await;
            loop {
                peer.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n").await;
                let answer = peer.response_to("GET").await;
                self.judge(answer.as_ref().is_ok_and(|answer| answer.status == 200));
                let closes = answer.map_or(true, |answer| answer.header("connection") == Some("close"));
                if closes || self.is_over() {
                    break;
                }
            }
        }
    }

    /// A connection for each request, POST with a body.
    async fn new_connections(self: Arc<Self>, address: SocketAddr) {
        while !self.is_over() {
            let mut peer = Peer::connect(address).await;
            let sent = peer
                .try_send("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
                .await;
            let answer = peer.response_to("POST").await;
            self.judge(sent && answer.is_ok_and(|answer| answer.status == 200 && answer.text() == "5"));
        }
    }

    /// Requests that take a while.
    async fn slow(self: Arc<Self>, address: SocketAddr) {
        while !self.is_over() {
            let mut peer = Peer::connect(address).await;
            let sent = peer.try_send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = peer.response_to("GET").await;
            self.judge(sent && answer.is_ok_and(|answer| answer.status == 200));
        }
    }
}

async fn server() -> Server {
    Server::start(|received| match received.path() {
        "/slow" => vec![
            Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234".to_vec()),
            Step::Wait(Duration::from_millis(150)),
            Step::Send(b"56789".to_vec()),
        ],
        "/ws" => vec![
            Step::Send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
            ),
            Step::Echo,
        ],
        "/held" => [vec![Step::WaitForTest], ok("held")].concat(),
        "/post" => vec![Step::ReadBody, Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n5".to_vec())],
        _ => ok("quick"),
    })
    .await
}

async fn websocket(address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address).await;
    upgrade_to_websocket(&mut peer).await;
    peer
}

async fn upgrade_to_websocket<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut Peer<S>) {
    peer.send(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert_eq!(peer.response_to("GET").await.unwrap().status, 101);
}

#[tokio::test]
async fn upgrades_lose_nothing() {
    let server = server().await;
    let mut line = Line::start(&[], &server).await;
    let address = line.gateway.address();
    let traffic = Arc::new(Traffic::default());
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(tokio::spawn(traffic.clone().keep_alive(address)));
        clients.push(tokio::spawn(traffic.clone().new_connections(address)));
        clients.push(tokio::spawn(traffic.clone().slow(address)));
    }
    let mut tunnel = websocket(address).await;
    for _ in 0..2 {
        let before = traffic.done.load(Ordering::SeqCst);
        until(|| traffic.done.load(Ordering::SeqCst) > before + 50).await;
        let told = line.upgrade().await;
        assert_eq!(told.code, Some(0), "{told:?} {}", line.gateway.log());
        assert!(lives(line.newest()));
        tunnel.send("still here").await;
        assert_eq!(tunnel.bytes(10).await, b"still here", "a tunnel stays with the old process");
    }
    let before = traffic.done.load(Ordering::SeqCst);
    until(|| traffic.done.load(Ordering::SeqCst) > before + 50).await;
    traffic.over.store(true, Ordering::SeqCst);
    for client in clients {
        soon(client).await.expect("a client that could connect");
    }
    assert_eq!(traffic.failed.load(Ordering::SeqCst), 0, "of {}", traffic.done.load(Ordering::SeqCst));
    drop(tunnel);
    // Every predecessor ends when its last client is gone.
    assert_eq!(line.gateway.ended().await, Some(0));
    let first = line.heirs[0];
    until(|| !lives(first)).await;
    assert!(lives(line.newest()));
    // The control socket leads to the newest.
    let told = line.gateway.told("reload").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(Peer::connect(address).await.get("/quick", "").await.status, 200);
}

/// What lasts stays with the old process until it ends by itself: a WebSocket over TLS, and a gRPC stream, whose client is told
/// to open its next one elsewhere.
#[tokio::test]
async fn secured_streams_stay_with_the_old_process() {
    let (server, calls, authority) = (server().await, Calls::default(), Authority::new());
    let pair = authority.certify(&["a.test"]);
    let text = format!(
        "http:
  routers: {{all: {{rule: 'PathPrefix(`/`)', service: one}}, calls: {{rule: 'PathPrefix(`/t.T/`)', service: two}}}}
  services:
    one: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    two: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}
",
        server.url(),
        calls.start().await,
        quoted(&pair.certificate),
        quoted(&pair.key)
    );
    let flags = ["entryPoints.web.http.tls=true", "drain.timeout=1h", "drain.webSocketTimeout=1h"];
    let mut line = Line::configured(&flags, text).await;
    let address = line.gateway.address();
    let connect = async |protocol: &str| {
        shake_hands(&Arc::new(authority.client(&[protocol], None)), address, "a.test").await.unwrap()
    };
    let mut tunnel = Peer::of(connect("http/1.1").await);
    upgrade_to_websocket(&mut tunnel).await;
    let (mut client, connection) = soon(h2::client::handshake(connect("h2").await)).await.unwrap();
    tokio::spawn(connection);
    let call = || {
        let call = http::Request::post("https://a.test/t.T/Echo").header("content-type", "application/grpc");
        call.header("te", "trailers").body(()).unwrap()
    };
    let (response, mut send) = client.send_request(call(), false).unwrap();
    send.send_data(message(b"0"), false).unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), message(b"0"));
    for round in 0..2 {
        let told = line.upgrade().await;
        assert_eq!(told.code, Some(0), "{told:?} {}", line.gateway.log());
        tunnel.send("still here").await;
        assert_eq!(tunnel.bytes(10).await, b"still here");
        // Its connection takes no more streams, as the client has been told; this one goes on.
        soon(async {
            while client.clone().ready().await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let text = message(format!("round {round}").as_bytes());
        send.send_data(text.clone(), false).unwrap();
        assert_eq!(soon(body.data()).await.unwrap().unwrap(), text);
    }
    let (mut other, connection) = soon(h2::client::handshake(connect("h2").await)).await.unwrap();
    tokio::spawn(connection);
    let (response, mut next) = other.send_request(call(), false).unwrap();
    next.send_data(Bytes::new(), true).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 200, "the new process serves calls");
    send.send_data(Bytes::new(), true).unwrap();
    assert!(soon(body.data()).await.is_none());
    assert_eq!(soon(body.trailers()).await.unwrap().unwrap(), status(0));
    assert!(line.gateway.is_alive(), "its tunnel is still there");
    drop(tunnel);
    assert_eq!(line.gateway.ended().await, Some(0));
}

#[tokio::test]
async fn tls_sessions_go_on_in_the_new_process() {
    let (server, authority) = (server().await, Authority::new());
    let pair = authority.certify(&["a.test"]);
    let tls = format!(
        "tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}\n",
        quoted(&pair.certificate),
        quoted(&pair.key)
    );
    let entry_point = ["entryPoints.web.http.tls=true"];
    let mut line = Line::with(&entry_point, &server, &tls).await;
    let address = line.gateway.address();
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let client = Arc::new(authority.client_of(versions));
        let kind = async || {
            let mut stream = shake_hands(&client, address, "a.test").await.unwrap();
            let request = b"GET /quick HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            soon(stream.read_to_end(&mut answer)).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            stream.get_ref().1.handshake_kind().unwrap()
        };
        assert_ne!(kind().await, HandshakeKind::Resumed);
        assert_eq!(kind().await, HandshakeKind::Resumed);
        for _ in 0..2 {
            let told = line.upgrade().await;
            assert_eq!(told.code, Some(0), "{told:?} {}", line.gateway.log());
            assert_eq!(kind().await, HandshakeKind::Resumed, "{versions:?}");
        }
    }
}

#[tokio::test]
async fn the_signal_upgrades_too() {
    let server = server().await;
    let mut line = Line::start(&[], &server).await;
    line.gateway.signal(Signal::USR2);
    let by = Instant::now() + PATIENCE;
    let pid = loop {
        let log = line.gateway.log();
        if let Some((_, rest)) = log.split_once("the new process ") {
            break rest.split(' ').next().unwrap().parse::<u32>().unwrap();
        }
        assert!(Instant::now() < by, "{log}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    line.heirs.push(pid);
    assert_eq!(line.gateway.ended().await, Some(0));
    assert!(test_kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()).is_ok());
    assert_eq!(line.gateway.connect().await.get("/quick", "").await.status, 200);
}

#[tokio::test]
async fn bad_successors_change_nothing() {
    let server = server().await;
    let mut line = Line::start(&[], &server).await;
    let mut peer = line.gateway.connect().await;
    for (text, mode, part) in [
        ("#!/bin/sh\nexit 3\n", 0o755, "3"),
        ("#!/bin/sh\necho broken >&2; exit 1\n", 0o755, "1"),
        ("#!/bin/sh\n", 0o644, "ermission"),
        ("no program at all", 0o755, ""),
        ("#!/nonexistent/interpreter\n", 0o755, "No such file"),
    ] {
        line.replace_by(text, mode);
        let told = line.upgrade().await;
        assert_eq!(told.code, Some(1), "{text:?} {told:?}");
        assert!(told.err.contains(part), "{part:?} is not in {told:?}");
        assert_eq!(peer.get("/quick", "").await.status, 200, "{text:?}");
    }
    fs::remove_file(line.program()).unwrap();
    assert_eq!(line.upgrade().await.code, Some(1));
    // A good one still can.
    install(&line.program());
    let told = line.upgrade().await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(line.gateway.connect().await.get("/quick", "").await.status, 200);
}

/// What the successor says of its configuration reaches whoever asked for the upgrade.
#[tokio::test]
async fn a_successor_with_a_bad_configuration_says_why() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("static.yaml");
    fs::write(&file, "ping: {}\n").unwrap();
    let mut line = Line::start(&[&format!("configFile={}", file.display())], &server).await;
    fs::write(&file, "ping: {}\nentryPoints: {more: {adress: ':0'}}\n").unwrap();
    let told = line.upgrade().await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("adress") && told.err.contains("static.yaml:2:"), "{told:?}");
    assert_eq!(line.gateway.connect().await.get("/quick", "").await.status, 200);
}

/// What the old process has read before is better than nothing: a successor that cannot read its files is none.
#[tokio::test]
async fn a_successor_that_cannot_read_its_files_is_refused() {
    let server = server().await;
    let mut line = Line::start(&[], &server).await;
    let dynamic = line.gateway.folder().join("dynamic.yaml");
    let good = fs::read(&dynamic).unwrap();
    fs::write(&dynamic, "http: [").unwrap();
    let told = line.upgrade().await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("dynamic.yaml:1:7"), "{told:?}");
    assert_eq!(line.gateway.connect().await.get("/quick", "").await.status, 200);
    fs::write(&dynamic, good).unwrap();
    assert_eq!(line.upgrade().await.code, Some(0));
    assert_eq!(line.gateway.connect().await.get("/quick", "").await.status, 200);
}

/// The new process dies after it took over: the old one serves again, as if nothing had been.
#[tokio::test]
async fn a_dead_successor_is_replaced_by_its_predecessor() {
    let server = server().await;
    let mut line = Line::start(&[], &server).await;
    let mut tunnel = websocket(line.gateway.address()).await;
    assert_eq!(line.upgrade().await.code, Some(0));
    let heir = Pid::from_raw(i32::try_from(line.newest()).unwrap()).unwrap();
    kill_process(heir, Signal::KILL).unwrap();
    let by = Instant::now() + PATIENCE;
    while !line.gateway.log().contains("serving again") {
        assert!(Instant::now() < by, "{}", line.gateway.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(line.gateway.connect().await.get("/quick", "").await.status, 200);
    tunnel.send("x").await;
    assert_eq!(tunnel.bytes(1).await, b"x");
    let told = line.gateway.told("reload").await;
    assert_eq!(told.code, Some(0), "commands are taken again: {told:?}");
    let told = line.upgrade().await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(line.gateway.connect().await.get("/quick", "").await.status, 200);
}

#[tokio::test]
async fn a_stop_lets_requests_end() {
    let server = server().await;
    let mut line = Line::start(&["entryPoints.web.transport.lifeCycle.graceTimeOut=30s"], &server).await;
    let mut held = line.gateway.connect().await;
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.until_count(1).await;
    let mut idle = line.gateway.connect().await;
    assert_eq!(idle.get("/quick", "").await.status, 200);
    line.gateway.signal(Signal::TERM);
    assert_eq!(idle.end().await, End::Closed, "idle connections close, cleanly");
    assert!(line.gateway.is_alive(), "a request is under way");
    server.go();
    let answer = held.response_to("GET").await.unwrap();
    assert_eq!((answer.text(), answer.header("connection")), ("held", Some("close")));
    assert_eq!(line.gateway.ended().await, Some(0));
}

/// Waits until nobody listens any more.
async fn until_refused(address: SocketAddr) {
    let by = Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < by, "{address} still takes connections");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whoever comes while the last requests end is refused, and does not wait in a queue that nobody looks at.
#[tokio::test]
async fn late_clients_are_refused_at_once() {
    let server = server().await;
    let mut line = Line::start(&["entryPoints.web.transport.lifeCycle.graceTimeOut=1h"], &server).await;
    let mut held = line.gateway.connect().await;
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.until_count(1).await;
    line.gateway.signal(Signal::TERM);
    until_refused(line.gateway.address()).await;
    assert!(line.gateway.is_alive());
    server.go();
    assert_eq!(held.response_to("GET").await.unwrap().text(), "held");
    assert_eq!(line.gateway.ended().await, Some(0));
}

/// A successor that is stopped on purpose leaves nothing behind that looks alive, though its predecessor still has a tunnel.
#[tokio::test]
async fn a_stopped_successor_is_not_replaced() {
    let server = server().await;
    let mut line = Line::start(&[], &server).await;
    let address = line.gateway.address();
    let mut tunnel = websocket(address).await;
    assert_eq!(line.upgrade().await.code, Some(0));
    let heir = line.newest();
    kill_process(Pid::from_raw(i32::try_from(heir).unwrap()).unwrap(), Signal::TERM).unwrap();
    until(|| !lives(heir)).await;
    until_refused(address).await;
    tunnel.send("x").await;
    assert_eq!(tunnel.bytes(1).await, b"x");
    drop(tunnel);
    assert_eq!(line.gateway.ended().await, Some(0));
}

/// D-UPG-4: entry points that are new are bound by the new process, those that are gone close with the old one, and those that stay
/// refuse nobody.
#[tokio::test]
async fn entry_points_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let ports: Vec<_> = (0..4).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let at = |index: usize| ports[index].local_addr().unwrap();
    let [stays, goes, comes, renamed] = [at(0), at(1), at(2), at(3)];
    drop(ports);
    let root = folder.path().to_owned();
    let path = |name: &str| root.join(name).display().to_string();
    let text = |entry_points: &[(&str, SocketAddr)]| {
        let entry_points: String =
            entry_points.iter().map(|(name, address)| format!("  {name}: {{address: '{address}'}}\n")).collect();
        format!(
            "entryPoints:\n{entry_points}log: {{filePath: {}}}\ncontrol: {{socket: {}}}\nping: {{manualRouting: true}}\n\
             providers: {{file: {{filename: {}}}}}\n",
            path("process.log"),
            path("control"),
            path("dynamic.yaml")
        )
    };
    let (file, dynamic) = (path("static.yaml"), path("dynamic.yaml"));
    fs::write(&dynamic, "http: {routers: {p: {rule: 'Path(`/p`)', service: 'ping@internal'}}}\n").unwrap();
    fs::write(&file, text(&[("stays", stays), ("goes", goes), ("before", renamed)])).unwrap();
    let gateway = Gateway::bare(&["run", "--configFile", &file], folder).await;
    let is_up = async |address| Peer::connect(address).await.get("/p", "").await.status == 200;
    assert!(is_up(stays).await && is_up(goes).await && is_up(renamed).await);
    fs::write(&file, text(&[("stays", stays), ("comes", comes), ("after", renamed)])).unwrap();
    let told = gateway.told("upgrade").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    let heir = told.out.split(' ').find_map(|word| word.parse::<i32>().ok()).unwrap();
    assert!(is_up(stays).await && is_up(comes).await && is_up(renamed).await);
    until_refused(goes).await;
    let listening = || {
        let links =
            fs::read_dir(format!("/proc/{heir}/fd")).unwrap().filter_map(|it| fs::read_link(it.unwrap().path()).ok());
        let inodes: std::collections::BTreeSet<String> = links
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
            .collect();
        let table = fs::read_to_string(format!("/proc/{heir}/net/tcp")).unwrap();
        // Columns: number, local, remote, state (0A listens), queues, timer, retransmits, uid, timeout, inode.
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row.len() > 9 && row[3] == "0A" && inodes.contains(row[9])).count()
    };
    assert_eq!(listening(), 3, "and no other socket is left in the new process");
    kill_process(Pid::from_raw(heir).unwrap(), Signal::KILL).unwrap();
}

/// D-UPG-5: heads and bodies that are half sent, and a client that waits to be told to go on.
#[tokio::test]
async fn what_has_begun_ends_in_the_old_process() {
    let server = server().await;
    let mut line =
        Line::start(&["entryPoints.web.transport.lifeCycle.graceTimeOut=30s", "drain.idleSpread=1s"], &server).await;
    let [mut head, mut body, mut asks] =
        [line.gateway.connect().await, line.gateway.connect().await, line.gateway.connect().await];
    head.send("GET /quick HTTP/1.1\r\nHo").await;
    body.send("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe").await;
    asks.send("POST /post HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    let mut idle = line.gateway.connect().await;
    assert_eq!(idle.get("/quick", "").await.status, 200);
    assert_eq!(line.upgrade().await.code, Some(0));
    // Once this one is closed, those that do nothing have had their time.
    assert_eq!(idle.end().await, End::Closed);
    head.send("st: a\r\n\r\n").await;
    assert_eq!(head.response_to("GET").await.unwrap().text(), "quick");
    body.send("llo").await;
    assert_eq!(body.response_to("POST").await.unwrap().text(), "5");
    assert_eq!(asks.head().await.unwrap().status, 100);
    asks.send("hello").await;
    assert_eq!(asks.response_to("POST").await.unwrap().text(), "5");
    assert_eq!(line.gateway.ended().await, Some(0));
}

/// Whoever stops the service tells all of its processes: a predecessor's requests have the same time as others.
#[tokio::test]
async fn a_stop_lets_the_predecessors_requests_end_too() {
    let server = server().await;
    let mut line = Line::start(&["entryPoints.web.transport.lifeCycle.graceTimeOut=1h"], &server).await;
    let mut held = line.gateway.connect().await;
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.until_count(1).await;
    assert_eq!(line.upgrade().await.code, Some(0));
    let heir = line.newest();
    line.gateway.signal(Signal::TERM);
    kill_process(Pid::from_raw(i32::try_from(heir).unwrap()).unwrap(), Signal::TERM).unwrap();
    until(|| !lives(heir)).await;
    until_refused(line.gateway.address()).await;
    assert!(line.gateway.is_alive(), "a request is under way");
    server.go();
    assert_eq!(held.response_to("GET").await.unwrap().text(), "held");
    assert_eq!(line.gateway.ended().await, Some(0));
}

/// The signal goes to all processes of the service, and what the old one still has to tell belongs into the new file.
#[tokio::test]
async fn a_predecessor_reopens_its_logs() {
    let server = server().await;
    let mut line = Line::start(&[], &server).await;
    let mut held = line.gateway.connect().await;
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.until_count(1).await;
    assert_eq!(line.upgrade().await.code, Some(0));
    let log = line.gateway.folder().join("access.log");
    fs::rename(&log, log.with_extension("1")).unwrap();
    line.gateway.signal(Signal::USR1);
    until(|| log.exists()).await;
    server.go();
    assert_eq!(held.response_to("GET").await.unwrap().text(), "held");
    line.gateway.logged_path("/held").await;
}

/// Of two upgrades at once, and of whatever else was asked meanwhile, each gets an answer while the old process still drains.
#[tokio::test]
async fn commands_that_wait_for_an_upgrade_are_answered() {
    let server = server().await;
    let mut line = Line::start(&[], &server).await;
    let mut tunnel = websocket(line.gateway.address()).await;
    let socket = line.gateway.folder().join("control");
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(tokio::net::UnixStream::connect(&socket).await.unwrap());
    }
    // Whatever the order in which they are taken, they stand in the old process's queue.
    for other in &mut others {
        other.write_all(b"{\"command\":\"upgrade\"}\n").await.unwrap();
    }
    let mut done = 0;
    for other in others {
        let mut answer = String::new();
        soon(BufReader::new(other).read_line(&mut answer)).await.unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let message = answer["message"].as_str().unwrap();
        if answer["done"] == true {
            done += 1;
            line.heirs.extend(message.split(' ').find_map(|word| word.parse::<u32>().ok()));
        } else {
            assert!(message.contains("has taken over"), "{message}");
        }
    }
    assert_eq!(done, 1);
    tunnel.send("x").await;
    assert_eq!(tunnel.bytes(1).await, b"x", "and nobody was hurt");
    assert_eq!(line.gateway.told("reload").await.code, Some(0), "the new process takes commands");
}

/// Signals that come during an upgrade are not lost, however it ends.
#[tokio::test]
async fn an_upgrade_that_fails_makes_up_for_what_was_asked_meanwhile() {
    let server = server().await;
    let line = Line::start(&["providers.file.watch=false"], &server).await;
    let folder = line.gateway.folder().to_owned();
    let go = folder.join("go");
    line.replace_by(&format!("#!/bin/sh\nwhile [ ! -e '{}' ]; do sleep 0.01; done; exit 3\n", go.display()), 0o755);
    line.gateway.signal(Signal::USR2);
    let pid = i32::try_from(line.gateway.pid()).unwrap();
    until(|| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).is_ok_and(|children| !children.is_empty()))
        .await;
    let log = folder.join("access.log");
    fs::rename(&log, log.with_extension("1")).unwrap();
    fs::write(folder.join("dynamic.yaml"), "http: {routers: {}}\n").unwrap();
    line.gateway.signal(Signal::HUP);
    line.gateway.signal(Signal::USR1);
    fs::write(go, "").unwrap();
    until(|| log.exists()).await;
    let mut peer = line.gateway.connect().await;
    let by = Instant::now() + PATIENCE;
    while peer.get("/quick", "").await.status != 404 {
        assert!(Instant::now() < by, "{}", line.gateway.log());
    }
}

/// What systemd hears in the life of a service: who its main process is, when it reads again, how long its end may take.
#[tokio::test]
async fn the_supervisor_follows() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let supervisor = tokio::net::UnixDatagram::bind(&path).unwrap();
    let hears = async || {
        let mut buffer = [0; 512];
        let length = soon(supervisor.recv(&mut buffer)).await.unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let ready = |pid: u32| format!("READY=1\nMAINPID={pid}\nSTATUS=Serving");
    let setup = Gateway::setup().env("NOTIFY_SOCKET", path.to_str().unwrap()).flag("drain.webSocketTimeout=1h");
    let dynamic = format!(
        "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
        server.url()
    );
    let mut gateway = setup.dynamic(dynamic).start().await;
    assert_eq!(hears().await, ready(gateway.pid()));
    gateway.told("reload").await;
    assert!(hears().await.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(hears().await, ready(gateway.pid()));
    let mut tunnel = websocket(gateway.address()).await;
    let told = gateway.told("upgrade").await;
    let heir = told.out.split(' ').find_map(|word| word.parse::<u32>().ok()).expect("a process");
    assert_eq!(hears().await, ready(heir));
    kill_process(Pid::from_raw(i32::try_from(heir).unwrap()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(hears().await, ready(gateway.pid()), "the old one is the main process again");
    gateway.signal(Signal::TERM);
    assert_eq!(hears().await, "STOPPING=1\nSTATUS=Draining");
    assert_eq!(hears().await, "EXTEND_TIMEOUT_USEC=3610000000");
    tunnel.send("x").await;
    assert_eq!(tunnel.bytes(1).await, b"x");
    drop(tunnel);
    assert_eq!(gateway.ended().await, Some(0));
}

/// A successor that never gets ready does not keep the process from ending.
#[tokio::test]
async fn a_stop_interrupts_an_upgrade() {
    let server = server().await;
    let mut line = Line::start(&[], &server).await;
    line.replace_by("#!/bin/sh\nexec sleep 60\n", 0o755);
    line.gateway.signal(Signal::USR2);
    let pid = i32::try_from(line.gateway.pid()).unwrap();
    until(|| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).is_ok_and(|children| !children.is_empty()))
        .await;
    line.gateway.signal(Signal::TERM);
    assert_eq!(line.gateway.ended().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let server = server().await;
    let mut line = Line::start(&["entryPoints.web.transport.lifeCycle.graceTimeOut=1h"], &server).await;
    let mut held = line.gateway.connect().await;
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.until_count(1).await;
    line.gateway.signal(Signal::TERM);
    let log = || line.gateway.log();
    let by = Instant::now() + PATIENCE;
    while !log().contains("draining") {
        assert!(Instant::now() < by, "{}", log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    line.gateway.signal(Signal::TERM);
    assert_eq!(line.gateway.ended().await, Some(0));
    assert!(held.response_to("GET").await.is_err());
}

/// Before it stops, the gateway says so for as long as load balancers need to notice.
#[tokio::test]
async fn readiness_goes_first() {
    let server = server().await;
    let mut line = Line::start(
        &[
            "ping",
            "ping.entryPoint=web",
            "ping.terminatingStatusCode=503",
            "entryPoints.web.transport.lifeCycle.requestAcceptGraceTimeout=1h",
        ],
        &server,
    )
    .await;
    assert_eq!(line.gateway.connect().await.get("/ping", "").await.status, 200);
    line.gateway.signal(Signal::TERM);
    let by = Instant::now() + PATIENCE;
    while line.gateway.connect().await.get("/ping", "").await.status != 503 {
        assert!(Instant::now() < by, "{}", line.gateway.log());
    }
    assert_eq!(line.gateway.connect().await.get("/quick", "").await.status, 200, "it still accepts");
    line.gateway.signal(Signal::TERM);
    assert_eq!(line.gateway.ended().await, Some(0));
}

/// systemd holds the socket, so that not even a restart refuses a connection.
#[tokio::test]
async fn sockets_come_from_systemd() {
    let program = "systemd-socket-activate";
    if std::process::Command::new(program).arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    let spare = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let unwanted = spare.local_addr().unwrap();
    drop((free, spare));
    let log = folder.path().join("log");
    let mut child = tokio::process::Command::new(program)
        .args([
            "-l",
            &address.to_string(),
            "-l",
            &unwanted.to_string(),
            "--fdname=web:nobody",
            env!("CARGO_BIN_EXE_portcullis"),
            "run",
        ])
        // Nothing may listen there but who inherits the socket.
        .args([format!("--entryPoints.web.address={address}"), "--ping".to_owned(), "--ping.entryPoint=web".to_owned()])
        .args([format!("--log.filePath={}", log.display()), "--log.level=DEBUG".to_owned()])
        .env("RUNTIME_DIRECTORY", folder.path())
        .kill_on_drop(true)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let by = Instant::now() + PATIENCE;
    let mut peer = loop {
        // The first connection starts the program.
        match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => break Peer::of(stream),
            Err(_) => assert!(Instant::now() < by && child.try_wait().unwrap().is_none()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(peer.get("/ping", "").await.text(), "OK");
    let warning = format!("systemd listens for nobody ({unwanted}/tcp)");
    until(|| fs::read_to_string(&log).is_ok_and(|told| told.contains(&warning))).await;
    let _ = child.kill().await;
}
