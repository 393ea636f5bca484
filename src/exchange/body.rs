//! Transforms that a middleware lays over a body; without one, a body costs nothing.

use bytes::Bytes;

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
}

impl std::fmt::Debug for Transforms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transforms({})", self.0.len())
    }
}
