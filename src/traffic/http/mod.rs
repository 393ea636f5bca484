//! The life of an HTTP request.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use pingora::connectors::TransportConnector;
use smallvec::SmallVec;

use crate::exchange::{Exchange, Fault};
use crate::observe::access_log::AccessLog;
use crate::observe::meters::{EntryPointMeters, ServiceMeters};
use crate::observe::metrics::Metrics;
use crate::service::{Selection, Server};
use crate::snapshot::{Current, Route};
use crate::traffic::entrypoint::Connection;
use crate::units::Name;

mod answer;
mod direct;
pub mod forwarded;
pub mod guard;
mod hooks;
mod lane;
mod respond;
mod tell;
pub mod upstream;

pub use forwarded::ForwardedOptions;
pub use guard::{EncodedCharacters, GuardOptions, Underscores};
pub use hooks::Hooks;
pub(crate) use hooks::is_misdirected;
pub use tell::AtEntryPoint;

/// How one entry point treats its HTTP requests. Connections lead to it: each keeps what held when it was made.
#[derive(Debug)]
pub struct EntryPointHttp {
    /// Its name.
    pub name: Arc<str>,
    /// Canonical form of requests.
    pub guard: GuardOptions,
    /// Forwarding headers.
    pub forwarded: ForwardedOptions,
    /// Encoded characters that a routed path may hold.
    pub encoded_characters: EncodedCharacters,
    /// Whether its requests are logged, unless a router says otherwise.
    pub access_log: bool,
    /// Whether its requests are counted, unless a router says otherwise.
    pub metrics: bool,
    /// Its counters.
    pub meters: Arc<EntryPointMeters>,
}

impl Default for EntryPointHttp {
    fn default() -> Self {
        Self {
            name: "".into(),
            guard: GuardOptions::default(),
            forwarded: ForwardedOptions::default(),
            encoded_characters: EncodedCharacters::ALL,
            access_log: true,
            metrics: true,
            meters: Arc::default(),
        }
    }
}

/// The one `ProxyHttp` behind all entry points.
pub struct Gateway {
    /// The snapshot in force.
    pub current: Arc<Current>,
    /// Where requests are logged, if anywhere.
    pub access_log: Option<Arc<AccessLog>>,
    /// Whether requests to the gateway's own services are logged.
    pub log_internals: bool,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What connects to servers on the direct way. It pools nothing: idle connections wait with their server.
    pub connector: TransportConnector,
}

/// One request on its way: Pingora's per-request context. Parts never see it.
#[derive(Default)]
pub struct Flight {
    connection: Option<Arc<Connection>>,
    exchange: Option<Box<Exchange>>,
    /// Pinned: a reload cannot change it under the request.
    route: Option<Arc<Route>>,
    /// How many middlewares the request has passed.
    depth: usize,
    /// Attempts at servers so far.
    attempt: u32,
    /// To wait before the next attempt.
    pause: Duration,
    /// The server of the attempt under way.
    selection: Option<Selection>,
    /// Servers that failed this request.
    tried: SmallVec<[u64; 2]>,
    attempt_started: Option<Instant>,
    /// Time to the first byte of the answer of the attempt under way.
    first_byte: Option<Duration>,
    /// Time that servers took, all attempts together.
    origin_duration: Duration,
    origin_status: u16,
    origin_bytes: u64,
    received_bytes: u64,
    status: u16,
    /// `grpc-status` of the trailers.
    grpc_status: Option<u16>,
    fault: Option<Fault>,
    /// The response has begun to reach the client: nothing may be tried again.
    responding: bool,
    /// The request took Pingora's own way to a server.
    by_pingora: bool,
    /// Where the request went last, for the log; kept after the selection is released.
    last_server: Option<Arc<Server>>,
    service: Option<Name>,
    /// Counters of the service whose server was asked.
    service_meters: Option<Arc<ServiceMeters>>,
    /// Where Pingora's session comes back from while the request is in the lane.
    way_back: Option<lane::WayBack>,
    /// Whether a middleware encodes the answer; the lane asks, if the request is in it.
    is_coded_here: Option<Arc<AtomicBool>>,
}
