//! Bytes in motion: what accepts connections and moves requests and responses, and what passes datagrams on.

mod chunks;
pub mod entrypoint;
pub mod http;
pub mod tcp;
pub mod udp;
