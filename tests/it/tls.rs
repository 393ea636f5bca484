//! TLS at entry points: certificates by name, options by name, and who is refused.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::gateway::Gateway;
use crate::harness::peer::{End, Peer, soon};
use crate::harness::server::{Server, ok};
use crate::harness::tls::{Authority, Pair, get, quoted, shake_hands};

fn certificate(pair: &Pair) -> String {
    format!("{{certFile: {}, keyFile: {}}}", quoted(&pair.certificate), quoted(&pair.key))
}

/// Routers of these lines, all to one server; certificates and options of these.
pub(crate) fn routing(server: &Server, routers: &[&str], certificates: &[&Pair], options: &str) -> String {
    let certificates: Vec<_> = certificates.iter().map(|pair| certificate(pair)).collect();
    format!(
        "http:\n  routers:\n{}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n\
         tls:\n  certificates: [{}]\n  options: {{{options}}}\n",
        routers.iter().map(|router| format!("    {router}")).collect::<Vec<_>>().join("\n"),
        server.url(),
        certificates.join(", "),
    )
}

pub(crate) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn certificates_and_routers_go_by_the_name() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let (exact, wild) = (authority.certify(&["www.a.test"]), authority.certify(&["*.a.test"]));
    let gateway = Gateway::with(routing(
        &server,
        &[
            "secure: {rule: 'Host(`www.a.test`) || Host(`x.a.test`)', service: s, tls: {}}",
            "plain: {rule: 'Host(`plain.a.test`)', service: s}",
        ],
        &[&exact, &wild],
        "",
    ))
    .await;
    let client = Arc::new(authority.client(&["http/1.1"], None));
    for (name, expected) in [("www.a.test", &exact), ("x.a.test", &wild)] {
        let stream = shake_hands(&client, gateway.address(), name).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert!(expected.certificate.replace('\n', "").contains(&base64(&shown)), "{name}");
        let answer = get(&client, gateway.address(), name, name).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
    }
    let sent = server.last();
    assert_eq!(sent.header("x-forwarded-proto"), Some("https"));
    assert_eq!(sent.header("x-forwarded-port"), Some("443"));
    let line = gateway.logged(|line| line["RequestHost"] == "x.a.test").await;
    assert_eq!(line["TLSVersion"], "1.3");
    assert_eq!(line["RequestScheme"], "https");
    // One for TLS is not there without it, and the other way round.
    let mut peer = gateway.connect().await;
    assert_eq!(peer.request("GET / HTTP/1.1\r\nHost: www.a.test\r\n\r\n").await.status, 404);
    assert_eq!(status(&get(&client, gateway.address(), "x.a.test", "plain.a.test").await.unwrap()), 404);
    // Nobody vouches for the certificate of last resort.
    let refused = get(&client, gateway.address(), "other.test", "other.test").await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn curl_speaks_http2_to_a_router_of_a_tls_entry_point() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let pair = authority.certify(&["www.a.test"]);
    let gateway = Gateway::setup()
        .flag("entryPoints.web.http.tls=true")
        .dynamic(routing(&server, &["all: {rule: 'Host(`www.a.test`)', service: s}"], &[&pair], ""))
        .start()
        .await;
    let roots = gateway.folder().join("authority.pem");
    fs::write(&roots, &authority.certificate).unwrap();
    for (version, expected) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let port = gateway.address().port();
        let output = tokio::process::Command::new("curl")
            .args(["-sS", version, "--cacert"])
            .arg(&roots)
            .args(["--resolve", &format!("www.a.test:{port}:127.0.0.1"), "-w", " %{http_version} %{http_code}"])
            .arg(format!("https://www.a.test:{port}/"))
            .output()
            .await;
        let Ok(output) = output else { return eprintln!("skipped: no curl") };
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(told, format!("hello {expected} 200"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

const GUARDED: [&str; 2] = [
    "open: {rule: 'Host(`open.test`)', service: s, tls: {}}",
    "guarded: {rule: 'Host(`guarded.test`)', service: s, tls: {options: guarded}}",
];

#[tokio::test]
async fn a_host_that_wants_client_certificates_is_not_reached_by_another_name() {
    let (server, authority, strangers) = (Server::says("hello").await, Authority::new(), Authority::new());
    let pair = authority.certify(&["open.test", "guarded.test"]);
    let options = format!("guarded: {{clientAuth: {{caFiles: [{}]}}}}", quoted(&authority.certificate));
    let gateway = Gateway::with(routing(&server, &GUARDED, &[&pair], &options)).await;
    let address = gateway.address();
    let (nobody, known) = (authority.client(&[], None), authority.client(&[], Some(&authority.certify(&["ada"]))));
    let stranger = authority.client(&[], Some(&strangers.certify(&["eve"])));
    let (nobody, known, stranger) = (Arc::new(nobody), Arc::new(known), Arc::new(stranger));
    assert_eq!(status(&get(&nobody, address, "open.test", "open.test").await.unwrap()), 200);
    assert_eq!(status(&get(&known, address, "guarded.test", "guarded.test").await.unwrap()), 200);
    let line = gateway.logged(|line| line["RequestHost"] == "guarded.test").await;
    assert_eq!(line["TLSClientSubject"], "CN=ada");
    for client in [&nobody, &stranger] {
        assert!(get(client, address, "guarded.test", "guarded.test").await.is_err());
    }
    for (name, host) in
        [("open.test", "guarded.test"), ("open.test", "GUARDED.test.:443"), ("other.test", "guarded.test")]
    {
        match get(&nobody, address, name, host).await {
            Ok(answer) => assert_eq!(status(&answer), 421, "{name} {host}: {answer}"),
            // Its name is not in the certificate.
            Err(error) => assert_eq!(name, "other.test", "{error}"),
        }
    }
    assert_eq!(status(&get(&known, address, "guarded.test", "open.test").await.unwrap()), 421);
    // A session begun at the open host is no way into the other.
    assert_eq!(server.received().iter().filter(|seen| seen.header("host") == Some("guarded.test")).count(), 1);
}

#[tokio::test]
async fn options_that_are_missing_or_broken_refuse_the_handshake() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let pair = authority.certify(&["a.test", "b.test", "c.test"]);
    let routers = [
        "a: {rule: 'Host(`a.test`)', service: s, tls: {options: missing}}",
        "b: {rule: 'Host(`b.test`)', service: s, tls: {options: broken}}",
        "c: {rule: 'Host(`c.test`)', service: s, tls: {}}",
    ];
    let gateway =
        Gateway::with(routing(&server, &routers, &[&pair], "broken: {clientAuth: {caFiles: [/no/such/file]}}")).await;
    let client = Arc::new(authority.client(&[], None));
    for name in ["a.test", "b.test"] {
        let refused = get(&client, gateway.address(), name, name).await.unwrap_err();
        assert!(refused.to_string().contains("AccessDenied"), "{refused}");
        assert_eq!(status(&get(&client, gateway.address(), "c.test", name).await.unwrap()), 421);
    }
    assert_eq!(status(&get(&client, gateway.address(), "c.test", "c.test").await.unwrap()), 200);
    let log = gateway.log();
    assert!(log.contains("unknown TLS options: missing@file"), "{log}");
    assert!(log.contains("tls.options.broken@file.clientAuth.caFiles[0]"), "{log}");
}

#[tokio::test]
async fn openssl_meets_the_versions_and_names_that_options_ask_for() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let pair = authority.certify(&["new.test", "strict.test", "old.test"]);
    let routers = [
        "new: {rule: 'Host(`new.test`)', service: s, tls: {options: new}}",
        "strict: {rule: 'Host(`strict.test`) || Host(`nowhere.test`)', service: s, tls: {options: strict}}",
        "old: {rule: 'Host(`old.test`)', service: s, tls: {}}",
    ];
    let options = "new: {minVersion: VersionTLS13}, strict: {sniStrict: true}";
    let gateway = Gateway::with(routing(&server, &routers, &[&pair], options)).await;
    for (name, flags, expected) in [
        ("new.test", &["-tls1_3"][..], "TLSv1.3"),
        ("new.test", &["-tls1_2"], "alert"),
        ("old.test", &["-tls1_2"], "TLSv1.2"),
        ("old.test", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], "alert"),
        ("strict.test", &[], "TLSv1.3"),
        ("nowhere.test", &[], "alert"),
    ] {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &gateway.address().to_string(), "-servername", name])
            .args(flags)
            .stdin(Stdio::null())
            .output();
        let Ok(output) = output else { return eprintln!("skipped: no openssl") };
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains(expected), "{name} {flags:?}: {told}");
    }
}

