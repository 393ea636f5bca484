//! The lives of TCP connections: how they end, what holds them back, and what changes around them leave alone.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::harness::gateway::Gateway;
use crate::harness::peer::{End, Peer, soon, until};
use crate::harness::tls::{Authority, quoted, shake_hands};
use crate::tcp::{acceptor, chat, parrot, parrot_over, service};

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn accept(listener: &TcpListener) -> Peer {
    Peer::of(soon(listener.accept()).await.unwrap().0)
}

/// A configuration in which entry points, by their names, send everything to services of the same name.
fn all_to(names: &[&str], services: &str, more: &str) -> String {
    let routers: String = names
        .iter()
        .map(|name| format!("    {name}: {{rule: 'HostSNI(`*`)', service: {name}, entryPoints: [{name}]}}\n"))
        .collect();
    format!("tcp:\n  routers:\n{routers}  services:\n{services}{more}")
}

#[tokio::test]
async fn either_side_may_end_first_and_the_other_has_its_time() {
    let (listener, server) = listen().await;
    let gateway = Gateway::setup()
        .entry_point("brief")
        .dynamic(all_to(
            &["web", "brief"],
            &(service("web", &[server], ", serversTransport: patient") + &service("brief", &[server], "")),
            "  serversTransports: {patient: {terminationDelay: 5s}}\n",
        ))
        .start()
        .await;
    // The client ends first, and the server takes longer than the default allows.
    let mut client = gateway.connect().await;
    client.send("question").await;
    client.half_close().await;
    let mut end = accept(&listener).await;
    assert_eq!(end.rest().await, (b"question".to_vec(), End::Closed));
    tokio::time::sleep(Duration::from_millis(250)).await;
    end.send("answer").await;
    end.half_close().await;
    assert_eq!(client.rest().await, (b"answer".to_vec(), End::Closed));
    // The server ends first.
    let mut client = gateway.connect().await;
    let mut end = accept(&listener).await;
    end.send("bye").await;
    end.half_close().await;
    assert_eq!(client.rest().await, (b"bye".to_vec(), End::Closed));
    tokio::time::sleep(Duration::from_millis(250)).await;
    client.send("and one more thing").await;
    client.half_close().await;
    assert_eq!(end.rest().await, (b"and one more thing".to_vec(), End::Closed));
    // The server that says nothing has a tenth of a second.
    let mut client = Peer::connect(gateway.address_of("brief")).await;
    client.half_close().await;
    let began = Instant::now();
    let _end = accept(&listener).await;
    client.end().await;
    let lasted = began.elapsed();
    assert!(lasted >= Duration::from_millis(90) && lasted < Duration::from_secs(4), "{lasted:?}");
    gateway.logged(|line| line["RouterName"] == "brief@file" && line["ending"] == "closed").await;
}

#[tokio::test]
async fn a_connection_that_breaks_on_one_side_ends_on_the_other() {
    let (listener, server) = listen().await;
    let gateway = Gateway::with(all_to(
        &["web"],
        &service("web", &[server], ", serversTransport: endless"),
        "  serversTransports: {endless: {terminationDelay: -1s}}\n",
    ))
    .await;
    for broken_by_client in [true, false] {
        let mut client = gateway.connect().await;
        client.send("x").await;
        let mut end = accept(&listener).await;
        end.bytes(1).await;
        end.send("y").await;
        client.bytes(1).await;
        let (breaking, mut other) = if broken_by_client { (client, end) } else { (end, client) };
        let stream = breaking.into_stream();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        soon(other.end()).await;
    }
    until(|| gateway.access_log().iter().filter(|line| line["ending"] == "broken").count() == 2).await;
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn pattern(from: u64, count: usize) -> Vec<u8> {
    (from..).take(count).map(|at| (at * 31 % 253) as u8).collect()
}

/// Writes until nobody takes more, or so much that somebody must be keeping it; how much it was.
async fn fill<S: tokio::io::AsyncWrite + Unpin>(stream: &mut S) -> u64 {
    let mut written = 0;
    while written < 512 << 20 {
        let piece = pattern(written, 64 << 10);
        match tokio::time::timeout(Duration::from_millis(400), stream.write(&piece)).await {
            Ok(count) => written += count.unwrap() as u64,
            Err(_) => break,
        }
    }
    written
}

/// Reads so much, and looks at every byte.
async fn drain(stream: &mut TcpStream, count: u64) {
    let mut seen = 0;
    let mut buffer = vec![0; 256 << 10];
    while seen < count {
        let read = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "{seen} of {count}");
        assert!(buffer[..read] == pattern(seen, read), "after {seen}");
        seen += read as u64;
    }
}

