//! Ways around what a client must prove in handshakes, and ways to be in no hurry with them.

use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon};
use crate::harness::server::Server;
use crate::harness::tls::{Authority, get, quoted};
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
