//! What integration tests share.

pub(crate) mod door;
pub(crate) mod origin;
pub(crate) mod peer;