#[tokio::test]
async fn who_does_not_read_holds_back_who_writes() {
    let (listener, server) = listen().await;
    let authority = Authority::new();
    let pair = authority.certify(&["end.test"]);
    let gateway = Gateway::setup()
        .entry_point("sealed")
        .dynamic(format!(
            "tcp:\n  routers:\n    plain: {{rule: 'HostSNI(`*`)', service: s, entryPoints: [web]}}\n    \
             sealed: {{rule: 'HostSNI(`end.test`)', service: s, entryPoints: [sealed], tls: {{}}}}\n  services:\n{}\
             tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}\n",
            service("s", &[server], ""),
            quoted(&pair.certificate),
            quoted(&pair.key),
        ))
        .start()
        .await;
    let before = resident_kib(gateway.pid());
    let mut client = gateway.connect().await.into_stream();
    let mut end = accept(&listener).await.into_stream();
    // Enough that the kernel moves it by itself.
    let (written, ()) = tokio::join!(
        async {
            client.write_all(&pattern(0, 1 << 20)).await.unwrap();
        },
        drain(&mut end, 1 << 20)
    );
    let () = written;
    drop((client, end));
    let mut client = gateway.connect().await.into_stream();
    let mut end = accept(&listener).await.into_stream();
    let written = fill(&mut client).await;
    assert!(written < 256 << 20, "{written} bytes are somewhere");
    assert!(resident_kib(gateway.pid()) < before + (16 << 10), "{before}");
    drain(&mut end, written).await;
    // The same from the server, to a client that does not read.
    let written = fill(&mut end).await;
    assert!(written < 256 << 20, "{written} bytes are somewhere");
    drain(&mut client, written).await;
    assert!(resident_kib(gateway.pid()) < before + (16 << 10), "{before}");
    // And where TLS ends.
    let config = Arc::new(authority.client(&[], None));
    let mut client = shake_hands(&config, gateway.address_of("sealed"), "end.test").await.unwrap();
    let mut end = accept(&listener).await.into_stream();
    let written = fill(&mut client).await;
    assert!(written < 256 << 20, "{written} bytes are somewhere");
    assert!(resident_kib(gateway.pid()) < before + (24 << 10), "{before}");
    let (flushed, ()) = tokio::join!(client.flush(), drain(&mut end, written));
    flushed.unwrap();
}

