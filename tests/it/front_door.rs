//! The front door over real sockets: keep-alive, bodies, deadlines, drains, PROXY headers, HTTP/2.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use portcullis::exchange::Fault;
use portcullis::traffic::entrypoint::{Rate, Trusted};
use portcullis::units::Networks;

use crate::harness::door::door;
use crate::harness::peer::{End, Peer, soon, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const MILLIS: fn(u64) -> Duration = Duration::from_millis;

#[tokio::test]
async fn requests_share_a_connection() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    for count in 1..=20 {
        peer.send(format!("GET /{count} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let answer = peer.answer().await;
        assert_eq!((answer.status, answer.text()), (200, format!("GET /{count} 0").as_str()));
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
    assert_eq!(door.handle.connections(), 1);
    drop(peer);
    soon(door.handle.drained()).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_whole() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    let requests = "GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n\
                    POST /2 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello\
                    POST /3 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n\
                    \r\nPUT /4 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n\
                    GET /5 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let expected = ["GET /1 0", "POST /2 5", "POST /3 5", "PUT /4 0", "GET /5 0"];
    peer.send(requests).await;
    for text in expected {
        assert_eq!(peer.answer().await.text(), text);
    }
    assert_eq!(peer.end().await, End::Closed);

    let mut peer = Peer::connect(door.address()).await;
    peer.drip(requests).await;
    for text in expected {
        assert_eq!(peer.answer().await.text(), text);
    }
    assert_eq!(peer.end().await, End::Closed);
    let bodies: Vec<_> = door.app.seen.lock().unwrap().iter().map(|seen| seen.body.clone()).collect();
    assert_eq!(bodies, [&b""[..], b"hello", b"abcde", b"", b"", b"", b"hello", b"abcde", b"", b""]);
}

#[tokio::test]
async fn a_request_may_be_cut_anywhere() {
    let door = door(|_| {});
    let request =
        b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n";
    let mut peer = Peer::connect(door.address()).await;
    for cut in 1..request.len() {
        peer.send(&request[..cut]).await;
        tokio::task::yield_now().await;
        peer.send(&request[cut..]).await;
        assert_eq!(peer.answer().await.text(), "POST /x 5", "cut at {cut}");
    }
}

#[tokio::test]
async fn large_bodies_go_both_ways() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    let body = vec![b'b'; 1 << 20];
    for _ in 0..3 {
        peer.send(format!("POST /big HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        peer.send(&body).await;
        assert_eq!(peer.answer().await.body.len(), 1 << 20);
        peer.send("POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for piece in body.chunks(100_000) {
            peer.send(format!("{:x}\r\n", piece.len())).await;
            peer.send(piece).await;
            peer.send("\r\n").await;
        }
        peer.send("0\r\n\r\n").await;
        assert_eq!(peer.answer().await.text(), format!("POST /x {}", body.len()));
    }
}

#[tokio::test]
async fn continue_is_sent_before_the_body_and_the_connection_stays() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    for _ in 0..2 {
        peer.send("POST /continue HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
        assert_eq!(peer.answer().await.status, 100);
        peer.send("hi").await;
        let answer = peer.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("keep-alive")));
    }
}

#[tokio::test]
async fn absolute_targets_become_origin_form() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    peer.send("GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(peer.answer().await.text(), "GET /x?y 0");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let door = door(|options| options.timeouts.idle = Some(MILLIS(50)));
    let mut silent = Peer::connect(door.address()).await;
    assert_eq!(silent.end().await, End::Closed);
    let mut peer = Peer::connect(door.address()).await;
    peer.send(GET).await;
    assert_eq!(peer.answer().await.status, 200);
    assert_eq!(peer.end().await, End::Closed);
    assert!(door.faults().is_empty(), "an idle client has done nothing wrong");
}

#[tokio::test]
async fn heads_have_a_deadline_that_drips_do_not_move() {
    let door = door(|options| options.timeouts.head = MILLIS(60));
    let mut peer = Peer::connect(door.address()).await;
    // The second request of a connection is under the same deadline as the first.
    peer.send(GET).await;
    peer.answer().await;
    let started = std::time::Instant::now();
    for byte in GET.bytes().cycle() {
        if byte == b'\r' || !peer.try_send([b'G']).await || started.elapsed() > MILLIS(3000) {
            break;
        }
        tokio::time::sleep(MILLIS(5)).await;
    }
    let answer = peer.answer().await;
    assert_eq!((answer.status, answer.header("x-portcullis-error")), (408, Some("head-timeout")));
    assert_eq!(door.faults(), [Fault::HeadTimeout]);
}

#[tokio::test]
async fn half_a_preface_is_not_waited_for() {
    let door = door(|options| options.timeouts.head = MILLIS(60));
    let mut peer = Peer::connect(door.address()).await;
    peer.send("PRI * HTTP/2.0\r\n\r\nSM").await;
    assert_eq!(peer.answer().await.status, 408);
}

#[tokio::test]
async fn slow_bodies_run_out_of_credit() {
    let door = door(|options| options.rates.body = Rate { bytes_per_second: 100_000, grace: MILLIS(60) });
    let mut peer = Peer::connect(door.address()).await;
    peer.send("POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nx").await;
    until(|| !door.app.read_failed.lock().unwrap().is_empty()).await;
    assert_eq!(*door.app.read_failed.lock().unwrap(), [Some(Fault::BodyTimeout)]);
    assert_eq!(peer.end().await, End::Closed);
}

#[tokio::test]
async fn whole_requests_have_a_deadline() {
    let door = door(|options| options.timeouts.read = Some(MILLIS(80)));
    let mut peer = Peer::connect(door.address()).await;
    peer.send("POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    while door.app.read_failed.lock().unwrap().is_empty() {
        peer.try_send("1\r\nx\r\n").await;
        tokio::time::sleep(MILLIS(5)).await;
    }
    assert_eq!(*door.app.read_failed.lock().unwrap(), [Some(Fault::BodyTimeout)]);
}

#[tokio::test]
async fn clients_that_do_not_read_are_let_go() {
    let door = door(|options| options.rates.send = Rate { bytes_per_second: 1_000_000_000, grace: MILLIS(60) });
    let mut peer = Peer::connect(door.address()).await;
    for _ in 0..40 {
        if !peer.try_send("GET /big HTTP/1.1\r\nHost: a.test\r\n\r\n").await {
            break;
        }
    }
    until(|| door.app.write_failed.load(Ordering::SeqCst)).await;
    soon(door.handle.drained()).await;
}

#[tokio::test]
async fn broken_chunks_end_the_request() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    peer.send("POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX").await;
    assert_eq!(peer.end().await, End::Closed);
    assert_eq!(*door.app.read_failed.lock().unwrap(), [Some(Fault::BadRequest)]);
    assert_eq!(door.app.count(), 0);
}

#[tokio::test]
async fn early_answers_are_always_read() {
    let door = door(|_| {});
    for body in [1_000, 3_000_000] {
        for _ in 0..10 {
            let mut peer = Peer::connect(door.address()).await;
            peer.send(format!("POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: {body}\r\n\r\n")).await;
            // Clients like this one read nothing before they have written everything.
            assert!(peer.try_send(vec![b'x'; body]).await);
            let answer = peer.answer().await;
            assert_eq!((answer.status, answer.text()), (403, "no"));
            if answer.header("connection") == Some("keep-alive") {
                peer.send(GET).await;
                assert_eq!(peer.answer().await.text(), "GET / 0");
            } else {
                assert_eq!(peer.end().await, End::Closed);
            }
        }
    }
}

#[tokio::test]
async fn clients_may_go_on_sending_after_the_last_answer() {
    let door = door(|_| {});
    for head in [
        "POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3000000\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3000000\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let mut peer = Peer::connect(door.address()).await;
        peer.send(head).await;
        peer.readable().await;
        for _ in 0..30 {
            assert!(peer.try_send(vec![b'x'; 100_000]).await, "a reset would destroy the answer");
            tokio::task::yield_now().await;
        }
        assert!(matches!(peer.answer().await.status, 400 | 403));
        assert_eq!(peer.end().await, End::Closed);
    }
    // But not for ever.
    let mut peer = Peer::connect(door.address()).await;
    peer.send("BAD\r\n\r\n").await;
    peer.readable().await;
    soon(async { while peer.try_send(vec![b'x'; 100_000]).await {} }).await;
    soon(door.handle.drained()).await;
}

/// The end of a chunked body and the next request come in one segment while the body is being read.
#[tokio::test]
async fn the_next_request_may_follow_a_chunked_body_at_once() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    let head = "POST /continue HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    peer.send(head).await;
    for _ in 0..3 {
        assert_eq!(peer.answer().await.status, 100);
        peer.send(format!("5\r\nhello\r\n0\r\nA: b\r\n\r\n{GET}{head}")).await;
        assert_eq!(peer.answer().await.text(), "POST /continue 5");
        assert_eq!(peer.answer().await.text(), "GET / 0");
    }
}

