//! Bodies and trailers from HTTP/1 and HTTP/2 clients to HTTP/1 and HTTP/2 servers: each case in all four cells.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use h2::Reason;
use http::Response;

use crate::harness::gateway::Gateway;
use crate::harness::h2_server::{self, H2Server, send};
use crate::harness::peer::{End, PATIENCE, Peer, soon, until};
use crate::harness::server::{self, Server};

use self::parties::{Client, Got, Origin, h1_request, h2_head, trailer};

mod parties;

/// More than the windows of a stream and of a connection hold.
const LONG: usize = 3 << 20;

/// A message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Body {
    bytes: usize,
    /// Whether its head says how long it is.
    is_counted: bool,
    has_trailers: bool,
}

const NONE: Body = Body { bytes: 0, is_counted: true, has_trailers: false };

const fn counted(bytes: usize) -> Body {
    Body { bytes, is_counted: true, has_trailers: false }
}

const fn streamed(bytes: usize) -> Body {
    Body { bytes, is_counted: false, has_trailers: false }
}

const fn trailed(bytes: usize) -> Body {
    Body { bytes, is_counted: false, has_trailers: true }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answering {
    /// After the request's body.
    Behind,
    /// Before it.
    Early,
    /// With two informational responses in front.
    Interim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    /// In the middle of the body.
    CutOff,
    /// Before the head.
    Never,
}

/// One exchange.
#[derive(Clone, Copy, Debug)]
struct Case {
    method: &'static str,
    up: Body,
    status: u16,
    down: Body,
    answering: Answering,
    ending: Ending,
}

impl Case {
    const fn new(method: &'static str, up: Body, status: u16, down: Body) -> Self {
        Self { method, up, status, down, answering: Answering::Behind, ending: Ending::Whole }
    }

    fn has_body(&self) -> bool {
        self.method != "HEAD" && !matches!(self.status, 204 | 304)
    }

    /// What of the answer's body is sent.
    fn sent(&self) -> Vec<u8> {
        let length = if self.ending == Ending::CutOff { self.down.bytes / 2 } else { self.down.bytes };
        if self.has_body() { text(length) } else { Vec::new() }
    }
}

/// Bytes in which every place differs from its neighbours.
fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31) ^ (at >> 8)) as u8).collect()
}

fn cases() -> Vec<Case> {
    let case = Case::new;
    let mut cases = Vec::new();
    for up in [NONE, counted(0), streamed(0), counted(5), streamed(5), counted(LONG), streamed(LONG)] {
        cases.push(case("POST", up, 200, counted(7)));
    }
    for down in [counted(0), streamed(0), counted(5), streamed(5), counted(LONG), streamed(LONG)] {
        cases.push(case("GET", NONE, 200, down));
    }
    cases.extend([
        case("POST", counted(LONG), 200, streamed(LONG)),
        case("POST", streamed(LONG), 200, counted(LONG)),
        // Answers without a body, whatever their heads say of one.
        case("HEAD", NONE, 200, counted(1000)),
        case("HEAD", NONE, 200, streamed(1000)),
        case("GET", NONE, 204, NONE),
        case("GET", NONE, 304, counted(1000)),
        case("POST", counted(5), 204, NONE),
        case("POST", streamed(70_000), 304, counted(1000)),
        // Trailers.
        case("POST", trailed(0), 200, counted(7)),
        case("POST", trailed(70_000), 200, counted(7)),
        case("GET", NONE, 200, trailed(0)),
        case("GET", NONE, 200, trailed(70_000)),
        case("POST", trailed(5), 200, trailed(5)),
    ]);
    let with = |answering, method, up, status, down| Case { answering, ..case(method, up, status, down) };
    for up in [counted(5), streamed(5), counted(200_000), streamed(200_000)] {
        cases.push(with(Answering::Early, "POST", up, 413, counted(5)));
        cases.push(with(Answering::Early, "POST", up, 200, streamed(70_000)));
        cases.push(with(Answering::Interim, "POST", up, 200, counted(5)));
    }
    cases.push(with(Answering::Early, "POST", streamed(5), 204, NONE));
    cases.push(with(Answering::Interim, "GET", NONE, 204, NONE));
    let ends = |ending, method, up, down| Case { ending, ..case(method, up, 200, down) };
    for down in [counted(20_000), streamed(20_000), counted(LONG), streamed(LONG)] {
        cases.push(ends(Ending::CutOff, "GET", NONE, down));
        cases.push(ends(Ending::CutOff, "POST", counted(70_000), down));
    }
    for up in [NONE, counted(5), streamed(70_000)] {
        cases.push(ends(Ending::Never, "POST", up, NONE));
    }
    cases
}

/// What the client has to get.
fn expected(case: &Case, is_http2: [bool; 2]) -> Got {
    match case.ending {
        Ending::CutOff => Got::BrokenOff,
        Ending::Never => {
            // A connection that breaks, or a stream that is reset.
            let code = if is_http2[1] { "server-protocol" } else { "server-closed" };
            let (body, code) = (b"Bad Gateway".to_vec(), Some(code.to_owned()));
            Got::Answer { status: 502, body, trailers: String::new(), code }
        }
        Ending::Whole => {
            // Over HTTP/1 they may be left away (RFC 9110 §6.5.1), and are.
            let has_trailers = case.down.has_trailers && is_http2 == [true, true];
            let trailers = if has_trailers { format!("{:?}", trailer()) } else { String::new() };
            Got::Answer { status: case.status, body: case.sent(), trailers, code: None }
        }
    }
}

