//! Connections to servers are shared: whatever one client does with them, the next one gets the answers to his own requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, request_block};
use crate::harness::gateway::Gateway;
use crate::harness::peer::{End, soon};
use crate::harness::server::{Received, Server, Step, answer, raw};

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// A server with every bad habit, one per path; to everybody else it says the target back.
fn habits(received: &Received) -> Vec<Step> {
    let send = |text: &str| Step::Send(text.as_bytes().to_vec());
    match received.path() {
        "/early" => vec![send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")],
        "/early-close" => vec![send("HTTP/1.1 413 X\r\nContent-Length: 2\r\n\r\nno"), Step::Close],
        "/excess" => raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{POISON}")),
        "/no-content" => raw(format!("HTTP/1.1 204 No Content\r\n\r\n{POISON}")),
        "/continue" => raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        "/unauthorized" => vec![send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")],
        "/cut" => vec![Step::ReadBody, send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), Step::Close],
        "/reset" => vec![Step::ReadBody, Step::Reset],
        "/upgrade" => answer(200, "", "not today"),
        "/slow" => vec![Step::ReadBody, Step::Wait(Duration::from_millis(5)), send(POISON)],
        "/close" => answer(200, "Connection: close\r\n", "bye"),
        "/chunked" => raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: y\r\n\r\n"),
        _ => answer(200, "", received.target()),
    }
}

/// One abuse over HTTP/1.
async fn abuse(gateway: &Gateway, which: usize) {
    let head = |path: &str, fields: &str| format!("POST {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut peer = gateway.connect().await;
    let (bytes, patience) = match which {
        0 => (head("/early", "Content-Length: 400") + smuggled, true),
        1 => (head("/early-close", "Content-Length: 400") + smuggled, true),
        2 => ("GET /excess HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), true),
        3 => ("GET /excess?x HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), true),
        4 => ("GET /no-content HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), true),
        5 => (head("/continue", "Expect: 100-continue\r\nContent-Length: 5") + "hello", true),
        6 => (head("/unauthorized", "Expect: 100-continue\r\nContent-Length: 5"), true),
        7 => ("GET /cut HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), true),
        8 => (head("/reset", "Content-Length: 5") + "hello", true),
        9 => (
            format!(
                "GET /upgrade HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{smuggled}"
            )
            .replace("/smuggled", "/behind"),
            true,
        ),
        10 => ("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), false),
        11 => (head("/echo", "Content-Length: 400") + smuggled, false),
        12 => (head("/echo", "Transfer-Encoding: chunked") + "40\r\n" + smuggled, false),
        13 => (head("/echo", "Transfer-Encoding: chunked") + "5\r\nhelloXX0\r\n\r\n" + smuggled, true),
        14 => ("HEAD /excess HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), true),
        15 => ("GET /close HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), true),
        16 => ("GET /chunked HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), false),
        _ => return abuse_h2(gateway, which).await,
    };
    peer.try_send(bytes).await;
    if patience {
        let method = if which == 14 { "HEAD" } else { "GET" };
        let _ = peer.response_to(method).await;
    } else {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How many kinds of abuse there are.
const ABUSES: usize = 21;

async fn abuse_h2(gateway: &Gateway, which: usize) {
    let mut client = Frames::connect(gateway.address(), &[]).await;
    client.send(HEADERS, END_HEADERS, 1, &request_block("POST", "/echo", &[])).await;
    client.send(DATA, 0, 1, b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    match which {
        17 => {
            client.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]).await;
            return;
        }
        18 => client.send(DATA, END_STREAM, 1, b"").await,
        19 => client.send(HEADERS, END_HEADERS | END_STREAM, 1, &[]).await,
        _ => return,
    };
    let _ = client.fate(1).await;
}

#[tokio::test]
async fn nobody_gets_an_answer_that_is_not_his() {
    share("").await;
}

/// The same where sessions are wrapped: bodies are kept for another attempt, answers wait for a guess.
#[tokio::test]
async fn not_in_the_lane_either() {
    share("again, guess").await;
}

async fn share(middlewares: &str) {
    let server = Server::start(habits).await;
    let gateway = Arc::new(
        Gateway::with(format!(
            "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}}}, \
             middlewares: {{again: {{retry: {{attempts: 2}}}}, guess: {{contentType: {{}}}}}}, \
             services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
            server.url()
        ))
        .await,
    );
    let rounds = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for worker in 0..6_usize {
        let (gateway, rounds) = (gateway.clone(), rounds.clone());
        workers.push(tokio::spawn(async move {
            let mut dice = fastrand::Rng::with_seed(worker as u64);
            let mut steady = gateway.connect().await;
            for round in 0..150 {
                let which = dice.usize(..ABUSES);
                let abused = tokio::time::timeout(Duration::from_secs(5), abuse(&gateway, which)).await;
                assert!(abused.is_ok(), "{which} hangs");
                let nonce = format!("/victim?{worker}-{round}");
                assert_eq!(gateway.connect().await.get(&nonce, "").await.text(), nonce, "after {which}");
                let nonce = format!("/steady?{worker}-{round}");
                assert_eq!(steady.get(&nonce, "").await.text(), nonce, "after {which}");
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    for worker in workers {
        tokio::time::timeout(Duration::from_secs(120), worker).await.expect("in time").unwrap();
    }
    assert_eq!(rounds.load(Ordering::SeqCst), 900);
    assert_eq!(server.violations(), Vec::<String>::new());
    assert!(server.received().iter().all(|it| it.path() != "/smuggled"));
    // Connections were shared, or the test shows nothing.
    assert!(server.connections() < server.count() * 2 / 3, "{} for {}", server.connections(), server.count());
}

/// RFC 9110 §10.1.1: whoever waits for a word gets one, and the answer decides what becomes of the connections.
#[tokio::test]
async fn expectations() {
    let server = Server::start(|received| match received.path() {
        "/asks" => vec![
            Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
            Step::ReadBody,
            Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone".to_vec()),
        ],
        "/refuses" => vec![Step::Send(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno".to_vec())],
        _ => answer(200, "", received.target()),
    })
    .await;
    let gateway = Gateway::with(format!(
        "http: {{routers: {{all: {{rule: '!PathPrefix(`/none`)', service: s}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
        server.url()
    ))
    .await;
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    };
    for round in 0..5 {
        let mut asks = gateway.connect().await;
        asks.send(head("/asks")).await;
        assert_eq!(asks.head().await.map(|head| head.status), Ok(100));
        asks.send("hello").await;
        assert_eq!(asks.response_to("POST").await.unwrap().text(), "done");
        assert_eq!(asks.get("/again", "").await.text(), "/again");

        // A server that never says a word: the client does not wait for ever.
        let mut silent = gateway.connect().await;
        silent.send(head("/silent")).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        silent.send("hello").await;
        assert_eq!(silent.response_to("POST").await.unwrap().text(), "/silent");

        for path in ["/refuses", "/none"] {
            let mut refused = gateway.connect().await;
            refused.send(head(path)).await;
            let got = refused.response_to("POST").await.unwrap();
            assert_eq!(got.status, if path == "/none" { 404 } else { 417 });
            // Nobody can tell whether the body comes, so what follows must not be taken for a request.
            refused.try_send("GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            let (rest, end) = soon(refused.rest()).await;
            assert_eq!((rest.escape_ascii().to_string().as_str(), end), ("", End::Closed), "{path}");
        }
        let nonce = format!("/victim?{round}");
        assert_eq!(gateway.connect().await.get(&nonce, "").await.text(), nonce);
    }
    assert_eq!(server.violations(), Vec::<String>::new());
    assert!(server.received().iter().all(|it| it.path() != "/smuggled"));
}

/// A server that closes connections while they are idle: clients do not notice.
#[tokio::test]
async fn idle_connections_that_the_server_closes() {
    let server = Server::start(|received| match received.turn {
        0 | 1 => answer(200, "", received.target()),
        _ => vec![Step::Reset],
    })
    .await;
    let gateway = Gateway::with(format!(
        "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
        server.url()
    ))
    .await;
    let mut peer = gateway.connect().await;
    for round in 0..30 {
        let nonce = format!("/{round}");
        // The third request of a connection is reset: it is sent again on another one, since it may be.
        assert_eq!(peer.get(&nonce, "").await.text(), nonce);
    }
}

/// Answers with a few bytes changed, from a fixed seed: the client that asked gets valid HTTP or nothing, and nobody else gets
/// any of it. `ROUNDS` and `SEED` in the environment try more.
#[tokio::test]
async fn changed_answers_reach_nobody_else() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, rounds) = (number("SEED", 1), number("ROUNDS", 150));
    let server = Server::start(move |received| match received.path() {
        "/changed" => {
            let round: u64 = received.target().split('?').nth(1).and_then(|text| text.parse().ok()).unwrap_or_default();
            raw(changed_answer(seed << 32 | round))
        }
        _ => answer(200, "", received.target()),
    })
    .await;
    let gateway = Gateway::with(format!(
        "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
        server.url()
    ))
    .await;
    for round in 0..rounds {
        let shown = changed_answer(seed << 32 | round).escape_ascii().to_string();
        let mut peer = gateway.connect().await;
        let method = if round % 5 == 0 { "HEAD" } else { "GET" };
        peer.send(format!("{method} /changed?{round} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")).await;
        if let Ok((got, _)) = tokio::time::timeout(Duration::from_millis(100), peer.rest()).await {
            assert!(is_valid(&got), "{shown}: {}", got.escape_ascii());
        }
        let nonce = format!("/victim?{round}");
        assert_eq!(gateway.connect().await.get(&nonce, "").await.text(), nonce, "{shown}");
    }
    assert_eq!(server.violations(), Vec::<String>::new());
}

fn changed_answer(seed: u64) -> Vec<u8> {
    const ANSWERS: [&str; 8] = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 302 Found\r\nLocation: /x\r\nSet-Cookie: a=b\r\nConnection: x-a\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n",
    ];
    const SPICE: [&[u8]; 14] = [
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\0",
        b":",
        b"0",
        b"\r\nContent-Length: 3",
        b"\xff",
        b"HTTP/1.1 200 OK\r\n",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\n ",
        b"-",
    ];
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut bytes = dice.choice(ANSWERS).unwrap().as_bytes().to_vec();
    for _ in 0..dice.usize(1..4) {
        if bytes.is_empty() {
            break;
        }
        let at = dice.usize(..bytes.len());
        match dice.u8(..4) {
            0 => bytes[at] = dice.u8(..),
            1 => drop(bytes.remove(at)),
            2 => bytes.truncate(at + 1),
            _ => drop(bytes.splice(at..at, dice.choice(SPICE).unwrap().iter().copied())),
        }
    }
    bytes
}

/// Whether a strict client reads this without doubt: nothing, or heads of a form that nobody reads in two ways.
fn is_valid(mut bytes: &[u8]) -> bool {
    loop {
        if bytes.is_empty() {
            return true;
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default().to_owned();
        let code = status.get(9..12).and_then(|code| code.parse::<u16>().ok());
        let fields: Vec<&str> = lines.collect();
        let odd = |text: &str| text.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f);
        let named = |name: &str| fields.iter().filter(|line| line.to_ascii_lowercase().starts_with(name)).count();
        let is_field = |line: &&str| {
            !odd(line)
                && line.split_once(':').is_some_and(|(name, _)| {
                    !name.is_empty()
                        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte))
                })
        };
        if !status.starts_with("HTTP/1.1 ")
            || odd(&status)
            || !code.is_some_and(|code| (100..600).contains(&code))
            || !fields.iter().all(is_field)
            || named("content-length:") + named("transfer-encoding:") > 1
        {
            return false;
        }
        bytes = &bytes[end + 4..];
        if code.is_none_or(|code| code >= 200) {
            return true;
        }
    }
}
