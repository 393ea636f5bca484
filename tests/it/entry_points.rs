//! Entry points that are added, changed and removed by a reload, while clients are there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::harness::house::{
    House, KEPT, ask, client, echo, free, get, lines, listening, refuses, says_back, texts, websocket,
};
use crate::harness::peer::{PATIENCE, Peer, soon, until};
use crate::tcp::parrot;

#[tokio::test]
async fn entry_points_are_added_changed_and_removed() {
    let [at, more] = [free(), free()];
    let web = format!("web: {{address: '{at}'}}");
    let house = House::start(&[&web], "").await;
    let mut steady = Peer::connect(at).await;
    let told = house.follow(&[&web]).await;
    assert!(told.err.contains("entryPoint \"more\" doesn't exist"), "{told:?}");
    assert_eq!(lines(&told), [""; 0]);

    // Added: routers that name it are valid, routers that name none are served there as well.
    let told = house.follow(&[&web, &format!("more: {{address: '{more}'}}")]).await;
    assert_eq!((lines(&told), told.err.as_str()), (vec!["in force: entryPoints.more: not set -> set"], ""));
    assert_eq!((get(more, "/only").await, get(more, "/x").await, get(at, "/x").await), (200, 200, 200));

    // What routers are told changes for connections that are there, and these do not notice.
    let mut kept = Peer::connect(more).await;
    assert_eq!(kept.get("/x", "").await.header("x-tag"), None);
    let told = house.follow(&[&web, &format!("more: {{address: '{more}', http: {{middlewares: [tag]}}}}")]).await;
    assert_eq!(lines(&told), ["in force: entryPoints.more.http.middlewares: not set -> [\"tag\"]"]);
    let answer = kept.get("/x", "").await;
    assert_eq!((answer.header("x-tag"), answer.header("connection")), (Some("only"), KEPT), "{answer:?}");

    // What connections are told holds for those that come; those that are there are ended with an answer.
    let options = "encodedCharacters: {allowEncodedSlash: false}";
    house.follow(&[&web, &format!("more: {{address: '{more}', http: {{{options}}}}}")]).await;
    let answer = kept.get("/a%2Fb", "").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
    assert_eq!((get(more, "/a%2Fb").await, get(at, "/a%2Fb").await), (400, 200));

    // Removed: nobody gets in, and who is there has an answer. Routers that name it are told.
    let mut late = Peer::connect(more).await;
    assert_eq!(late.get("/x", "").await.status, 200);
    let mut held = Peer::connect(more).await;
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let asked = house.server.count() + 1;
    house.server.until_count(asked).await;
    let told = house.follow(&[&web]).await;
    assert_eq!(lines(&told), ["in force: entryPoints.more: set -> not set"]);
    assert!(told.err.contains("entryPoint \"more\" doesn't exist"), "{told:?}");
    assert!(refuses(more).await, "it is closed when the reload is over");
    let answer = late.get("/only", "").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
    house.server.go();
    assert_eq!(held.response_to("GET").await.unwrap().text(), "held");

    // And back, with one connection for all of it at the entry point that was not changed.
    house.follow(&[&web, &format!("more: {{address: '{more}'}}")]).await;
    assert_eq!((get(more, "/only").await, get(more, "/a%2Fb").await), (200, 200));
    let answer = steady.get("/x", "").await;
    assert_eq!((answer.status, answer.header("connection")), (200, KEPT), "{answer:?}");
}

/// Clients that go on until they are told, and count what went wrong.
#[derive(Default)]
struct Traffic {
    over: AtomicBool,
    done: AtomicUsize,
    failed: AtomicUsize,
}

