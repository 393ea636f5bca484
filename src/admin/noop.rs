//! `noop@internal`: the target of routers whose middlewares answer by themselves.

use futures_util::future::BoxFuture;
use http::StatusCode;
use pingora::http::RequestHeader;

use crate::exchange::{Exchange, Reply};
use crate::service::Internal;

/// Answers 418 to whatever reaches it.
#[derive(Debug)]
pub struct Noop;

impl Internal for Noop {
    fn name(&self) -> &str {
        "noop"
    }

    fn reply<'a>(&'a self, _: &'a RequestHeader, _: &'a Exchange) -> BoxFuture<'a, Reply> {
        Box::pin(async { Reply::text(StatusCode::IM_A_TEAPOT, "I'm a teapot\n") })
    }
}
