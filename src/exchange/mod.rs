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
pub mod path;
pub mod reply;
pub mod retry;
#[cfg(test)]
pub(crate) mod sample;
pub mod sniff;
pub mod view;

pub use body::{Abort, BodyTransform, Transforms};
pub use client::{Client, TlsFacts};
pub use fault::Fault;
pub use outcome::AttemptOutcome;
pub use reply::Reply;
pub use retry::{Ending, FailedAttempt, KeptBody, RetryPolicy, is_idempotent};
pub use view::{ConnectionView, RequestView};

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
    /// What the client accepts of content codings, noted by the middleware that may encode the response.
    pub accept_encoding: Option<HeaderValue>,
    /// Changes to the request body.
    pub request_body: Transforms,
    /// Changes to the response body.
    pub response_body: Transforms,
    /// `Set-Cookie` values to add to the response (stickiness).
    pub cookies: SmallVec<[HeaderValue; 1]>,
    /// Whether the client speaks gRPC-Web where the server sees gRPC (`grpcWeb`).
    pub is_grpc_web: bool,
    /// Whether the response must have its media type guessed when the server gives none (`contentType`).
    pub detect_content_type: bool,
    notes: SmallVec<[Note; 1]>,
    held: Vec<Box<dyn Any + Send + Sync>>,
}

/// What a middleware remembers from the way down for the way up.
#[derive(Debug)]
struct Note {
    owner: usize,
    content: Box<dyn Any + Send + Sync>,
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
            accept_encoding: None,
            request_body: Transforms::default(),
            response_body: Transforms::default(),
            cookies: SmallVec::new(),
            is_grpc_web: false,
            detect_content_type: false,
            notes: SmallVec::new(),
            held: Vec::new(),
        }
    }

    /// Keeps `permit` until the exchange is over, however it ends.
    pub fn hold(&mut self, permit: Box<dyn Any + Send + Sync>) {
        self.held.push(permit);
    }

    /// Remembers `content` for `owner`, who takes it back on the way up. An owner is known by its address.
    pub fn note<O, T: Any + Send + Sync>(&mut self, owner: &O, content: T) {
        self.notes.push(Note { owner: std::ptr::from_ref(owner).addr(), content: Box::new(content) });
    }

    /// Takes back what `owner` noted last, if it noted a `T`.
    pub fn take_note<O, T: Any + Send + Sync>(&mut self, owner: &O) -> Option<T> {
        let owner = std::ptr::from_ref(owner).addr();
        let at = self.notes.iter().rposition(|note| note.owner == owner && note.content.is::<T>())?;
        self.notes.remove(at).content.downcast().ok().map(|content| *content)
    }
}
