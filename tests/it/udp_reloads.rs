//! Entry points for UDP that are added, moved and removed by a reload, while sessions are open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use crate::harness::house::{House, ask, client, echo, free, lines};
use crate::harness::peer::{PATIENCE, Peer, soon, until};

fn at(name: &str, address: SocketAddr, options: &str) -> String {
    format!("{name}: {{address: '{address}/udp', udp: {{timeout: 60s}}{options}}}")
}

/// Everything at `a` goes to this server, everything at `b` to that one.
fn udp(a: SocketAddr, b: SocketAddr) -> String {
    format!(
        "udp:
  routers: {{a: {{entryPoints: [a], service: a}}, b: {{entryPoints: [b], service: b}}}}
  services:
    a: {{loadBalancer: {{servers: [{{address: '{a}'}}]}}}}
    b: {{loadBalancer: {{servers: [{{address: '{b}'}}]}}}}
"
    )
}

/// Clients that go on in one session each, and count answers that did not come or came from elsewhere.
#[derive(Default)]
struct Steady {
    over: AtomicBool,
    asked: AtomicUsize,
    wrong: AtomicUsize,
}

impl Steady {
    async fn ask_on(self: Arc<Self>, client: UdpSocket) {
        let session = ask(&client).await;
        while !self.over.load(Ordering::SeqCst) {
            client.send(b"?").await.unwrap();
            let mut buffer = [0; 100];
            let answer = tokio::time::timeout(PATIENCE, client.recv(&mut buffer)).await;
            let is_good = matches!(answer, Ok(Ok(length)) if buffer[..length] == *session.as_bytes());
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.wrong.fetch_add(usize::from(!is_good), Ordering::SeqCst);
        }
    }
}

/// Others come, move and go; sessions of an entry point that does not change go on, each with its server, and lose no datagram.
async fn check_others(options: &str) {
    let [web, a, b, moved, extra] = [free(), free(), free(), free(), free()];
    let servers = (echo("a").await, echo("b").await);
    let web = format!("web: {{address: '{web}'}}");
    let stays = at("a", a, options);
    let mut house = House::start(&[&web, &stays, &at("b", b, options)], &udp(servers.0, servers.1)).await;
    let steady = Arc::new(Steady::default());
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(tokio::spawn(steady.clone().ask_on(client(a).await)));
    }
    for _ in 0..2 {
        for others in [
            vec![at("b", moved, options)],
            vec![at("b", moved, options), at("extra", extra, options)],
            vec![],
            vec![at("extra", b, options)],
            vec![at("b", b, options)],
        ] {
            let asked = steady.asked.load(Ordering::SeqCst);
            let mut lines: Vec<&str> = vec![&web, &stays];
            lines.extend(others.iter().map(String::as_str));
            house.follow(&lines).await;
            until(|| steady.asked.load(Ordering::SeqCst) > asked + 20).await;
        }
        assert!(ask(&client(b).await).await.starts_with("b "));
    }
    steady.over.store(true, Ordering::SeqCst);
    for client in clients {
        soon(client).await.unwrap();
    }
    assert_eq!(steady.wrong.load(Ordering::SeqCst), 0, "of {}", steady.asked.load(Ordering::SeqCst));
    house.upgrade().await;
    assert!(ask(&client(a).await).await.starts_with("a ") && ask(&client(b).await).await.starts_with("b "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_others_are_undisturbed() {
    check_others("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_others_are_undisturbed_where_sockets_share_a_port() {
    check_others(", reusePort: true").await;
}

/// Sessions of an entry point that is removed, or moved, go on at its address until they are silent or their time is up; nobody gets a
/// new one there.
async fn check_end(is_moved: bool) {
    let [web, a, b, moved] = [free(), free(), free(), free()];
    let servers = (echo("a").await, echo("b").await);
    let web = format!("web: {{address: '{web}'}}");
    let more =
        "drain: {webSocketTimeout: 700ms, timeout: 100ms, idleSpread: 10ms}\nmetrics: {prometheus: {entryPoint: web}}";
    let house = House::with(&[&web, &at("a", a, ""), &at("b", b, "")], more, &udp(servers.0, servers.1)).await;
    let (there, other) = (client(b).await, client(a).await);
    let (session, others) = (ask(&there).await, ask(&other).await);
    let moved_to = at("b", moved, "");
    let stays = at("a", a, "");
    let after: &[&str] = if is_moved { &[&web, &stays, &moved_to] } else { &[&web, &stays] };
    let started = Instant::now();
    house.write(after, more);
    let told = house.gateway.told("reload").await;
    assert_eq!((told.code, lines(&told).len()), (Some(0), 1), "{told:?}");
    assert_eq!(ask(&there).await, session, "the one that is there goes on");
    let late = client(b).await;
    late.send(b"?").await.unwrap();
    let mut buffer = [0; 20];
    assert!(
        tokio::time::timeout(Duration::from_millis(100), late.recv(&mut buffer)).await.is_err(),
        "nobody else does"
    );
    // It is cut when its time is up, however busy it is: from then on nobody is there.
    while there.send(b"?").await.is_ok() {
        match tokio::time::timeout(Duration::from_millis(50), there.recv(&mut buffer)).await {
            Ok(Err(_)) => break,
            Ok(Ok(_)) | Err(_) => assert!(started.elapsed() < PATIENCE),
        }
    }
    assert!(started.elapsed() >= Duration::from_millis(700), "{:?}", started.elapsed());
    until(|| std::net::UdpSocket::bind(b).is_ok()).await;
    assert_eq!(ask(&other).await, others, "nobody else has noticed");
    if is_moved {
        assert!(ask(&client(moved).await).await.starts_with("b "));
    }
    let page = async || Peer::connect(house_web(&web)).await.get("/metrics", "").await.text().to_owned();
    let by = Instant::now() + PATIENCE;
    let cut = "portcullis_service_udp_ended_sessions_total{ending=\"cut\",service=\"b@file\"} 1";
    while !page().await.contains(cut) {
        assert!(Instant::now() < by, "{}", page().await);
    }
}

fn house_web(line: &str) -> SocketAddr {
    line.split('\'').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn sessions_of_a_removed_one_end_as_documented() {
    check_end(false).await;
}

#[tokio::test]
async fn sessions_of_a_moved_one_end_as_documented() {
    check_end(true).await;
}
