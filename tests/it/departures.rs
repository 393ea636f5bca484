//! What ends when entry points are removed or moved, and how; and what goes on when a successor dies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::house::{
    House, KEPT, ask, client, echo, free, get, lines, listening, refuses, says_back, texts, until_refused, websocket,
};
use crate::harness::peer::{End, Peer};

const HELD: &str = "GET /held HTTP/1.1\r\nHost: a\r\n\r\n";

fn at(name: &str, address: SocketAddr, options: &str) -> String {
    format!("{name}: {{address: '{address}'{options}}}")
}

/// A request that the server has got and does not answer yet.
async fn held(house: &House, address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address).await;
    let before = house.server.count();
    peer.send(HELD).await;
    house.server.until_count(before + 1).await;
    peer
}

/// An entry point that is removed, or moved, ends by its own times as a process does: it accepts for a while, requests and then
/// WebSockets have their time, and idle connections go cleanly.
async fn check_end(is_moved: bool) {
    let [web_at, old, new] = [free(), free(), free()];
    let times = ", transport: {lifeCycle: {requestAcceptGraceTimeout: 700ms, graceTimeOut: 600ms}}";
    let drain = "drain: {webSocketTimeout: 1200ms, idleSpread: 100ms}";
    let web = at("web", web_at, "");
    let house = House::with(&[&web, &at("more", old, times)], drain, "").await;
    let (mut requested, mut tunnel) = (held(&house, old).await, websocket(old).await);
    let [mut kept, mut idle] = [Peer::connect(old).await, Peer::connect(old).await];
    for peer in [&mut kept, &mut idle] {
        assert_eq!(peer.get("/x", "").await.header("connection"), KEPT);
    }
    let mut steady = Peer::connect(web_at).await;
    let moved = at("more", new, times);
    let after: &[&str] = if is_moved { &[&web, &moved] } else { &[&web] };
    let started = Instant::now();
    house.write(after, drain);
    let told = house.gateway.told("reload").await;
    let line = match is_moved {
        true => format!("in force: entryPoints.more.address: \"{old}\" -> \"{new}\""),
        false => "in force: entryPoints.more: set -> not set".to_owned(),
    };
    assert_eq!((told.code, lines(&told)), (Some(0), vec![&*line]), "{told:?}");
    if is_moved {
        assert_eq!(get(new, "/only").await, 200);
    }
    // It goes on accepting, by the routes that it had, and says that it ends.
    for peer in [&mut Peer::connect(old).await, &mut kept] {
        let answer = peer.get("/only", "").await;
        assert_eq!((answer.header("x-tag"), answer.header("connection")), (Some("only"), Some("close")), "{answer:?}");
    }
    until_refused(old).await;
    let closed = started.elapsed();
    assert!(closed >= Duration::from_millis(700), "it accepts for its time: {closed:?}");
    assert_eq!(idle.end().await, End::Closed, "cleanly");
    says_back(&mut tunnel, "still there").await;
    // A request that takes longer than it may is cut, then the WebSocket.
    assert!(requested.response_to("GET").await.is_err());
    let cut = started.elapsed();
    assert!(cut >= Duration::from_millis(1300), "{cut:?}");
    says_back(&mut tunnel, "and longer").await;
    tunnel.end().await;
    let ended = started.elapsed();
    assert!(ended >= Duration::from_millis(1900), "{ended:?}");
    // Nobody else has noticed.
    assert_eq!(steady.get("/x", "").await.header("connection"), KEPT);
    if is_moved {
        assert_eq!(get(new, "/only").await, 200);
    }
}

#[tokio::test]
async fn what_is_removed_ends_as_in_a_stop() {
    check_end(false).await;
}

#[tokio::test]
async fn what_has_moved_ends_at_its_old_address_as_in_a_stop() {
    check_end(true).await;
}

