//! Bytes in motion: what accepts connections and moves requests and responses.

pub mod entrypoint;
pub mod http;
