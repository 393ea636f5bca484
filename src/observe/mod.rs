//! What we tell the world.

pub mod access_log;
pub mod log;
pub mod meters;
pub mod metrics;

mod calendar;
mod escape;
mod output;
mod rotation;
mod shard;
mod writer;
