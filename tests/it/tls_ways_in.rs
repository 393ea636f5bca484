//! Ways around what a client must prove in handshakes, and ways to be in no hurry with them.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon};
use crate::harness::server::Server;
use crate::harness::tls::{Authority, get, quoted, shake_hands};
use crate::tls::{routing, status};

/// Nginx CVE-2025-23419, Traefik CVE-2022-23632, CVE-2026-48491, CVE-2026-53622: wildcards, spellings and sessions as ways around
/// client certificates.
#[tokio::test]
async fn neither_spellings_nor_sessions_lead_around_client_certificates() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let pair = authority.certify(&["open.test", "*.w.test", "guarded.test"]);
    let routers = [
        "open: {rule: 'Host(`open.test`)', service: s, tls: {}}",
        "wild: {rule: 'Host(`*.w.test`) || Host(`guarded.test`)', service: s, tls: {options: guarded}}",
    ];
    let options = format!("guarded: {{clientAuth: {{caFiles: [{}]}}}}", quoted(&authority.certificate));
    let gateway = Gateway::with(routing(&server, &routers, &[&pair], &options)).await;
    let address = gateway.address();
    let nobody = Arc::new(authority.client(&[], None));
    for name in ["x.w.test", "X.W.TEST", "Guarded.Test"] {
        assert!(get(&nobody, address, name, name).await.is_err(), "{name}");
    }
    for host in ["x.w.test", "X.w.TEST", "x.w.test.", "x.w.test:443", "x.w.test:foo", "guarded.test.", "guarded.test:0"]
    {
        let found = status(&get(&nobody, address, "open.test", host).await.unwrap());
        assert!(matches!(found, 421 | 400), "{host}: {found}");
    }
    // OpenSSL goes on with a session under whatever name it is told to.
    let folder = tempfile::tempdir().unwrap();
    let session = folder.path().join("session");
    for version in ["-tls1_2", "-tls1_3"] {
        let client = |name: &str, option: &str| {
            let mut command = Command::new("openssl");
            command.args([
                "s_client",
                "-ign_eof",
                "-connect",
                &address.to_string(),
                "-servername",
                name,
                version,
                option,
            ]);
            let mut child = command
                .arg(&session)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
            // It may have given up before.
            let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), request.as_bytes());
            async { tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap().stdout }
        };
        let text = String::from_utf8(soon(client("open.test", "-sess_out")).await).unwrap();
        assert!(text.contains("hello") && session.exists(), "{version}: {text}");
        let text = String::from_utf8(soon(client("open.test", "-sess_in")).await).unwrap();
        assert!(text.contains("Reused,") && text.contains("hello"), "{version}: {text}");
        let text = String::from_utf8(soon(client("guarded.test", "-sess_in")).await).unwrap();
        assert!(!text.contains("Reused,") && !text.contains("hello"), "{version}: {text}");
    }
    assert!(server.received().iter().all(|seen| seen.header("host") == Some("open.test")));
}

/// The status of a request for this path over a connection of its own; 0 if there is no handshake.
async fn asked(client: &Arc<ClientConfig>, address: SocketAddr, host: &str, path: &str) -> u16 {
    let Ok(stream) = shake_hands(client, address, host).await else { return 0 };
    let mut peer = Peer::of(stream);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    // In TLS 1.3 a client hears after its handshake that it is refused.
    match peer.try_send(request).await {
        true => soon(peer.try_answer()).await.map_or(0, |answer| answer.status),
        false => 0,
    }
}

