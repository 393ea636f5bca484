//! gRPC through the gateway: streams in both directions, trailers, deadlines, cancellation, health, and what metrics tell of it.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon, until};

/// A gRPC server, one kind of call for each path.
#[derive(Clone, Default)]
struct Calls {
    is_serving: Arc<AtomicBool>,
    cancelled: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Calls {
    /// Starts it; its URL.
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("h2c://{}", listener.local_addr().unwrap());
        let calls = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let calls = calls.clone();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let calls = calls.clone();
                        tokio::spawn(async move { calls.answer(request, respond).await });
                    }
                });
            }
        });
        url
    }

    async fn answer(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
        let (head, mut body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let mut answer = Response::builder().header("content-type", "application/grpc");
        if let Some(timeout) = head.headers.get("grpc-timeout") {
            answer = answer.header("x-timeout", timeout);
        }
        match path.as_str() {
            "/t.T/Absent" => {
                let head = answer.header("grpc-status", "5").header("grpc-message", "no such thing");
                respond.send_response(head.body(()).unwrap(), true).ok()?;
            }
            "/t.T/Echo" => {
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).ok()?;
                    send.send_data(data, false).ok()?;
                }
                send.send_trailers(status(0)).ok()?;
            }
            "/t.T/Broken" => {
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                send.send_data(message(b"half"), false).ok()?;
                send.send_trailers(status(13)).ok()?;
            }
            "/t.T/Endless" => {
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                send.send_data(message(b"first"), false).ok()?;
                let reason = std::future::poll_fn(|context| send.poll_reset(context)).await;
                self.cancelled.fetch_add(usize::from(reason.is_ok()), Ordering::SeqCst);
            }
            "/grpc.health.v1.Health/Check" => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                assert_eq!(head.method, "POST");
                assert_eq!(
                    (&head.headers["content-type"], &head.headers["te"]),
                    (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap())
                );
                assert_eq!(body.data().await.unwrap().unwrap(), &[0; 5][..]);
                let answer = Response::builder().header("content-type", "application/grpc");
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                let state = if self.is_serving.load(Ordering::SeqCst) { 1 } else { 2 };
                send.send_data(message(&[8, state]), false).ok()?;
                send.send_trailers(status(0)).ok()?;
            }
            // Plain answers, for what is encoded on the way.
            "/empty" => {
                let answer = Response::builder().header("content-type", "text/plain");
                respond.send_response(answer.body(()).unwrap(), true).ok()?;
            }
            "/text" => {
                let answer = Response::builder().header("content-type", "text/plain");
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                send.send_data(Bytes::from("text ".repeat(1000)), false).ok()?;
                send.send_trailers(status(0)).ok()?;
            }
            _ => respond.send_reset(Reason::REFUSED_STREAM),
        }
        Some(())
    }
}

fn status(code: u16) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers.insert("x-trailer", HeaderValue::from_static("kept"));
    trailers
}

/// A message in its frame.
fn message(content: &[u8]) -> Bytes {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[0], &length[..], content].concat().into()
}

async fn gateway(service: &str, middlewares: &str) -> Gateway {
    Gateway::setup()
        .entry_point("inside")
        .flag("metrics.prometheus.entryPoint=inside")
        .dynamic(format!(
            "http:
  routers: {{all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}}}
  middlewares: {{small: {{compress: {{}}}}}}
  services: {{s: {{loadBalancer: {{{service}}}}}}}
"
        ))
        .start()
        .await
}

async fn client(gateway: &Gateway) -> SendRequest<Bytes> {
    let (client, connection) = soon(h2::client::handshake(gateway.connect().await.into_stream())).await.unwrap();
    tokio::spawn(connection);
    client
}

fn call(path: &str) -> Request<()> {
    let call = Request::post(format!("http://a.test{path}")).header("content-type", "application/grpc");
    call.header("te", "trailers").header("grpc-timeout", "7S").header("accept-encoding", "gzip").body(()).unwrap()
}

async fn next(body: &mut RecvStream) -> Option<Bytes> {
    let data = soon(body.data()).await?.unwrap();
    body.flow_control().release_capacity(data.len()).unwrap();
    Some(data)
}

async fn metrics(gateway: &Gateway) -> String {
    Peer::connect(gateway.address_of("inside")).await.get("/metrics", "").await.text().to_owned()
}