#[tokio::test]
async fn refusals_are_always_read_too() {
    let door = door(|_| {});
    for _ in 0..10 {
        let mut peer = Peer::connect(door.address()).await;
        peer.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert!(peer.try_send(vec![b'x'; 1_000_000]).await);
        assert_eq!(peer.answer().await.status, 400);
        assert_eq!(peer.end().await, End::Closed);
    }
}

#[tokio::test]
async fn half_closing_clients_get_their_answers() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    peer.send("GET /wait HTTP/1.1\r\nHost: a.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    peer.half_close().await;
    until(|| door.app.waiting.load(Ordering::SeqCst) == 1).await;
    door.app.go.notify_one();
    assert_eq!(peer.answer().await.text(), "GET /wait 0");
    assert_eq!(peer.answer().await.text(), "GET /2 0");
    assert_eq!(peer.end().await, End::Closed);
}

#[tokio::test]
async fn clients_that_are_gone_are_noticed() {
    let door = door(|options| options.timeouts.half_closed = MILLIS(50));
    let mut peer = Peer::connect(door.address()).await;
    peer.send("GET /wait HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    until(|| door.app.waiting.load(Ordering::SeqCst) == 1).await;
    drop(peer);
    until(|| !door.app.read_failed.lock().unwrap().is_empty()).await;
    assert_eq!(*door.app.read_failed.lock().unwrap(), [Some(Fault::ClientGone)]);
    soon(door.handle.drained()).await;
}

#[tokio::test]
async fn a_cut_answer_does_not_look_whole() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    peer.send("GET /cut HTTP/1.0\r\n\r\n").await;
    assert_eq!(peer.end().await, End::Reset, "its end is the end of the connection");
    let mut peer = Peer::connect(door.address()).await;
    peer.send("GET /cut HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(peer.try_answer().await, Err(End::Closed), "its length tells");
}

#[tokio::test]
async fn old_clients_are_served_until_the_end_of_the_connection() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    peer.send("GET /x HTTP/1.0\r\n\r\n").await;
    let (bytes, end) = peer.rest().await;
    assert!(bytes.ends_with(b"\r\n\r\nGET /x 0"), "{}", bytes.escape_ascii());
    assert_eq!(end, End::Closed);
}