impl Traffic {
    fn judge(&self, good: bool) {
        if good { &self.done } else { &self.failed }.fetch_add(1, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    async fn until_done(&self, count: usize) {
        let by = Instant::now() + PATIENCE;
        while self.done.load(Ordering::SeqCst) < count {
            assert!(
                Instant::now() < by,
                "{} done, {} failed",
                self.done.load(Ordering::SeqCst),
                self.failed.load(Ordering::SeqCst)
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// One request after the other; a connection that was announced to close is replaced.
    async fn keep_alive(self: Arc<Self>, address: SocketAddr) {
        while !self.is_over() {
            let Ok(stream) = TcpStream::connect(address).await else { return self.judge(false) };
            let mut peer = Peer::of(stream);
            loop {
                peer.try_send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
                let answer = peer.response_to("GET").await;
                self.judge(answer.as_ref().is_ok_and(|answer| answer.status == 200));
                let closes = answer.map_or(true, |answer| answer.header("connection") == Some("close"));
                if closes || self.is_over() {
                    break;
                }
            }
        }
    }

    /// A connection for each request.
    async fn new_connections(self: Arc<Self>, address: SocketAddr) {
        while !self.is_over() {
            let Ok(stream) = TcpStream::connect(address).await else { return self.judge(false) };
            let mut peer = Peer::of(stream);
            let sent = peer.try_send("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            self.judge(sent && peer.response_to("GET").await.is_ok_and(|answer| answer.status == 200));
        }
    }

    /// Requests of HTTP/2, several at a time; a connection that is ended by GOAWAY is replaced.
    async fn http2(self: Arc<Self>, address: SocketAddr) {
        while !self.is_over() {
            let Ok(stream) = TcpStream::connect(address).await else { return self.judge(false) };
            let Ok((mut send, connection)) = h2::client::handshake(stream).await else {
                return self.judge(false);
            };
            let connection = tokio::spawn(connection);
            while !self.is_over() {
                // It is not ready once it was told to go.
                match soon(std::future::poll_fn(|cx| send.poll_ready(cx))).await {
                    Ok(()) => {}
                    Err(_) => break,
                }
                let request = http::Request::get("http://a/x").body(()).unwrap();
                let answers: Vec<_> = (0..3).map_while(|_| send.send_request(request.clone(), true).ok()).collect();
                for (answer, _) in answers {
                    match soon(answer).await {
                        Ok(answer) => self.judge(answer.status() == 200),
                        // Not one that the server had begun with: the client is told so, and asks again.
                        Err(error) if error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM) => {}
                        Err(_) => self.judge(false),
                    }
                }
            }
            connection.abort();
        }
    }
}

/// A change of every kind after the other, while clients of every kind are there, and an upgrade at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_load_lose_nothing() {
    let [a, b, tunnels, extra] = [free(), free(), free(), free()];
    let talker = parrot("hello ").await;
    let tcp = format!(
        "tcp:
  routers: {{talk: {{rule: 'HostSNI(`*`)', entryPoints: [tunnels], service: talker}}}}
  services: {{talker: {{loadBalancer: {{servers: [{{address: '{talker}'}}]}}}}}}
"
    );
    let at = |web: SocketAddr, side: SocketAddr, options: &str, tunnel_options: &str, extra: Option<SocketAddr>| {
        let mut lines = vec![
            format!("web: {{address: '{web}', asDefault: true{options}}}"),
            format!("side: {{address: '{side}', asDefault: true}}"),
            format!("tunnels: {{address: '{tunnels}'{tunnel_options}}}"),
        ];
        lines.extend(extra.map(|extra| format!("extra: {{address: '{extra}'}}")));
        lines
    };
    let start = at(a, b, "", "", None);
    let mut house = House::start(&texts(&start), &tcp).await;
    let traffic = Arc::new(Traffic::default());
    let mut clients = Vec::new();
    for address in [a, b] {
        clients.push(tokio::spawn(traffic.clone().keep_alive(address)));
        clients.push(tokio::spawn(traffic.clone().new_connections(address)));
        clients.push(tokio::spawn(traffic.clone().http2(address)));
    }
    let mut sockets = [websocket(a).await, websocket(b).await];
    let mut tunnel = Peer::connect(tunnels).await;
    assert_eq!(tunnel.bytes(6).await, b"hello ");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
    let changes = [
        at(a, b, "", "", Some(extra)),
        at(a, b, ", limits: {headTimeout: 7s}", "", Some(extra)),
        at(a, b, ", http2: {maxConcurrentStreams: 9}", ", transport: {respondingTimeouts: {idleTimeout: 50s}}", None),
        // They swap.
        at(b, a, "", "", None),
        at(b, a, ", http: {middlewares: [tag]}", "", Some(extra)),
        // And back, with other options.
        at(a, b, ", http: {sanitizePath: false}", "", None),
        at(a, b, "", "", Some(taken.1)),
    ];
    for (round, lines) in changes.iter().chain(&changes).enumerate() {
        house.write(&texts(lines), "");
        // Two at once are one after the other.
        let (one, other) = tokio::join!(house.gateway.told("reload"), house.gateway.told("reload"));
        let fails = lines.iter().any(|line| line.contains(&taken.1.to_string()));
        let expected = Some(i32::from(fails));
        assert_eq!((one.code, other.code), (expected, expected), "{round}: {one:?} {other:?}");
        let done = traffic.done.load(Ordering::SeqCst);
        traffic.until_done(done + 60).await;
        for socket in &mut sockets {
            says_back(socket, "ping").await;
        }
        says_back(&mut tunnel, "still there").await;
    }
    house.write(&texts(&start), "");
    assert_eq!(house.gateway.told("reload").await.code, Some(0));
    let heir = house.upgrade().await;
    let done = traffic.done.load(Ordering::SeqCst);
    traffic.until_done(done + 100).await;
    traffic.over.store(true, Ordering::SeqCst);
    for client in clients {
        soon(client).await.unwrap();
    }
    assert_eq!(traffic.failed.load(Ordering::SeqCst), 0, "of {}", traffic.done.load(Ordering::SeqCst));
    assert_eq!(listening(heir), 3, "and no socket of one that is gone");
    for socket in &mut sockets {
        says_back(socket, "the old process").await;
    }
}

#[tokio::test]
async fn addresses_are_swapped() {
    let [one, two] = [free(), free()];
    let at = |a: SocketAddr, b: SocketAddr| {
        [
            format!("a: {{address: '{a}', http: {{encodedCharacters: {{allowEncodedSlash: false}}}}}}"),
            format!("b: {{address: '{b}'}}"),
        ]
    };
    let house = House::start(&texts(&at(one, two)), "").await;
    assert_eq!((get(one, "/a%2Fb").await, get(two, "/a%2Fb").await), (400, 200));
    let mut kept = Peer::connect(two).await;
    assert_eq!(kept.get("/a%2Fb", "").await.status, 200);
    let after = at(two, one);
    let told = house.follow(&texts(&after)).await;
    assert_eq!(lines(&told).len(), 2, "{told:?}");
    assert_eq!((get(two, "/a%2Fb").await, get(one, "/a%2Fb").await), (400, 200));
    // Who was there before is served as before, and sent away.
    let answer = kept.get("/a%2Fb", "").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
    // A name that is new at an address that is not.
    let renamed = format!("c: {{address: '{one}'}}");
    house.follow(&[&after[0], &renamed]).await;
    assert_eq!((get(two, "/a%2Fb").await, get(one, "/a%2Fb").await), (400, 200));
}

#[tokio::test]
async fn a_failing_bind_is_told_and_the_rest_acts() {
    let [at, more, third] = [free(), free(), free()];
    let blocker = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = blocker.local_addr().unwrap();
    let house = House::start(&[&format!("web: {{address: '{at}'}}"), &format!("b: {{address: '{third}'}}")], "").await;
    let mut kept = Peer::connect(at).await;
    assert_eq!(kept.get("/x", "").await.status, 200);
    let wanted = [
        format!("web: {{address: '{taken}', http: {{sanitizePath: false}}}}"),
        format!("more: {{address: '{more}'}}"),
        format!("b: {{address: '{at}'}}"),
    ];
    let wanted = texts(&wanted);
    for _ in 0..2 {
        let told = house.reload(&wanted).await;
        assert_eq!(told.code, Some(1), "{told:?}");
        let mistake = format!("entryPoints.web.address: cannot listen on {taken}: Address already in use");
        assert!(told.err.contains(&mistake) && told.err.contains("the entry point stays as it was"), "{told:?}");
        // It had counted on the address that `web` would leave.
        assert!(told.err.contains(&format!("entryPoints.b.address: cannot listen on {at}")), "{told:?}");
        assert!(!told.out.contains("waits for"), "{told:?}");
        until(|| house.gateway.log().contains(&mistake)).await;
        assert_eq!((get(at, "/x").await, get(more, "/only").await, get(third, "/x").await), (200, 200, 200));
    }
    let answer = kept.get("/x", "").await;
    assert_eq!((answer.status, answer.header("connection")), (200, KEPT), "{answer:?}");
    // Once it is free, the next reload has it.
    drop(blocker);
    let told = house.follow(&wanted).await;
    assert_eq!(told.err, "", "{told:?}");
    assert_eq!((get(taken, "/x").await, get(at, "/x").await, get(more, "/only").await), (200, 200, 200));
    assert!(refuses(third).await);
}

/// One whose redirection leads to an entry point that could not be opened would send clients nowhere.
#[tokio::test]
async fn nobody_is_redirected_to_what_is_not_open() {
    let [at, secure] = [free(), free()];
    let blocker = std::net::TcpListener::bind(secure).unwrap();
    let house = House::start(&[&format!("web: {{address: '{at}'}}")], "").await;
    let wanted = [
        format!("web: {{address: '{at}', http: {{redirections: {{entryPoint: {{to: secure, scheme: http}}}}}}}}"),
        format!("secure: {{address: '{secure}'}}"),
    ];
    let wanted = texts(&wanted);
    let told = house.reload(&wanted).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains(&format!("cannot listen on {secure}")), "{told:?}");
    assert!(
        told.err.contains("entryPoints.web.http.redirections.entryPoint.to: there is no entry point `secure`"),
        "{told:?}"
    );
    assert_eq!(get(at, "/x").await, 200);
    drop(blocker);
    house.follow(&wanted).await;
    let answer = Peer::connect(at).await.get("/x", "").await;
    assert_eq!((answer.status, answer.header("location")), (301, Some(&*format!("http://a.test:{}/x", secure.port()))));
    assert_eq!(get(secure, "/x").await, 200);
    // It goes with the entry point that it leads to: neither can go alone.
    let told = house.reload(&wanted[..1]).await;
    assert!(told.err.contains("there is no entry point `secure`"), "{told:?}");
    assert_eq!((get(at, "/x").await, get(secure, "/x").await), (301, 200));
    house.follow(&[&format!("web: {{address: '{at}'}}")]).await;
    assert_eq!(get(at, "/x").await, 200);
}

/// Addresses that overlap: the one that is about to be closed is not in the way of the other.
#[tokio::test]
async fn an_address_grows_and_shrinks() {
    let at = free();
    let everywhere = format!(":{}", at.port());
    let house = House::start(&[&format!("web: {{address: '{at}'}}")], "").await;
    assert_eq!(get(at, "/x").await, 200);
    house.follow(&[&format!("web: {{address: '{everywhere}'}}")]).await;
    assert_eq!(get(at, "/x").await, 200);
    house.follow(&[&format!("web: {{address: '{at}'}}")]).await;
    assert_eq!(get(at, "/x").await, 200);
    house.follow(&[&format!("other: {{address: '{everywhere}'}}")]).await;
    assert_eq!(get(at, "/x").await, 200);
}

/// Another process that joins an address, if it may.
pub(crate) fn join(address: SocketAddr, kind: socket2::Type) -> std::io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None)?;
    if kind == socket2::Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[tokio::test]
async fn others_may_join_an_address() {
    let [at, udp_at] = [free(), free()];
    let lines_of = |options: &str| {
        [format!("web: {{address: '{at}'{options}}}"), format!("dns: {{address: '{udp_at}/udp'{options}}}")]
    };
    let house = House::start(&texts(&lines_of("")), "").await;
    let may_join = || (join(at, socket2::Type::STREAM).is_ok(), join(udp_at, socket2::Type::DGRAM).is_ok());
    assert_eq!(may_join(), (false, false));
    let mut kept = Peer::connect(at).await;
    house.follow(&texts(&lines_of(", reusePort: true"))).await;
    assert_eq!(may_join(), (true, true));
    assert_eq!(kept.get("/x", "").await.header("connection"), KEPT);
    // Nobody else is let in from now on, as far as the system allows: for TCP it does not.
    let told = house.follow(&texts(&lines_of(""))).await;
    let in_force = |name: &str| format!("in force: entryPoints.{name}.reusePort: true -> not set");
    assert_eq!(lines(&told), [in_force("dns"), in_force("web")], "{told:?}");
    let warning = "warning: entryPoints.web.reusePort: processes of the same user can join until the address is closed";
    assert!(told.err.contains(warning) && !told.err.contains("dns"), "{told:?}");
    assert_eq!(may_join(), (true, false));
    assert_eq!(kept.get("/x", "").await.header("connection"), KEPT);
}

/// Where several sockets share the clients of an address, their sessions would be lost: that waits, and is named.
#[tokio::test]
async fn sockets_that_share_their_clients_stay_so_until_an_upgrade() {
    let [at, udp_at] = [free(), free()];
    let web = format!("web: {{address: '{at}'}}");
    let dns = |options: &str| format!("dns: {{address: '{udp_at}/udp'{options}}}");
    let mut house = House::start(&[&web, &dns(", reusePort: true")], "").await;
    let told = house.follow(&[&web, &dns("")]).await;
    assert_eq!(
        lines(&told),
        ["waits for `portcullis upgrade`: entryPoints.dns.reusePort: true -> not set"],
        "{told:?}"
    );
    assert!(join(udp_at, socket2::Type::DGRAM).is_ok());
    house.upgrade().await;
    assert!(join(udp_at, socket2::Type::DGRAM).is_err());
}

/// An entry point that is gone ends as a process does, by its own times. One of other options has no reason to cut anybody off.
#[tokio::test]
async fn only_what_is_removed_is_cut_off() {
    let [at, more] = [free(), free()];
    let drain = "drain: {webSocketTimeout: 300ms, timeout: 200ms, idleSpread: 100ms}";
    let web = |options: &str| format!("web: {{address: '{at}'{options}}}");
    let house = House::with(&[&web(""), &format!("more: {{address: '{more}'}}")], drain, "").await;
    let (mut here, mut there) = (websocket(at).await, websocket(more).await);
    let mut idle = Peer::connect(at).await;
    assert_eq!(idle.get("/x", "").await.status, 200);
    house.write(&[&web(", limits: {maxHeaderFields: 50}")], drain);
    let told = house.gateway.told("reload").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    says_back(&mut here, "one").await;
    says_back(&mut there, "two").await;
    there.end().await;
    idle.end().await;
    says_back(&mut here, "three").await;
    assert_eq!(get(at, "/x").await, 200);
}

#[tokio::test]
async fn a_limit_counts_those_from_before() {
    let at = free();
    let web = |most: usize, fields: usize| {
        format!("web: {{address: '{at}', limits: {{maxConnections: {most}, maxHeaderFields: {fields}}}}}")
    };
    let house = House::start(&[&web(2, 50)], "").await;
    let mut both = [websocket(at).await, websocket(at).await];
    for fields in 51..54 {
        house.follow(&[&web(2, fields)]).await;
        assert_eq!(Peer::connect(at).await.try_answer().await.unwrap().status, 503);
    }
    house.follow(&[&web(3, 50)]).await;
    assert_eq!(get(at, "/x").await, 200);
    for socket in &mut both {
        says_back(socket, "still there").await;
    }
}

#[tokio::test]
async fn what_is_counted_goes_with_its_entry_point() {
    let [at, more] = [free(), free()];
    let metrics = "metrics: {prometheus: {entryPoint: web}}";
    let web = format!("web: {{address: '{at}'}}");
    let more_at = format!("more: {{address: '{more}'}}");
    let house = House::with(&[&web, &more_at], metrics, "").await;
    let page = async || Peer::connect(at).await.get("/metrics", "").await.text().to_owned();
    let mut socket = websocket(more).await;
    let open = |page: &str, count: usize| {
        page.contains(&format!("traefik_open_connections{{entrypoint=\"more\",protocol=\"TCP\"}} {count}"))
    };
    assert!(open(&page().await, 1), "{}", page().await);
    house.write(&[&web], metrics);
    assert_eq!(house.gateway.told("reload").await.code, Some(0));
    says_back(&mut socket, "still there").await;
    assert!(open(&page().await, 1));
    drop(socket);
    let by = Instant::now() + PATIENCE;
    while page().await.contains("entrypoint=\"more\"") {
        assert!(Instant::now() < by, "{}", page().await);
    }
    house.write(&[&web, &more_at], metrics);
    assert_eq!(house.gateway.told("reload").await.code, Some(0));
    assert_eq!(get(more, "/x").await, 200);
    assert!(page().await.contains("entrypoint=\"more\""));
}

#[tokio::test]
async fn datagrams_follow() {
    let [web, one, two, three] = [free(), free(), free(), free()];
    let (a, b) = (echo("a").await, echo("b").await);
    let udp = format!(
        "udp:
  routers: {{a: {{entryPoints: [a], service: a}}, b: {{entryPoints: [b], service: b}}}}
  services:
    a: {{loadBalancer: {{servers: [{{address: '{a}'}}]}}}}
    b: {{loadBalancer: {{servers: [{{address: '{b}'}}]}}}}
"
    );
    let web = format!("web: {{address: '{web}'}}");
    let at = |name: &str, address: SocketAddr, seconds: u32| {
        format!("{name}: {{address: '{address}/udp', udp: {{timeout: {seconds}s}}}}")
    };
    let mut house = House::start(&[&web, &at("a", one, 60)], &udp).await;
    let first = client(one).await;
    let session = ask(&first).await;
    // One is added; other times hold, and the session goes on.
    house.follow(&[&web, &at("a", one, 60), &at("b", two, 60)]).await;
    house.follow(&[&web, &at("a", one, 50), &at("b", two, 60)]).await;
    assert_eq!(ask(&first).await, session);
    let second = client(two).await;
    assert!(ask(&second).await.starts_with("b "));
    // They swap: whoever goes on is answered by the other.
    house.follow(&[&web, &at("a", two, 50), &at("b", one, 60)]).await;
    assert!(ask(&first).await.starts_with("b ") && ask(&second).await.starts_with("a "));
    // One moves: its session goes on at the old address, and nobody gets a new one there.
    house.follow(&[&web, &at("a", three, 50), &at("b", one, 60)]).await;
    let third = client(three).await;
    assert!(ask(&third).await.starts_with("a ") && ask(&second).await.starts_with("a "));
    // It comes back to where sessions of its own still are.
    house.follow(&[&web, &at("a", two, 50), &at("b", one, 60)]).await;
    assert!(ask(&client(two).await).await.starts_with("a ") && ask(&second).await.starts_with("a "));
    // An upgrade hands over what there is.
    house.upgrade().await;
    assert!(ask(&first).await.starts_with("b ") && ask(&second).await.starts_with("a "));
    house.follow(&[&web, &at("b", one, 60)]).await;
    assert!(ask(&first).await.starts_with("b "));
}

/// Whatever connections are told: the next one knows.
#[tokio::test]
async fn options_of_all_kinds_act() {
    let at = free();
    let house = House::start(&[&format!("web: {{address: '{at}'}}")], "").await;
    let follow = async |options: &str| {
        house.follow(&[&format!("web: {{address: '{at}', {options}}}")]).await;
    };
    let asked = async |fields: &str| {
        let answer = Peer::connect(at).await.get("/x", fields).await;
        (answer.status, house.server.last().header("x-forwarded-for").map(str::to_owned))
    };
    let forwarded = "X-Forwarded-For: 192.0.2.1\r\n";
    assert_eq!(asked(forwarded).await, (200, Some("127.0.0.1".to_owned())));
    follow("forwardedHeaders: {trustedIPs: [127.0.0.1]}").await;
    assert_eq!(asked(forwarded).await, (200, Some("192.0.2.1, 127.0.0.1".to_owned())));

    follow("proxyProtocol: {insecure: true}").await;
    let mut peer = Peer::connect(at).await;
    peer.send("PROXY TCP4 192.0.2.7 192.0.2.8 5 80\r\n").await;
    assert_eq!(peer.get("/x", "").await.status, 200);
    assert_eq!(house.server.last().header("x-forwarded-for"), Some("192.0.2.7"));

    follow("transport: {keepAliveMaxRequests: 1}").await;
    assert_eq!(Peer::connect(at).await.get("/x", "").await.header("connection"), Some("close"));

    follow("limits: {maxRequestTarget: 10}").await;
    assert_eq!((get(at, "/x").await, get(at, "/xxxxxxxxxxxxxxx").await), (200, 414));

    // Routers are for TLS only then, also for who is connected.
    follow("limits: {maxRequestTarget: 1000}").await;
    let mut kept = Peer::connect(at).await;
    assert_eq!(kept.get("/x", "").await.status, 200);
    follow("limits: {maxRequestTarget: 1000}, http: {tls: {}}").await;
    let answer = kept.get("/x", "").await;
    assert_eq!((answer.status, answer.header("connection")), (404, KEPT), "{answer:?}");
    follow("limits: {maxRequestTarget: 1000}").await;
    assert_eq!(kept.get("/x", "").await.status, 200);

    // One that no router is to be served at by default is asked for by name.
    let more = free();
    let both = [format!("web: {{address: '{at}', asDefault: true}}"), format!("more: {{address: '{more}'}}")];
    house.follow(&texts(&both)).await;
    assert_eq!((get(at, "/x").await, get(more, "/x").await, get(more, "/only").await), (200, 404, 200));
}
