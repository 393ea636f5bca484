//! TCP routers before clients and servers that others wrote: OpenSSL, Redis, PostgreSQL.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon};
use crate::harness::tls::{Authority, Pair, quoted};
use crate::tcp::{Postgres, acceptor, parrot, parrot_over, service};

/// A program that a test needs is not there: on machines that are made for tests it has to be.
pub(crate) fn skip(program: &str) {
    assert!(std::env::var_os("CI").is_none(), "{program} is missing");
    eprintln!("skipped: no {program}");
}

/// What a command says, if it is there. `said` is written to it, and then no more.
async fn run(program: &str, arguments: &[&str], said: &str) -> Option<(String, String)> {
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = child else {
        skip(program);
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let said = said.to_owned();
    let writing = tokio::spawn(async move {
        // It may have ended already.
        let _ = input.write_all(said.as_bytes()).await;
    });
    let output = soon(child.wait_with_output()).await.unwrap();
    writing.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((text(&output.stdout), text(&output.stderr)))
}

/// A client of OpenSSL's that asks for a name and insists on it.
fn s_client(at: &str, name: &str, roots: &Path, more: &[&str]) -> Option<tokio::process::Child> {
    let child = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", at, "-servername", name, "-verify_hostname", name, "-quiet", "-CAfile"])
        .arg(roots)
        .arg("-verify_return_error")
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    match child {
        Ok(child) => Some(child),
        Err(_) => {
            skip("openssl");
            None
        }
    }
}

/// Says something, and hears so many bytes.
async fn ask(child: &mut tokio::process::Child, said: &str, count: usize) -> String {
    child.stdin.as_mut().unwrap().write_all(said.as_bytes()).await.unwrap();
    let mut heard = vec![0; count];
    soon(child.stdout.as_mut().unwrap().read_exact(&mut heard)).await.expect("an answer");
    String::from_utf8(heard).unwrap()
}

/// A child that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn listens(port: u16) {
    soon(async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A gateway that ends TLS for `end.test`, for `mail.test` if the client asks for IMAP, and passes `pass.test` on.
async fn three_ways(ours: &Pair, plain: SocketAddr, mail: SocketAddr, sealed: SocketAddr) -> Gateway {
    Gateway::with(format!(
        "tcp:\n  routers:\n    end: {{rule: 'HostSNI(`end.test`)', service: plain, tls: {{}}}}\n    \
         mail: {{rule: 'HostSNI(`end.test`) && ALPN(`imap`)', service: mail, tls: {{options: mail}}}}\n    \
         pass: {{rule: 'HostSNI(`pass.test`)', service: sealed, tls: {{passthrough: true}}}}\n  services:\n{}{}{}\
         tls:\n  certificates: [{{certFile: {}, keyFile: {}}}]\n  options: {{mail: {{alpnProtocols: [imap]}}}}\n",
        service("plain", &[plain], ""),
        service("mail", &[mail], ""),
        service("sealed", &[sealed], ""),
        quoted(&ours.certificate),
        quoted(&ours.key),
    ))
    .await
}

#[tokio::test]
async fn openssl_clients_are_served_and_passed_on() {
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify(&["end.test"]), authority.certify(&["pass.test"]));
    let gateway = three_ways(
        &ours,
        parrot("plain ").await,
        parrot("mail ").await,
        parrot_over("sealed ", Some(acceptor(&theirs))).await,
    )
    .await;
    let roots = write(gateway.folder(), "authority.pem", &authority.certificate);
    let at = gateway.address().to_string();
    for (name, more, expected) in [
        ("end.test", &["-tls1_2"][..], "plain "),
        ("end.test", &["-tls1_3"], "plain "),
        ("end.test", &["-alpn", "imap"], "mail "),
        ("end.test", &["-alpn", "x,http/1.1"], "plain "),
        ("pass.test", &["-tls1_2"], "sealed "),
        ("pass.test", &["-tls1_3"], "sealed "),
    ] {
        let Some(mut child) = s_client(&at, name, &roots, more) else { return };
        let heard = ask(&mut child, "good day\n", expected.len() + 9).await;
        assert_eq!(heard, format!("{expected}good day\n"), "{name} {more:?}");
    }
    // A name that nobody knows gets what HTTPS has for it, and no TCP server.
    let fixed = ["s_client", "-connect", &at, "-servername", "unknown.test", "-quiet"];
    let asked = "GET / HTTP/1.1\r\nHost: unknown.test\r\nConnection: close\r\n\r\n";
    let Some((out, err)) = run("openssl", &[&fixed[..], &["-ign_eof"]].concat(), asked).await else { return };
    assert!(out.starts_with("HTTP/1.1 404"), "{out}{err}");
    gateway.logged(|line| line["RouterName"] == "mail@file" && line["TLSVersion"] == "1.3").await;
    gateway.logged(|line| line["RouterName"] == "end@file" && line["TLSVersion"] == "1.2").await;
    // Of TLS that ended elsewhere nothing is known but the name.
    let line = gateway.logged(|line| line["RouterName"] == "pass@file").await;
    assert!(line["TLSVersion"].is_null() && line["RequestHost"] == "pass.test", "{line}");
}

#[tokio::test]
async fn an_openssl_server_keeps_its_own_tls() {
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify(&["end.test"]), authority.certify(&["pass.test", "inner.test"]));
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) =
        (write(folder.path(), "cert.pem", &theirs.certificate), write(folder.path(), "key.pem", &theirs.key));
    let port = free_port().await;
    let child = Command::new("openssl")
        .args(["s_server", "-quiet", "-rev", "-accept", &format!("127.0.0.1:{port}"), "-cert"])
        .arg(&certificate)
        .arg("-key")
        .arg(&key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else { return skip("openssl") };
    let _server = Running(child);
    listens(port).await;
    let server: SocketAddr = ([127, 0, 0, 1], port).into();
    let gateway = Gateway::with(format!(
        "tcp:\n  routers:\n    pass: {{rule: 'HostSNI(`pass.test`)', service: pass, tls: {{passthrough: true}}}}\n    \
         again: {{rule: 'HostSNI(`end.test`)', service: again, tls: {{}}}}\n  services:\n{}    \
         again: {{loadBalancer: {{servers: [{{address: '{server}', tls: true}}], serversTransport: t}}}}\n  \
         serversTransports: {{t: {{tls: {{serverName: inner.test, rootCAs: [{}]}}}}}}\n\
         tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}\n",
        service("pass", &[server], ""),
        quoted(&authority.certificate),
        quoted(&ours.certificate),
        quoted(&ours.key),
    ))
    .await;
    let roots = write(gateway.folder(), "authority.pem", &authority.certificate);
    let at = gateway.address().to_string();
    // Passed on as it is, and ended here and begun anew.
    for name in ["pass.test", "end.test"] {
        let Some(mut child) = s_client(&at, name, &roots, &[]) else { return };
        assert_eq!(ask(&mut child, "stressed\n", 9).await, "desserts\n", "{name}");
    }
}

