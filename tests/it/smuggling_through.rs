//! Requests that two parsers could read in two ways, through the whole program to a server that reads strictly.
//!
//! Each is refused, or arrives as exactly one canonical request; and whoever shares the connections to the server gets the
//! answers to his own requests.

mod vectors;

use crate::harness::gateway::Gateway;
use crate::harness::peer::Peer;
use crate::harness::server::{Server, Step, answer};
use vectors::{CHUNKED, Either, Once, Refused, SMUGGLED, Vector, all_vectors, post, vector};

/// How the bytes leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Whole,
    EachByte,
}

/// No middleware: the request takes Pingora's own session.
const PLAIN: &str = "";
/// Bodies that are kept for another attempt, and answers that wait for a guess: the session is wrapped.
const LANE: &str = "again, guess";

struct Stage {
    gateway: Gateway,
    server: Server,
    turn: usize,
}

impl Stage {
    async fn new(middlewares: &str) -> Self {
        let server = Server::start(|received| answer(200, "", received.target())).await;
        let gateway = Gateway::setup()
            .flag("entryPoints.web.http.maxHeaderBytes=65536")
            .flag("serversTransport.maxIdleConnsPerHost=1")
            .dynamic(format!(
                "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}}}, \
                 middlewares: {{again: {{retry: {{attempts: 2}}}}, guess: {{contentType: {{}}}}}}, \
                 services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
                server.url()
            ))
            .start()
            .await;
        Self { gateway, server, turn: 0 }
    }

