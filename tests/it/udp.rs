//! Datagrams through the program: a real name server and client, reloads, upgrades, limits, and what is told of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::harness::gateway::{Gateway, Setup};
use crate::harness::peer::{PATIENCE, Peer, soon, until};

/// A server that sends back what it was sent, behind its name.
struct Echo {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Echo {
    async fn start(name: &'static str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                let _ = socket.send_to(&[name.as_bytes(), b" ", &buffer[..length]].concat(), from).await;
            }
        });
        Self { address, task }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Client(UdpSocket);

impl Client {
    async fn of(address: SocketAddr) -> Self {
        let own = if address.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
        let socket = UdpSocket::bind(own).await.unwrap();
        socket.connect(address).await.unwrap();
        Self(socket)
    }

    async fn ask(&self, text: &str) -> String {
        self.0.send(text.as_bytes()).await.unwrap();
        soon(self.answer()).await
    }

    async fn answer(&self) -> String {
        let mut buffer = vec![0; 1 << 16];
        let length = self.0.recv(&mut buffer).await.unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

/// Everything that comes in for UDP goes to these servers.
fn to(servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("{{address: '{server}'}}")).collect();
    format!(
        "udp:
  routers: {{all: {{service: echo}}}}
  services: {{echo: {{loadBalancer: {{servers: [{}]}}}}}}
",
        servers.join(", ")
    )
}

/// A gateway with an entry point `dns` for UDP beside `web`.
fn setup() -> Setup {
    Gateway::setup().flag("entryPoints.dns.address=127.0.0.1:0/udp")
}

/// An address for a program that binds it itself: none that the system gives to the many clients of the other tests.
fn free() -> SocketAddr {
    let ports = std::iter::repeat_with(|| fastrand::u16(20_000..30_000));
    let mut addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    addresses.find(|address| std::net::UdpSocket::bind(address).is_ok()).unwrap()
}

fn program(name: &'static str) -> Option<&'static str> {
    let found = [name, "/usr/sbin/dnsmasq"].into_iter().filter(|path| path.ends_with(name)).find(|path| {
        std::process::Command::new(path).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    });
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{name} is not installed");
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// `dig` asks the gateway; its words.
async fn dig(at: SocketAddr, words: &[&str]) -> String {
    let output = tokio::process::Command::new("dig")
        .args([&format!("@{}", at.ip()), "-p", &at.port().to_string(), "+tries=1", "+time=5", "+short"])
        .args(words)
        .kill_on_drop(true)
        .output();
    let output = soon(output).await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn a_name_server_answers_through_the_gateway() {
    let (Some(dnsmasq), Some(_)) = (program("dnsmasq"), program("dig")) else { return };
    let server = free();
    let start = || {
        let long = "x".repeat(254);
        tokio::process::Command::new(dnsmasq)
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"])
            .args(["--listen-address=127.0.0.1", "--edns-packet-max=4096", "--pid-file", "--user="])
            .args([format!("--port={}", server.port()), "--address=/a.example/192.0.2.7".to_owned()])
            .args((0..8).map(|at| format!("--txt-record=long.example,{at}{long}")))
            .kill_on_drop(true)
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut child = start();
    let gateway = setup().flag("entryPoints.everywhere.address=:0/udp").dynamic(to(&[server])).start().await;
    let at = gateway.address_of("dns");
    answers(server).await;
    assert_eq!(dig(at, &["a.example"]).await, "192.0.2.7");
    let long = dig(at, &["long.example", "TXT", "+bufsize=4096", "+ignore"]).await;
    assert_eq!(long.lines().count(), 8, "an answer of more than 2 KiB: {long}");
    // Bound to all addresses: dig takes answers from nobody but whom it asked.
    let port = gateway.address_of("everywhere").port();
    for ip in ["127.0.0.1", "127.0.0.9", "::1"] {
        let at = SocketAddr::new(ip.parse().unwrap(), port);
        if at.is_ipv6() && gateway.address_of("everywhere").is_ipv4() {
            continue;
        }
        assert_eq!(dig(at, &["a.example"]).await, "192.0.2.7", "{ip}");
    }
    let many: Vec<_> = (0..50).map(|_| tokio::spawn(async move { dig(at, &["a.example"]).await })).collect();
    for one in many {
        assert_eq!(one.await.unwrap(), "192.0.2.7");
    }
    // The name server is started again at the same address: nobody has to wait for a session to end.
    let client = Client::of(at).await;
    client.0.send(b"nonsense").await.unwrap();
    let _ = child.kill().await;
    let _child = start();
    answers(server).await;
    assert_eq!(dig(at, &["a.example"]).await, "192.0.2.7");
}

/// Waits until a name server answers.
async fn answers(server: SocketAddr) {
    let by = Instant::now() + PATIENCE;
    // As long as nobody listens there, dig hears so at once.
    while dig(server, &["a.example"]).await != "192.0.2.7" {
        assert!(Instant::now() < by, "dnsmasq does not answer");
    }
}

#[tokio::test]
async fn sessions_go_on_through_reloads_that_do_not_concern_them() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let gateway = setup().flag("entryPoints.dns.udp.timeout=1m").dynamic(to(&[a.address])).start().await;
    let client = Client::of(gateway.address_of("dns")).await;
    assert_eq!(client.ask("1").await, "a 1");
    gateway.apply(&to(&[b.address, a.address])).await;
    for _ in 0..4 {
        assert_eq!(client.ask("2").await, "a 2");
    }
    gateway.apply(&format!("{}http: {{routers: {{x: {{rule: 'Path(`/`)', service: y}}}}}}", to(&[a.address]))).await;
    assert_eq!(client.ask("3").await, "a 3");
    gateway.apply(&to(&[b.address])).await;
    assert_eq!(client.ask("4").await, "b 4");
}

#[tokio::test]
async fn a_session_ends_when_nobody_has_said_anything_for_the_time_that_is_set() {
    let echo = Echo::start("a").await;
    let setup = setup().entry_point("traefik").flag("api.insecure=true").flag("metrics.prometheus=true");
    let gateway = setup.flag("entryPoints.dns.udp.timeout=200ms").dynamic(to(&[echo.address])).start().await;
    let client = Client::of(gateway.address_of("dns")).await;
    let started = Instant::now();
    assert_eq!(client.ask("hello").await, "a hello");
    while !metrics(&gateway).await.contains("traefik_open_connections{entrypoint=\"dns\",protocol=\"UDP\"} 0") {
        assert!(started.elapsed() < PATIENCE);
    }
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    assert_eq!(client.ask("again").await, "a again");
    let page = metrics(&gateway).await;
    for line in [
        "portcullis_entrypoint_udp_sessions_total{entrypoint=\"dns\"} 2",
        "portcullis_entrypoint_udp_datagrams_total{direction=\"received\",entrypoint=\"dns\"} 2",
        "portcullis_entrypoint_udp_bytes_total{direction=\"received\",entrypoint=\"dns\"} 10",
        "portcullis_entrypoint_udp_bytes_total{direction=\"sent\",entrypoint=\"dns\"} 14",
        "portcullis_service_udp_sessions_total{service=\"echo@file\"} 2",
        "portcullis_service_udp_open_sessions{service=\"echo@file\"} 1",
        "portcullis_service_udp_datagrams_total{direction=\"sent\",service=\"echo@file\"} 2",
        "portcullis_entrypoint_udp_ended_sessions_total{ending=\"silent\",entrypoint=\"dns\"} 1",
        "portcullis_service_udp_ended_sessions_total{ending=\"silent\",service=\"echo@file\"} 1",
        &format!("portcullis_udp_server_up{{address=\"{}\",service=\"echo@file\"}} 1", echo.address),
        &format!("portcullis_udp_server_refusals_total{{address=\"{}\",service=\"echo@file\"}} 0", echo.address),
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    let seconds = page.lines().find_map(|line| {
        line.strip_prefix("portcullis_service_udp_session_seconds_total{service=\"echo@file\"} ")?.parse::<f64>().ok()
    });
    assert!(seconds.is_some_and(|seconds| (0.2..60.0).contains(&seconds)), "{page}");
    gateway.apply("http: {}").await;
    client.0.send(b"lost").await.unwrap();
    let lost = "portcullis_entrypoint_udp_dropped_datagrams_total{entrypoint=\"dns\",reason=\"no-router\"} 1";
    let by = Instant::now() + PATIENCE;
    while !metrics(&gateway).await.contains(lost) {
        assert!(Instant::now() < by);
    }
}

async fn metrics(gateway: &Gateway) -> String {
    Peer::connect(gateway.address_of("traefik")).await.get("/metrics", "").await.text().to_owned()
}

async fn api(gateway: &Gateway, path: &str) -> Value {
    let answer = Peer::connect(gateway.address_of("traefik")).await.get(path, "").await;
    serde_json::from_str(answer.text()).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

#[tokio::test]
async fn there_are_no_more_sessions_than_may_be() {
    let echo = Echo::start("a").await;
    let gateway = setup()
        .flag("entryPoints.dns.udp.timeout=1m")
        .flag("entryPoints.dns.limits.maxSessions=16")
        .dynamic(to(&[echo.address]))
        .start()
        .await;
    let at = gateway.address_of("dns");
    let faithful = Client::of(at).await;
    for text in ["1", "2"] {
        faithful.ask(text).await;
    }
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    let before = descriptors();
    let mut others = Vec::new();
    for _ in 0..300 {
        let other = Client::of(at).await;
        assert_eq!(other.ask("x").await, "a x");
        others.push(other);
    }
    assert!(descriptors() <= before + 18, "{before}, then {}", descriptors());
    assert_eq!(faithful.ask("3").await, "a 3");
}

/// What the API and the page tell.
#[tokio::test]
async fn the_api_shows_routers_and_services() {
    let echo = Echo::start("a").await;
    let setup =
        setup().entry_point("traefik").flag("api.insecure=true").flag("entryPoints.log.address=127.0.0.1:0/udp");
    let text = format!(
        "udp:
  routers:
    first: {{entryPoints: [dns], service: some}}
    second: {{service: echo}}
    third: {{entryPoints: [log], service: nothing}}
  services:
    echo: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}
    some: {{weighted: {{services: [{{name: echo, weight: 2}}]}}}}
    odd: {{loadBalancer: {{servers: [{{address: nowhere}}]}}}}
",
        echo.address
    );
    let gateway = setup.dynamic(text).start().await;
    assert_eq!(Client::of(gateway.address_of("dns")).await.ask("1").await, "a 1");
    let routers = api(&gateway, "/api/udp/routers").await;
    let statuses: Vec<(&str, &str)> = routers
        .as_array()
        .unwrap()
        .iter()
        .map(|router| (router["name"].as_str().unwrap(), router["status"].as_str().unwrap()))
        .collect();
    assert_eq!(statuses, [("first@file", "enabled"), ("second@file", "warning"), ("third@file", "disabled")]);
    let second = api(&gateway, "/api/udp/routers/second@file").await;
    assert_eq!((&second["using"], &second["entryPoints"]), (&json!(["log"]), &json!(["dns", "log"])), "{second:#}");
    let some = api(&gateway, "/api/udp/services/some@file").await;
    assert_eq!((&some["type"], &some["usedBy"]), (&json!("weighted"), &json!(["first@file"])), "{some:#}");
    let servers = &api(&gateway, "/api/udp/services/echo@file").await["serverStatus"];
    assert_eq!(servers[echo.address.to_string()], "UP");
    let overview = api(&gateway, "/api/overview").await;
    assert_eq!(overview["udp"]["routers"], json!({ "total": 3, "warnings": 1, "errors": 1 }));
    assert_eq!(overview["udp"]["services"], json!({ "total": 3, "warnings": 0, "errors": 1 }));
    let raw = api(&gateway, "/api/rawdata").await;
    assert!(raw["udpRouters"]["first@file"].is_object() && raw["udpServices"]["odd@file"].is_object(), "{raw:#}");
    let entry_point = api(&gateway, "/api/entrypoints/dns").await;
    assert_eq!((&entry_point["address"], &entry_point["udp"]["timeout"]), (&json!("127.0.0.1:0/udp"), &json!("3s")));
    let page = Peer::connect(gateway.address_of("traefik")).await.get("/dashboard/", "").await.text().to_owned();
    assert!(page.contains("UDP routers") && page.contains("odd@file"), "{page}");
}

/// A gateway whose heirs end with the test.
struct Line(Gateway, Vec<u32>);

impl Line {
    async fn upgrade(&mut self) -> u32 {
        let told = self.0.told("upgrade").await;
        let heir = told.out.split(' ').find_map(|word| word.parse().ok());
        self.1.extend(heir);
        heir.unwrap_or_else(|| panic!("{told:?}"))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for pid in self.1.iter().filter_map(|pid| i32::try_from(*pid).ok().and_then(Pid::from_raw)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Each datagram is answered through two upgrades, those of old sessions too; only what is under way at the old process comes from there.
async fn check_upgrade(setup: Setup) {
    let echo = Echo::start("a").await;
    let late = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        "udp:
  routers: {{all: {{entryPoints: [dns], service: echo}}, late: {{entryPoints: [late], service: late}}}}
  services:
    echo: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}
    late: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}
",
        echo.address,
        late.local_addr().unwrap()
    );
    // A server that takes longer than this has lost its client; machines that are busy take long for everything.
    let setup = setup.flag("entryPoints.dns.udp.timeout=2s").flag("entryPoints.dns.limits.maxSessions=16384");
    let setup = setup.flag("entryPoints.late.address=127.0.0.1:0/udp").flag("entryPoints.late.udp.timeout=5s");
    let mut line = Line(setup.dynamic(text).start().await, Vec::new());
    let at = line.0.address_of("dns");
    let (over, asked, lost) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (over, asked, lost): (_, Arc<AtomicUsize>, Arc<AtomicUsize>) =
                (over.clone(), Arc::clone(&asked), Arc::clone(&lost));
            tokio::spawn(async move {
                let mut client = Client::of(at).await;
                let mut turn = 0;
                while !over.load(Ordering::SeqCst) {
                    turn += 1;
                    if number % 2 == 0 {
                        // A client with a session of its own each time, as those of name servers.
                        client = Client::of(at).await;
                    }
                    let text = format!("{number}.{turn}");
                    client.0.send(text.as_bytes()).await.unwrap();
                    let answer = tokio::time::timeout(2 * PATIENCE, client.answer()).await;
                    asked.fetch_add(1, Ordering::SeqCst);
                    if !answer.is_ok_and(|answer| answer == format!("a {text}")) {
                        lost.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    let waiting = Client::of(line.0.address_of("late")).await;
    let mut sessions = Vec::new();
    for _ in 0..2 {
        waiting.0.send(b"question").await.unwrap();
        let mut buffer = [0; 16];
        let (_, session) = soon(late.recv_from(&mut buffer)).await.unwrap();
        let before = asked.load(Ordering::SeqCst);
        until(|| asked.load(Ordering::SeqCst) > before + 200).await;
        line.upgrade().await;
        sessions.push(session);
        for session in &sessions {
            late.send_to(b"late", *session).await.unwrap();
            assert_eq!(soon(waiting.answer()).await, "late", "by way of a process that only drains");
        }
        let before = asked.load(Ordering::SeqCst);
        until(|| asked.load(Ordering::SeqCst) > before + 200).await;
    }
    assert_ne!(sessions[0], sessions[1], "the new process has a session of its own");
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let (asked, lost) = (asked.load(Ordering::SeqCst), lost.load(Ordering::SeqCst));
    eprintln!("{asked} datagrams, {lost} lost");
    assert_eq!(lost, 0, "of {asked}");
    let by = Instant::now() + 4 * PATIENCE;
    while line.0.is_alive() {
        assert!(Instant::now() < by, "the first process does not end: {}", line.0.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_loses_no_datagram() {
    check_upgrade(setup()).await;
}

/// With several sockets for one port the system sends each client to one of them: the new process must have them all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_hands_all_sockets_of_a_port_over() {
    check_upgrade(setup().flag("entryPoints.dns.reusePort=true")).await;
}

#[tokio::test]
async fn a_stop_waits_for_sessions_and_opens_no_more() {
    let echo = Echo::start("a").await;
    let setup = setup().flag("entryPoints.dns.udp.timeout=500ms").dynamic(to(&[echo.address]));
    let mut gateway = setup.start().await;
    let at = gateway.address_of("dns");
    let client = Client::of(at).await;
    assert_eq!(client.ask("1").await, "a 1");
    gateway.signal(Signal::TERM);
    for turn in 0..20 {
        let text = turn.to_string();
        assert_eq!(client.ask(&text).await, format!("a {text}"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let late = Client::of(at).await;
    late.0.send(b"too late").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), late.answer()).await.is_err());
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn the_socket_comes_from_systemd() {
    let activate = "systemd-socket-activate";
    if std::process::Command::new(activate).arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "{activate} is not installed");
        eprintln!("skipped: {activate} is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    let echo = Echo::start("a").await;
    write("dynamic.yaml", to(&[echo.address]));
    let address = free();
    let path = |name: &str| -> String { Path::join(folder.path(), name).display().to_string() };
    let _child = tokio::process::Command::new(activate)
        .args(["--datagram", "-l", &address.to_string(), "--fdname=dns", env!("CARGO_BIN_EXE_portcullis"), "run"])
        .args([format!("--entryPoints.dns.address={address}/udp"), format!("--log.filePath={}", path("log"))])
        .arg(format!("--providers.file.filename={}", path("dynamic.yaml")))
        .env("RUNTIME_DIRECTORY", folder.path())
        .kill_on_drop(true)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let client = Client::of(address).await;
    let by = Instant::now() + PATIENCE;
    loop {
        // The first one starts the program, which finds it in the socket.
        let _ = client.0.send(b"1").await;
        match tokio::time::timeout(Duration::from_millis(200), client.0.recv(&mut [0; 8])).await {
            Ok(Ok(3)) => break,
            _ => assert!(Instant::now() < by, "{}", std::fs::read_to_string(path("log")).unwrap_or_default()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