/// Requests that end in time are answered, and who comes back to the address is served at once.
#[tokio::test]
async fn what_ends_in_time_is_not_cut_and_an_address_may_be_taken_up_again() {
    let [web_at, old, new] = [free(), free(), free()];
    let times = ", transport: {lifeCycle: {requestAcceptGraceTimeout: 1h, graceTimeOut: 1h}}";
    let (web, more) = (at("web", web_at, ""), at("more", old, times));
    let house = House::start(&[&web, &more], "").await;
    let (mut removed, mut tunnel) = (held(&house, old).await, websocket(old).await);
    let started = Instant::now();
    house.follow(&[&web]).await;
    assert!(started.elapsed() < Duration::from_secs(5), "a reload waits for nobody's hour: {:?}", started.elapsed());
    assert_eq!(get(old, "/only").await, 200);
    house.follow(&[&web, &more]).await;
    let answer = Peer::connect(old).await.get("/only", "").await;
    assert_eq!((answer.status, answer.header("connection")), (200, KEPT), "it is there again: {answer:?}");
    house.follow(&[&web, &at("more", new, times)]).await;
    let mut moved = held(&house, old).await;
    // Another takes the address of one that still accepts: who comes from now on is its own.
    house.follow(&[&web, &at("more", new, times), &at("other", old, "")]).await;
    for _ in 0..5 {
        let answer = Peer::connect(old).await.get("/only", "").await;
        assert_eq!((answer.header("x-tag"), answer.header("connection")), (None, KEPT), "{answer:?}");
    }
    for peer in [&mut removed, &mut moved] {
        house.server.go();
        assert_eq!(peer.response_to("GET").await.unwrap().text(), "held");
    }
    says_back(&mut tunnel, "still there").await;
}

/// Entry points that are not those of the start are served by the old process again when the new one dies, with what they have in
/// force; and what was on its way out stays on it.
#[tokio::test]
async fn a_successor_that_dies_leaves_changed_entry_points_as_they_were() {
    let [web_at, old, new, extra_at, gone_at] = [free(), free(), free(), free(), free()];
    let start = [at("web", web_at, ""), at("more", old, ""), at("gone", gone_at, "")];
    let mut house = House::start(&texts(&start), "").await;
    let mut tunnels = [websocket(web_at).await, websocket(old).await, websocket(gone_at).await];
    let strict = ", http: {encodedCharacters: {allowEncodedSlash: false}}";
    let changed = [at("web", web_at, strict), at("more", new, ""), at("extra", extra_at, "")];
    house.follow(&texts(&changed)).await;
    let mut late = websocket(extra_at).await;
    let first = house.gateway.pid();
    for round in 0..2 {
        house.upgrade().await;
        assert_eq!(get(web_at, "/a%2Fb").await, 400, "{round}");
        house.lose_heir().await;
        assert_eq!((get(web_at, "/a%2Fb").await, get(web_at, "/x").await), (400, 200), "{round}");
        assert_eq!((get(new, "/only").await, get(extra_at, "/x").await), (200, 200), "{round}");
        assert!(refuses(old).await && refuses(gone_at).await, "{round}");
        let mut kept = Peer::connect(new).await;
        for _ in 0..2 {
            assert_eq!(kept.get("/only", "").await.header("connection"), KEPT, "{round}");
        }
        for tunnel in tunnels.iter_mut().chain([&mut late]) {
            says_back(tunnel, "still there").await;
        }
        assert_eq!(listening(first), 3, "{round}");
    }
    // And it follows reloads and upgrades as before.
    house.follow(&texts(&start)).await;
    assert_eq!((get(web_at, "/a%2Fb").await, get(old, "/x").await, get(gone_at, "/x").await), (200, 200, 200));
    let heir = house.upgrade().await;
    assert_eq!((get(web_at, "/x").await, get(old, "/x").await, get(gone_at, "/x").await), (200, 200, 200));
    assert_eq!(listening(heir), 3);
}

