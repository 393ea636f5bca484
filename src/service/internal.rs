//! Services that the gateway answers by itself: the API, the dashboard, ping, metrics, ACME challenges.

use futures_util::future::BoxFuture;
use pingora::http::RequestHeader;

use crate::exchange::{Exchange, Reply};

/// A service inside the gateway, reachable from any router as `name@internal`.
pub trait Internal: Send + Sync {
    /// The name before `@internal`.
    fn name(&self) -> &str;

    /// Answers one request. Its body is not read.
    fn reply<'a>(&'a self, request: &'a RequestHeader, exchange: &'a Exchange) -> BoxFuture<'a, Reply>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_shared_as_an_object() {
        fn takes(_: Option<std::sync::Arc<dyn Internal>>) {}
        takes(None);
    }
}
