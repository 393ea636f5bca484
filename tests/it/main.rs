//! The integration tests, one binary: Pingora is linked once.

mod activation;
mod handover;
//! One binary for all integration tests: Pingora is linked once.

mod front_door;
mod harness;
mod smuggling;
