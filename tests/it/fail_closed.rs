//! What is broken, full or interrupted denies rather than lets through, and gives back what it held.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::frames::{DATA, END_HEADERS, END_STREAM, Fate, Frames, HEADERS, RST_STREAM, request_block};
use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon, until};
use crate::harness::server::{Server, Step, answer};

/// One router for `/guarded` with this middleware, and one behind it for everything.
fn guarded(server: &Server, middlewares: &str, written: &str) -> String {
    format!(
        "http:
  routers:
    guarded: {{rule: 'PathPrefix(`/guarded`)', service: s, middlewares: [{middlewares}]}}
    open: {{rule: 'PathPrefix(`/`)', priority: 1, service: s}}
  middlewares:
    fine: {{headers: {{customRequestHeaders: {{X-Fine: 'yes'}}}}}}
{written}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
",
        server.url()
    )
}

/// A guard that cannot be built closes its router; the router behind it must not take over.
#[tokio::test]
async fn a_broken_guard_lets_nobody_in() {
    let server = Server::echo().await;
    for (middlewares, written) in [
        ("guard", "    guard: {basicAuth: {users: ['nonsense']}}"),
        ("guard", "    guard: {basicAuth: {usersFile: /no/such/file}}"),
        ("guard", "    guard: {basicAuth: {}}"),
        ("guard", "    guard: {basicAuth: {users: ['u:$2y$05$short']}}"),
        ("guard", "    guard: {ipAllowList: {sourceRange: ['nonsense']}}"),
        ("guard", "    guard: {ipAllowList: {sourceRange: []}}"),
        ("guard", "    guard: {noSuchMiddleware: {}}"),
        ("guard", "    guard: {basicAuth: {users: ['u:p'], oops: 1}}"),
        ("fine, guard", ""),
        ("guard@nowhere", ""),
        ("guard", "    guard: {chain: {middlewares: [fine, missing]}}"),
        ("guard", "    guard: {chain: {middlewares: [guard]}}"),
        ("guard", "    guard: {stripPrefixRegex: {regex: ['(']}}"),
        ("guard", "    guard: {rateLimit: {average: -1}}"),
    ] {
        let gateway = Gateway::with(guarded(&server, middlewares, written)).await;
        let before = server.count();
        for path in ["/guarded", "/guarded/x", "/%67uarded", "/x/../guarded"] {
            let got = gateway.connect().await.get(path, "Authorization: Basic dTpw\r\n").await;
            assert!(matches!(got.status, 401 | 403 | 503), "{middlewares} {written} {path}: {}", got.head);
        }
        assert_eq!(server.count(), before, "{written}");
        assert_eq!(gateway.connect().await.get("/other", "").await.status, 200, "{written}");
    }
}

/// A router that asks for a higher rank than there is keeps the highest, and is closed.
#[tokio::test]
async fn a_router_ranked_too_high_lets_nobody_by() {
    let server = Server::echo().await;
    let (url, address) = (server.url(), server.url().replace("http://", ""));
    let routing = format!(
        "http:
  routers:
    high: {{rule: 'PathPrefix(`/guarded`)', service: s, priority: 9223372036854775807}}
    low: {{rule: 'PathPrefix(`/`)', service: s, priority: 1000}}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}}}
tcp:
  routers:
    first: {{rule: 'ClientIP(`127.0.0.1`)', service: s, entryPoints: [tcp], priority: 9223372036854775807}}
    low: {{rule: 'HostSNI(`*`)', service: s, entryPoints: [tcp], priority: 1000}}
  services: {{s: {{loadBalancer: {{servers: [{{address: '{address}'}}]}}}}}}
"
    );
    let gateway = Gateway::setup().entry_point("tcp").dynamic(routing).start().await;
    assert_eq!(gateway.connect().await.get("/guarded", "").await.status, 503);
    let mut tcp = Peer::connect(gateway.address_of("tcp")).await;
    tcp.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tcp.end().await;
    assert_eq!(gateway.logged(|line| line["RouterName"] == "first@file").await["ending"], "router-disabled");
    assert_eq!(server.count(), 0);
    assert_eq!(gateway.connect().await.get("/other", "").await.status, 200);
}

