//! The middlewares of one router, in order.

/// STUB.
#[derive(Debug, Default)]
pub struct Chain;
