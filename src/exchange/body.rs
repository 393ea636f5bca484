//! Transforms that a middleware lays over a body; without one, a body costs nothing.

use bytes::Bytes;
use http::HeaderMap;

/// Why a body cannot go on.
#[derive(Debug)]
pub struct Abort {
    /// For the log.
    pub reason: String,
}

/// A change to a body on its way. It owns its state; one is installed per request that wants it.
pub trait BodyTransform: Send + Sync {
    /// Changes one chunk. `end` comes with the last one (which may be `None`); what is left inside must come out then.
    ///
    /// `None` afterwards means: nothing to send now.
    ///
    /// # Errors
    /// If the body cannot go on; the response is then cut off visibly.
    fn chunk(&mut self, data: &mut Option<Bytes>, end: bool) -> Result<(), Abort>;

    /// Ends a body whose last chunk has passed and that has trailers (RFC 9110 §6.5). `data` is what comes before the end.
    ///
    /// # Errors
    /// As [`chunk`](Self::chunk).
    fn end_with_trailers(&mut self, data: &mut Option<Bytes>, trailers: &HeaderMap) -> Result<(), Abort> {
        let _ = trailers;
        self.chunk(data, true)
    }

    /// Forgets what has come: the body comes once more from its beginning, for another attempt. Only requests do that.
    fn restart(&mut self) {}
}

/// The transforms of one body, in the order in which they apply.
#[derive(Default)]
pub struct Transforms(Vec<Box<dyn BodyTransform>>);

impl Transforms {
    /// Lays one more over the body.
    pub fn install(&mut self, transform: Box<dyn BodyTransform>) {
        self.0.push(transform);
    }

    /// Whether the body goes through untouched.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops them all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Runs one chunk through all of them.
    ///
    /// # Errors
    /// The first transform's that fails.
    pub fn chunk(&mut self, data: &mut Option<Bytes>, end: bool) -> Result<(), Abort> {
        for transform in &mut self.0 {
            transform.chunk(data, end)?;
        }
        Ok(())
    }

    /// Ends the body, with trailers, through all of them; what they still hold comes out.
    ///
    /// # Errors
    /// The first transform's that fails.
    pub fn end_with_trailers(&mut self, trailers: &HeaderMap) -> Result<Option<Bytes>, Abort> {
        let mut rest = None;
        for transform in &mut self.0 {
            transform.end_with_trailers(&mut rest, trailers)?;
        }
        Ok(rest)
    }

    /// Lets all of them begin anew.
    pub fn restart(&mut self) {
        for transform in &mut self.0 {
            transform.restart();
        }
    }
}

impl std::fmt::Debug for Transforms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transforms({})", self.0.len())
    }
}