/// A reload that breaks a guard keeps its router closed, or what was there before.
#[tokio::test]
async fn a_guard_that_breaks_later_lets_nobody_in() {
    let server = Server::echo().await;
    let good = guarded(&server, "guard", "    guard: {ipAllowList: {sourceRange: ['192.0.2.1']}}");
    let gateway = Gateway::with(good.clone()).await;
    for text in [
        guarded(&server, "guard", "    guard: {ipAllowList: {sourceRange: ['x']}}"),
        guarded(&server, "guard", ""),
        "http: {routers: [".to_owned(),
        good[..good.len() / 2].to_owned(),
        "\u{feff}\0".to_owned(),
        good,
    ] {
        gateway.apply(&text).await;
        let got = gateway.connect().await.get("/guarded", "").await;
        assert!(matches!(got.status, 403 | 404 | 503), "{text:.200}: {}", got.head);
    }
    assert_eq!(server.count(), 0);
}

/// Who is let in by address is who has connected, not who is named in a header.
#[tokio::test]
async fn addresses_are_not_taken_from_strangers() {
    let server = Server::echo().await;
    for (strategy, field) in [
        ("", "X-Forwarded-For: 192.0.2.1"),
        ("", "X-Real-Ip: 192.0.2.1"),
        ("", "Forwarded: for=192.0.2.1"),
        (", ipStrategy: {depth: 1}", "X-Forwarded-For: 192.0.2.1"),
        (", ipStrategy: {depth: 1}", "X_Forwarded_For: 192.0.2.1"),
        (", ipStrategy: {depth: 2}", "X-Forwarded-For: 192.0.2.1, 192.0.2.1"),
        (", ipStrategy: {excludedIPs: ['127.0.0.1']}", "X-Forwarded-For: 192.0.2.1"),
    ] {
        let written = format!("    guard: {{ipAllowList: {{sourceRange: ['192.0.2.0/24']{strategy}}}}}");
        let gateway = Gateway::with(guarded(&server, "guard", &written)).await;
        let got = gateway.connect().await.get("/guarded", &format!("{field}\r\n")).await;
        assert_eq!((got.status, server.count()), (403, 0), "{strategy} {field}: {}", got.head);
    }
}

/// What a request holds while it is under way comes back however it ends.
#[tokio::test]
async fn nothing_stays_held() {
    let server = Server::start(|received| match received.path() {
        "/guarded/reset" => vec![Step::ReadBody, Step::Reset],
        "/guarded/hang" => vec![Step::ReadBody, Step::Hang],
        "/guarded/cut" => {
            vec![Step::ReadBody, Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec()), Step::Close]
        }
        "/guarded/upgrade" => vec![
            Step::ReadBody,
            Step::Send(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec()),
            Step::Echo,
        ],
        _ => answer(200, "", "ok"),
    })
    .await;
    let written =
        "    guard: {inFlightReq: {amount: 1}}\n    again: {retry: {attempts: 2}}\n    guess: {contentType: {}}";
    for middlewares in ["guard", "guard, again, guess"] {
        let gateway = Gateway::setup()
            .flag("entryPoints.web.transport.respondingTimeouts.readTimeout=700ms")
            .dynamic(guarded(&server, middlewares, written))
            .start()
            .await;
        let is_free = async |after: &str| {
            let by = Instant::now() + Duration::from_secs(9);
            loop {
                let got = gateway.connect().await.get("/guarded", "").await;
                if got.status == 200 {
                    return;
                }
                assert!(got.status == 429 && Instant::now() < by, "after {after}: {}", got.head);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let text = |method: &str, path: &str, more: &str| {
            format!("{method} /guarded/{path} HTTP/1.1\r\nHost: a.test\r\n{more}\r\n")
        };
        for (name, request) in [
            ("reset", text("GET", "reset", "")),
            ("cut", text("GET", "cut", "")),
            ("hang", text("GET", "hang", "")),
            ("half a body", text("POST", "body", "Content-Length: 10\r\n") + "hello"),
            ("a broken body", text("POST", "body", "Transfer-Encoding: chunked\r\n") + "zz\r\n"),
            ("an upgrade", text("GET", "upgrade", "Connection: Upgrade\r\nUpgrade: websocket\r\n")),
            ("an expectation", text("POST", "body", "Content-Length: 10\r\nExpect: 100-continue\r\n")),
        ] {
            let mut peer = gateway.connect().await;
            peer.send(request).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            drop(peer);
            is_free(name).await;
        }
        // A body that does not come is given up while its client stays.
        let mut stalled = gateway.connect().await;
        stalled.send(text("POST", "body", "Content-Length: 10\r\n") + "hello").await;
        is_free("a slow body").await;
        let mut stalled = Frames::connect(gateway.address(), &[]).await;
        stalled.send(HEADERS, END_HEADERS, 1, &request_block("POST", "/guarded/body", &[])).await;
        stalled.send(DATA, 0, 1, b"hello").await;
        is_free("a slow stream").await;
        let mut reset = Frames::connect(gateway.address(), &[]).await;
        reset.send(HEADERS, END_HEADERS | END_STREAM, 1, &request_block("GET", "/guarded/hang", &[])).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        reset.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]).await;
        is_free("a stream that was reset").await;
        assert_ne!(stalled.fate(1).await, Fate::Answered(200));
    }
}

