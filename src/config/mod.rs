//! Configuration as written: sources → tree → types. No behaviour.

pub mod address;
pub mod check;
pub mod deserialize;
pub mod difference;
mod dotted;
mod effective;
pub mod entry_points;
pub mod environment;
pub mod flags;
pub mod following;
pub mod format;
pub mod http;
pub mod install;
pub mod json_schema;
pub mod load;
pub mod own;
pub mod print;
pub mod resolvers;
pub mod router_tls;
pub mod routing;
mod scalar;
pub mod schema;
pub mod tcp;
pub mod tls;
pub mod tree;
pub mod udp;

pub use address::Address;
pub use entry_points::EntryPoint;
pub use format::Format;
pub use http::{Http, Router};
pub use install::Install;
pub use router_tls::RouterTls;
pub use routing::Routing;

/// All that is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Read at start.
    pub install: Install,
    /// May change at any time.
    pub routing: Routing,
}
