//! Values with a meaning: durations, networks, names, secrets, patterns, statuses.

pub mod duration;
pub mod environment;
pub mod name;
pub mod network;
pub mod pattern;
pub mod pem;
pub mod secret;
pub mod status;

pub use duration::Duration;
pub use environment::environment;
pub use name::Name;
pub use network::Networks;
pub use pattern::Pattern;
pub use secret::Secret;
pub use status::StatusRange;
