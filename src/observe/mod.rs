//! What we tell the world.

pub mod access_log;
pub mod connections;
pub mod datagrams;
pub mod export;
pub mod log;
pub mod meters;
pub mod metrics;
pub mod servers;

mod calendar;
mod escape;
mod labels;
mod observation;
mod output;
mod process;
mod rotation;
mod series;
mod shard;
mod writer;
