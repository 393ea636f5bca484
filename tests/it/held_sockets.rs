//! Entry points on sockets that systemd has bound and holds as well: kept, changed, removed and added by a reload, and handed over.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::harness::house::{House, KEPT, ask, client, echo, free, get, lines, refuses, says_back, websocket};
use crate::harness::peer::{PATIENCE, Peer, soon, until};

const ASKS: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sockets as systemd would bind them, and keep.
struct Manager {
    tcp: Vec<TcpListener>,
    udp: UdpSocket,
}

impl Manager {
    fn new() -> Self {
        let tcp = (0..2).map(|_| TcpListener::bind(free()).unwrap()).collect();
        Self { tcp, udp: UdpSocket::bind(free()).unwrap() }
    }

    /// Two for TCP, and one for UDP.
    fn addresses(&self) -> [SocketAddr; 3] {
        let [first, second] = [&self.tcp[0], &self.tcp[1]].map(|tcp| tcp.local_addr().unwrap());
        [first, second, self.udp.local_addr().unwrap()]
    }

    fn passed(&self) -> Vec<(&'static str, OwnedFd)> {
        let [first, second] = [&self.tcp[0], &self.tcp[1]].map(|tcp| OwnedFd::from(tcp.try_clone().unwrap()));
        vec![("web", first), ("spare", second), ("dns", self.udp.try_clone().unwrap().into())]
    }
}

/// A client that has connected to a socket which nobody accepts at, and asked.
async fn waiting(address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address).await;
    peer.send(ASKS).await;
    assert!(peer.is_silent_for(Duration::from_millis(50)).await, "nobody accepts there");
    peer
}

/// The same, once whoever still accepts there has stopped: an upgrade is told when the successor accepts, and the process before stops then.
async fn waiting_in_the_end(address: SocketAddr) -> Peer {
    let by = Instant::now() + PATIENCE;
    loop {
        let mut peer = Peer::connect(address).await;
        peer.send(ASKS).await;
        if peer.is_silent_for(Duration::from_millis(50)).await {
            return peer;
        }
        assert!(Instant::now() < by, "somebody accepts there");
    }
}

async fn is_answered(mut peer: Peer) {
    assert_eq!(peer.response_to("GET").await.unwrap().status, 200);
}

fn at(name: &str, address: SocketAddr) -> String {
    format!("{name}: {{address: '{address}'}}")
}

#[tokio::test]
async fn they_are_kept_changed_removed_and_added() {
    let manager = Manager::new();
    let [web_at, spare_at, dns_at] = manager.addresses();
    let [elsewhere, other] = [free(), free()];
    let web = at("web", web_at);
    let server = echo("a").await;
    let udp = format!(
        "udp: {{routers: {{r: {{service: s}}}}, services: {{s: {{loadBalancer: {{servers: [{{address: '{server}'}}]}}}}}}}}\n"
    );
    let house = House::activated(manager.passed(), &[&web], "", &udp).await;
    until(|| house.gateway.log().contains(&format!("systemd listens for spare ({spare_at}/tcp)"))).await;
    let mut kept = Peer::connect(web_at).await;
    assert_eq!(kept.get("/x", "").await.header("connection"), KEPT);

    // Added: whoever waits there is served.
    let (early, early_datagram) = (waiting(spare_at).await, client(dns_at).await);
    early_datagram.send(b"?").await.unwrap();
    let (spare, dns) = (at("spare", spare_at), format!("dns: {{address: '{dns_at}/udp'}}"));
    house.follow(&[&web, &spare, &dns]).await;
    is_answered(early).await;
    let mut buffer = [0; 20];
    assert!(soon(early_datagram.recv(&mut buffer)).await.unwrap() > 2);
    assert!(ask(&early_datagram).await.starts_with("a "));
    assert_eq!(kept.get("/x", "").await.header("connection"), KEPT, "nobody else notices");

    // Changed: the socket goes on with other options.
    let strict = format!("web: {{address: '{web_at}', http: {{encodedCharacters: {{allowEncodedSlash: false}}}}}}");
    house.follow(&[&strict, &spare, &dns]).await;
    assert_eq!(get(web_at, "/a%2Fb").await, 400);
    assert_eq!(kept.get("/a%2Fb", "").await.header("connection"), Some("close"));

    // Another address says nothing: the one of the socket counts, as at the start.
    let mut kept = Peer::connect(web_at).await;
    let moved = at("web", elsewhere);
    house.follow(&[&web, &spare, &dns]).await;
    assert_eq!(kept.get("/x", "").await.status, 200);
    let mut kept = Peer::connect(web_at).await;
    assert_eq!(kept.get("/x", "").await.header("connection"), KEPT);
    let told = house.follow(&[&moved, &spare, &dns]).await;
    let address = format!("in force: entryPoints.web.address: \"{web_at}\" -> \"{elsewhere}\"");
    assert_eq!(lines(&told), [address], "{told:?}");
    let warning = format!("entryPoints.web.address: systemd has bound the socket: it listens on {web_at} all the same");
    assert!(told.err.contains(&warning), "{told:?}");
    assert!(refuses(elsewhere).await);
    assert_eq!(kept.get("/x", "").await.header("connection"), KEPT);
    assert!(!house.follow(&[&moved, &spare, &dns]).await.err.contains("systemd"), "it is told once");

    // An address that systemd has cannot be had by others.
    let told = house.reload(&[&moved, &spare, &dns, &at("other", web_at)]).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("systemd listens there for `web`"), "{told:?}");

    // Removed: systemd listens still, and nobody accepts.
    let told = house.follow(&[&spare, &dns]).await;
    assert_eq!(lines(&told), ["in force: entryPoints.web: set -> not set"]);
    until(|| house.gateway.log().contains(&format!("systemd listens for web ({web_at}/tcp) still"))).await;
    let late = waiting(web_at).await;
    assert_eq!(get(spare_at, "/x").await, 200);
    // And back, wherever it is written to be.
    house.follow(&[&at("web", other), &spare, &dns]).await;
    is_answered(late).await;
    assert!(refuses(other).await);
    // Its place is another's as long as nobody of its name is there.
    house.follow(&[&at("renamed", web_at), &spare]).await;
    assert_eq!((get(web_at, "/x").await, get(spare_at, "/x").await), (200, 200));
    // One for UDP has no use for a socket for TCP, and the other way round.
    house.follow(&[&format!("web: {{address: '{other}/udp'}}"), &at("dns", elsewhere)]).await;
    assert!(ask(&client(other).await).await.starts_with("a "));
    assert_eq!(get(elsewhere, "/x").await, 200);
}

