//! TCP routers: who takes a connection, which server gets it, and that every byte arrives.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon};
use crate::harness::server::Server;
use crate::harness::tls::{Authority, Pair, get, quoted, shake_hands};

/// A server that greets with its name, and says back whatever comes.
pub(crate) async fn parrot(name: &'static str) -> SocketAddr {
    parrot_over(name, None).await
}

pub(crate) async fn parrot_over(name: &'static str, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => say_back(name, stream).await,
                        Err(error) => Err(error),
                    },
                    None => say_back(name, stream).await,
                }
            });
        }
    });
    address
}

async fn say_back<S: AsyncRead + AsyncWrite + Unpin>(name: &str, mut stream: S) -> std::io::Result<()> {
    stream.write_all(name.as_bytes()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..read]).await?;
        stream.flush().await?;
    }
}

pub(crate) fn acceptor(pair: &Pair) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

pub(crate) fn service(name: &str, servers: &[SocketAddr], more: &str) -> String {
    let servers: Vec<_> = servers.iter().map(|address| format!("{{address: '{address}'}}")).collect();
    format!("    {name}: {{loadBalancer: {{servers: [{}]{more}}}}}\n", servers.join(", "))
}

/// The answer of a parrot: its greeting and what was said.
pub(crate) async fn chat(address: SocketAddr, said: &str) -> String {
    let mut peer = Peer::connect(address).await;
    peer.send(said).await;
    peer.half_close().await;
    String::from_utf8(soon(peer.rest()).await.0).unwrap()
}

#[tokio::test]
async fn a_server_may_speak_first_and_every_byte_arrives() {
    let server = parrot("hello ").await;
    let gateway = Gateway::setup()
        .flag("metrics.prometheus.entryPoint=traefik")
        .entry_point("traefik")
        .dynamic(format!(
            "tcp:\n  routers: {{all: {{rule: 'HostSNI(`*`)', service: s, entryPoints: [web]}}}}\n  services:\n{}",
            service("s", &[server], ", terminationDelay: -1")
        ))
        .start()
        .await;
    let mut peer = gateway.connect().await;
    assert_eq!(peer.bytes(6).await, b"hello ", "before the client has said anything");
    // Enough for the kernel to take over, both ways at once.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let (mut read, mut write) = peer.into_stream().into_split();
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&copy).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut back = Vec::new();
    soon(read.read_to_end(&mut back)).await.unwrap();
    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
    drop(writing.await.unwrap());
    let line = gateway.logged(|line| line["RouterName"] == "all@file").await;
    assert_eq!(line["ending"], "closed");
    assert_eq!(line["RequestContentSize"], 3_000_000);
    assert_eq!(line["DownstreamContentSize"], 3_000_006);
    assert_eq!(line["ServiceAddr"], server.to_string());
    assert_eq!(line["RequestProtocol"], "TCP");
    let mut metrics = Peer::connect(gateway.address_of("traefik")).await;
    let page = metrics.get("/metrics", "").await;
    for wanted in [
        "portcullis_tcp_connections_total{ending=\"closed\",router=\"all@file\",service=\"s@file\"} 1",
        "portcullis_tcp_received_bytes_total{router=\"all@file\",service=\"s@file\"} 3000000",
        "portcullis_tcp_open_connections{router=\"all@file\",service=\"s@file\"} 0",
    ] {
        assert!(page.text().contains(wanted), "{wanted}\n{}", page.text());
    }
}

