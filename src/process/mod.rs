//! The life of the process: signals, commands, draining, and the hand-over of its sockets to a successor.

pub mod command;
pub mod drain;
pub mod handover;
pub mod signals;
pub mod systemd;

pub use command::Command;
pub use drain::{Door, Drain};
pub use handover::{BoundBy, Handover, Inheritance, Protocol, SocketName, Sockets};
pub use signals::{Signal, Signals};
pub use systemd::Supervisor;
