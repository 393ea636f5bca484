//! A configuration that changes while requests run: what changes in time, and what must not notice.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::harness::gateway::Gateway;
use crate::harness::peer::{PATIENCE, Peer, soon, until};
use crate::harness::server::{Server, Step, answer, ok};

/// Routers of this name and rule to the server at `url`.
fn routes(routes: &[(&str, &str)], url: &str) -> String {
    let mut text = String::from("http:\n  routers:\n");
    for (name, rule) in routes {
        let _ = writeln!(text, "    {name}: {{rule: '{rule}', service: one}}");
    }
    format!("{text}  services:\n    one: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n")
}

/// Replaces the file in one step, and does not tell the gateway.
fn write(gateway: &Gateway, text: &str) {
    let next = gateway.folder().join("next.yaml");
    fs::write(&next, text).unwrap();
    fs::rename(next, gateway.folder().join("dynamic.yaml")).unwrap();
}

/// Waits until `target` answers with this status.
async fn until_status(gateway: &Gateway, target: &str, status: u16) {
    let by = Instant::now() + PATIENCE;
    let mut peer = gateway.connect().await;
    while peer.get(target, "").await.status != status {
        assert!(Instant::now() < by, "{target} does not answer {status}: {}", gateway.log());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn changes_come_into_force_by_themselves() {
    let server = Server::says("ok").await;
    let gateway = Gateway::setup()
        .flag("providers.providersThrottleDuration=500ms")
        .dynamic(routes(&[("a", "Path(`/a`)")], &server.url()))
        .start()
        .await;
    for (target, other) in [("/b", "/a"), ("/c", "/b")] {
        let started = Instant::now();
        write(&gateway, &routes(&[("a", &format!("Path(`{target}`)"))], &server.url()));
        until_status(&gateway, target, 200).await;
        // A second is promised; the rest is for a busy machine.
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert_eq!(gateway.connect().await.get(other, "").await.status, 404);
    }
}

#[tokio::test]
async fn a_broken_file_changes_nothing() {
    let server = Server::says("ok").await;
    let good = routes(&[("a", "Path(`/a`)")], &server.url());
    let gateway = Gateway::setup().flag("providers.file.watch=false").dynamic(&*good).start().await;
    for broken in ["http: [", "http:\n  routers:\n\t- tab", "\u{0}\u{1}", "{{ .Missing"] {
        write(&gateway, broken);
        let told = gateway.told("reload").await;
        assert_eq!(told.code, Some(1), "{broken:?}: {told:?}");
        assert!(told.err.contains("dynamic.yaml") && told.err.contains("last good one"), "{told:?}");
        assert_eq!(gateway.connect().await.get("/a", "").await.status, 200, "{broken:?}");
    }
    fs::remove_file(gateway.folder().join("dynamic.yaml")).unwrap();
    assert_eq!(gateway.told("reload").await.code, Some(1));
    assert_eq!(gateway.connect().await.get("/a", "").await.status, 200);
    write(&gateway, &good.replace("/a", "/b"));
    let told = gateway.told("reload").await;
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
    assert!(told.out.contains("1 routers, 0 problems"), "{told:?}");
    assert_eq!(gateway.connect().await.get("/b", "").await.status, 200);
}

#[tokio::test]
async fn one_bad_router_is_told_and_the_rest_changes() {
    let server = Server::says("ok").await;
    let gateway = Gateway::setup()
        .flag("providers.file.watch=false")
        .dynamic(routes(&[("a", "Path(`/a`)")], &server.url()))
        .start()
        .await;
    write(&gateway, &routes(&[("a", "Path(`/b`)"), ("bad", "Pth(`/bad`)")], &server.url()));
    let told = gateway.told("reload").await;
    assert_eq!(told.code, Some(0));
    assert!(told.err.contains("dynamic.yaml:4:") && told.err.contains("did you mean `Path`"), "{told:?}");
    let mut peer = gateway.connect().await;
    assert_eq!((peer.get("/b", "").await.status, peer.get("/a", "").await.status), (200, 404));
}

#[tokio::test]
async fn the_signal_reads_again() {
    let server = Server::says("ok").await;
    let mut gateway = Gateway::setup()
        .flag("providers.file.watch=false")
        .dynamic(routes(&[("a", "Path(`/a`)")], &server.url()))
        .start()
        .await;
    write(&gateway, &routes(&[("a", "Path(`/b`)")], &server.url()));
    assert_eq!(gateway.connect().await.get("/b", "").await.status, 404, "nobody has told it");
    gateway.signal(Signal::HUP);
    until_status(&gateway, "/b", 200).await;
    assert!(gateway.is_alive());
}

/// What a service knows lives on when something else changes.
#[tokio::test]
async fn untouched_services_keep_what_they_know() {
    let held = Server::start(|received| match received.path() {
        "/held" => [vec![Step::WaitForTest], ok("held")].concat(),
        _ => ok("free"),
    })
    .await;
    let failing = Server::start(|_| answer(500, "", "failing")).await;
    let text = |more: &str| {
        format!(
            "http:
  routers:
    held: {{rule: 'PathPrefix(`/held`) || PathPrefix(`/free`)', service: held, middlewares: [one-at-a-time]}}
    limited: {{rule: 'PathPrefix(`/limited`)', service: held, middlewares: [few]}}
    sick: {{rule: 'PathPrefix(`/sick`)', service: sick}}
{more}  middlewares:
    one-at-a-time: {{inFlightReq: {{amount: 1}}}}
    few: {{rateLimit: {{average: 1, period: 1h, burst: 3}}}}
  services:
    held: {{loadBalancer: {{servers: [{{url: '{0}'}}]}}}}
    sick: {{loadBalancer: {{servers: [{{url: '{1}'}}, {{url: '{0}'}}],
            passiveHealthCheck: {{failureWindow: 1h, maxFailedAttempts: 1}}}}}}
",
            held.url(),
            failing.url()
        )
    };
    let gateway = Gateway::setup().flag("providers.file.watch=false").dynamic(text("")).start().await;
    let mut peer = gateway.connect().await;
    for _ in 0..3 {
        assert_eq!(peer.get("/limited", "").await.status, 200);
    }
    for _ in 0..4 {
        peer.get("/sick", "").await;
    }
    assert_eq!(failing.count(), 1, "one failure and it is out");
    assert_eq!(peer.get("/free", "").await.text(), "free");
    let connections = held.connections();
    let mut waiting = gateway.connect().await;
    waiting.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    held.until_count(held.count() + 1).await;
    for round in 0..3 {
        gateway.apply(&text(&format!("    new: {{rule: 'Path(`/new{round}`)', service: held}}\n"))).await;
        assert_eq!(peer.get(&format!("/new{round}"), "").await.status, 200, "the change is in force");
        assert_eq!(peer.get("/limited", "").await.status, 429, "the bucket is as empty as before");
        assert_eq!(peer.get("/free", "").await.status, 429, "the request in flight still counts");
        assert_eq!(peer.get("/sick", "").await.text(), "free", "the sick server is still out");
    }
    held.go();
    assert_eq!(waiting.response_to("GET").await.unwrap().text(), "held");
    // The answer is read before the request is over.
    until_status(&gateway, "/free", 200).await;
    assert_eq!(failing.count(), 1);
    // The request that was held took one more, no reload did.
    assert_eq!(held.connections(), connections + 1, "idle connections to the server are kept");
}

#[tokio::test]
async fn open_websockets_outlive_their_route() {
    let echo = Server::start(|_| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        vec![Step::Send(head.into()), Step::Echo]
    })
    .await;
    let gateway = Gateway::with(routes(&[("a", "Path(`/ws`)")], &echo.url())).await;
    let mut peer = gateway.connect().await;
    peer.send(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert_eq!(peer.response_to("GET").await.unwrap().status, 101);
    for text in [routes(&[("a", "Path(`/ws`)"), ("b", "Path(`/b`)")], &echo.url()), "http: {}".to_owned()] {
        gateway.apply(&text).await;
        peer.send("hello").await;
        assert_eq!(peer.bytes(5).await, b"hello");
    }
    assert_eq!(gateway.connect().await.get("/ws", "").await.status, 404);
}

/// Routes come and go while clients use others: no request may notice.
#[tokio::test]
async fn churn_under_load_hurts_nobody() {
    let server = Server::echo().await;
    let url = server.url();
    let text = |round: usize| {
        let names: Vec<(String, String)> =
            (round..round + 5).map(|at| (format!("r{at}"), format!("Path(`/r{at}`)"))).collect();
        let mut all: Vec<(&str, &str)> = names.iter().map(|(name, rule)| (name.as_str(), rule.as_str())).collect();
        all.push(("steady", "PathPrefix(`/steady`)"));
        routes(&all, &url)
    };
    let gateway = Gateway::with(text(0)).await;
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let (over, address) = (over.clone(), gateway.address());
            tokio::spawn(async move {
                let mut done = 0_usize;
                while !over.load(Ordering::SeqCst) {
                    // New connections and kept ones alike.
                    let mut peer = Peer::connect(address).await;
                    for turn in 0..20 {
                        let target = format!("/steady/{client}/{turn}");
                        let answer = peer.get(&target, "").await;
                        assert_eq!((answer.status, answer.text()), (200, &*format!("GET {target} HTTP/1.1")));
                        done += 1;
                    }
                }
                done
            })
        })
        .collect();
    for round in 1..=30 {
        gateway.apply(&text(round)).await;
        let mut peer = gateway.connect().await;
        assert_eq!(peer.get(&format!("/r{}", round + 4), "").await.status, 200, "round {round}");
        assert_eq!(peer.get(&format!("/r{}", round - 1), "").await.status, 404, "round {round}");
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(soon(client).await.expect("no request failed") > 0);
    }
    assert_eq!(server.violations(), Vec::<String>::new());
}

