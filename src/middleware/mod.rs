//! One file per middleware. Requests go down the chain; responses come back up, as deep as the request went.

use std::future::Future;

use pingora::http::{RequestHeader, ResponseHeader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exchange::{Exchange, Reply};
use crate::problem::Problem;
use crate::units::Name;

mod alias;
pub mod basic_auth;
pub mod chain;
pub mod compress;
mod fingerprint;
pub mod in_flight_req;
pub mod ip_allow_list;
mod password_check;
pub mod rate_limit;
mod recent;
pub mod retry;
pub mod source;
mod users;

pub use chain::Chain;

/// What a builder may ask for.
#[derive(Clone, Debug)]
pub struct Kit<'a> {
    /// The middleware's own qualified name.
    pub name: &'a Name,
}

/// Whether the request goes on.
#[derive(Debug)]
pub enum Flow {
    /// To the next middleware, and at last to the service.
    Continue,
    /// No further: this is the answer. It goes up through the middlewares that the request has passed.
    Reply(Box<Reply>),
}

/// A middleware continues or replies; it does not fail.
pub trait Middleware: Sized + Send + Sync + 'static {
    /// What users write.
    type Settings: DeserializeOwned + Serialize + Clone + PartialEq + std::fmt::Debug;

    /// Whether each router that uses it gets an instance of its own (limits are counted per router, as in Traefik).
    fn is_per_router(settings: &Self::Settings) -> bool {
        let _ = settings;
        false
    }

    /// What is accepted for compatibility but does nothing; warnings whose paths are relative to the settings.
    fn warnings(settings: &Self::Settings) -> Vec<Problem> {
        let _ = settings;
        Vec::new()
    }

    /// Builds it.
    ///
    /// # Errors
    /// A problem whose path is relative to the settings.
    fn build(settings: &Self::Settings, kit: &Kit<'_>) -> Result<Self, Problem>;

    /// On the way down.
    fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> impl Future<Output = Flow> + Send {
        let _ = (request, exchange);
        async { Flow::Continue }
    }

    /// On the way up.
    fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
        let _ = (response, exchange);
    }
}

/// STUB to be replaced by the registry.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub enum Settings {}

/// STUB to be replaced by the registry.
#[derive(Debug)]
pub enum AnyMiddleware {}