#[tokio::test]
async fn one_entry_point_passes_tls_through_ends_it_and_serves_http() {
    let authority = Authority::new();
    let (ours, theirs) =
        (authority.certify(&["end.test", "web.test", "x.wild.test"]), authority.certify(&["pass.test"]));
    let (plain, sealed) = (parrot("plain ").await, parrot_over("sealed ", Some(acceptor(&theirs))).await);
    let http = Server::says("http").await;
    let gateway = Gateway::with(format!(
        "tcp:\n  routers:\n    end: {{rule: 'HostSNI(`end.test`) || HostSNI(`*.wild.test`)', service: plain, tls: {{}}}}\n    \
         pass: {{rule: 'HostSNI(`pass.test`)', service: sealed, tls: {{passthrough: true}}}}\n    \
         imap: {{rule: 'HostSNI(`web.test`) && ALPN(`imap`)', service: plain, tls: {{}}}}\n  services:\n{}{}\
         http:\n  routers:\n    web: {{rule: 'Host(`web.test`)', service: w, tls: {{}}}}\n    \
         open: {{rule: 'PathPrefix(`/open`)', service: w}}\n  \
         services: {{w: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}\n\
         tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}\n",
        service("plain", &[plain], ""),
        service("sealed", &[sealed], ""),
        http.url(),
        quoted(&ours.certificate),
        quoted(&ours.key),
    ))
    .await;
    let address = gateway.address();
    let client = Arc::new(authority.client(&[], None));
    for (name, expected) in [("end.test", "plain "), ("x.wild.test", "plain "), ("pass.test", "sealed ")] {
        let mut stream = shake_hands(&client, address, name).await.unwrap();
        stream.write_all(b"secret").await.unwrap();
        let mut answer = vec![0; expected.len() + 6];
        soon(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("{expected}secret"), "{name}");
    }
    let shown = |pair: &Pair| pair.certificate.replace('\n', "");
    let stream = shake_hands(&client, address, "pass.test").await.unwrap();
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    use base64::Engine as _;
    assert!(shown(&theirs).contains(&base64::engine::general_purpose::STANDARD.encode(&certificate)));
    drop(stream);
    assert!(get(&client, address, "web.test", "web.test").await.unwrap().ends_with("http"));
    // A TCP router takes the same name for another protocol, if it is asked for a rule that HTTPS has not named.
    let mut peer = Peer::connect(address).await;
    assert_eq!(peer.get("/open", "").await.status, 200);
    let line = gateway.logged(|line| line["RouterName"] == "pass@file").await;
    assert_eq!((&line["RequestHost"], &line["RequestProtocol"]), (&"pass.test".into(), &"TLS".into()));
}

#[tokio::test]
async fn connections_without_a_router_get_what_http_says() {
    let server = parrot("x").await;
    let gateway = Gateway::with(format!(
        "tcp:\n  routers: {{a: {{rule: 'HostSNI(`a.test`)', service: s, tls: {{passthrough: true}}}}}}\n  services:\n{}",
        service("s", &[server], "")
    ))
    .await;
    let mut peer = gateway.connect().await;
    assert_eq!(peer.get("/", "").await.status, 404);
}

#[tokio::test]
async fn servers_are_told_who_the_client_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    for (version, more) in [(1, ", proxyProtocol: {version: 1}"), (2, ", serversTransport: t")] {
        let gateway = Gateway::with(format!(
            "tcp:\n  routers: {{all: {{rule: 'HostSNI(`*`)', service: s}}}}\n  services:\n{}  \
             serversTransports: {{t: {{proxyProtocol: {{}}}}}}\n",
            service("s", &[server], more)
        ))
        .await;
        let mut peer = gateway.connect().await;
        let client = peer.local();
        peer.send("data").await;
        let (stream, _) = soon(listener.accept()).await.unwrap();
        let mut accepted = Peer::of(stream);
        if version == 1 {
            let expected =
                format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\ndata", client.port(), gateway.address().port());
            assert_eq!(accepted.bytes(expected.len()).await, expected.as_bytes());
        } else {
            let header = accepted.bytes(16 + 12 + 4).await;
            assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
            assert_eq!(header[24..26], client.port().to_be_bytes());
            assert_eq!(&header[28..], b"data");
        }
    }
}

