//! The smallest proxy that Pingora makes: one listener, one backend, nothing else. What `compare.sh` measures everything against.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use async_trait::async_trait;
use clap::Parser;
use pingora::Result;
use pingora::listeners::tls::TlsSettings;
use pingora::protocols::ALPN;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "The smallest proxy that Pingora makes")]
struct Options {
    /// Where to listen.
    listen: SocketAddr,
    /// Where requests go.
    backend: SocketAddr,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Listens for TLS, with HTTP/2 and HTTP/1.1, with this certificate.
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,
    /// Speaks HTTP/2 in clear text to the backend.
    #[arg(long)]
    h2c: bool,
}

struct Bare {
    backend: SocketAddr,
    alpn: ALPN,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.backend, false, String::new());
        peer.options.alpn = self.alpn.clone();
        Ok(Box::new(peer))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let conf = ServerConf { threads: options.threads, upstream_keepalive_pool_size: 4096, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let alpn = if options.h2c { ALPN::H2 } else { ALPN::H1 };
    let mut proxy = http_proxy_service(&server.configuration, Bare { backend: options.backend, alpn });
    let listen = options.listen.to_string();
    if let (Some(certificate), Some(key)) = (&options.certificate, &options.key) {
        let mut settings = match TlsSettings::intermediate(&certificate.to_string_lossy(), &key.to_string_lossy()) {
            Ok(settings) => settings,
            Err(error) => {
                eprintln!("bare_pingora: {error}");
                return ExitCode::FAILURE;
            }
        };
        settings.enable_h2();
        proxy.add_tls_with_settings(&listen, None, settings);
    } else {
        proxy.add_tcp(&listen);
    }
    server.add_service(proxy);
    server.run_forever();
}
