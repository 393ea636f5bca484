//! D-MEM: what those cost who keep a connection and do nothing with it, or next to nothing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Request, Response};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::harness::gateway::Gateway;
use crate::harness::generous::{ANSWER_BYTES, generous};
use crate::harness::honest;
use crate::harness::peer::{PATIENCE, Peer, soon, until};
use crate::harness::server::{Server, answer};
use crate::harness::tls::{Authority, quoted, shake_hands};

/// Most that an idle connection takes, in KiB: in clear text, over TLS, with HTTP/2 over TLS.
const IDLE_KIB: usize = 16;
const IDLE_TLS_KIB: usize = 40;
const IDLE_HTTP2_KIB: usize = 64;
/// How many of them there are, and how long they may be idle.
const CROWD: usize = 2000;
const IDLE: Duration = Duration::from_secs(20);
/// Most that a reader takes who does not read, with TLS and without: up to 64 KiB are read ahead from a server for it. And with HTTP/2,
/// over which less waits.
const READER_KIB: usize = 128;
const READER_HTTP2_KIB: usize = 96;
/// The cap of a head, and what may come on top of it.
const HEAD_KIB: usize = 32;
const HEAD_REST_KIB: usize = 8;
/// What a process may take for itself while there are many connections.
const OWN_KIB: usize = 1024;

fn resident_kib(gateway: &Gateway) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()?.parse().ok()).unwrap()
}

/// Waits until `value` stays as it is for a while.
async fn settled<T: PartialEq + std::fmt::Debug>(value: impl Fn() -> T) -> T {
    let by = Instant::now() + 3 * PATIENCE;
    let (mut last, mut since) = (value(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        assert!(Instant::now() < by, "{last:?} does not settle");
        tokio::time::sleep(Duration::from_millis(10)).await;
        let next = value();
        if next != last {
            (last, since) = (next, Instant::now());
        }
    }
    last
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http,
    Https,
    Http2,
}

/// A client that is there until it is dropped.
enum Client {
    Http(Peer),
    Https(Box<TlsStream<TcpStream>>),
    Http2 { requests: SendRequest<Bytes>, unread: Option<Response<RecvStream>>, connection: JoinHandle<()> },
}

impl Client {
    /// Asks for two bytes and reads them.
    async fn ask(&mut self) {
        match self {
            Self::Http(peer) => assert_eq!(soon(peer.get("/", "")).await.status, 200),
            Self::Https(stream) => {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\nxx") {
                    assert!(soon(stream.read_buf(&mut answer)).await.unwrap() > 0);
                }
            }
            Self::Http2 { requests, .. } => {
                let mut body = request(requests, "/").await.into_body();
                assert_eq!(soon(body.data()).await.unwrap().unwrap(), "xx");
                assert!(soon(body.data()).await.is_none());
            }
        }
    }

    /// Asks for a large answer and does not read it.
    async fn ask_in_vain(&mut self) {
        let head = b"GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n";
        match self {
            Self::Http(peer) => peer.send(head).await,
            Self::Https(stream) => stream.write_all(head).await.unwrap(),
            Self::Http2 { requests, unread, .. } => *unread = Some(request(requests, "/large").await),
        }
    }

    /// Asks now and then until it is to be `silent`. Then it waits until the gateway closes the connection.
    async fn linger(mut self, mut silent: watch::Receiver<bool>) {
        while !*silent.borrow_and_update() {
            self.ask().await;
            let _ = timeout(IDLE / 4, silent.changed()).await;
        }
        let mut rest = Vec::new();
        match self {
            Self::Http(peer) => drop(peer.into_stream().read_to_end(&mut rest).await),
            Self::Https(mut stream) => drop(stream.read_to_end(&mut rest).await),
            // It ends with the last handle, too.
            Self::Http2 { requests, connection, .. } => {
                connection.await.unwrap();
                drop(requests);
            }
        }
        assert_eq!(rest, b"");
    }
}