/// The answer to a command, as machines read it.
async fn asked(gateway: &Gateway, command: &str) -> serde_json::Value {
    let mut stream = UnixStream::connect(gateway.folder().join("control")).await.unwrap();
    stream.write_all(format!("{{\"command\":\"{command}\"}}\n").as_bytes()).await.unwrap();
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, BufReader::new(stream).read_line(&mut line)).await.unwrap().unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn reload_names_what_waits_for_an_upgrade() {
    let server = Server::says("ok").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("portcullis.yaml");
    let write_static = |text: &str| fs::write(&file, text).unwrap();
    write_static("entryPoints:\n  more: {address: '127.0.0.1:0'}\n");
    let gateway = Gateway::setup()
        .flag(format!("configFile={}", file.display()))
        .dynamic(routes(&[("a", "Path(`/a`)")], &server.url()))
        .start()
        .await;

    // Nothing differs: nothing is said of it.
    let told = gateway.told("reload").await;
    assert_eq!((told.code, told.err.as_str(), told.out.lines().count()), (Some(0), "", 1), "{told:?}");

    write_static(
        "entryPoints:\n  more: {address: '127.0.0.1:0', http: {sanitizePath: false}}\n  new: {address: '127.0.0.1:0'}\nmetrics: {prometheus: {}}\n",
    );
    let told = gateway.told("reload").await;
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:?}");
    // Entry points follow at once, but for the one that is there for something that does not.
    let expected = ["entryPoints.traefik: not set -> set", "metrics: not set -> set"];
    let expected = [
        vec![
            "in force: entryPoints.more.http.sanitizePath: true -> false".to_owned(),
            "in force: entryPoints.new: not set -> set".to_owned(),
        ],
        expected.map(|line| format!("waits for `portcullis upgrade`: {line}")).to_vec(),
    ];
    assert_eq!(told.out.lines().skip(1).collect::<Vec<_>>(), expected.concat(), "{told:?}");

    // The same over the socket, for machines.
    write_static(
        "entryPoints:\n  more: {address: '127.0.0.1:0'}\n  new: {address: '127.0.0.1:0'}\nmetrics: {prometheus: {}}\n",
    );
    let answer = asked(&gateway, "reload").await;
    assert_eq!(answer["detail"]["changed"][0]["setting"], "entryPoints.more.http.sanitizePath", "{answer}");
    assert_eq!(answer["detail"]["changed"][0]["running"], false, "{answer}");
    assert_eq!(answer["detail"]["changed"][0]["written"], true, "{answer}");
    assert_eq!(answer["detail"]["waiting"][1]["setting"], "metrics", "{answer}");
    assert_eq!(answer["detail"]["waiting"][1]["running"], serde_json::Value::Null, "{answer}");

    // The log is told as well; HUP has nobody else to tell.
    gateway.signal(Signal::HUP);
    until(|| gateway.log().matches("waiting-for-upgrade").count() == 3 * 2).await;
    assert!(gateway.log().contains("entryPoints.more.http.sanitizePath: true -> false"));

    // What is wrong is told, and does no harm; what else differs is named all the same.
    write_static(
        "entryPoints:\n  more: {address: '127.0.0.1:x'}\n  odd: {address: ':0', http: {sanitizPath: true}}\ndrain: {lameDuck: soon}\nmetrics: {prometheus: {}}\n",
    );
    let told = gateway.told("reload").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    let mistakes = ["more.address", "odd.http.sanitizPath", "drain.lameDuck"];
    for (line, mistake) in [2, 3, 4].into_iter().zip(mistakes) {
        let place = format!("portcullis.yaml:{line}:");
        assert!(told.err.lines().any(|told| told.contains(&place) && told.contains(mistake)), "{mistake}: {told:?}");
    }
    let waiting: Vec<_> = told.out.lines().skip(1).collect();
    let expected = [
        "in force: entryPoints.new: set -> not set",
        "waits for `portcullis upgrade`: entryPoints.traefik: not set -> set",
        "waits for `portcullis upgrade`: metrics: not set -> set",
        "`portcullis upgrade` would be refused, because the static configuration is wrong",
    ];
    assert_eq!(waiting, expected, "{told:?}");

    // A file that cannot be read says nothing about any setting.
    fs::write(&file, "entryPoints: [").unwrap();
    let told = gateway.told("reload").await;
    assert_eq!((told.code, told.out.lines().count()), (Some(0), 2), "{told:?}");
    assert!(told.err.contains("portcullis.yaml:1:"), "{told:?}");
    assert_eq!(gateway.connect().await.get("/a", "").await.status, 200);
}
