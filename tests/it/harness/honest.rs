//! Clients that do nothing wrong, beside others that do.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Request;

use super::peer::{Peer, soon};

/// How long honest clients waited for their answers, the shortest wait first.
pub(crate) struct Waits(Vec<Duration>);

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |part: usize| self.0.get(self.0.len() * part / 100).copied().unwrap_or_default();
        write!(f, "p50 {:.1?}, p99 {:.1?}", at(50), at(99))
    }
}

/// Asks so many times over an HTTP/1 connection, and as often over an HTTP/2 connection beside it. Whatever goes on, each request is
/// answered in time by a server that says what it was asked for.
pub(crate) async fn ask(address: SocketAddr, count: usize) -> Waits {
    let (mut waits, others) = tokio::join!(ask_http1(address, count), ask_http2(address, count));
    waits.extend(others);
    waits.sort();
    Waits(waits)
}

async fn ask_http1(address: SocketAddr, count: usize) -> Vec<Duration> {
    let mut peer = Peer::connect(address).await;
    let mut waits = Vec::new();
    for at in 0..count {
        let target = format!("/honest?http1={at}");
        let started = Instant::now();
        let answer = peer.get(&target, "").await;
        waits.push(started.elapsed());
        assert_eq!((answer.status, answer.text()), (200, target.as_str()));
    }
    waits
}

async fn ask_http2(address: SocketAddr, count: usize) -> Vec<Duration> {
    let stream = Peer::connect(address).await.into_stream();
    let (mut requests, connection) = soon(h2::client::handshake(stream)).await.expect("a handshake");
    tokio::spawn(connection);
    let mut waits = Vec::new();
    for at in 0..count {
        let target = format!("/honest?http2={at}");
        let started = Instant::now();
        requests = soon(requests.ready()).await.expect("room for a request");
        let request = Request::get(format!("http://a.test{target}")).body(()).expect("a request");
        let (response, _) = requests.send_request(request, true).expect("it is sent");
        let response = soon(response).await.expect("an answer");
        let status = response.status();
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(piece) = soon(body.data()).await {
            text.extend_from_slice(&piece.expect("all of it"));
        }
        waits.push(started.elapsed());
        assert_eq!((status.as_u16(), text.as_slice()), (200, target.as_bytes()));
    }
    waits
}