#[tokio::test]
async fn many_at_once_leave_nothing_behind() {
    const COUNT: usize = 200;
    const BYTES: usize = 400 << 10;
    let server = parrot("").await;
    let gateway = Gateway::setup()
        .flag("metrics.prometheus.entryPoint=traefik")
        .flag("api.insecure=true")
        .entry_point("traefik")
        .dynamic(all_to(
            &["web"],
            &service("web", &[server], ", serversTransport: endless"),
            "  serversTransports: {endless: {terminationDelay: -1s}}\n",
        ))
        .start()
        .await;
    assert_eq!(chat(gateway.address(), "x").await, "x");
    let before = descriptors(gateway.pid());
    let said: Arc<Vec<u8>> = Arc::new(pattern(0, BYTES));
    let talks: Vec<_> = (0..COUNT)
        .map(|_| {
            let (address, said) = (gateway.address(), said.clone());
            tokio::spawn(async move {
                let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
                let copy = said.clone();
                let writing = tokio::spawn(async move {
                    write.write_all(&copy).await.unwrap();
                    write.shutdown().await.unwrap();
                    write
                });
                let mut heard = Vec::new();
                read.read_to_end(&mut heard).await.unwrap();
                assert!(heard == *said, "{} bytes", heard.len());
                writing.await.unwrap();
            })
        })
        .collect();
    let all = async {
        for talk in talks {
            talk.await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    until(|| descriptors(gateway.pid()) <= before).await;
    let mut metrics = Peer::connect(gateway.address_of("traefik")).await;
    let page = metrics.get("/metrics", "").await;
    for wanted in [
        format!(
            "portcullis_tcp_connections_total{{ending=\"closed\",router=\"web@file\",service=\"web@file\"}} {}",
            COUNT + 1
        ),
        "portcullis_tcp_open_connections{router=\"web@file\",service=\"web@file\"} 0".to_owned(),
        format!("portcullis_tcp_sent_bytes_total{{router=\"web@file\",service=\"web@file\"}} {}", COUNT * BYTES + 1),
    ] {
        assert!(page.text().contains(&wanted), "{wanted}\n{}", page.text());
    }
    let router = metrics.get("/api/tcp/routers/web@file", "").await;
    let router: serde_json::Value = serde_json::from_str(router.text()).unwrap();
    assert_eq!((&router["priority"], &router["status"]), (&(-1).into(), &"enabled".into()), "{router}");
}

/// A server that says nothing to whoever connects: its queue is full, so the kernel takes no more connections, and refuses none.
async fn silent() -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 100);
    }
    (address, (listener, waiting))
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_its_time_and_no_more() {
    let (full, _silence) = silent().await;
    let well = parrot("well ").await;
    let gateway = Gateway::setup()
        .entry_point("alone")
        .dynamic(all_to(
            &["web", "alone"],
            &(service("web", &[full, well], ", serversTransport: brief")
                + &service("alone", &[full], ", serversTransport: brief")),
            "  serversTransports: {brief: {dialTimeout: 600ms}}\n",
        ))
        .start()
        .await;
    for _ in 0..4 {
        assert_eq!(chat(gateway.address(), "x").await, "well x");
    }
    let began = Instant::now();
    assert_eq!(chat(gateway.address_of("alone"), "").await, "");
    assert!(began.elapsed() >= Duration::from_millis(590), "{:?}", began.elapsed());
    let line = gateway.logged(|line| line["RouterName"] == "alone@file").await;
    assert_eq!(line["ending"], "connect-timeout");
    assert!(line["ServiceAddr"].is_null());
}

#[tokio::test]
async fn servers_that_do_not_answer_cost_no_more_than_two_of_them() {
    let mut servers = Vec::new();
    let mut silence = Vec::new();
    for _ in 0..6 {
        let (address, held) = silent().await;
        servers.push(address);
        silence.push(held);
    }
    let services = service("web", &servers, ", serversTransport: brief");
    let transport = "  serversTransports: {brief: {dialTimeout: 1s}}\n";
    let gateway = Gateway::with(all_to(&["web"], &services, transport)).await;
    let began = Instant::now();
    assert_eq!(chat(gateway.address(), "x").await, "");
    let lasted = began.elapsed();
    assert!(lasted >= Duration::from_millis(1900) && lasted < Duration::from_secs(5), "{lasted:?}");
}