async fn request(requests: &SendRequest<Bytes>, path: &str) -> Response<RecvStream> {
    let mut requests = soon(requests.clone().ready()).await.unwrap();
    let request = Request::get(format!("https://a.test{path}")).body(()).unwrap();
    soon(requests.send_request(request, true).unwrap().0).await.unwrap()
}

/// A gateway that is being measured, and the server behind it.
struct Strained {
    gateway: Gateway,
    taken: Arc<AtomicU64>,
    /// Answers honest clients.
    server: Server,
    authority: Authority,
    before: usize,
}

impl Strained {
    async fn start(speaks: Speaks) -> Self {
        // Many systems grant a thousand descriptors and more to those who ask. The gateway gets as many.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let (origin, taken) = generous().await;
        let server = Server::start(|received| answer(200, "", received.target())).await;
        let authority = Authority::new();
        let pair = authority.certify(&["a.test"]);
        let gateway = Gateway::setup()
            .flag(format!("entryPoints.web.http.maxHeaderBytes={}", HEAD_KIB << 10))
            .flag(format!("entryPoints.web.transport.respondingTimeouts.idleTimeout={}s", IDLE.as_secs()))
            .flag("log.level=INFO")
            .dynamic(format!(
                "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: one}}
    honest: {{rule: 'PathPrefix(`/honest`)', service: two}}
    secure: {{rule: 'PathPrefix(`/`)', service: one, tls: {{}}}}
  services:
    one: {{loadBalancer: {{servers: [{{url: 'http://{origin}'}}]}}}}
    two: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}
",
                server.url(),
                quoted(&pair.certificate),
                quoted(&pair.key),
            ))
            .start()
            .await;
        let mut strained = Self { gateway, taken, server, authority, before: 0 };
        // What every kind of connection makes once.
        drop(strained.connect_all(speaks, 50).await);
        honest::ask(strained.gateway.address(), 10).await;
        strained.before = settled(|| resident_kib(&strained.gateway)).await;
        strained
    }

    /// Clients of whom each has asked once.
    async fn connect_all(&self, speaks: Speaks, count: usize) -> Vec<Client> {
        let protocol = if speaks == Speaks::Http2 { "h2" } else { "http/1.1" };
        let tls = Arc::new(self.authority.client(&[protocol], None));
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = self.connect(speaks, &tls).await;
            client.ask().await;
            clients.push(client);
        }
        clients
    }

    async fn connect(&self, speaks: Speaks, tls: &Arc<ClientConfig>) -> Client {
        if speaks == Speaks::Http {
            return Client::Http(self.gateway.connect().await);
        }
        let stream = shake_hands(tls, self.gateway.address(), "a.test").await.unwrap();
        if speaks == Speaks::Https {
            return Client::Https(Box::new(stream));
        }
        let (requests, connection) = soon(h2::client::handshake(stream)).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        Client::Http2 { requests, unread: None, connection }
    }

    /// What so many connections take must not be more than `most_kib` for each.
    async fn check(&self, what: &str, (count, most_kib): (usize, usize)) {
        let Self { gateway, before, .. } = self;
        let all = settled(|| resident_kib(gateway)).await;
        let each = all.saturating_sub(*before).saturating_sub(OWN_KIB) / count;
        println!("{what}: {before} KiB, then {all}: {each} KiB for each of {count}");
        assert!(each <= most_kib, "{what}: {each} KiB for each of {count}");
    }

    /// When they are gone, so are that many descriptors. What they took may stay a while: allocators keep it for the next ones.
    async fn closes<P>(&self, peers: Vec<P>, count: usize) {
        let descriptors = || fs::read_dir(format!("/proc/{}/fd", self.gateway.pid())).unwrap().count();
        let with_peers = descriptors();
        drop(peers);
        until(|| descriptors() + count <= with_peers).await;
    }
}

#[tokio::test]
async fn idle_connections_cost_little_and_end() {
    idle(Speaks::Http, IDLE_KIB).await;
}

