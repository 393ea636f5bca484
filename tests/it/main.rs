//! The integration tests, one binary: Pingora is linked once.

mod activation;
mod handover;
