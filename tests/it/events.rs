//! Server-sent events: each goes on at once, over every kind of connection, as long as the stream may last.

use http::Request;

use crate::grpc::{gateway, wire};
use crate::harness::calls::Calls;
use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon};
use crate::harness::tls::Authority;
use crate::services::events;

/// Asks for the events, and reads each before the next one is let go.
async fn listen(gateway: &Gateway, tls: Option<&Authority>, protocol: &str, go: impl Fn()) {
    let wire = wire(gateway, tls, protocol).await;
    let expected = |number: u8| format!("data: {number}\n\n");
    if protocol == "h2" {
        let (mut client, connection) = soon(h2::client::handshake(wire)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://a.test/events").header("accept", "text/event-stream").body(()).unwrap();
        let mut events = soon(client.send_request(request, true).unwrap().0).await.unwrap();
        assert_eq!(events.headers()["content-type"], "text/event-stream");
        for number in 1..=2 {
            go();
            let mut heard = Vec::new();
            while heard != expected(number).as_bytes() {
                heard.extend_from_slice(&soon(events.body_mut().data()).await.unwrap().unwrap());
            }
        }
        return;
    }
    let mut peer = Peer::of(wire);
    peer.send("GET /events HTTP/1.1\r\nHost: a.test\r\nAccept: text/event-stream\r\n\r\n").await;
    let head = peer.head().await.unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{}", head.head);
    for number in 1..=2 {
        go();
        assert_eq!(peer.chunk().await.unwrap(), expected(number).as_bytes());
    }
    assert_eq!(peer.chunk().await.unwrap(), b"", "the connection can go on");
}

#[tokio::test]
async fn each_goes_on_at_once() {
    let (calls, authority) = (Calls::default(), Authority::new());
    let secured = authority.certify(&["a.test"]).server(&["h2"]);
    let server = events().await;
    let (plain, secured) = (calls.start().await, calls.start_secured(secured).await);
    let inner = gateway(&format!("servers: [{{url: '{}'}}]", server.url()), "", &authority).await;
    let through_tls = format!("https://{}", inner.address());
    for (url, is_http1) in [(&server.url(), true), (&through_tls, true), (&plain, false), (&secured, false)] {
        for middlewares in ["", "small"] {
            let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), middlewares, &authority).await;
            for tls in [None, Some(&authority)] {
                for protocol in ["http/1.1", "h2"] {
                    listen(&gateway, tls, protocol, || if is_http1 { server.go() } else { calls.next_event() }).await;
                }
            }
        }
    }
}
