//! What integration tests share.

pub mod door;
pub mod origin;
pub mod peer;
