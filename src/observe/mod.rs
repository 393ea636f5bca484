//! What we tell the world.

pub mod access_log;
pub mod log;
pub mod meters;
pub mod metrics;