/// Traefik CVE-2026-85596, Caddy CVE-2026-27586: options that ask for client certificates, and others that hold in their place,
/// because TLS options go by the host and the host's routers do not agree, name none, or have a wildcard over them.
#[tokio::test]
async fn laxer_options_of_others_lead_around_no_client_certificate() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let pair = authority.certify(&["open.test", "shared.test", "r1.test", "*.w.test"]);
    let routers = [
        "open: {rule: 'Host(`open.test`)', service: s, tls: {}}",
        "shared: {rule: 'Host(`shared.test`) && PathPrefix(`/open`)', service: s, tls: {}}",
        "unshared: {rule: 'Host(`shared.test`) && PathPrefix(`/guarded`)', service: s, tls: {options: guarded}}",
        "part: {rule: 'Host(`a.w.test`) && PathPrefix(`/open`)', service: s, tls: {}}",
        "wild: {rule: 'Host(`*.w.test`)', service: s, tls: {options: guarded}}",
        "pattern: {rule: 'HostRegexp(`^r[0-9][.]test$`)', service: s, tls: {options: guarded}}",
        "any: {rule: 'PathPrefix(`/guarded`)', priority: 1000, service: s, tls: {options: guarded}}",
        "broken: {rule: 'PathPrefix(`/missing`)', priority: 1000, service: s, tls: {options: missing}}",
    ];
    let ask = format!("clientAuth: {{caFiles: [{}]}}", quoted(&authority.certificate));
    let written = |default: &str| {
        let options = format!("guarded: {{{ask}}}, default: {{{default}}}");
        routing(&server, &routers, &[&pair], &options)
    };
    let gateway = Gateway::with(written("")).await;
    let nobody = Arc::new(authority.client(&[], None));
    let known = Arc::new(authority.client(&[], Some(&authority.certify(&["ada"]))));
    let status = async |client, host, path| asked(client, gateway.address(), host, path).await;
    for client in [&nobody, &known] {
        for (host, path, expected) in [
            ("open.test", "/", 200),
            ("open.test", "/guarded", 421),
            ("open.test", "/missing", 421),
            ("shared.test", "/open", 200),
            ("shared.test", "/guarded", 421),
            ("a.w.test", "/open", 200),
            ("a.w.test", "/else", 421),
            ("r1.test", "/", 421),
        ] {
            assert_eq!(status(client, host, path).await, expected, "{host}{path}");
        }
    }
    assert_eq!((status(&nobody, "b.w.test", "/").await, status(&known, "b.w.test", "/").await), (0, 200));
    let is_free = |path: &str| path == "/" || path == "/open";
    assert!(server.received().iter().all(|seen| is_free(seen.path())));
    let log = gateway.log();
    for told in [
        "unshared@file.tls.options: the routers of host shared.test ask for different TLS options",
        "wild@file.tls.options: the rule takes a.w.test too",
        "any@file.tls.options: the rule names no host",
    ] {
        let line = log.lines().find(|line| line.contains(told)).unwrap_or_else(|| panic!("{told}: {log}"));
        assert!(line.contains("the router answers nobody (421)"), "{line}");
    }
    // What counts is what was asked for, not what it is called.
    gateway.apply(&written(&ask)).await;
    for (host, path) in
        [("open.test", "/guarded"), ("shared.test", "/guarded"), ("a.w.test", "/else"), ("r1.test", "/")]
    {
        assert_eq!((status(&nobody, host, path).await, status(&known, host, path).await), (0, 200), "{host}{path}");
    }
    assert_eq!(status(&known, "open.test", "/missing").await, 421);
}

/// Traefik CVE-2026-22045, CVE-2026-25949: ways to TLS on which a deadline was lifted.
#[tokio::test]
async fn each_way_to_tls_has_a_deadline() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    let pair = authority.certify(&["a.test"]);
    let tcp = format!(
        "tcp:\n  routers: {{db: {{rule: HostSNI(`a.test`), service: t, tls: {{}}}}}}\n  \
         services: {{t: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}}}\n",
        server.address()
    );
    let gateway = Gateway::setup()
        .flag("entryPoints.web.transport.respondingTimeouts.readTimeout=1s")
        .dynamic(routing(&server, &["a: {rule: 'Host(`b.test`)', service: s, tls: {}}"], &[&pair], "") + &tcp)
        .start()
        .await;
    let mut config = authority.client(&[], None);
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let mut session = rustls::ClientConnection::new(Arc::new(config), "a.test".try_into().unwrap()).unwrap();
    let mut proof = Vec::new();
    session.write_tls(&mut proof).unwrap();
    let (wants_tls, wants_gss) = (&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], &b"\0\0\0\x08\x04\xd2\x16\x30"[..]);
    for (sent, expected) in [
        (b""[..].to_vec(), &b""[..]),
        (proof[..50].to_vec(), b""),
        (wants_tls.to_vec(), b"S"),
        (wants_gss.to_vec(), b"N"),
        ([wants_tls, &proof[..50]].concat(), b"S"),
        ([wants_tls, b"\0\0"].concat(), b"S"),
        ([wants_gss, wants_tls].concat(), b"NS"),
    ] {
        let mut peer = Peer::connect(gateway.address()).await;
        peer.send(&sent).await;
        assert_eq!(soon(peer.rest()).await.0, expected, "{}", sent.escape_ascii());
    }
    // Half a question might as well have become a request.
    let mut peer = Peer::connect(gateway.address()).await;
    peer.send(&wants_tls[..4]).await;
    assert_eq!(soon(peer.answer()).await.status, 408);
    // A proof that nobody awaits is refused, and not waited for.
    let mut peer = Peer::connect(gateway.address()).await;
    peer.send(&proof).await;
    soon(peer.rest()).await;
    assert_eq!(server.count(), 0);
}
