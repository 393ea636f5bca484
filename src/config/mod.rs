//! Configuration as written: sources → tree → types. No behaviour.

pub mod check;
pub mod deserialize;
mod dotted;
mod effective;
pub mod entry_points;
pub mod environment;
pub mod flags;
pub mod format;
pub mod http;
pub mod install;
pub mod load;
pub mod routing;
pub mod schema;
pub mod tree;

pub use entry_points::EntryPoint;
pub use format::Format;
pub use http::{Http, Router};
pub use install::Install;
pub use routing::Routing;

/// All that is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Read at start.
    pub install: Install,
    /// May change at any time.
    pub routing: Routing,
}
