//! A request body kept for another attempt. Pingora keeps 64 KiB of it, this keeps as much as the request's policy allows.

use bytes::{Bytes, BytesMut};

/// What came of a request body so far, up to a limit.
pub(super) struct Replay {
    kept: BytesMut,
    limit_bytes: usize,
    is_truncated: bool,
    is_complete: bool,
}

impl Replay {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { kept: BytesMut::new(), limit_bytes, is_truncated: false, is_complete: false }
    }

    /// Keeps what was read: a chunk, or the end.
    pub(super) fn keep(&mut self, read: Option<&Bytes>) {
        let Some(chunk) = read else {
            self.is_complete = true;
            return;
        };
        if self.is_truncated {
            return;
        }
        if chunk.len() > self.limit_bytes - self.kept.len() {
            self.forget();
        } else {
            // Copied, because chunks may be tiny and each of them holds on to a buffer.
            self.kept.extend_from_slice(chunk);
        }
    }

    /// Lets go of everything: no attempt will follow.
    pub(super) fn forget(&mut self) {
        self.is_truncated = true;
        self.kept = BytesMut::new();
    }

    /// Whether the beginning of the body is lost.
    pub(super) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// What has to be sent before the rest of the body; `None` before anything was read. A body that turned out to be
    /// empty is replayed as such, as the server would wait for its end otherwise.
    pub(super) fn bytes(&self) -> Option<Bytes> {
        let has_begun = self.is_complete || !self.kept.is_empty();
        (has_begun && !self.is_truncated).then(|| Bytes::copy_from_slice(&self.kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_up_to_the_limit() {
        let chunk = Bytes::from_static(b"12345");
        let mut replay = Replay::new(10);
        assert_eq!(replay.bytes(), None);
        replay.keep(Some(&chunk));
        replay.keep(Some(&chunk));
        assert_eq!(replay.bytes().as_deref(), Some(&b"1234512345"[..]));
        replay.keep(None);
        assert_eq!((replay.bytes().map(|bytes| bytes.len()), replay.is_truncated()), (Some(10), false));
        replay.keep(Some(&chunk.slice(..1)));
        assert_eq!((replay.bytes(), replay.is_truncated()), (None, true));
        replay.keep(Some(&chunk));
        assert_eq!((replay.bytes(), replay.kept.capacity()), (None, 0));
    }

    #[test]
    fn an_empty_body_is_replayed_too() {
        let mut replay = Replay::new(10);
        replay.keep(None);
        assert_eq!(replay.bytes(), Some(Bytes::new()));
    }
}
