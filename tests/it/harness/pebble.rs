//! Pebble, an ACME server for tests, with the name server that it asks.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peer::{PATIENCE, soon};
use super::tls::{Authority, shake_hands};

/// A port of the loopback that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port()
}

/// Ended when dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command, output: &Path) -> Option<Self> {
        let output = File::create(output).expect("a file");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a duplicate")).stderr(output);
        command.spawn().ok().map(Self)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a Pebble is started with.
pub(crate) struct Setup {
    listen: u16,
    manage: u16,
    /// Where it looks for HTTP-01.
    pub(crate) http: u16,
    /// Where it looks for TLS-ALPN-01.
    pub(crate) tls: u16,
    dns: u16,
    dns_manage: u16,
    life_seconds: u64,
    is_binding_required: bool,
    environment: Vec<(&'static str, &'static str)>,
    authority: Authority,
    folder: TempDir,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let [listen, manage, http, tls, dns, dns_manage] = std::array::from_fn(|_| free_port());
        Self {
            listen,
            manage,
            http,
            tls,
            dns,
            dns_manage,
            life_seconds: 3600,
            is_binding_required: false,
            environment: vec![("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "50")],
            authority: Authority::new(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// How long its certificates are valid.
    pub(crate) fn life(mut self, seconds: u64) -> Self {
        self.life_seconds = seconds;
        self
    }

    /// Only takes accounts that are bound to `kid-1`.
    pub(crate) fn bound(mut self) -> Self {
        self.is_binding_required = true;
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// URL of the directory.
    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.listen)
    }

    /// The file with the authority that vouches for it.
    pub(crate) fn roots(&self) -> PathBuf {
        let path = self.folder.path().join("authority.pem");
        fs::write(&path, &self.authority.certificate).expect("write");
        path
    }

    /// Its name server.
    pub(crate) fn name_server(&self) -> String {
        format!("127.0.0.1:{}", self.dns)
    }

    /// Where its name server is told what it answers.
    pub(crate) fn dns_management(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.dns_manage).into()
    }

    /// Starts it; `None` if it is not installed.
    pub(crate) async fn start(self) -> Option<Pebble> {
        let path = |name: &str| self.folder.path().join(name);
        let pair = self.authority.certify(&["127.0.0.1"]);
        fs::write(path("cert.pem"), &pair.certificate).expect("write");
        fs::write(path("key.pem"), &pair.key).expect("write");
        let mut settings = serde_json::json!({
            "listenAddress": format!("127.0.0.1:{}", self.listen),
            "managementListenAddress": format!("127.0.0.1:{}", self.manage),
            "certificate": path("cert.pem"), "privateKey": path("key.pem"),
            "httpPort": self.http, "tlsPort": self.tls, "ocspResponderURL": "",
            "externalAccountBindingRequired": self.is_binding_required,
            "certificateValidityPeriod": self.life_seconds,
        });
        if self.is_binding_required {
            settings["externalAccountMACKeys"] =
                serde_json::json!({"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"});
        }
        fs::write(path("pebble.json"), serde_json::json!({"pebble": settings}).to_string()).expect("write");
        let mut command = Command::new("pebble-challtestsrv");
        command.args([
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-defaultIPv4",
            "127.0.0.1",
            "-defaultIPv6",
            "",
        ]);
        command.arg("-dns01").arg(self.name_server());
        command.arg("-management").arg(self.dns_management().to_string());
        let names = Process::start(&mut command, &path("names.log"))?;
        listening(self.dns_management()).await;
        let mut command = Command::new("pebble");
        command.envs(self.environment.iter().copied()).arg("-config").arg(path("pebble.json"));
        command.arg("-dnsserver").arg(self.name_server()).arg("-strict");
        let server = Process::start(&mut command, &path("pebble.log"))?;
        listening(([127, 0, 0, 1], self.manage).into()).await;
        listening(([127, 0, 0, 1], self.listen).into()).await;
        Some(Pebble { setup: self, _processes: [names, server] })
    }
}

/// A Pebble that runs.
pub(crate) struct Pebble {
    pub(crate) setup: Setup,
    _processes: [Process; 2],
}

impl Pebble {
    /// What it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.setup.folder.path().join("pebble.log")).unwrap_or_default()
    }

    /// What a client that trusts its certificates connects with.
    pub(crate) async fn client(&self) -> Arc<ClientConfig> {
        let config = Arc::new(self.setup.authority.client(&[], None));
        let mut stream = shake_hands(&config, ([127, 0, 0, 1], self.setup.manage).into(), "127.0.0.1").await.unwrap();
        stream.write_all(b"GET /roots/0 HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        let text = String::from_utf8_lossy(&answer);
        trusting(&text[text.find("-----BEGIN").expect("PEM")..])
    }
}

/// What a client that trusts only this authority connects with.
pub(crate) fn trusting(pem: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // Each connection shows the certificate that is in force.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// Waits until somebody listens there.
pub(crate) async fn listening(address: SocketAddr) {
    let by = Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < by, "nobody listens at {address}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Tells Pebble's name server something, as `set-txt`. Blocks.
pub(crate) fn tell_names(management: SocketAddr, verb: &str, body: &str) {
    let mut stream = TcpStream::connect(management).expect("a connection");
    let length = body.len();
    write!(stream, "POST /{verb} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    assert!(answer.contains(" 200 "), "{answer}");
}
