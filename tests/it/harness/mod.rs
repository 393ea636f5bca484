//! What integration tests share.

pub(crate) mod calls;
pub(crate) mod door;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod generous;
pub(crate) mod h2_server;
pub(crate) mod honest;
pub(crate) mod house;
pub(crate) mod origin;
pub(crate) mod others;
pub(crate) mod page;
pub(crate) mod pebble;
pub(crate) mod peer;
#[cfg(feature = "ocsp")]
pub(crate) mod responder;
pub(crate) mod server;
pub(crate) mod tls;
pub(crate) mod tool;
