//! The integration tests, one binary: Pingora is linked once.

mod activation;
mod examples;
mod front_door;
mod handover;
mod harness;
mod proxied;
mod smuggling;
mod tidy;