/// Runs `check` for each cell, plainly and with the session wrapped: protocol of client and of server.
async fn in_all_cells(cases: Vec<Case>, check: impl AsyncFn(&Gateway, &Origin, [bool; 2], &str)) {
    let cases = Arc::new(cases);
    for server in [false, true] {
        for middlewares in ["", "again, guess"] {
            let origin = Origin::start(server, cases.clone()).await;
            let gateway = Gateway::with(format!(
                "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}
  middlewares: {{again: {{retry: {{attempts: 1}}}}, guess: {{contentType: {{}}}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
",
                origin.url()
            ))
            .await;
            for client in [false, true] {
                check(&gateway, &origin, [client, server], middlewares).await;
                origin.check_form();
            }
        }
    }
}

#[tokio::test]
async fn bodies_and_trailers_arrive_as_they_are() {
    let round = AtomicUsize::new(0);
    in_all_cells(cases(), async |gateway, origin, is_http2, middlewares| {
        let client = Client::connect(gateway, is_http2[0]).await;
        for (at, case) in cases().iter().enumerate() {
            let context = format!("{is_http2:?} {middlewares:?} {case:?}");
            let path = format!("/{at}/{}", round.fetch_add(1, Ordering::SeqCst));
            let exchange = tokio::time::timeout(PATIENCE, client.exchange(gateway, &path, case));
            let got = exchange.await.unwrap_or_else(|_| panic!("{context}: it takes too long"));
            let expected = expected(case, is_http2);
            assert!(got == expected, "{context}: {}", shorten(&got));
            let is_early = case.answering == Answering::Early;
            if !is_early && case.ending != Ending::CutOff || is_early && case.up.bytes <= 5 && !is_http2[0] {
                until(|| origin.seen(&path).is_some_and(|it| it.whole)).await;
                let seen = origin.seen(&path).unwrap();
                assert!(seen.body == text(case.up.bytes), "{context}: {} bytes", seen.body.len());
                // Trailers of requests end here, and are never taken for fields of the head.
                assert_eq!((seen.trailers.as_str(), seen.has_stray_field), ("", false), "{context}");
            }
            assert!(client.is_served(gateway).await, "{context}");
        }
    })
    .await;
}

fn shorten(got: &Got) -> String {
    match got {
        Got::BrokenOff => "broken off".to_owned(),
        Got::Answer { status, body, trailers, code } => format!("{status} {} bytes {trailers:?} {code:?}", body.len()),
    }
}

/// A client that leaves within its body: what the server has is no request, and it learns of it.
#[tokio::test]
async fn requests_that_break_off_are_never_whole() {
    let cases = vec![Case::new("POST", counted(10), 200, NONE), Case::new("POST", streamed(10), 200, NONE)];
    let round = AtomicUsize::new(0);
    in_all_cells(cases.clone(), async |gateway, origin, is_http2, middlewares| {
        for (at, case) in cases.iter().enumerate() {
            let context = format!("{is_http2:?} {middlewares:?} {case:?}");
            let path = format!("/{at}/{}", round.fetch_add(1, Ordering::SeqCst));
            let arrives = async || until(|| origin.seen(&path).is_some()).await;
            match Client::connect(gateway, is_http2[0]).await {
                Client::H1 => {
                    let mut request = h1_request(&path, case);
                    let head = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
                    let tail = request.split_off(head);
                    let half = if case.up.is_counted { text(5) } else { [b"5\r\n", &tail[3..8], b"\r\n"].concat() };
                    let mut peer = gateway.connect().await;
                    peer.send([request, half].concat()).await;
                    arrives().await;
                    drop(peer);
                }
                Client::H2(client) => {
                    let (_response, mut sending) =
                        soon(client.ready()).await.unwrap().send_request(h2_head(&path, case), false).unwrap();
                    soon(send(&mut sending, text(5).into(), false)).await.unwrap();
                    arrives().await;
                    sending.send_reset(Reason::CANCEL);
                }
            }
            let line = gateway.logged_path(&path).await;
            assert_eq!(
                (&line["DownstreamStatus"], &line["GatewayError"]),
                (&499.into(), &"client-gone".into()),
                "{context}"
            );
            until(|| origin.seen(&path).is_none_or(|it| it.is_over)).await;
            assert!(origin.seen(&path).is_none_or(|it| !it.whole), "{context}");
        }
    })
    .await;
}

/// A client that leaves within the answer: the server need not go on.
#[tokio::test]
async fn answers_that_nobody_waits_for_are_given_up() {
    let round = AtomicUsize::new(0);
    for server in [false, true] {
        let origin = if server {
            let head = Arc::new(Response::builder().body(()).unwrap().into_parts().0);
            Origin::H2(
                H2Server::start(move |_| {
                    use h2_server::Step;
                    vec![Step::Head(head.clone(), false), Step::Data(text(5).into(), false), Step::Hang]
                })
                .await,
            )
        } else {
            Origin::H1(
                Server::start(|_| {
                    use server::Step;
                    let head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
                    vec![Step::Send(head.to_vec()), Step::Hang]
                })
                .await,
            )
        };
        let gateway = Gateway::with(format!(
            "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}}}, \
             services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
            origin.url()
        ))
        .await;
        for client in [false, true] {
            let path = format!("/{}", round.fetch_add(1, Ordering::SeqCst));
            let case = Case::new("GET", NONE, 200, NONE);
            match Client::connect(&gateway, client).await {
                Client::H1 => {
                    let mut peer: Peer = gateway.connect().await;
                    peer.send(h1_request(&path, &case)).await;
                    assert_eq!(peer.head().await.map(|it| it.status), Ok::<_, End>(200));
                }
                Client::H2(client) => {
                    let (response, _) =
                        soon(client.ready()).await.unwrap().send_request(h2_head(&path, &case), true).unwrap();
                    assert_eq!(soon(response).await.unwrap().status(), 200);
                }
            }
            until(|| origin.seen(&path).is_some_and(|it| it.is_over)).await;
        }
    }
}
