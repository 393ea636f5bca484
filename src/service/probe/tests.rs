use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::super::tests::{build, pool};
use super::super::transport::Transport;
use super::*;
use crate::exchange::AttemptOutcome;

/// A server whose answers the test decides on.
struct Origin {
    port: u16,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
    last: Arc<parking_lot::Mutex<String>>,
}

impl Origin {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let origin = Self { port, status: Arc::new(AtomicU16::new(200)), asked: Arc::default(), last: Arc::default() };
        let (status, asked, last) = (origin.status.clone(), origin.asked.clone(), origin.last.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (status, asked, last) = (status.clone(), asked.clone(), last.clone());
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let len = stream.read(&mut head).await.unwrap_or(0);
                    *last.lock() = String::from_utf8_lossy(&head[..len]).into_owned();
                    asked.fetch_add(1, Ordering::SeqCst);
                    let status = status.load(Ordering::SeqCst);
                    if status == 0 {
                        tokio::time::sleep(Span::from_secs(60)).await;
                    }
                    let first = last.lock().starts_with("GET /old");
                    let answer = match first {
                        true => "HTTP/1.1 302 Found\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n".to_owned(),
                        false => format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"),
                    };
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        origin
    }

    fn pool(&self, host: &str, check: &str) -> Arc<ServerPool> {
        pool(&self.json(host, check))
    }

    fn json(&self, host: &str, check: &str) -> String {
        format!(r#"{{"servers": [{{"url": "http://{host}:{}"}}], "healthCheck": {check}}}"#, self.port)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Waits for `condition`, but not for ever.
async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Span::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Span::from_millis(5)).await;
    }
}

fn is_up(pool: &ServerPool) -> bool {
    pool.members()[0].server.is_up(now())
}

