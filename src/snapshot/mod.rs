//! As built: what traffic reads. Immutable, shared by all threads, swapped as a whole.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

pub mod door;
mod path_index;
pub mod route;
pub mod route_table;
pub mod tcp_table;
mod udp;

pub use door::Door;
pub use route::{Rest, Route, Switches, Target};
pub use tcp_table::{TcpRoute, TcpTable, TcpTarget, TcpTls};
pub use udp::UdpRoute;

use self::route_table::RouteTable;

/// Everything that requests and datagrams are answered from.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with each configuration applied; 0 before the first one.
    pub generation: u64,
    /// Route tables of the entry points for requests without TLS, by [`crate::exchange::Client::entry_point_index`].
    pub http: Box<[Arc<RouteTable<Route>>]>,
    /// The same for requests over TLS.
    pub https: Box<[Arc<RouteTable<Route>>]>,
    /// What the entry points do with connections.
    pub doors: Box<[Arc<Door>]>,
    /// Routes of the entry points for UDP, by their indices. `None`: no router takes what comes in there, or it is broken.
    pub udp: Box<[Option<Arc<UdpRoute>>]>,
}

/// The snapshot in force. One writer (`control::pipeline`), many readers.
#[derive(Debug)]
pub struct Current(ArcSwap<Snapshot>);

impl Current {
    /// Starts without any route.
    pub fn new() -> Self {
        Self(ArcSwap::from_pointee(Snapshot::default()))
    }

    /// The snapshot in force, for a look-up. Take what you need by `Arc` and let go: a request pins its route, not the whole.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// Puts another snapshot into force.
    pub fn store(&self, snapshot: Arc<Snapshot>) {
        self.0.store(snapshot);
    }
}

impl Default for Current {
    fn default() -> Self {
        Self::new()
    }
}
