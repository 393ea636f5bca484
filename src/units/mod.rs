//! Values with a meaning: durations, networks, names, secrets, patterns.

pub mod duration;
pub mod name;
pub mod network;
pub mod pattern;
pub mod secret;

pub use duration::Duration;
pub use name::Name;
pub use network::Networks;
pub use pattern::Pattern;
pub use secret::Secret;