#[tokio::test]
async fn a_hello_in_pieces_is_one_and_half_a_hello_is_given_up() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let pair = authority.certify(&["a.test"]);
    let gateway = Gateway::setup()
        .flag("entryPoints.web.transport.respondingTimeouts.readTimeout=1s")
        .dynamic(routing(&server, &["a: {rule: 'Host(`a.test`)', service: s, tls: {}}"], &[&pair], ""))
        .start()
        .await;
    // The library's client, its bytes taken out of memory and sent one by one.
    let config = Arc::new(authority.client(&[], None));
    let mut session = rustls::ClientConnection::new(config, "a.test".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    let mut peer = Peer::connect(gateway.address()).await;
    peer.drip(&hello).await;
    let first = peer.bytes(6).await;
    assert_eq!((first[0], first[5]), (22, 2), "a ServerHello");
    for part in [&hello[..1], &hello[..5], &hello[..hello.len() - 1]] {
        let mut peer = Peer::connect(gateway.address()).await;
        peer.send(part).await;
        let (rest, _) = soon(peer.rest()).await;
        assert_eq!(rest, b"", "after {} bytes", part.len());
    }
    let mut peer = Peer::connect(gateway.address()).await;
    peer.send(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00").await;
    assert_eq!(soon(peer.rest()).await.0, [21, 3, 3, 0, 2, 2, 50], "decode_error");
    // The handshake is bounded as well, not only the hello.
    let mut peer = Peer::connect(gateway.address()).await;
    peer.send(&hello).await;
    let started = std::time::Instant::now();
    soon(peer.rest()).await;
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn certificates_that_are_replaced_are_shown_without_a_reload() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |pair: &Pair| {
        fs::write(path("cert.pem"), &pair.certificate).unwrap();
        fs::write(path("key.pem"), &pair.key).unwrap();
    };
    let (old, new) = (authority.certify(&["a.test"]), authority.certify(&["a.test"]));
    write(&old);
    let dynamic = format!(
        "http: {{routers: {{a: {{rule: 'Host(`a.test`)', service: s, tls: {{}}}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}}}}}\n\
         tls: {{certificates: [{{certFile: {:?}, keyFile: {:?}}}]}}\n",
        server.url(),
        path("cert.pem"),
        path("key.pem"),
    );
    let gateway = Gateway::setup()
        .flag("entryPoints.inside.address=127.0.0.1:0")
        .flag("metrics.prometheus.entryPoint=inside")
        .dynamic(dynamic)
        .start()
        .await;
    let told = async || {
        let page = Peer::connect(gateway.address_of("inside")).await.get("/metrics", "").await;
        let page = page.text().to_owned();
        page.lines().find(|line| line.starts_with("traefik_tls_certs_not_after{")).expect("a certificate").to_owned()
    };
    let client = Arc::new(authority.client(&[], None));
    let shown = async || {
        let stream = shake_hands(&client, gateway.address(), "a.test").await.unwrap();
        base64(&stream.get_ref().1.peer_certificates().unwrap()[0])
    };
    let is = |pair: &Pair, shown: &str| pair.certificate.replace('\n', "").contains(shown);
    assert!(is(&old, &shown().await));
    let first = told().await;
    assert!(first.contains(r#"{cn="a.test",sans="a.test",serial=""#), "{first}");
    // Half of the new pair does not fit: the old one stays.
    fs::write(path("cert.pem"), &new.certificate).unwrap();
    soon(async {
        while !gateway.log().contains("does not fit") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(is(&old, &shown().await));
    write(&new);
    soon(async {
        while !is(&new, &shown().await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_ne!(told().await, first, "another serial number");
}

#[tokio::test]
async fn sessions_go_on_also_after_a_reload() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let pair = authority.certify(&["a.test"]);
    let routers = ["a: {rule: 'Host(`a.test`)', service: s, tls: {}}"];
    let gateway = Gateway::with(routing(&server, &routers, &[&pair], "")).await;
    let mut client = authority.client(&[], None);
    client.enable_early_data = true;
    let client = Arc::new(client);
    let kind = async || {
        let mut stream = shake_hands(&client, gateway.address(), "a.test").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.ends_with(b"hello"));
        stream.get_ref().1.handshake_kind().unwrap()
    };
    assert_ne!(kind().await, HandshakeKind::Resumed);
    assert_eq!(kind().await, HandshakeKind::Resumed);
    gateway.apply(&routing(&server, &routers, &[&pair, &authority.certify(&["b.test"])], "")).await;
    assert_eq!(kind().await, HandshakeKind::Resumed);
    // What is sent before the end of a handshake may be sent again by whoever has recorded it (RFC 8446 §8): it is not taken.
    let mut next = rustls::ClientConnection::new(client.clone(), "a.test".try_into().unwrap()).unwrap();
    assert!(next.early_data().is_none());
}

#[tokio::test]
async fn a_connection_from_before_clients_had_to_prove_something_is_no_way_in() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let pair = authority.certify(&["a.test"]);
    let routers = ["a: {rule: 'Host(`a.test`)', service: s, tls: {options: terms}}"];
    let gateway = Gateway::with(routing(&server, &routers, &[&pair], "terms: {}")).await;
    let client = Arc::new(authority.client(&[], None));
    let mut stream = shake_hands(&client, gateway.address(), "a.test").await.unwrap();
    let mut answer = async || {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            match soon(stream.read_buf(&mut answer)).await {
                Ok(0) => break,
                read => drop(read.unwrap()),
            }
        }
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(status(&answer().await), 200);
    // What does not touch them is no reason to send anybody away.
    gateway.apply(&routing(&server, &routers, &[&pair], "terms: {sniStrict: true}")).await;
    assert_eq!(status(&answer().await), 200);
    let options = format!("terms: {{clientAuth: {{caFiles: [{}]}}}}", quoted(&authority.certificate));
    gateway.apply(&routing(&server, &routers, &[&pair], &options)).await;
    let refused = answer().await;
    assert_eq!(status(&refused), 421);
    // A client that does not know the status comes back by another connection.
    assert!(refused.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{refused}");
}

/// Bytes that TLS holds back are answers that are not taken, as any others: `writeTimeout` and the least rate hold for them.
#[tokio::test]
async fn who_takes_no_answer_is_cut_off_also_where_tls_holds_its_end() {
    let (server, authority) = (Server::start(|_| ok("x".repeat(7000))).await, Authority::new());
    let pair = authority.certify(&["a.test"]);
    let routers = ["a: {rule: 'Host(`a.test`)', service: s, tls: {}}"];
    let gateway = Gateway::setup()
        .flag("entryPoints.web.transport.respondingTimeouts.writeTimeout=500ms")
        .dynamic(routing(&server, &routers, &[&pair], ""))
        .start()
        .await;
    let client = Arc::new(authority.client(&["http/1.1"], None));
    let stream = shake_hands(&client, gateway.address(), "a.test").await.unwrap();
    socket2::SockRef::from(stream.get_ref().0).set_send_buffer_size(64 << 10).unwrap();
    let mut peer = Peer::of(stream);
    // One request after the other until there is no room left on either way. The connection must end, not stand still.
    while peer.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await {}
    assert!(server.count() > 10, "{}", server.count());
}

/// A handshake that ends when a drain has closed those that were idle is followed by a request, and that is answered.
#[tokio::test]
async fn a_handshake_that_outlasts_idle_connections_is_no_idle_connection() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let routers =
        ["all: {rule: 'PathPrefix(`/`)', service: s}", "secure: {rule: 'PathPrefix(`/`)', service: s, tls: {}}"];
    let mut gateway = Gateway::setup()
        .dynamic(routing(&server, &routers, &[&authority.certify(&["a.test"])], ""))
        .flag("drain.idleSpread=100ms")
        .start()
        .await;
    let mut idle = gateway.connect().await;
    assert_eq!(idle.get("/", "").await.status, 200);
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(authority.client(&["http/1.1"], None)), name).unwrap();
    let mut stream = gateway.connect().await.into_stream();
    send(&mut tls, &mut stream).await;
    while tls.is_handshaking() {
        receive(&mut tls, &mut stream).await;
    }
    // All that is missing is the client's last word.
    gateway.signal(Signal::TERM);
    assert_eq!(idle.end().await, End::Closed);
    send(&mut tls, &mut stream).await;
    // What comes back is tickets: then the gateway waits for a request.
    receive(&mut tls, &mut stream).await;
    tls.writer().write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    send(&mut tls, &mut stream).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        receive(&mut tls, &mut stream).await;
        let _ = tls.reader().read_to_end(&mut answer);
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert_eq!(gateway.ended().await, Some(0));
}

/// Sends what there is to send.
async fn send(tls: &mut rustls::ClientConnection, stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    soon(stream.write_all(&bytes)).await.unwrap();
}

/// Takes what comes next, which must be something.
async fn receive(tls: &mut rustls::ClientConnection, stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    let read = soon(stream.read(&mut bytes)).await.unwrap();
    assert!(read > 0, "the connection was closed");
    let mut bytes = &bytes[..read];
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes).unwrap();
        tls.process_new_packets().unwrap();
    }
}
