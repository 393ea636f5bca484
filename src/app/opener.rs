//! Opening entry points: from settings and sockets to one that is ready to accept.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use pingora::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;

use crate::config::Install;
use crate::config::address::Protocol;
use crate::control::EntryPoints;
use crate::observe::access_log::AccessLog;
use crate::traffic::http::{AtEntryPoint, Gateway, Hooks};
use crate::traffic::{entrypoint, udp};
use crate::units::Name;

use super::grip::Grip;
use super::sockets::Bound;
use super::{App, options};

/// Idle connections to servers that are kept, all servers together.
const UPSTREAM_POOL: usize = 4096;
/// Attempts at servers that one request can have at most: above the largest `retry.attempts`.
const MAX_ATTEMPTS: usize = 128;

/// What all entry points have in common, however late they are opened.
pub(super) struct Opener {
    app: Arc<App>,
    gateway: Arc<Gateway>,
    proxy: Arc<HttpProxy<Hooks>>,
    /// Where they run.
    traffic: tokio::runtime::Handle,
}

impl Opener {
    pub(super) fn new(app: Arc<App>, access_log: Option<Arc<AccessLog>>, traffic: tokio::runtime::Handle) -> Self {
        // Pingora makes tasks for its pool.
        let _traffic = traffic.enter();
        let conf = Arc::new(ServerConf {
            threads: options::threads(&app.install()),
            upstream_keepalive_pool_size: UPSTREAM_POOL,
            // The policy of each request decides; this is only a ceiling.
            max_retries: MAX_ATTEMPTS,
            ..ServerConf::default()
        });
        let gateway = Arc::new(app.gateway(access_log));
        let proxy = Arc::new(pingora_proxy::http_proxy(&conf, Hooks(gateway.clone())));
        Self { app, gateway, proxy, traffic: traffic.clone() }
    }

    /// Opens an entry point of `install`, whose place is in `entry_points`. It accepts as soon as the grip says so. `crowd` counts its
    /// connections, with those that it had before.
    ///
    /// # Errors
    /// If the sockets cannot be used, or its settings not be read.
    pub(super) fn open(
        &self,
        (install, entry_points): (&Install, &EntryPoints),
        name: &Name,
        bound: Bound,
        crowd: Arc<AtomicUsize>,
    ) -> io::Result<Grip> {
        let _traffic = self.traffic.enter();
        let missing = || io::Error::other("there is no such entry point");
        match bound {
            Bound::Tcp(listener) => {
                let index = entry_points.index(Protocol::Tcp, name.as_str()).ok_or_else(missing)?;
                let door = self.app.door(install, entry_points, index).ok_or_else(missing)?;
                let options = door.map_err(|problems| io::Error::other(problems.to_string()))?;
                let options = entrypoint::Options { crowd, ..options };
                let observer = Arc::new(AtEntryPoint { gateway: self.gateway.clone(), http: options.http.clone() });
                let current = Some(self.app.current.clone());
                entrypoint::open(options, listener, self.proxy.clone(), observer, current).map(Grip::Tcp)
            }
            Bound::Udp(sockets) => {
                let index = entry_points.index(Protocol::Udp, name.as_str()).ok_or_else(missing)?;
                let entry_point = install.entry_points.get(name).ok_or_else(missing)?;
                let name: Arc<str> = name.as_str().into();
                let metrics = &self.app.metrics;
                let meters = (metrics.udp_entry_point(&name), metrics.entry_point(&name));
                let options = udp::Options { name, index, bounds: options::bounds(entry_point, install) };
                udp::open(options, sockets, self.app.current.clone(), meters).map(Grip::Udp)
            }
        }
    }
}