#[tokio::test]
async fn old_clients_are_kept_only_if_they_ask() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    for connection in ["keep-alive", "keep-alive", "x"] {
        peer.send(format!("GET /early HTTP/1.0\r\nConnection: {connection}\r\n\r\n")).await;
        let answer = peer.answer().await;
        assert_eq!(answer.header("connection"), Some(if connection == "x" { "close" } else { "keep-alive" }));
    }
    assert_eq!(peer.end().await, End::Closed);
}

#[tokio::test]
async fn connections_are_not_kept_for_ever() {
    let door = door(|options| options.keep_alive.max_requests = Some(2));
    let mut peer = Peer::connect(door.address()).await;
    peer.send([GET, GET].concat()).await;
    assert_eq!(peer.answer().await.header("connection"), Some("keep-alive"));
    assert_eq!(peer.answer().await.header("connection"), Some("close"));
    assert_eq!(peer.end().await, End::Closed);
}

#[tokio::test]
async fn too_many_connections_are_turned_away() {
    let door = door(|options| options.limits.connections = 1);
    let mut first = Peer::connect(door.address()).await;
    first.send(GET).await;
    first.answer().await;
    let mut second = Peer::connect(door.address()).await;
    assert_eq!(second.answer().await.status, 503);
    assert_eq!(door.faults(), [Fault::TooManyConnections]);
    drop(first);
    soon(door.handle.drained()).await;
    let mut third = Peer::connect(door.address()).await;
    third.send(GET).await;
    assert_eq!(third.answer().await.status, 200);
}

