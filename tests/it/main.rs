//! The integration tests, one binary: Pingora is linked once.

mod handover;