#[tokio::test]
async fn a_client_that_has_gone_is_not_connected_for_any_longer() {
    let (full, _silence) = silent().await;
    let authority = Authority::new();
    let pair = authority.certify(&["end.test"]);
    let gateway = Gateway::setup()
        .flag("metrics.prometheus.entryPoint=traefik")
        .entry_point("traefik")
        .entry_point("sealed")
        .dynamic(format!(
            "tcp:
  routers:
    web: {{rule: 'HostSNI(`*`)', service: web, entryPoints: [web], middlewares: [one]}}
    sealed: {{rule: 'HostSNI(`*`)', service: web, entryPoints: [sealed], tls: {{}}, middlewares: [one]}}
  middlewares: {{one: {{inFlightConn: {{amount: 1}}}}}}
  services:
{}tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}
",
            service("web", &[full], ""),
            quoted(&pair.certificate),
            quoted(&pair.key),
        ))
        .start()
        .await;
    let config = Arc::new(authority.client(&[], None));
    // Each needs the place that the one before has held.
    let mut gone = Vec::new();
    for router in ["web@file", "sealed@file", "web@file"] {
        let client = match router {
            "web@file" => TcpStream::connect(gateway.address()).await.unwrap(),
            _ => shake_hands(&config, gateway.address_of("sealed"), "end.test").await.unwrap().into_inner().0,
        };
        let open = format!("portcullis_tcp_open_connections{{router=\"{router}\",service=\"web@file\"}} 1");
        let mut metrics = Peer::connect(gateway.address_of("traefik")).await;
        soon(async { while !metrics.get("/metrics", "").await.text().contains(&open) {} }).await;
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        gone.push((router.to_owned(), "broken".to_owned()));
        let said = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let ended =
            || gateway.access_log().iter().map(|it| (said(it, "RouterName"), said(it, "ending"))).collect::<Vec<_>>();
        until(|| ended().len() >= gone.len()).await;
        assert_eq!(ended(), gone);
    }
}