/// One socket is one entry point's: who bears its name has it, and not at once somebody else who asks for its address.
#[tokio::test]
async fn each_is_given_to_one() {
    let manager = Manager::new();
    let [web_at, spare_at, _] = manager.addresses();
    let web = at("web", web_at);
    let house = House::activated(manager.passed(), &[&web], "", "").await;
    let told = house.reload(&[&web, &at("spare", free()), &at("y", spare_at)]).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    let mistake = format!("entryPoints.y.address: cannot listen on {spare_at}: Address already in use");
    assert!(told.err.contains(&mistake) && told.err.contains("systemd listens there for `spare`"), "{told:?}");
    assert_eq!((get(web_at, "/x").await, get(spare_at, "/x").await), (200, 200));
}

/// What came from systemd is known as such in the next process, and the next.
#[tokio::test]
async fn they_are_handed_over_as_what_they_are() {
    let manager = Manager::new();
    let [web_at, spare_at, _] = manager.addresses();
    let elsewhere = free();
    let (web, spare) = (at("web", web_at), at("spare", spare_at));
    let mut house = House::activated(manager.passed(), &[&web], "", "").await;
    let early = waiting(spare_at).await;
    house.upgrade().await;
    assert_eq!(get(web_at, "/x").await, 200);
    // One that nobody had goes along.
    house.follow(&[&web, &spare]).await;
    is_answered(early).await;
    let told = house.follow(&[&at("web", elsewhere), &spare]).await;
    assert!(told.err.contains("systemd has bound the socket"), "{told:?}");
    assert_eq!(get(web_at, "/x").await, 200);
    // And one that is gone when the process is replaced.
    house.write(&[&spare], "");
    house.upgrade().await;
    let late = waiting_in_the_end(web_at).await;
    house.upgrade().await;
    house.follow(&[&at("web", elsewhere), &spare]).await;
    is_answered(late).await;
    // By an upgrade, another address says no more than by a reload.
    let mut tunnel = websocket(web_at).await;
    house.write(&[&at("web", free()), &spare], "");
    house.upgrade().await;
    assert_eq!((get(web_at, "/x").await, get(spare_at, "/x").await), (200, 200));
    assert!(refuses(elsewhere).await);
    // The one before takes over with all of it.
    house.lose_heir().await;
    assert_eq!((get(web_at, "/x").await, get(spare_at, "/x").await), (200, 200));
    says_back(&mut tunnel, "still there").await;
}

/// The same with the tool that systemd has for it.
#[tokio::test]
async fn a_socket_that_nobody_wanted_is_there_when_it_is() {
    let activate = "systemd-socket-activate";
    if std::process::Command::new(activate).arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "{activate} is not installed");
        eprintln!("skipped: {activate} is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let [web_at, more_at] = [free(), free()];
    let write = |entry_points: &str| {
        let text = format!(
            "entryPoints: {{{entry_points}}}\nping: {{entryPoint: web}}\nlog: {{filePath: {}}}\ncontrol: {{socket: {}}}\n",
            path("log"),
            path("control")
        );
        std::fs::write(path("static.yaml"), text).unwrap();
    };
    write("web: {address: ':1'}");
    let mut child = tokio::process::Command::new(activate)
        .args(["-l", &web_at.to_string(), "-l", &more_at.to_string(), "--fdname=web:more"])
        .args([env!("CARGO_BIN_EXE_portcullis"), "run", "--configFile", &path("static.yaml")])
        .kill_on_drop(true)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let by = Instant::now() + PATIENCE;
    let mut first = loop {
        // The first connection starts the program.
        match tokio::net::TcpStream::connect(web_at).await {
            Ok(stream) => break Peer::of(stream),
            Err(_) => assert!(Instant::now() < by && child.try_wait().unwrap().is_none()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(first.get("/ping", "").await.status, 200);
    let mut early = waiting(more_at).await;
    write("web: {address: ':1'}, more: {address: ':2'}");
    let (control, argument) = (path("control"), String::from("--control"));
    let told = crate::harness::tool::Tool::with(["reload", &argument, &control]).run_beside().await;
    assert_eq!(told.code, Some(0), "{told:?}");
    // Nothing is routed there, but it is answered.
    assert_eq!(early.response_to("GET").await.unwrap().status, 404);
    assert_eq!(first.get("/ping", "").await.header("connection"), KEPT);
    let _ = child.kill().await;
}