#[tokio::test]
async fn answers_take_a_server_down_and_up() {
    let origin = Origin::start().await;
    let pool =
        origin.pool("127.0.0.1", r#"{"interval": "20ms", "path": "/health", "headers": {"X-A": "b"}, "fall": 2}"#);
    pool.start_probes(&Handle::current());
    wait_for("a probe", || origin.asked() > 0).await;
    let request = origin.last.lock().clone();
    assert!(request.starts_with("GET /health HTTP/1.1\r\n"), "{request}");
    assert!(
        request.to_lowercase().contains("x-a: b\r\n") && request.contains(&format!(":{}\r\n", origin.port)),
        "{request}"
    );
    assert!(is_up(&pool));
    origin.status.store(500, Ordering::SeqCst);
    wait_for("down", || !is_up(&pool)).await;
    assert!(pool.members()[0].server.last_error().is_some_and(|error| error.contains("500")));
    origin.status.store(200, Ordering::SeqCst);
    wait_for("up", || is_up(&pool)).await;
    assert_eq!(pool.members()[0].server.last_error(), None);
}

#[tokio::test]
async fn silence_is_a_failure_in_time() {
    let origin = Origin::start().await;
    origin.status.store(0, Ordering::SeqCst);
    let pool = origin.pool("127.0.0.1", r#"{"interval": "20ms", "timeout": "50ms"}"#);
    pool.start_probes(&Handle::current());
    wait_for("down", || !is_up(&pool)).await;
    assert!(pool.members()[0].server.last_error().is_some_and(|error| error.contains("no answer")));
}

#[tokio::test]
async fn a_connection_is_enough_for_tcp() {
    let origin = Origin::start().await;
    let up = origin.pool("127.0.0.1", r#"{"interval": "20ms", "mode": "tcp"}"#);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let down = origin.pool("127.0.0.1", &format!(r#"{{"interval": "20ms", "mode": "tcp", "port": {closed}}}"#));
    up.start_probes(&Handle::current());
    down.start_probes(&Handle::current());
    wait_for("down", || !is_up(&down)).await;
    wait_for("a second probe", || origin.asked() > 1).await;
    assert!(is_up(&up));
}

#[tokio::test]
async fn a_probe_that_passes_does_not_take_back_what_requests_have_shown() {
    let origin = Origin::start().await;
    let json = origin.json("127.0.0.1", r#"{"interval": "20ms"}, "passiveHealthCheck": {"failureWindow": "1h"}"#);
    let pool = pool(&json);
    pool.start_probes(&Handle::current());
    wait_for("a probe", || origin.asked() > 0).await;
    let failed = AttemptOutcome { status: Some(500), first_byte: None, failure: None };
    pool.learn(0, &failed, now());
    let before = origin.asked();
    wait_for("more probes", || origin.asked() > before + 2).await;
    assert!(!is_up(&pool));
    assert_eq!(pool.members()[0].server.last_error().as_deref(), Some("too many failed requests"));
}

#[tokio::test]
async fn redirections_are_followed_if_they_may() {
    let origin = Origin::start().await;
    origin.status.store(404, Ordering::SeqCst);
    let follows = origin.pool("127.0.0.1", r#"{"interval": "20ms", "path": "/old"}"#);
    let stays = origin.pool("127.0.0.1", r#"{"interval": "20ms", "path": "/old", "followRedirects": false}"#);
    follows.start_probes(&Handle::current());
    stays.start_probes(&Handle::current());
    wait_for("down", || !is_up(&follows)).await;
    assert!(is_up(&stays), "302 is between 200 and 399");
}

#[tokio::test]
async fn names_are_resolved_and_then_probed() {
    let origin = Origin::start().await;
    let pool = origin.pool("localhost", r#"{"interval": "20ms"}"#);
    assert!(!is_up(&pool), "not before the first answer");
    pool.start_probes(&Handle::current());
    pool.addresses_asked().await;
    assert!(is_up(&pool));
    wait_for("a probe", || origin.asked() > 0).await;
    assert!(is_up(&pool));
}

#[tokio::test]
async fn probes_end_with_their_pool() {
    let origin = Origin::start().await;
    let pool = origin.pool("127.0.0.1", r#"{"interval": "5ms"}"#);
    pool.start_probes(&Handle::current());
    pool.start_probes(&Handle::current());
    wait_for("a probe", || origin.asked() > 0).await;
    let weak = Arc::downgrade(&pool);
    drop(pool);
    wait_for("the end", || weak.upgrade().is_none()).await;
}

#[tokio::test]
async fn the_next_pool_takes_over_in_rhythm() {
    let origin = Origin::start().await;
    let check = r#"{"interval": "1h", "jitter": 0}"#;
    let first = origin.pool("127.0.0.1", check);
    first.start_probes(&Handle::current());
    wait_for("the first probe", || !first.members()[0].server.health.wait(millis(now())).is_zero()).await;
    let second = build(&origin.json("127.0.0.1", check), Some(&first)).unwrap();
    second.start_probes(&Handle::current());
    assert!(first.members()[0].server.health.wait(millis(now())) > Span::from_secs(3_500), "nothing is asked twice");
    assert_eq!(origin.asked(), 1);

    let third = build(&origin.json("127.0.0.1", r#"{"interval": "1h", "path": "/other"}"#), Some(&second)).unwrap();
    third.start_probes(&Handle::current());
    wait_for("the new question", || origin.asked() == 2).await;
}

/// An HTTPS server with a certificate for `a.example`, signed by itself; its port and the certificate.
fn https_origin() -> (u16, String) {
    let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.signing_key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            if stream.read(&mut [0; 4096]).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            }
        }
    });
    (port, own.cert.pem())
}

#[tokio::test]
async fn trust_in_a_server_is_as_the_transport_says() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (port, pem) = https_origin();
    let root = serde_json::to_string(&pem).unwrap();
    for (transport, expected) in [
        ("{}".to_owned(), Err("certificate")),
        (r#"{"insecureSkipVerify": true}"#.to_owned(), Ok(())),
        (format!(r#"{{"rootCAs": [{root}]}}"#), Err("certificate")),
        (format!(r#"{{"rootCAs": [{root}], "serverName": "a.example"}}"#), Ok(())),
        (format!(r#"{{"rootCAs": [{root}], "serverName": "b.example"}}"#), Err("certificate")),
    ] {
        let written =
            format!(r#"{{"servers": [{{"url": "https://127.0.0.1:{port}"}}], "healthCheck": {{"timeout": "5s"}}}}"#);
        let settings = serde_json::from_str(&written).unwrap();
        let transport_settings = serde_json::from_str(&transport).unwrap();
        let built = Transport::build(&transport_settings).unwrap();
        let pool = ServerPool::build(&"web@file".into(), &settings, built, Arc::default(), None).unwrap();
        let addresses = [([127, 0, 0, 1], port).into()];
        match (first_to_pass(&pool, &pool.members()[0].server, &addresses).await, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.contains(part), "{transport}: {error}"),
            (found, _) => panic!("{transport}: {found:?}"),
        }
    }
}

fn check(status: u16, scheme: Scheme, location: &str, expected: Option<&str>) {
    let mut answer = ResponseHeader::build(status, None).unwrap();
    answer.insert_header(LOCATION, location).unwrap();
    let host = HeaderValue::from_static("app:443");
    let found = redirection(&answer, &"/a/b?c".parse().unwrap(), (&scheme, &host));
    assert_eq!(found.as_ref().map(PathAndQuery::as_str), expected, "{status} {scheme:?} {location}");
}

#[test]
fn redirections_are_followed_on_the_same_host_only() {
    use Scheme::{HTTP, HTTPS};
    for (status, scheme, location, expected) in [
        (302, HTTP, "/x?y#z", Some("/x?y")),
        (301, HTTP, "x", Some("/a/x")),
        (308, HTTP, "http://APP:443/x", Some("/x")),
        (302, HTTP, "http://app/x", None),
        (302, HTTP, "https://app:443/x", None),
        (302, HTTPS, "https://app:443/x", Some("/x")),
        (302, HTTPS, "https://app/x", Some("/x")),
        (302, HTTPS, "https://app:8443/x", None),
        (302, HTTPS, "http://app:443/x", None),
        (302, HTTP, "http://other:443/x", None),
        (302, HTTP, "//other/x", None),
        (200, HTTP, "/x", None),
        (304, HTTP, "/x", None),
    ] {
        check(status, scheme, location, expected);
    }
}
