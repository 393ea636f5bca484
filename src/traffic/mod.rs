//! Bytes in motion: what accepts connections and moves requests and responses.

mod chunks;
pub mod entrypoint;
pub mod http;
