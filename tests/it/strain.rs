//! D-MEM: what those cost who keep a connection and do nothing with it, or next to nothing.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::gateway::Gateway;
use crate::harness::peer::{PATIENCE, Peer, soon, until};

/// Most that an idle connection takes, in KiB.
const IDLE_KIB: usize = 24;
/// Most that a reader takes who does not read: 64 KiB is what Pingora reads ahead from a server, the rest waits to be written.
const READER_KIB: usize = 320;
/// The cap of a head, and what may come on top of it.
const HEAD_KIB: usize = 32;
const HEAD_REST_KIB: usize = 8;
/// What a process may take for itself while there are many connections.
const OWN_KIB: usize = 1024;
/// An answer that fits into no buffer between the server and its reader.
const ANSWER_BYTES: u64 = 64 << 20;

/// A server whose answers are large; it counts the bytes that somebody has taken.
async fn generous() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::<AtomicU64>::default();
    let counter = taken.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let taken = counter.clone();
            // A head and its two bytes are two writes: the second would wait for the first to be acknowledged.
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut request = Vec::new();
                let is_whole = |request: &[u8]| request.ends_with(b"\r\n\r\n");
                loop {
                    while !is_whole(&request) {
                        if stream.read_buf(&mut request).await? == 0 {
                            return Ok(());
                        }
                    }
                    let bytes = if request.starts_with(b"GET /large") { ANSWER_BYTES } else { 2 };
                    request.clear();
                    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes()).await?;
                    let mut rest = bytes;
                    let piece = [b'x'; 1 << 14];
                    while rest > 0 {
                        let wrote = stream.write(&piece[..piece.len().min(rest as usize)]).await? as u64;
                        taken.fetch_add(wrote, Ordering::SeqCst);
                        rest -= wrote;
                    }
                }
                #[expect(unreachable_code, reason = "says what the errors are")]
                std::io::Result::Ok(())
            });
        }
    });
    (address, taken)
}

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

/// A gateway that is being measured, and the server behind it.
struct Strained {
    gateway: Gateway,
    taken: Arc<AtomicU64>,
    before: usize,
}

impl Strained {
    async fn start() -> Self {
        let (origin, taken) = generous().await;
        let gateway = Gateway::setup()
            .flag(format!("entryPoints.web.http.maxHeaderBytes={}", HEAD_KIB << 10))
            .flag("log.level=INFO")
            .dynamic(format!(
                "http:
  routers: {{all: {{rule: 'PathPrefix(`/`)', service: one}}}}
  services: {{one: {{loadBalancer: {{servers: [{{url: 'http://{origin}'}}]}}}}}}
"
            ))
            .start()
            .await;
        let mut strained = Self { gateway, taken, before: 0 };
        // What every kind of connection makes once.
        drop(strained.connect_all(50).await);
        strained.before = settled(|| resident_kib(&strained.gateway)).await;
        strained
    }

    /// Connections over which a request has gone.
    async fn connect_all(&self, count: usize) -> Vec<Peer> {
        let mut peers: Vec<Peer> = Vec::new();
        for _ in 0..count {
            let mut peer = self.gateway.connect().await;
            assert_eq!(soon(peer.get("/", "")).await.status, 200);
            peers.push(peer);
        }
        peers
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
    async fn closes(&self, peers: Vec<Peer>, count: usize) {
        let descriptors = || fs::read_dir(format!("/proc/{}/fd", self.gateway.pid())).unwrap().count();
        let with_peers = descriptors();
        drop(peers);
        until(|| descriptors() + count <= with_peers).await;
    }
}

#[tokio::test]
async fn idle_connections_cost_little() {
    const COUNT: usize = 1000;
    let strained = Strained::start().await;
    let peers = strained.connect_all(COUNT).await;
    strained.check("idle", (COUNT, IDLE_KIB)).await;
    strained.closes(peers, COUNT).await;
}

#[tokio::test]
async fn heads_without_an_end_cost_their_cap() {
    const COUNT: usize = 300;
    let strained = Strained::start().await;
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
    const COUNT: usize = 30;
    let strained = Strained::start().await;
    let taken = strained.taken.clone();
    let start = taken.load(Ordering::SeqCst);
    let mut peers = Vec::new();
    for _ in 0..COUNT {
        let mut peer = strained.gateway.connect().await;
        peer.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
        peers.push(peer);
    }
    let written = settled(|| taken.load(Ordering::SeqCst)).await - start;
    assert!(written > 0 && written < COUNT as u64 * ANSWER_BYTES / 2, "{written} bytes: the server is not held up");
    strained.check("readers that do not read", (COUNT, READER_KIB)).await;
    strained.closes(peers, 2 * COUNT).await;
}
