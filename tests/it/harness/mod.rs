//! What integration tests share.

pub mod door;
pub mod peer;