#[tokio::test]
async fn redis_clients_of_its_own_are_served_with_and_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().await;
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn();
    let Ok(child) = child else { return skip("redis-server") };
    let _server = Running(child);
    listens(port).await;
    let authority = Authority::new();
    let pair = authority.certify(&["redis.test"]);
    let gateway = Gateway::with(format!(
        "tcp:\n  routers:\n    tls: {{rule: 'HostSNI(`redis.test`)', service: s, tls: {{}}}}\n    \
         plain: {{rule: 'HostSNI(`*`)', service: s}}\n  services:\n{}\
         tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}\n",
        service("s", &[([127, 0, 0, 1], port).into()], ""),
        quoted(&pair.certificate),
        quoted(&pair.key),
    ))
    .await;
    let roots = write(gateway.folder(), "authority.pem", &authority.certificate);
    let at = gateway.address().port().to_string();
    let large = "v".repeat(3 << 20);
    let tls = ["--tls", "--sni", "redis.test", "--cacert", roots.to_str().unwrap()];
    for (name, more) in [("plain", &[][..]), ("tls", &tls)] {
        let fixed = ["-h", "127.0.0.1", "-p", &at];
        let all = |last: &[&'static str]| [&fixed[..], more, last].concat();
        let Some((out, err)) = run("redis-cli", &all(&["-x", "SET", "k"]), &large).await else { return };
        assert_eq!(out.trim(), "OK", "{name}: {err}");
        let (out, err) = run("redis-cli", &all(&["GET", "k"]), "").await.unwrap();
        assert!(out.trim() == large, "{name}: {} bytes {err}", out.len());
        // A thousand commands in one go, and their answers in order.
        let commands: String = (0..1000).map(|at| format!("ECHO {at}\n")).collect();
        let expected: String = (0..1000).map(|at| format!("{at}\n")).collect();
        let (out, err) = run("redis-cli", &all(&[]), &commands).await.unwrap();
        assert!(out.replace('"', "") == expected, "{name}: {out:.200} {err}");
    }
    for router in ["tls@file", "plain@file"] {
        gateway.logged(|line| line["RouterName"] == router && line["ending"] == "closed").await;
    }
}