#[tokio::test]
async fn a_drain_loses_nothing() {
    let door = door(|_| {});
    let mut busy = Peer::connect(door.address()).await;
    busy.send("GET /wait HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let (mut idle, mut slow) = (Peer::connect(door.address()).await, Peer::connect(door.address()).await);
    let mut active = Peer::connect(door.address()).await;
    for peer in [&mut idle, &mut slow, &mut active] {
        peer.send(GET).await;
        peer.answer().await;
    }
    slow.send(&GET[..20]).await;
    until(|| door.app.waiting.load(Ordering::SeqCst) == 1).await;

    door.handle.stop_accepting();
    door.handle.set_draining(true);
    active.send(GET).await;
    assert_eq!(active.answer().await.header("connection"), Some("close"), "answers end their connections");
    door.handle.close_idle_after(MILLIS(20), MILLIS(20));
    assert_eq!(idle.end().await, End::Closed, "idle connections are closed after the grace");
    slow.send(&GET[20..]).await;
    assert_eq!(slow.answer().await.header("connection"), Some("close"), "a head that has begun is served");
    door.app.go.notify_one();
    assert_eq!(busy.answer().await.text(), "GET /wait 0");
    soon(door.handle.drained()).await;
}

#[tokio::test]
async fn accepting_stops_and_resumes() {
    let door = door(|_| {});
    door.handle.stop_accepting();
    door.handle.set_draining(true);
    let mut peer = Peer::connect(door.address()).await;
    peer.send(GET).await;
    tokio::time::sleep(MILLIS(30)).await;
    assert_eq!(door.handle.connections(), 0, "the kernel holds it for whoever accepts next");
    let successor = door.handle.duplicate_listener().unwrap();
    drop(successor);
    door.handle.set_draining(false);
    door.handle.resume_accepting();
    assert_eq!(peer.answer().await.header("connection"), Some("keep-alive"));

    door.handle.close_listener();
    let address = door.address();
    soon(async { while tokio::net::TcpStream::connect(address).await.is_ok() {} }).await;
    assert!(door.handle.duplicate_listener().is_err());
    peer.send(GET).await;
    assert_eq!(peer.answer().await.status, 200, "connections outlive the listener");
}

#[tokio::test]
async fn force_cuts_what_is_left_but_not_tunnels() {
    let door = door(|_| {});
    let mut tunnel = Peer::connect(door.address()).await;
    tunnel.send("GET /upgrade HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly").await;
    assert_eq!(tunnel.answer().await.status, 101);
    assert_eq!(tunnel.bytes(5).await, b"early");
    let mut busy = Peer::connect(door.address()).await;
    busy.send("GET /wait HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    until(|| door.app.waiting.load(Ordering::SeqCst) == 1).await;
    assert_eq!((door.handle.connections(), door.handle.upgraded_connections()), (1, 1));
    door.handle.force_close();
    busy.end().await;
    soon(door.handle.drained()).await;
    tunnel.send("still here").await;
    assert_eq!(tunnel.bytes(10).await, b"still here");
    door.handle.force_close_upgraded();
    tunnel.end().await;
    soon(door.handle.upgraded_drained()).await;
    assert_eq!(door.handle.connections(), 0);
}

#[tokio::test]
async fn tunnels_are_under_no_request_deadline() {
    let door = door(|options| {
        options.timeouts.read = Some(MILLIS(30));
        options.timeouts.idle = Some(MILLIS(30));
        options.rates.body = Rate { bytes_per_second: 1_000_000, grace: MILLIS(30) };
    });
    let mut tunnel = Peer::connect(door.address()).await;
    tunnel.send("GET /upgrade HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").await;
    assert_eq!(tunnel.answer().await.status, 101);
    tokio::time::sleep(MILLIS(120)).await;
    tunnel.send(GET).await;
    assert_eq!(tunnel.bytes(GET.len()).await, GET.as_bytes(), "what looks like a request is not one any more");
    tunnel.half_close().await;
    assert_eq!(tunnel.end().await, End::Closed);
    soon(door.handle.upgraded_drained()).await;
}

fn trust_loopback(everyone: bool) -> Option<Trusted> {
    let networks = if everyone { Networks::default() } else { Networks::parse(&["127.0.0.0/8"]).unwrap() };
    Some(Trusted { networks, everyone })
}

fn proxy_v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, 7, 192, 0, 2, 8, 0x30, 0x39, 0, 80]);
    header
}