#[tokio::test]
async fn middlewares_let_through_or_close() {
    let server = parrot("in ").await;
    let gateway = Gateway::setup()
        .entry_point("other")
        .dynamic(format!(
            "tcp:\n  routers:\n    few: {{rule: 'HostSNI(`*`)', service: s, middlewares: [few], entryPoints: [web]}}\n    \
             none: {{rule: 'HostSNI(`*`)', service: s, middlewares: [list], entryPoints: [other]}}\n  \
             middlewares: {{few: {{inFlightConn: {{amount: 1}}}}, list: {{ipAllowList: {{sourceRange: [10.0.0.0/8]}}}}}}\n  \
             services:\n{}",
            service("s", &[server], "")
        ))
        .start()
        .await;
    let mut first = gateway.connect().await;
    assert_eq!(first.bytes(3).await, b"in ");
    let mut second = gateway.connect().await;
    assert_eq!(soon(second.rest()).await.0, b"");
    drop(first);
    soon(async {
        while chat(gateway.address(), "x").await != "in x" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(chat(gateway.address_of("other"), "").await, "");
    let line = gateway.logged(|line| line["RouterName"] == "none@file").await;
    assert_eq!(line["ending"], "address-refused");
    gateway.logged(|line| line["ending"] == "too-many-in-flight").await;
}

#[tokio::test]
async fn servers_that_are_down_or_refuse_are_passed_over() {
    let (well, other) = (parrot("well ").await, parrot("other ").await);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let gateway = Gateway::setup()
        .entry_point("checked")
        .entry_point("weighed")
        .dynamic(format!(
            "tcp:\n  routers:\n    a: {{rule: 'HostSNI(`*`)', service: s, entryPoints: [web]}}\n    \
             b: {{rule: 'HostSNI(`*`)', service: checked, entryPoints: [checked]}}\n    \
             c: {{rule: 'HostSNI(`*`)', service: weighed, entryPoints: [weighed]}}\n  services:\n{}{}{}{}    \
             weighed: {{weighted: {{services: [{{name: one, weight: 3}}, {{name: two, weight: 1}}]}}}}\n",
            service("s", &[closed, well], ""),
            service("checked", &[well, other], ", healthCheck: {interval: 100ms, timeout: 1s, expect: other}"),
            service("one", &[well], ""),
            service("two", &[other], ""),
        ))
        .start()
        .await;
    for _ in 0..6 {
        assert_eq!(chat(gateway.address(), "x").await, "well x");
    }
    soon(async {
        let mut answers = 0;
        while answers < 6 {
            answers = if chat(gateway.address_of("checked"), "x").await == "other x" { answers + 1 } else { 0 };
        }
    })
    .await;
    let mut wells = 0;
    for _ in 0..40 {
        wells += usize::from(chat(gateway.address_of("weighed"), "").await == "well ");
    }
    assert_eq!(wells, 30);
}

#[tokio::test]
async fn tls_to_servers_is_verified() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    let server = parrot_over("sealed ", Some(acceptor(&authority.certify(&["inner.test"])))).await;
    let transports = [
        ("named", format!("serverName: inner.test, rootCAs: [{}]", quoted(&authority.certificate)), true),
        ("unnamed", format!("rootCAs: [{}]", quoted(&authority.certificate)), false),
        ("strange", format!("serverName: inner.test, rootCAs: [{}]", quoted(&strangers.certificate)), false),
        ("lax", "insecureSkipVerify: true".to_owned(), true),
        (
            "san",
            format!(
                "insecureSkipVerify: true, rootCAs: [{}], peerCertSANs: [{{type: DNS, value: inner.test}}]",
                quoted(&authority.certificate)
            ),
            true,
        ),
        (
            "both",
            format!("rootCAs: [{}], peerCertSANs: [{{type: DNS, value: inner.test}}]", quoted(&authority.certificate)),
            false,
        ),
        (
            "uri",
            format!(
                "insecureSkipVerify: true, rootCAs: [{}], peerCertURI: 'spiffe://a/b'",
                quoted(&authority.certificate)
            ),
            false,
        ),
    ];
    let mut setup = Gateway::setup();
    let (mut routers, mut services, mut written) = (String::new(), String::new(), String::new());
    for (name, tls, _) in &transports {
        setup = setup.entry_point(name);
        routers += &format!("    {name}: {{rule: 'HostSNI(`*`)', service: {name}, entryPoints: [{name}]}}\n");
        services += &format!(
            "    {name}: {{loadBalancer: {{servers: [{{address: '{server}', tls: true}}], serversTransport: {name}}}}}\n"
        );
        written += &format!("    {name}: {{tls: {{{tls}}}}}\n");
    }
    let gateway = setup
        .dynamic(format!("tcp:\n  routers:\n{routers}  services:\n{services}  serversTransports:\n{written}"))
        .start()
        .await;
    for (name, _, is_fine) in transports {
        let answer = chat(gateway.address_of(name), "x").await;
        assert_eq!(answer, if is_fine { "sealed x" } else { "" }, "{name}");
        if !is_fine {
            let line = gateway.logged(|line| line["RouterName"] == format!("{name}@file")).await;
            assert_eq!(line["ending"], "server-tls", "{name}");
        }
    }
}

/// A process that took over, until the test has ended.
struct Heir(i32);

impl Drop for Heir {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[tokio::test]
async fn connections_outlive_reloads_and_upgrades() {
    let (server, other) = (parrot("old ").await, parrot("new ").await);
    let text = |server| {
        format!(
            "tcp:\n  routers: {{all: {{rule: 'HostSNI(`*`)', service: s}}}}\n  services:\n{}",
            service("s", &[server], "")
        )
    };
    let gateway = Gateway::with(text(server)).await;
    let mut peer = gateway.connect().await;
    assert_eq!(peer.bytes(4).await, b"old ");
    gateway.apply(&text(other)).await;
    assert_eq!(chat(gateway.address(), "x").await, "new x");
    peer.send("still").await;
    assert_eq!(peer.bytes(5).await, b"still");
    let told = gateway.told("upgrade").await;
    let _heir = Heir(told.out.split(' ').find_map(|word| word.parse().ok()).expect("a successor"));
    assert_eq!(chat(gateway.address(), "y").await, "new y");
    peer.send("there").await;
    assert_eq!(peer.bytes(5).await, b"there");
}

#[tokio::test]
async fn mistakes_are_named_and_disable_their_router_alone() {
    let server = parrot("fine ").await;
    let gateway = Gateway::setup()
        .entry_point("good")
        .dynamic(format!(
            "tcp:\n  routers:\n    named: {{rule: 'HostSNI(`a.test`)', service: s, entryPoints: [web]}}\n    \
             lost: {{rule: 'HostSNI(`*`)', service: nowhere, entryPoints: [web]}}\n    \
             good: {{rule: 'HostSNI(`*`)', service: s, entryPoints: [good]}}\n  services:\n{}",
            service("s", &[server], "")
        ))
        .start()
        .await;
    let log = gateway.log();
    for wanted in [
        "tcp.routers.named@file.rule: invalid rule: ",
        "tcp.routers.lost@file.service: the service \\\"nowhere@file\\\" does not exist",
    ] {
        assert!(log.contains(wanted), "{wanted}: {log}");
    }
    assert_eq!(chat(gateway.address_of("good"), "x").await, "fine x");
    assert_eq!(chat(gateway.address(), "x").await, "", "its place is kept");
    gateway.logged(|line| line["ending"] == "router-disabled").await;
}

/// A PostgreSQL server of the test's own; `None` where there is none to start.
pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    child: std::process::Child,
    pub(crate) port: u16,
}

impl Postgres {
    pub(crate) async fn start(pair: &Pair) -> Option<Self> {
        let programs = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().next()?.path().join("bin");
        let folder = tempfile::tempdir().ok()?;
        let data = folder.path().join("data");
        // It refuses to run as root.
        let is_root = rustix::process::geteuid().is_root();
        let as_user = |program: &str| {
            let program = programs.join(program);
            if !is_root {
                return Command::new(program);
            }
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
            command
        };
        if is_root {
            let owned = Command::new("chown").args(["-R", "nobody"]).arg(folder.path()).status().ok()?;
            assert!(owned.success());
        }
        let made = as_user("initdb").args(["-D"]).arg(&data).args(["-A", "trust", "-U", "tester"]).output().ok()?;
        if !made.status.success() {
            return None;
        }
        std::fs::write(data.join("server.crt"), &pair.certificate).ok()?;
        std::fs::write(data.join("server.key"), &pair.key).ok()?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(data.join("server.key"), std::fs::Permissions::from_mode(0o600)).ok()?;
        if is_root {
            Command::new("chown").args(["-R", "nobody"]).arg(&data).status().ok()?;
        }
        let port = TcpListener::bind("127.0.0.1:0").await.ok()?.local_addr().ok()?.port();
        let child = as_user("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", folder.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let server = Self { folder, child, port };
        soon(async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        Some(server)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::INT);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(self.folder.path().join("data"));
    }
}

#[tokio::test]
async fn postgres_clients_are_routed_by_name() {
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify(&["end.test"]), authority.certify(&["pass.test"]));
    let Some(postgres) = Postgres::start(&theirs).await else {
        assert!(std::env::var_os("CI").is_none(), "PostgreSQL is missing");
        return eprintln!("skipped: no PostgreSQL");
    };
    let server: SocketAddr = ([127, 0, 0, 1], postgres.port).into();
    let gateway = Gateway::with(format!(
        "tcp:\n  routers:\n    end: {{rule: 'HostSNI(`end.test`)', service: s, tls: {{}}}}\n    \
         pass: {{rule: 'HostSNI(`pass.test`)', service: s, tls: {{passthrough: true}}}}\n  services:\n{}\
         tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}\n",
        service("s", &[server], ""),
        quoted(&ours.certificate),
        quoted(&ours.key),
    ))
    .await;
    let roots = gateway.folder().join("authority.pem");
    std::fs::write(&roots, &authority.certificate).unwrap();
    for (name, is_encrypted) in [("end.test", "f"), ("pass.test", "t")] {
        let connection = format!(
            "host={name} hostaddr=127.0.0.1 port={} user=tester dbname=postgres sslmode=verify-full sslrootcert={}",
            gateway.address().port(),
            roots.display()
        );
        let output = tokio::process::Command::new("psql")
            .args([&connection, "-Atc", "select 6*7, ssl from pg_stat_ssl where pid = pg_backend_pid()"])
            .output()
            .await;
        let Ok(output) = output else { return eprintln!("skipped: no psql") };
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(told.trim(), format!("42|{is_encrypted}"), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn redis_is_reached_over_tls_and_probed() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        assert!(std::env::var_os("CI").is_none(), "Redis is missing");
        return eprintln!("skipped: no Redis");
    };
    let authority = Authority::new();
    let pair = authority.certify(&["redis.test"]);
    let server: SocketAddr = ([127, 0, 0, 1], port).into();
    let gateway = Gateway::with(format!(
        "tcp:\n  routers: {{r: {{rule: 'HostSNI(`redis.test`)', service: s, tls: {{}}}}}}\n  services:\n{}\
         tls: {{certificates: [{{certFile: {}, keyFile: {}}}]}}\n",
        service("s", &[server], ", healthCheck: {send: \"PING\\r\\n\", expect: +PONG, interval: 100ms}"),
        quoted(&pair.certificate),
        quoted(&pair.key),
    ))
    .await;
    let client = Arc::new(authority.client(&[], None));
    let asked = async || -> std::io::Result<Vec<u8>> {
        let mut stream = shake_hands(&client, gateway.address(), "redis.test").await?;
        stream.write_all(b"SET k v\r\nGET k\r\n").await?;
        let mut answer = vec![0; 12];
        soon(stream.read_exact(&mut answer)).await?;
        Ok(answer)
    };
    soon(async {
        while asked().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(asked().await.unwrap(), b"+OK\r\n$1\r\nv\r\n");
    child.kill().unwrap();
    child.wait().unwrap();
    soon(async {
        while !gateway.log().contains("server is down") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(asked().await.is_err());
    gateway.logged(|line| line["ending"] == "no-server").await;
}