#[tokio::test]
async fn idle_connections_over_tls_cost_little_and_end() {
    idle(Speaks::Https, IDLE_TLS_KIB).await;
}

#[tokio::test]
async fn idle_connections_with_http2_cost_little_and_end() {
    idle(Speaks::Http2, IDLE_HTTP2_KIB).await;
}

/// Honest clients are served beside a crowd that does nothing, and in the end it is gone.
async fn idle(speaks: Speaks, most_kib: usize) {
    let strained = Strained::start(speaks).await;
    let (fall_silent, silent) = watch::channel(false);
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD / 50 {
        // They must not be idle for too long before all are there.
        for client in strained.connect_all(speaks, 50).await {
            crowd.spawn(client.linger(silent.clone()));
        }
    }
    fall_silent.send(true).unwrap();
    let since = Instant::now();
    let waits = honest::ask(strained.gateway.address(), 50).await;
    println!("beside {CROWD} idle connections, {speaks:?}: {waits}");
    strained.check(&format!("idle, {speaks:?}"), (CROWD, most_kib)).await;
    // The first of them may have asked a while ago when they all fell silent.
    assert!(since.elapsed() < IDLE * 3 / 4, "it takes too long to look at them: {:?}", since.elapsed());
    timeout(IDLE + 2 * PATIENCE, crowd.join_all()).await.unwrap();
    assert!(since.elapsed() >= IDLE * 3 / 4, "{:?}", since.elapsed());
    honest::ask(strained.gateway.address(), 10).await;
    assert_eq!(strained.server.violations(), Vec::<String>::new());
}

/// With the allocator of the programs that are released. Others keep it for who comes next.
#[cfg(feature = "mimalloc")]
#[tokio::test]
async fn what_a_crowd_took_is_given_back() {
    let strained = Strained::start(Speaks::Http).await;
    let mut clients = strained.connect_all(Speaks::Http, 100).await;
    for client in &mut clients {
        client.ask_in_vain().await;
    }
    until(|| resident_kib(&strained.gateway) > strained.before + 100 * READER_KIB / 2).await;
    drop(clients);
    let by = Instant::now() + 6 * PATIENCE;
    while resident_kib(&strained.gateway) > strained.before + 2 * OWN_KIB {
        assert!(Instant::now() < by, "{} KiB, then {}", strained.before, resident_kib(&strained.gateway));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn heads_without_an_end_cost_their_cap() {
    const COUNT: usize = 300;
    let strained = Strained::start(Speaks::Http).await;
    let mut peers = Vec::new();
    for _ in 0..COUNT {
        let mut peer = strained.gateway.connect().await;
        let filling = "y".repeat((HEAD_KIB << 10) - 100);
        peer.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {filling}")).await;
        peers.push(peer);
    }
    strained.check("heads without an end", (COUNT, HEAD_KIB + HEAD_REST_KIB)).await;
    strained.closes(peers, COUNT).await;
}

#[tokio::test]
async fn readers_that_do_not_read_hold_up_the_server() {
    const COUNT: usize = 60;
    for (speaks, most_kib) in
        [(Speaks::Http, READER_KIB), (Speaks::Https, READER_KIB), (Speaks::Http2, READER_HTTP2_KIB)]
    {
        let strained = Strained::start(speaks).await;
        let taken = strained.taken.clone();
        let start = taken.load(Ordering::SeqCst);
        let mut clients = strained.connect_all(speaks, COUNT).await;
        for client in &mut clients {
            client.ask_in_vain().await;
        }
        let written = settled(|| taken.load(Ordering::SeqCst)).await - start;
        assert!(written > 0 && written < COUNT as u64 * ANSWER_BYTES / 2, "{written} bytes: the server is not held up");
        strained.check(&format!("readers that do not read, {speaks:?}"), (COUNT, most_kib)).await;
        strained.closes(clients, 2 * COUNT).await;
    }
}