#[tokio::test]
async fn proxy_headers_tell_the_caller() {
    let door = door(|options| {
        options.proxy_protocol = trust_loopback(false);
        options.forwarders = Trusted { networks: Networks::parse(&["192.0.2.7"]).unwrap(), everyone: false };
    });
    let v1 = b"PROXY TCP4 192.0.2.7 192.0.2.8 12345 80\r\n".to_vec();
    for header in [v1, proxy_v2()] {
        let mut whole = Peer::connect(door.address()).await;
        whole.send([&header, GET.as_bytes()].concat()).await;
        assert_eq!(whole.answer().await.status, 200);
        let mut drip = Peer::connect(door.address()).await;
        drip.drip([&header, GET.as_bytes()].concat()).await;
        assert_eq!(drip.answer().await.status, 200);
    }
    for seen in door.app.seen.lock().unwrap().iter() {
        assert_eq!((seen.peer.to_string().as_str(), seen.trusted), ("192.0.2.7:12345", true));
    }
    // LOCAL and no header at all: the peer is who it is.
    for header in [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], b""] {
        let mut peer = Peer::connect(door.address()).await;
        peer.send([header, GET.as_bytes()].concat()).await;
        assert_eq!(peer.answer().await.status, 200);
        let last = door.app.seen.lock().unwrap().last().cloned().unwrap();
        assert_eq!((last.peer, last.trusted), (peer.local(), false));
    }
}

#[tokio::test]
async fn proxy_headers_of_strangers_say_nothing() {
    let door = door(|options| {
        options.proxy_protocol =
            Some(Trusted { networks: Networks::parse(&["192.0.2.0/24"]).unwrap(), everyone: false });
    });
    let mut peer = Peer::connect(door.address()).await;
    peer.send([&proxy_v2(), GET.as_bytes()].concat()).await;
    assert_eq!(peer.answer().await.status, 200);
    assert_eq!(door.app.seen.lock().unwrap()[0].peer, peer.local());
}

