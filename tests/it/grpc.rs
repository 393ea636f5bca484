//! gRPC over HTTP/2 without TLS on both sides: messages, trailers, and what is counted.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpListener;

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon};

/// A server that sends each message back and ends with status 0; of the method `Missing` it knows nothing (status 12, and no
/// body at all).
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let head = Response::builder().header("content-type", "application/grpc");
                        if request.uri().path().ends_with("/Missing") {
                            let head = head.header("grpc-status", "12").body(()).unwrap();
                            return drop(respond.send_response(head, true));
                        }
                        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                        while let Some(Ok(chunk)) = request.body_mut().data().await {
                            let _ = request.body_mut().flow_control().release_capacity(chunk.len());
                            let _ = stream.send_data(chunk, false);
                        }
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        let _ = stream.send_trailers(trailers);
                    });
                }
            });
        }
    });
    address
}

async fn client(gateway: &Gateway) -> SendRequest<Bytes> {
    let (send, connection) = soon(h2::client::handshake(gateway.connect().await.into_stream())).await.unwrap();
    tokio::spawn(connection);
    soon(send.ready()).await.unwrap()
}

/// One call with one message: the answer's fields, its message, its trailers.
async fn call(
    send: &mut SendRequest<Bytes>,
    method: &str,
    message: &'static [u8],
) -> (HeaderMap, Vec<u8>, Option<HeaderMap>) {
    let request = Request::post(format!("http://a.test/echo.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut body) = send.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(message), true).unwrap();
    let (head, mut body) = soon(answer).await.unwrap().into_parts();
    let message = soon(read(&mut body)).await;
    (head.headers, message, soon(body.trailers()).await.unwrap())
}

async fn read(body: &mut RecvStream) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        let _ = body.flow_control().release_capacity(chunk.len());
        message.extend_from_slice(&chunk);
    }
    message
}

#[tokio::test]
async fn calls_are_counted_by_their_own_status() {
    let server = echo().await;
    let gateway = Gateway::setup()
        .entry_point("inside")
        .flag("metrics.prometheus.entryPoint=inside")
        .dynamic(format!(
            "http:\n  routers: {{all: {{rule: 'PathPrefix(`/`)', service: s, entryPoints: [web]}}}}\n  \
             services: {{s: {{loadBalancer: {{servers: [{{url: 'h2c://{server}'}}]}}}}}}\n"
        ))
        .start()
        .await;
    let mut send = client(&gateway).await;
    let (_, message, trailers) = call(&mut send, "Say", b"\0\0\0\0\x02hi").await;
    assert_eq!(message, b"\0\0\0\0\x02hi");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    let (head, message, trailers) = call(&mut send, "Missing", b"\0\0\0\0\0").await;
    assert_eq!((&head["grpc-status"], message, trailers), (&HeaderValue::from_static("12"), Vec::new(), None));
    let mut metrics = Peer::connect(gateway.address_of("inside")).await;
    let page = metrics.get("/metrics", "").await;
    for code in ["0", "12"] {
        for scope in ["entrypoint", "service"] {
            let start = format!("traefik_{scope}_requests_total{{code=\"{code}\",");
            let line = page.text().lines().find(|line| line.starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("{start}: {}", page.text()));
            assert!(line.contains("protocol=\"grpc\"") && line.ends_with(" 1"), "{line}");
        }
    }
}
