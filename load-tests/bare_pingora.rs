//! The smallest proxy that Pingora makes: one listener, one backend, nothing else. What `compare.sh` measures everything against.
//!
//! `bare_pingora LISTEN BACKEND [THREADS]`, as `bare_pingora 127.0.0.1:8000 127.0.0.1:9000`.

use std::net::SocketAddr;
use std::process::ExitCode;

use async_trait::async_trait;
use pingora::Result;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    backend: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.backend, false, String::new())))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(listen), Some(Ok(backend))) = (arguments.first(), arguments.get(1).map(|text| text.parse())) else {
        eprintln!("usage: bare_pingora LISTEN BACKEND [THREADS]");
        return ExitCode::from(2);
    };
    let threads = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(1);
    let conf = ServerConf { threads, upstream_keepalive_pool_size: 4096, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut proxy = http_proxy_service(&server.configuration, Bare { backend });
    proxy.add_tcp(listen);
    server.add_service(proxy);
    server.run_forever();
}
