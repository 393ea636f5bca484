//! The front door in front of Pingora's own proxy, as in production.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy};
use portcullis::traffic::entrypoint::{Connection, Handle, Options, bind, start};

use crate::harness::door::Refusals;
use crate::harness::origin::{Script, origin};
use crate::harness::peer::{End, Peer, soon, until};

struct Proxy(SocketAddr);

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> pingora::Result<bool> {
        if session.req_header().uri.path() != "/denied" {
            return Ok(false);
        }
        let keep_alive = Connection::of(session).unwrap().keep_alive();
        let mut header = ResponseHeader::build(403, None)?;
        header.insert_header("Content-Length", "2")?;
        session.set_keepalive(keep_alive);
        session.write_response_header(Box::new(header), false).await?;
        session.write_response_body(Some(Bytes::from_static(b"no")), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }

    async fn response_filter(&self, session: &mut Session, _: &mut ResponseHeader, (): &mut ()) -> pingora::Result<()> {
        let keep_alive = Connection::of(session).unwrap().keep_alive();
        session.set_keepalive(keep_alive);
        Ok(())
    }
}

async fn proxied(change: impl FnOnce(&mut Options)) -> (Handle, Arc<Script>) {
    let (address, script) = origin().await;
    let app = Arc::new(http_proxy(&Arc::new(ServerConf::default()), Proxy(address)));
    let mut options = Options::new("test", 0);
    change(&mut options);
    let handle = start(options, bind("127.0.0.1:0", false).unwrap(), app, Arc::new(Refusals::default()), None).unwrap();
    (handle, script)
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

#[tokio::test]
async fn requests_are_kept_apart() {
    let (handle, script) = proxied(|_| {}).await;
    let mut peer = Peer::connect(handle.address()).await;
    for round in 1..=5 {
        peer.send(format!(
            "{}POST /b HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello{}",
            request("/a"),
            request("/c")
        ))
        .await;
        for _ in 0..3 {
            let answer = peer.answer().await;
            assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "ok", Some("keep-alive")));
        }
        assert_eq!(script.requests.load(Ordering::SeqCst), 3 * round);
    }
    assert_eq!(handle.connections(), 1);
}

#[tokio::test]
async fn answers_flow_as_they_come() {
    let (handle, script) = proxied(|_| {}).await;
    let mut peer = Peer::connect(handle.address()).await;
    peer.send(request("/stream")).await;
    assert_eq!(peer.answer().await.status, 200);
    for _ in 0..3 {
        script.pieces.add_permits(1);
        assert_eq!(peer.bytes(10).await, b"5\r\npiece\r\n");
    }
    assert_eq!(peer.bytes(5).await, b"0\r\n\r\n");
    // A counted body is not held back either.
    peer.send(request("/counted")).await;
    assert!(peer.head().await.is_ok());
    for _ in 0..2 {
        script.pieces.add_permits(1);
        assert_eq!(peer.bytes(5).await, b"piece");
    }
}

#[tokio::test]
async fn early_denials_keep_the_connection_if_they_can() {
    let (handle, _) = proxied(|options| options.timeouts.linger = Duration::from_millis(300)).await;
    let mut peer = Peer::connect(handle.address()).await;
    peer.send("POST /denied HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\n").await;
    assert_eq!(peer.answer().await.status, 403);
    peer.send([&[b'x'; 1000], request("/a").as_bytes()].concat()).await;
    assert_eq!(peer.answer().await.text(), "ok");
    peer.send("POST /denied HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3000000\r\n\r\n").await;
    let answer = peer.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (403, Some("close")));
    assert!(peer.try_send(vec![b'x'; 3_000_000]).await);
    assert_eq!(peer.end().await, End::Closed);
}

#[tokio::test]
async fn tunnels_pass_bytes_freely() {
    let (handle, _) = proxied(|options| options.timeouts.read = Some(Duration::from_millis(50))).await;
    let mut peer = Peer::connect(handle.address()).await;
    peer.send(
        "GET /upgrade HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert_eq!(peer.answer().await.status, 101);
    assert_eq!((handle.connections(), handle.upgraded_connections()), (0, 1));
    tokio::time::sleep(Duration::from_millis(80)).await;
    for size in [1, 100, 100_000] {
        peer.send(vec![b'w'; size]).await;
        assert_eq!(peer.bytes(size).await, vec![b'w'; size]);
    }
    drop(peer);
    soon(handle.upgraded_drained()).await;
}

#[tokio::test]
async fn servers_do_not_work_for_clients_that_are_gone() {
    let (handle, script) = proxied(|options| options.timeouts.half_closed = Duration::from_millis(40)).await;
    let mut peer = Peer::connect(handle.address()).await;
    peer.send(request("/hang")).await;
    until(|| script.requests.load(Ordering::SeqCst) == 1).await;
    drop(peer);
    until(|| script.abandoned.load(Ordering::SeqCst) == 1).await;
    soon(handle.drained()).await;
}

#[tokio::test]
async fn a_drain_lets_answers_through() {
    let (handle, script) = proxied(|_| {}).await;
    let mut peer = Peer::connect(handle.address()).await;
    peer.send(request("/counted")).await;
    until(|| script.requests.load(Ordering::SeqCst) == 1).await;
    handle.stop_accepting();
    handle.set_draining(true);
    handle.close_idle_after(Duration::ZERO, Duration::ZERO);
    script.pieces.add_permits(2);
    assert_eq!(peer.answer().await.text(), "piecepiece");
    assert_eq!(peer.end().await, End::Closed);
    soon(handle.drained()).await;
}

/// What the head reader lets through, Pingora must take: its own refusals would reach no log.
#[tokio::test]
async fn odd_targets_are_refused_by_the_head_reader_or_not_at_all() {
    let (handle, _) = proxied(|_| {}).await;
    let odd = ["//", "//a", "/%zz", "/%", "/a?b?c", "/:80", "/a@b", "http://a.test/x"].map(str::to_owned);
    let bytes = (b'!'..=b'~').map(char::from).flat_map(|byte| [format!("/a{byte}b"), format!("/?a{byte}b")]);
    for target in bytes.chain(odd) {
        let mut peer = Peer::connect(handle.address()).await;
        peer.send(request(&target)).await;
        let answer = peer.answer().await;
        assert_eq!(answer.status == 200, answer.header("x-portcullis-error").is_none(), "{target}: {}", answer.head);
    }
}