#[tokio::test]
async fn broken_and_half_proxy_headers_end_the_connection() {
    let door = door(|options| {
        options.proxy_protocol = trust_loopback(true);
        options.timeouts.proxy_header = MILLIS(60);
    });
    for header in ["PROXY TCP4 nonsense\r\n", "PROXY TCP4 192.0.2.7", "\r\n\r\n\0\r\nQUIT\n\x21"] {
        let mut peer = Peer::connect(door.address()).await;
        peer.send(header).await;
        assert_ne!(peer.try_answer().await.map(|_| ()), Ok(()), "{header:?}");
    }
    assert_eq!(door.app.count(), 0);
    // Without the setting a header is nothing but a bad request.
    let plain = crate::harness::door::door(|_| {});
    let mut peer = Peer::connect(plain.address()).await;
    peer.send(["PROXY TCP4 192.0.2.7 192.0.2.8 12345 80\r\n", GET].concat()).await;
    assert_eq!(peer.answer().await.status, 400);
}

mod http2 {
    use h2::client::SendRequest;
    use http::Request;
    use tokio::task::JoinHandle;

    use super::*;

    async fn client(peer: Peer) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
        let (send, connection) = soon(h2::client::handshake(peer.into_stream())).await.unwrap();
        (send, tokio::spawn(connection))
    }

    async fn post(send: &SendRequest<Bytes>, path: &str, body: &'static [u8]) -> (u16, Vec<u8>) {
        let mut send = soon(send.clone().ready()).await.unwrap();
        let request = Request::post(format!("http://a.test{path}")).body(()).unwrap();
        let (response, mut stream) = send.send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(body), true).unwrap();
        let mut response = soon(response).await.unwrap();
        let mut received = Vec::new();
        while let Some(bytes) = soon(response.body_mut().data()).await {
            let bytes = bytes.unwrap();
            response.body_mut().flow_control().release_capacity(bytes.len()).unwrap();
            received.extend_from_slice(&bytes);
        }
        (response.status().as_u16(), received)
    }

    #[tokio::test]
    async fn is_spoken_by_prior_knowledge() {
        let door = door(|options| options.proxy_protocol = trust_loopback(true));
        let mut peer = Peer::connect(door.address()).await;
        peer.send(proxy_v2()).await;
        let (send, connection) = client(peer).await;
        assert_eq!(post(&send, "/x", b"hello").await, (200, b"POST http://a.test/x 5".to_vec()));
        assert_eq!(post(&send, "/big", b"").await.1.len(), 1 << 20);
        assert_eq!(door.app.seen.lock().unwrap()[0].peer.to_string(), "192.0.2.7:12345");
        drop(send);
        soon(connection).await.unwrap().unwrap();
        soon(door.handle.drained()).await;
    }

    #[tokio::test]
    async fn says_goodbye_in_a_drain_and_finishes_what_has_begun() {
        let door = door(|_| {});
        let (send, connection) = client(Peer::connect(door.address()).await).await;
        post(&send, "/x", b"").await;
        door.handle.set_draining(true);
        soon(connection).await.unwrap().unwrap();
        soon(door.handle.drained()).await;

        // A connection that comes while the drain is on hears it too.
        let (send, connection) = client(Peer::connect(door.address()).await).await;
        soon(connection).await.unwrap().unwrap();
        drop(send);
    }

    #[tokio::test]
    async fn idle_connections_are_closed() {
        let door = door(|options| options.timeouts.idle = Some(MILLIS(60)));
        let (send, connection) = client(Peer::connect(door.address()).await).await;
        post(&send, "/x", b"").await;
        let _ = soon(connection).await.unwrap();
        soon(door.handle.drained()).await;
    }

    #[tokio::test]
    async fn connections_are_not_kept_for_ever() {
        let door = door(|options| options.keep_alive.max_requests = Some(2));
        let (send, connection) = client(Peer::connect(door.address()).await).await;
        assert_eq!(post(&send, "/1", b"").await.0, 200);
        assert_eq!(post(&send, "/2", b"").await.0, 200);
        soon(connection).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn is_refused_where_it_is_off() {
        let door = door(|options| options.http2 = None);
        let mut peer = Peer::connect(door.address()).await;
        peer.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert_eq!(peer.answer().await.status, 505);
    }
}