#[tokio::test]
async fn one_connection_tries_a_bounded_number_of_servers() {
    let tries = Arc::new(AtomicUsize::new(0));
    let mut servers = Vec::new();
    for _ in 0..12 {
        let (listener, address) = listen().await;
        servers.push(format!("{{address: '{address}', tls: true}}"));
        let tries = tries.clone();
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                tries.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let services = format!("    web: {{loadBalancer: {{servers: [{}]}}}}\n", servers.join(", "));
    let gateway = Gateway::with(all_to(&["web"], &services, "")).await;
    assert_eq!(chat(gateway.address(), "x").await, "");
    assert_eq!(gateway.logged(|line| line["RouterName"] == "web@file").await["ending"], "server-tls");
    assert_eq!(tries.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn a_stop_leaves_connections_their_time() {
    let server = parrot("hello ").await;
    let mut gateway = Gateway::setup()
        .flag("drain.webSocketTimeout=1s")
        .flag("entryPoints.web.transport.lifeCycle.graceTimeOut=500ms")
        .dynamic(all_to(&["web"], &service("web", &[server], ""), ""))
        .start()
        .await;
    let mut client = gateway.connect().await;
    client.bytes(6).await;
    let address = gateway.address();
    gateway.signal(Signal::TERM);
    let began = Instant::now();
    soon(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    client.send("still here").await;
    assert_eq!(client.bytes(10).await, b"still here");
    client.end().await;
    let lasted = began.elapsed();
    assert!(lasted >= Duration::from_millis(900) && lasted < Duration::from_secs(5), "{lasted:?}");
    assert_eq!(gateway.ended().await, Some(0), "{}", gateway.log());
    gateway.logged(|line| line["ending"] == "broken" && line["RequestContentSize"] == 10).await;
}

#[tokio::test]
async fn what_a_trusted_balancer_says_of_the_client_is_passed_on() {
    let (listener, server) = listen().await;
    let gateway = Gateway::setup()
        .flag("entryPoints.web.proxyProtocol.insecure=true")
        .dynamic(format!(
            "tcp:\n  routers: {{all: {{rule: 'ClientIP(`203.0.113.0/24`)', service: s, middlewares: [list]}}}}\n  \
             middlewares: {{list: {{ipAllowList: {{sourceRange: [203.0.113.7]}}}}}}\n  services:\n{}  \
             serversTransports: {{told: {{proxyProtocol: {{version: 1}}}}}}\n",
            service("s", &[server], ", serversTransport: told")
        ))
        .start()
        .await;
    let mut client = gateway.connect().await;
    client.send("PROXY TCP4 203.0.113.7 198.51.100.1 1111 443\r\nhello").await;
    let mut end = accept(&listener).await;
    let expected = b"PROXY TCP4 203.0.113.7 198.51.100.1 1111 443\r\nhello";
    assert_eq!(end.bytes(expected.len()).await, expected);
    drop(client);
    let line = gateway.logged(|line| line["RouterName"] == "all@file").await;
    assert_eq!((&line["ClientHost"], &line["RequestContentSize"]), (&"203.0.113.7".into(), &5.into()));
    let mut stranger = gateway.connect().await;
    stranger.send("PROXY TCP4 203.0.113.8 198.51.100.1 1111 443\r\nhello").await;
    assert_eq!(stranger.rest().await.0, b"");
    gateway.logged(|line| line["ending"] == "address-refused" && line["ClientHost"] == "203.0.113.8").await;
}

#[tokio::test]
async fn rules_decide_by_address_name_and_protocol() {
    let authority = Authority::new();
    let pair = authority.certify(&["a.test", "b.test", "c.test", "x.c.test"]);
    let names = ["near", "far", "old", "mail", "any", "ranked", "last"];
    let mut services = String::new();
    for name in names {
        services += &service(name, &[parrot(name).await], "");
    }
    let gateway = Gateway::setup()
        .dynamic(format!(
            "tcp:\n  routers:\n    near: {{rule: 'ClientIP(`127.0.0.2`)', service: near}}\n    \
             far: {{rule: '!ClientIP(`127.0.0.2`) && HostSNI(`*`)', service: far}}\n    \
             old: {{rule: 'HostSNI(`a.test`, `B.test`)', ruleSyntax: v2, service: old, tls: {{}}}}\n    \
             mail: {{rule: 'HostSNI(`a.test`) && ALPN(`imap`)', service: mail, tls: {{}}}}\n    \
             any: {{rule: 'HostSNIRegexp(`^.+\\.c\\.test$`)', service: any, tls: {{}}}}\n    \
             ranked: {{rule: 'HostSNI(`x.c.test`) && ClientIP(`127.0.0.2`)', priority: 1000, service: ranked, tls: {{}}}}\n    \
             last: {{rule: 'HostSNI(`*`)', service: last, tls: {{}}}}\n  services:\n{services}\
             tls:\n  certificates: [{{certFile: {}, keyFile: {}}}]\n  options: {{default: {{alpnProtocols: [imap]}}}}\n",
            quoted(&pair.certificate),
            quoted(&pair.key),
        ))
        .start()
        .await;
    let address = gateway.address();
    for (from, expected) in [([127, 0, 0, 2], "near"), ([127, 0, 0, 3], "far")] {
        let mut client = Peer::connect_from(from, address).await;
        client.send("!").await;
        client.half_close().await;
        assert_eq!(String::from_utf8(client.rest().await.0).unwrap(), format!("{expected}!"));
    }
    for (from, name, protocols, expected) in [
        ([127, 0, 0, 1], "a.test", &[][..], "old"),
        ([127, 0, 0, 1], "b.test", &[], "old"),
        ([127, 0, 0, 1], "a.test", &["imap"], "mail"),
        ([127, 0, 0, 1], "x.c.test", &[], "any"),
        ([127, 0, 0, 2], "x.c.test", &[], "ranked"),
        ([127, 0, 0, 1], "c.test", &[], "last"),
    ] {
        let config = Arc::new(authority.client(protocols, None));
        let stream = Peer::connect_from(from, address).await.into_stream();
        let server_name = rustls::pki_types::ServerName::try_from(name).unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        let mut stream = match soon(connector.connect(server_name, stream)).await {
            Ok(stream) => stream,
            Err(error) => panic!("{name} {protocols:?}: {error}"),
        };
        let mut heard = vec![0; expected.len()];
        soon(stream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(String::from_utf8(heard).unwrap(), expected, "{name} {protocols:?} {from:?}");
    }
}

#[tokio::test]
async fn reloads_keep_health_and_counts() {
    let (well, ill) = (parrot("well ").await, parrot("ill ").await);
    let text = |more: &str| {
        format!(
            "tcp:\n  routers: {{all: {{rule: 'HostSNI(`*`)', service: s, middlewares: [few], entryPoints: [web]}}{more}}}\n  \
             middlewares: {{few: {{inFlightConn: {{amount: 1}}}}}}\n  services:\n{}",
            service("s", &[well, ill], ", healthCheck: {interval: 100ms, expect: well}")
        )
    };
    let gateway = Gateway::setup()
        .flag("metrics.prometheus.entryPoint=traefik")
        .entry_point("traefik")
        .entry_point("other")
        .dynamic(text(""))
        .start()
        .await;
    until(|| gateway.log().contains("server is down")).await;
    let mut first = gateway.connect().await;
    assert_eq!(first.bytes(5).await, b"well ");
    for round in 0..4 {
        gateway
            .apply(&text(&format!(", more{round}: {{rule: 'HostSNI(`*`)', service: s, entryPoints: [other]}}")))
            .await;
        // The one connection that there may be is still counted, and the server that is ill is still known to be.
        assert_eq!(gateway.connect().await.rest().await.0, b"", "{round}");
        for _ in 0..6 {
            assert_eq!(chat(gateway.address_of("other"), "x").await, "well x", "{round}");
        }
    }
    first.send("me").await;
    assert_eq!(first.bytes(2).await, b"me");
    let downs = gateway.log().matches("server is down").count();
    assert_eq!(downs, 1, "it is told once");
    let page = Peer::connect(gateway.address_of("traefik")).await.get("/metrics", "").await;
    for (address, up) in [(well, 1), (ill, 0)] {
        let wanted = format!("portcullis_tcp_server_up{{address=\"{address}\",service=\"s@file\"}} {up}");
        assert!(page.text().contains(&wanted), "{wanted}\n{}", page.text());
    }
}

#[tokio::test]
async fn servers_that_speak_tls_are_probed_over_tls() {
    let authority = Authority::new();
    let server = parrot_over("well ", Some(acceptor(&authority.certify(&["inner.test"])))).await;
    let other = parrot_over("other ", Some(acceptor(&authority.certify(&["inner.test"])))).await;
    let servers: Vec<_> = [server, other].iter().map(|at| format!("{{address: '{at}', tls: true}}")).collect();
    let services = format!(
        "    web: {{loadBalancer: {{servers: [{}], serversTransport: t, healthCheck: {{interval: 50ms, expect: well}}}}}}\n",
        servers.join(", ")
    );
    let transports = format!(
        "  serversTransports: {{t: {{tls: {{serverName: inner.test, rootCAs: [{}]}}}}}}\n",
        quoted(&authority.certificate)
    );
    let gateway = Gateway::with(all_to(&["web"], &services, &transports)).await;
    until(|| gateway.log().contains("server is down")).await;
    for _ in 0..6 {
        assert_eq!(chat(gateway.address(), "x").await, "well x");
    }
    assert_eq!(gateway.log().matches("server is down").count(), 1);
}

#[tokio::test]
async fn a_router_that_goes_leaves_its_connections() {
    let server = parrot("hello ").await;
    let text = all_to(&["web"], &service("web", &[server], ""), "");
    let gateway = Gateway::with(text).await;
    let mut client = gateway.connect().await;
    client.bytes(6).await;
    gateway.apply("http:\n  routers: {}\n").await;
    let mut other = gateway.connect().await;
    assert_eq!(other.get("/", "").await.status, 404, "the entry point speaks HTTP now");
    client.send("me").await;
    assert_eq!(client.bytes(2).await, b"me");
}
