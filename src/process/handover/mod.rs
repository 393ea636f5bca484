//! Handing the listening sockets to a successor without losing a connection.
//!
//! Old and new process share one socket pair; the new one finds its end as standard input. Sockets travel as `SCM_RIGHTS`, and the
//! hand-over has two phases, because a successor that dies after it began to accept takes connections with it:
//!
//! ```text
//! old: start it, send secrets,
//!      notes and sockets      ──▶ new: load and check everything, accept nothing
//!                             ◀── `ready`, or `failed` with the reason
//! old: `go`                   ──▶ new: accept
//! old: stop accepting, drain  ◀── `accepting`
//! old: close these as well    ◀── `dropped`, when a reload closes what both have
//! ```
//!
//! Until `go` the old process may kill the new one; afterwards never. The end of the channel tells each of the other's death.

mod ancestor;
mod channel;
mod heir;
mod message;
mod sockets;

pub use ancestor::{Bequest, Deadlines, Departure, Failure, Handover, Heir, Successor, Word};
pub use heir::{Bond, Denied, Inheritance, Succession};
pub use sockets::{BoundBy, Claimed, Protocol, SocketName, Sockets};

/// Environment variable that tells a new process that its standard input is the channel, and which version its parent speaks.
pub const VARIABLE: &str = "PORTCULLIS_HANDOVER";