#[tokio::test]
async fn postgres_is_reached_in_every_mode_that_its_client_has() {
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify(&["end.test"]), authority.certify(&["pass.test"]));
    let Some(postgres) = Postgres::start(&theirs).await else { return skip("PostgreSQL") };
    let server: SocketAddr = ([127, 0, 0, 1], postgres.port).into();
    let gateway = Gateway::setup()
        .entry_point("open")
        .dynamic(format!(
            "tcp:\n  routers:\n    end: {{rule: 'HostSNI(`end.test`)', service: s, entryPoints: [web], tls: {{}}}}\n    \
             pass: {{rule: 'HostSNI(`pass.test`)', service: s, entryPoints: [web], tls: {{passthrough: true}}}}\n    \
             plain: {{rule: 'HostSNI(`*`)', service: s, entryPoints: [web, open]}}\n  services:\n{}\
             tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}\n",
            service("s", &[server], ""),
            quoted(&ours.certificate),
            quoted(&ours.key),
        ))
        .start()
        .await;
    let roots = write(gateway.folder(), "authority.pem", &authority.certificate);
    let (web, open) = (gateway.address().port(), gateway.address_of("open").port());
    for (host, port, mode, is_encrypted) in [
        ("end.test", web, "verify-full", "f"),
        ("pass.test", web, "verify-full", "t"),
        ("pass.test", web, "require", "t"),
        ("end.test", web, "prefer", "f"),
        // Without TLS: by the router that takes anything.
        ("end.test", web, "disable", "f"),
        ("end.test", open, "disable", "f"),
        // Where nothing but plain TCP is, the server itself is asked for TLS.
        ("pass.test", open, "verify-full", "t"),
    ] {
        let connection = format!(
            "host={host} hostaddr=127.0.0.1 port={port} user=tester dbname=postgres sslmode={mode} sslrootcert={}",
            roots.display()
        );
        let query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let Some((out, err)) = run("psql", &[&connection, "-Atc", query], "").await else { return };
        assert_eq!(out.trim(), is_encrypted, "{host} {mode}: {err}");
        // Some megabytes in one answer, and a sum that tells whether they are whole.
        let query = "copy (select repeat('x', 1000) || n from generate_series(1, 3000) n) to stdout";
        let (out, err) = run("psql", &[&connection, "-c", query], "").await.unwrap();
        assert_eq!(out.lines().count(), 3000, "{host} {mode}: {err}");
        assert!(out.lines().zip(1..).all(|(line, n)| line == format!("{}{n}", "x".repeat(1000))), "{host} {mode}");
    }
}

#[tokio::test]
async fn the_question_for_tls_may_come_in_pieces_and_only_once() {
    let authority = Authority::new();
    let pair = authority.certify(&["end.test"]);
    let gateway = Gateway::setup()
        .flag("entryPoints.web.limits.headTimeout=500ms")
        .dynamic(format!(
            "tcp:\n  routers: {{end: {{rule: 'HostSNI(`end.test`)', service: s, tls: {{}}}}}}\n  services:\n{}\
             tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}\n",
            service("s", &[parrot("x").await], ""),
            quoted(&pair.certificate),
            quoted(&pair.key),
        ))
        .start()
        .await;
    const TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    const GSSAPI: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
    let mut client = gateway.connect().await;
    client.drip(GSSAPI).await;
    assert_eq!(client.bytes(1).await, b"N");
    client.drip(TLS).await;
    assert_eq!(client.bytes(1).await, b"S");
    // What follows is TLS, or nothing.
    client.send(TLS).await;
    let (rest, _) = client.rest().await;
    assert!(!rest.starts_with(b"S"), "{rest:?}");
    // Who asks and says no more has its time.
    let mut client = gateway.connect().await;
    client.send(&TLS[..5]).await;
    soon(client.end()).await;
    let mut client = Peer::connect(gateway.address()).await;
    for _ in 0..100 {
        if !client.try_send(GSSAPI).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    soon(client.end()).await;
}