/// While the old process drains, it has duplicates of the sockets. Where the new one has none any more, nobody is to wait in vain; and
/// when the new one dies, all are open again.
#[tokio::test]
async fn nobody_waits_for_a_process_that_only_drains() {
    let [web_at, moved, more_at, extra_at] = [free(), free(), free(), free()];
    let [web, more, extra] = [at("web", web_at, ""), at("more", more_at, ""), at("extra", extra_at, "")];
    let mut house = House::start(&[&web, &more, &extra], "").await;
    let mut tunnel = websocket(web_at).await;
    // Gone by the upgrade.
    house.write(&[&web, &extra], "");
    house.upgrade().await;
    until_refused(more_at).await;
    // Gone by a reload after it, and moved back and forth.
    house.follow(&[&at("web", moved, "")]).await;
    until_refused(extra_at).await;
    until_refused(web_at).await;
    assert_eq!(get(moved, "/x").await, 200);
    house.follow(&[&web]).await;
    assert_eq!(get(web_at, "/x").await, 200);
    house.follow(&[&web, &more]).await;
    assert_eq!((get(web_at, "/x").await, get(more_at, "/x").await), (200, 200));
    says_back(&mut tunnel, "the old process").await;
    house.lose_heir().await;
    for address in [web_at, more_at, extra_at] {
        assert_eq!(get(address, "/x").await, 200, "{address}");
    }
    assert!(refuses(moved).await);
    says_back(&mut tunnel, "the old process").await;
    house.upgrade().await;
    assert_eq!((get(web_at, "/x").await, get(more_at, "/x").await), (200, 200));
}

/// What a successor would do with a socket is done when it serves, and not by one that comes to nothing.
#[tokio::test]
async fn a_refused_successor_lets_nobody_in() {
    let [web_at, dns_at] = [free(), free()];
    let web = at("web", web_at, "");
    let dns = |options: &str| format!("dns: {{address: '{dns_at}/udp'{options}}}");
    let mut house = House::start(&[&web, &dns("")], "").await;
    let join = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&dns_at.into())
    };
    let _tunnel = websocket(web_at).await;
    house.write(&[&web, &dns(", reusePort: true")], "");
    let dynamic = house.gateway.folder().join("dynamic.yaml");
    let good = std::fs::read(&dynamic).unwrap();
    std::fs::write(&dynamic, "http: [").unwrap();
    let told = house.gateway.told("upgrade").await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(join().is_err());
    std::fs::write(&dynamic, good).unwrap();
    house.upgrade().await;
    assert!(join().is_ok());
    house.lose_heir().await;
    assert!(join().is_err(), "as the process has it that serves again");
}

/// What is on its way out may be wanted again by an upgrade: its address is in use, and goes along.
#[tokio::test]
async fn an_upgrade_takes_up_what_a_reload_has_left() {
    let [web_at, more_at, dns_at] = [free(), free(), free()];
    let server = echo("a").await;
    let udp = format!(
        "udp: {{routers: {{r: {{service: s}}}}, services: {{s: {{loadBalancer: {{servers: [{{address: '{server}'}}]}}}}}}}}\n"
    );
    let times = ", transport: {lifeCycle: {requestAcceptGraceTimeout: 1h, graceTimeOut: 1h}}";
    let web = at("web", web_at, "");
    let dns = format!("dns: {{address: '{dns_at}/udp', udp: {{timeout: 1h}}}}");
    let all = [&*web, &at("more", more_at, times), &dns];
    let mut house = House::start(&all, &udp).await;
    let session = client(dns_at).await;
    let first = ask(&session).await;
    let (mut requested, mut tunnel) = (held(&house, more_at).await, websocket(more_at).await);
    house.follow(&[&web]).await;
    assert_eq!(ask(&session).await, first, "it goes on while it is on its way out");
    house.write(&all, "");
    house.upgrade().await;
    for _ in 0..10 {
        assert_eq!(Peer::connect(more_at).await.get("/only", "").await.header("connection"), KEPT);
    }
    assert_ne!(ask(&session).await, first, "the new process has a session of its own");
    house.server.go();
    assert_eq!(requested.response_to("GET").await.unwrap().text(), "held");
    says_back(&mut tunnel, "the old process").await;
    // One that has been left and taken up again is one socket.
    house.follow(&[&web]).await;
    house.follow(&all).await;
    let again = client(dns_at).await;
    let session = ask(&again).await;
    let heir = house.upgrade().await;
    assert_eq!(listening(heir), 2);
    let next = ask(&again).await;
    assert_ne!(next, session);
    for _ in 0..10 {
        assert_eq!(ask(&again).await, next, "one socket, and one session");
    }
}