/// Waits until so many calls with this code have been counted.
async fn counted(gateway: &Gateway, code: u16, count: usize) {
    let line = format!("code=\"{code}\",method=\"POST\",protocol=\"grpc\",service=\"s@file\"}} {count}");
    let line = format!("traefik_service_requests_total{{{line}");
    let of_door = format!("code=\"{code}\",entrypoint=\"web\",method=\"POST\",protocol=\"grpc\"}} {count}");
    let of_door = format!("traefik_entrypoint_requests_total{{{of_door}");
    let by = std::time::Instant::now() + crate::harness::peer::PATIENCE;
    loop {
        let page = metrics(gateway).await;
        if page.contains(&line) && page.contains(&of_door) {
            return;
        }
        let seen: Vec<_> = page.lines().filter(|line| line.starts_with("traefik_service_requests_total")).collect();
        assert!(std::time::Instant::now() < by, "{line}: {seen:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Messages go both ways as they come, whatever the middlewares; the status and what stands with it arrive unchanged.
#[tokio::test]
async fn calls_of_all_kinds() {
    let calls = Calls::default();
    let url = calls.start().await;
    for middlewares in ["", "small"] {
        let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), middlewares).await;
        let client = client(&gateway).await;

        // Both sides stream: each message is answered before the next one is sent.
        let (response, mut send) =
            soon(client.clone().ready()).await.unwrap().send_request(call("/t.T/Echo"), false).unwrap();
        send.send_data(message(b"0"), false).unwrap();
        let mut response = soon(response).await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["x-timeout"]),
            (http::StatusCode::OK, &"7S".parse().unwrap())
        );
        assert_eq!(next(response.body_mut()).await.unwrap(), message(b"0"));
        for round in [&b"1"[..], b"22", b"333"] {
            send.send_data(message(round), false).unwrap();
            assert_eq!(next(response.body_mut()).await.unwrap(), message(round));
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(next(response.body_mut()).await, None);
        assert_eq!(soon(response.body_mut().trailers()).await.unwrap().unwrap(), status(0));
        counted(&gateway, 0, 1).await;

        // One message each way, and a status without any.
        for (path, body, code) in [("/t.T/Broken", Some(message(b"half")), 13), ("/t.T/Absent", None, 5)] {
            let (response, mut send) =
                soon(client.clone().ready()).await.unwrap().send_request(call(path), false).unwrap();
            send.send_data(message(b"x"), true).unwrap();
            let mut response = soon(response).await.unwrap();
            assert_eq!(next(response.body_mut()).await, body, "{path}");
            let trailers = soon(response.body_mut().trailers()).await.unwrap();
            let told = trailers.as_ref().unwrap_or(response.headers());
            assert_eq!(told["grpc-status"], code.to_string(), "{path}");
            counted(&gateway, code, 1).await;
        }

        // Who hangs up is heard by the server.
        let before = calls.cancelled.load(Ordering::SeqCst);
        let (response, mut send) =
            soon(client.clone().ready()).await.unwrap().send_request(call("/t.T/Endless"), false).unwrap();
        send.send_data(message(b"x"), true).unwrap();
        let mut response = soon(response).await.unwrap();
        assert_eq!(next(response.body_mut()).await.unwrap(), message(b"first"));
        send.send_reset(Reason::CANCEL);
        drop(response);
        until(|| calls.cancelled.load(Ordering::SeqCst) > before).await;
        counted(&gateway, 2, 1).await;
    }
}

/// What the gateway has to say itself is plain HTTP, which clients map; gRPC knows no better word than 2 for it.
#[tokio::test]
async fn an_answer_of_the_gateway() {
    let gateway = gateway("servers: []", "").await;
    let (response, _) =
        soon(client(&gateway).await.ready()).await.unwrap().send_request(call("/t.T/Echo"), true).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("grpc-status")), (503, None));
    counted(&gateway, 2, 1).await;
}

/// Servers say by gRPC's own protocol whether they serve.
#[tokio::test]
async fn servers_tell_their_health() {
    let (well, other) = (Calls::default(), Calls::default());
    well.is_serving.store(true, Ordering::SeqCst);
    let (first, second) = (well.start().await, other.start().await);
    let service = format!(
        "servers: [{{url: '{first}'}}, {{url: '{second}'}}], healthCheck: {{mode: grpc, interval: 20ms, timeout: 5s}}"
    );
    let gateway = gateway(&service, "").await;
    let up = |url: &str, up: u8| format!("traefik_service_server_up{{service=\"s@file\",url=\"{url}\"}} {up}");
    for (is_serving, expected) in [(false, 0), (true, 1), (false, 0)] {
        other.is_serving.store(is_serving, Ordering::SeqCst);
        let by = std::time::Instant::now() + crate::harness::peer::PATIENCE;
        loop {
            let page = metrics(&gateway).await;
            if page.contains(&up(&second, expected)) && page.contains(&up(&first, 1)) {
                break;
            }
            assert!(std::time::Instant::now() < by, "{expected}: {page}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    until(|| well.asked.load(Ordering::SeqCst) > 1 && other.asked.load(Ordering::SeqCst) > 1).await;
}

/// `compress` before an HTTP/2 server: a head that is all there is promises no coding, and trailers do not cut the body off.
#[tokio::test]
async fn encoded_answers_are_whole() {
    let url = Calls::default().start().await;
    let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), "small").await;
    let mut peer = gateway.connect().await;
    let empty = peer.get("/empty", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(
        (empty.status, empty.header("content-encoding"), &empty.body[..]),
        (200, None, &b""[..]),
        "{}",
        empty.head
    );
    let text = peer.get("/text", "Accept-Encoding: gzip\r\n").await;
    assert_eq!((text.status, text.header("content-encoding")), (200, Some("gzip")), "{}", text.head);
    let mut plain = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&text.body[..]), &mut plain).unwrap();
    assert_eq!(plain, "text ".repeat(1000));
    let plain = peer.get("/text", "").await;
    assert_eq!((plain.header("content-encoding"), plain.text()), (None, &*"text ".repeat(1000)));
}

/// A client and a server that others wrote, with calls of all kinds.
#[tokio::test]
async fn a_client_and_a_server_of_others() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/grpc_peer.py");
    let peer = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new("/usr/bin/python3");
        command.arg(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    };
    let probe =
        std::process::Command::new("/usr/bin/python3").args(["-c", "import grpc"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return crate::tcp_clients::skip("grpcio for /usr/bin/python3");
    }
    let mut server = peer(&["serve"]).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = soon(lines.next_line()).await.unwrap().unwrap();
    let service = format!(
        "servers: [{{url: 'h2c://127.0.0.1:{port}'}}], healthCheck: {{mode: grpc, interval: 20ms, timeout: 5s}}"
    );
    let gateway = gateway(&service, "small").await;
    let output = soon(peer(&["call", &gateway.address().to_string()]).output()).await.unwrap();
    let expected = "\
unary hello OK kept
large 3145728
status NOT_FOUND nö such thing
unknown UNIMPLEMENTED
deadline DEADLINE_EXCEEDED
left 3000
client streams abc
server streams n0 n1 n2 n3 n4
both stream 1 2 3
cancelled yes
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
