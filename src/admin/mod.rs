//! What operators read: the gateway's own services, reachable as `name@internal` from any router.

mod api;
mod dashboard;
mod listing;
mod metrics;
mod model;
mod noop;
mod ping;
mod tcp;

pub use api::{About, Api};
pub use dashboard::Dashboard;
pub use metrics::Metrics;
pub use noop::Noop;
pub use ping::Ping;