/// D-FD: without descriptors the gateway waits instead of spinning, and goes on afterwards.
#[tokio::test]
async fn no_descriptor_is_left() {
    let server = Server::echo().await;
    let gateway = Gateway::with(guarded(&server, "fine", "")).await;
    let mut steady = gateway.connect().await;
    assert_eq!(steady.get("/", "").await.status, 200);
    let pid = i32::try_from(gateway.pid()).ok().and_then(Pid::from_raw);
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count() as u64;
    let old = prlimit(pid, Resource::Nofile, Rlimit { current: Some(open + 6), maximum: Some(4096) }).unwrap();
    let mut others = Vec::new();
    for _ in 0..60 {
        others.push(Peer::connect(gateway.address()).await);
    }
    let used = processor_time(gateway.pid());
    let logged = gateway.log().lines().count();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = processor_time(gateway.pid()) - used;
    assert!(spent < 50, "{spent} ticks in a second");
    assert!(gateway.log().lines().count() < logged + 20, "{}", gateway.log());
    // Those who are in are served: the connection to the server is there already.
    assert_eq!(soon(steady.get("/", "")).await.status, 200);
    drop(others);
    let by = Instant::now() + Duration::from_secs(9);
    while soon(gateway.connect().await.get("/", "")).await.status != 200 {
        assert!(Instant::now() < by);
    }
    prlimit(pid, Resource::Nofile, Rlimit { current: old.maximum.min(Some(4096)), maximum: Some(4096) }).unwrap();
    until(|| server.open() < 20).await;
}

/// Time that a process has used, in ticks of 10 ms.
fn processor_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// K-ADMIN: nothing of the API is there unless it was asked for, and then nothing can be written, nor scripted.
#[tokio::test]
async fn the_api_is_closed_and_harmless() {
    let server = Server::echo().await;
    let nasty = "<script>alert(1)</script>";
    let dynamic = format!(
        "http: {{routers: {{'a{nasty}': {{rule: 'PathPrefix(`/x{nasty}`)', service: 's'}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
        server.url()
    );
    let gateway = Gateway::with(dynamic.clone()).await;
    for path in
        ["/api", "/api/rawdata", "/dashboard/", "/metrics", "/ping", "/debug/pprof/", "/api/http/routers", "/.env"]
    {
        for host in ["a.test", "traefik", "localhost", "127.0.0.1"] {
            let got = gateway.connect().await.request(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert_eq!(got.status, 404, "{path}");
        }
    }
    let gateway = Gateway::setup().flag("api.insecure=true").entry_point("traefik").dynamic(dynamic).start().await;
    let address = gateway.address_of("traefik");
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let request = format!("{method} /api/http/routers HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
        let got = Peer::connect(address).await.request(&request).await;
        assert!(matches!(got.status, 404 | 405), "{method}: {}", got.head);
    }
    for path in
        ["/dashboard/", "/api/http/routers", "/api/rawdata", "/dashboard/../../etc/passwd", "/dashboard/%2e%2e/x"]
    {
        let got = Peer::connect(address).await.get(path, "Origin: http://evil.test\r\n").await;
        assert_eq!(got.header("access-control-allow-origin"), None, "{path}");
        let is_html = got.header("content-type").is_some_and(|kind| kind.starts_with("text/html"));
        assert!(!is_html || !got.text().contains(nasty), "{path}: {}", got.text());
        assert!(!got.text().contains("root:"), "{path}");
    }
}