    /// Sends a vector with another request behind it, and judges what became of both, and of a bystander.
    async fn judge(&mut self, vector: &Vector, cut: Cut) {
        self.turn += 1;
        let turn = self.turn;
        let bytes = replace(&vector.bytes, b"{n}", turn.to_string().as_bytes());
        let shown = bytes[..bytes.len().min(300)].escape_ascii().to_string();
        let before = self.server.count();
        let mut attacker = self.gateway.connect().await;
        let next = format!("GET /next{turn} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let all = [&bytes[..], next.as_bytes()].concat();
        match cut {
            Cut::Whole => drop(attacker.try_send(&all).await),
            Cut::EachByte => attacker.drip(&all).await,
        }
        let _ = attacker.try_half_close().await;
        let responses = responses(attacker).await;
        let arrived = self.server.received().split_off(before);
        // What was sent on of a request that was then refused may arrive a little late.
        let late = format!("/v{}", turn - 1);
        let arrived: Vec<_> = arrived.into_iter().filter(|it| it.path() != late).collect();
        let (own, others): (Vec<_>, Vec<_>) = arrived.iter().partition(|it| it.path() != format!("/next{turn}"));
        assert!(own.iter().all(|it| it.path() != "/smuggled"), "{shown}: {arrived:?}");
        assert!(own.len() <= 1, "{shown}: {arrived:?}");
        let was_refused = responses.len() == 1 && (400..600).contains(&responses[0].0);
        if was_refused {
            assert!(vector.verdict != Once, "{shown}: {responses:?}");
            assert!(others.is_empty(), "{shown}: a refusal, and then {others:?}");
        } else {
            assert!(vector.verdict != Refused, "{shown}: {responses:?}, {arrived:?}");
            match &responses[..] {
                // Framed beyond doubt, but not to be routed: the connection may go on.
                [(400, _), (200, text)] => {
                    assert!(own.is_empty() && vector.verdict == Either, "{shown}: {arrived:?}");
                    assert_eq!(text, &format!("/next{turn}"), "{shown}");
                }
                _ if own.len() != 1 => panic!("{shown}: {responses:?}, {arrived:?}"),
                [(200, body), (200, text)] => {
                    assert_eq!((body.as_str(), text), (own[0].target(), &format!("/next{turn}")), "{shown}");
                }
                // A connection that ends with its first answer; what follows is not read.
                [(200, body)] => {
                    assert_eq!(body.as_str(), own[0].target(), "{shown}");
                    assert!(others.is_empty() && vector.verdict == Either, "{shown}: {responses:?}");
                }
                _ => panic!("{shown}: {responses:?}"),
            }
        }
        for name in ["content-length", "transfer-encoding", "host", "authorization", "cookie", "x-forwarded-for"] {
            assert!(own.iter().all(|it| !it.trailers.to_ascii_lowercase().contains(name)), "{shown}: {arrived:?}");
        }
        let nonce = format!("/victim{turn}");
        assert_eq!(self.gateway.connect().await.get(&nonce, "").await.text(), nonce, "{shown}");
        assert_eq!(self.server.violations(), Vec::<String>::new(), "{shown}");
    }
}

fn replace(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    match bytes.windows(what.len()).position(|window| window == what) {
        Some(at) => [&bytes[..at], with, &bytes[at + what.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

/// All final responses until the connection ends: status and body.
async fn responses(mut peer: Peer) -> Vec<(u16, String)> {
    let mut all = Vec::new();
    while let Ok(response) = peer.response_to("GET").await {
        all.push((response.status, response.text().to_owned()));
    }
    all
}

async fn judge_all(middlewares: &str, cut: Cut) {
    let mut stage = Stage::new(middlewares).await;
    for vector in all_vectors().iter().filter(|vector| cut == Cut::Whole || vector.bytes.len() < 400) {
        stage.judge(vector, cut).await;
    }
    assert!(stage.turn > 250, "{} vectors", stage.turn);
}

#[tokio::test]
async fn every_vector_is_refused_or_arrives_once() {
    judge_all(PLAIN, Cut::Whole).await;
}

#[tokio::test]
async fn the_verdict_is_the_same_byte_by_byte() {
    judge_all(PLAIN, Cut::EachByte).await;
}

#[tokio::test]
async fn the_verdict_is_the_same_in_the_lane() {
    judge_all(LANE, Cut::Whole).await;
    judge_all(LANE, Cut::EachByte).await;
}

/// Each vector that is important, cut in two at each of its bytes.
#[tokio::test]
async fn the_verdict_is_the_same_wherever_it_is_cut() {
    let stage = Stage::new(PLAIN).await;
    let chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    for vector in [
        post(format!("Content-Length: 4\r\n{CHUNKED}"), &chunk, Refused),
        post(CHUNKED, "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", Either),
        post(CHUNKED, "5\r\nhelloXY0\r\n\r\n", Refused),
        post(format!("Content-Length: {}", SMUGGLED.len()), SMUGGLED, Once),
        vector("GET /v{n} HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n\r\n", Refused),
    ] {
        let bytes = replace(&vector.bytes, b"{n}", b"1");
        for at in 1..bytes.len() {
            let mut attacker = stage.gateway.connect().await;
            attacker.try_send(&bytes[..at]).await;
            // The first part is read before the second is there.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            attacker.try_send(&bytes[at..]).await;
            let _ = attacker.try_half_close().await;
            let got = responses(attacker).await;
            assert_eq!(got.len(), 1, "at {at}: {got:?}");
            assert_eq!(got[0].0 == 200, vector.verdict != Refused, "at {at}: {got:?}");
        }
        assert_eq!(stage.gateway.connect().await.get("/victim", "").await.text(), "/victim");
        assert_eq!(stage.server.violations(), Vec::<String>::new());
    }
}

/// Bodies that stop too early or go on too long never move the border between requests of the server.
#[tokio::test]
async fn wrong_lengths_poison_nobody() {
    let stage = Stage::new(PLAIN).await;
    for round in 0..20 {
        let mut attacker = stage.gateway.connect().await;
        attacker.send("POST /short HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nhello").await;
        attacker.half_close().await;
        let mut other = stage.gateway.connect().await;
        other.send("POST /short HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nhello").await;
        drop(other);
        let victim = format!("/victim{round}");
        assert_eq!(stage.gateway.connect().await.get(&victim, "").await.text(), victim);
        let _ = attacker.rest().await;
    }
    assert_eq!(stage.server.violations(), Vec::<String>::new());
    assert!(stage.server.received().iter().all(|it| it.path() != "/short" || !it.whole));
}

/// RFC 9110 §7.8: nothing is sent on before the server has changed the protocol, and nothing is taken for a tunnel that is not.
#[tokio::test]
async fn upgrades_that_are_not() {
    let server = Server::start(|received| match received.path() {
        "/refuse" => answer(400, "", "no"),
        "/ignore" => answer(200, "", received.target()),
        "/bare101" => vec![Step::ReadBody, Step::Send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec())],
        "/other" => vec![
            Step::ReadBody,
            Step::Send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n".to_vec()),
            Step::Echo,
        ],
        _ => answer(200, "", received.target()),
    })
    .await;
    let gateway = Gateway::with(format!(
        "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
        server.url()
    ))
    .await;
    for path in ["/refuse", "/ignore"] {
        let mut peer = gateway.connect().await;
        peer.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\
             GET /admin{path} HTTP/1.1\r\nHost: a.test\r\n\r\n"
        ))
        .await;
        let first = peer.response_to("GET").await.unwrap();
        assert_eq!(first.status, if path == "/refuse" { 400 } else { 200 });
        if let Ok(second) = peer.response_to("GET").await {
            assert_eq!(second.text(), format!("/admin{path}"));
        }
    }
    for path in ["/bare101", "/other"] {
        let mut peer = gateway.connect().await;
        peer.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
            .await;
        let head = peer.head().await;
        let victim = format!("/victim{path}");
        assert_eq!(gateway.connect().await.get(&victim, "").await.text(), victim, "{head:?}");
    }
    // Each request behind an upgrade that was none was a request of its own.
    assert!(server.received().iter().all(|it| it.body.is_empty()));
    assert_eq!(server.violations(), Vec::<String>::new());
}

/// Vectors with a few bytes changed, from a fixed seed: nothing that a strict server would call nonsense arrives, and nobody
/// gets another's answer. `ROUNDS` and `SEED` in the environment try more.
#[tokio::test]
async fn changed_vectors_never_become_nonsense() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let mut dice = fastrand::Rng::with_seed(number("SEED", 1));
    let stage = Stage::new(PLAIN).await;
    let vectors: Vec<_> = all_vectors().into_iter().filter(|vector| vector.bytes.len() < 400).collect();
    for round in 0..number("ROUNDS", 600) {
        let mut bytes = replace(&dice.choice(&vectors).unwrap().bytes, b"{n}", b"1");
        for _ in 0..dice.usize(1..4) {
            if !bytes.is_empty() {
                change(&mut bytes, &mut dice);
            }
        }
        let nonce = format!("/next{round}");
        let next = format!("GET {nonce} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let mut attacker = stage.gateway.connect().await;
        attacker.try_send([&bytes[..], next.as_bytes()].concat()).await;
        let _ = attacker.try_half_close().await;
        let _ = attacker.rest().await;
        let victim = format!("/victim{round}");
        let shown = bytes.escape_ascii().to_string();
        assert_eq!(stage.gateway.connect().await.get(&victim, "").await.text(), victim, "{shown}");
        assert_eq!(stage.server.violations(), Vec::<String>::new(), "{shown}");
    }
}

fn change(bytes: &mut Vec<u8>, dice: &mut fastrand::Rng) {
    const SPICE: [&[u8]; 16] = [
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b":",
        b",",
        b";",
        b"0",
        b"chunked",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nContent-Length: 3",
        b"\xff",
        b"%",
    ];
    let at = dice.usize(..bytes.len());
    match dice.u8(..5) {
        0 => bytes[at] = dice.u8(..),
        1 => drop(bytes.remove(at)),
        2 => {
            let end = (at + dice.usize(..20)).min(bytes.len());
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        3 => bytes.truncate(at + 1),
        _ => {
            let spice = dice.choice(SPICE).unwrap();
            bytes.splice(at..at, spice.iter().copied());
        }
    }
}
