//! One request, as parts may see it: no socket, no session, no configuration.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use http::header::HeaderValue;
use http::{Method, Uri, Version};
use smallvec::SmallVec;

pub mod body;
pub mod client;
pub mod fault;
pub mod outcome;
pub mod reply;
pub mod view;

pub use body::{Abort, BodyTransform, Transforms};
pub use client::{Client, TlsFacts};
pub use fault::Fault;
pub use outcome::AttemptOutcome;
pub use reply::Reply;
pub use view::RequestView;

/// The request as it came, before any middleware touched it. Its parts share the request's buffers.
#[derive(Clone, Debug)]
pub struct Original {
    /// Method.
    pub method: Method,
    /// Target after sanitising.
    pub uri: Uri,
    /// HTTP version.
    pub version: Version,
    /// Host header or authority, with its port; empty if the client named none.
    pub host: HeaderValue,
}

/// How often, how long and after what a request is tried again; a wish that the driver grants.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in total, the first one included.
    pub attempts: u32,
    /// First pause between attempts; it doubles each time. Zero: no pause.
    pub initial_interval: std::time::Duration,
    /// No further attempt starts later than this after the first one.
    pub timeout: Option<std::time::Duration>,
    /// Answers that are tried again, as inclusive ranges.
    pub statuses: Arc<[(u16, u16)]>,
    /// Whether network errors are tried again.
    pub network_errors: bool,
    /// Whether methods that are not idempotent are tried again after a status.
    pub non_idempotent: bool,
    /// Largest request body kept for another attempt, in bytes.
    pub body_limit_bytes: usize,
}

/// One request and its response, as middlewares, services and logs may see and mark them.
#[derive(Debug)]
pub struct Exchange {
    /// Who is calling.
    pub client: Arc<Client>,
    /// When the request head was complete.
    pub started: Instant,
    /// The request as it came.
    pub original: Original,
    /// Who the client proved to be.
    pub user: Option<Box<str>>,
    /// Tries after a failure.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Changes to the request body.
    pub request_body: Transforms,
    /// Changes to the response body.
    pub response_body: Transforms,
    /// `Set-Cookie` values to add to the response (stickiness).
    pub cookies: SmallVec<[HeaderValue; 1]>,
    /// Whether the response must have its media type guessed when the server gives none (`contentType`).
    pub detect_content_type: bool,
    held: Vec<Box<dyn Any + Send + Sync>>,
}

impl Exchange {
    /// A fresh exchange.
    pub fn new(client: Arc<Client>, original: Original, started: Instant) -> Self {
        Self {
            client,
            started,
            original,
            user: None,
            retry: None,
            request_body: Transforms::default(),
            response_body: Transforms::default(),
            cookies: SmallVec::new(),
            detect_content_type: false,
            held: Vec::new(),
        }
    }

    /// Keeps `permit` until the exchange is over, however it ends.
    pub fn hold(&mut self, permit: Box<dyn Any + Send + Sync>) {
        self.held.push(permit);
    }
}
