//! What is only known of one HTTP/2 stream, since all streams share the wire: whether its request body comes along, and whether
//! the client took the request back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::pace::now;

tokio::task_local! {
    /// The stream that this task serves.
    static CURRENT: Arc<Stream>;
}

/// One HTTP/2 stream. Hooks speak to it by the functions without `self`, which do nothing for HTTP/1.
#[derive(Debug)]
pub struct Stream {
    started: Instant,
    /// Milliseconds from the start to what counts as the last progress of the body.
    progress: AtomicU64,
    /// The body has been read to its end.
    is_read: AtomicBool,
    is_abandoned: AtomicBool,
}

impl Stream {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: now(),
            progress: AtomicU64::new(0),
            is_read: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
        })
    }

    /// Notes that the request body has been read to its end.
    pub fn note_body_end() {
        let _ = CURRENT.try_with(|stream| stream.is_read.store(true, Ordering::Relaxed));
    }

    /// Notes that client and server converse: once the answer has begun, a body may take as long as something flows.
    pub fn note_progress() {
        let _ = CURRENT.try_with(|stream| {
            let elapsed = u64::try_from((now() - stream.started).as_millis()).unwrap_or(u64::MAX);
            stream.progress.store(elapsed, Ordering::Relaxed);
        });
    }

    /// Notes that the client has gone before it had its answer.
    pub fn note_abandoned() {
        let _ = CURRENT.try_with(|stream| stream.is_abandoned.store(true, Ordering::Relaxed));
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }

    /// Runs `work` as the task of this stream.
    pub(super) fn scope<F: Future>(self: &Arc<Self>, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self.clone(), work)
    }

    /// Resolves when the request body has made no progress for `patience` and is not over.
    pub(super) async fn stalls(&self, patience: Duration) {
        while !self.is_read.load(Ordering::Relaxed) {
            let until = self.started + Duration::from_millis(self.progress.load(Ordering::Relaxed)) + patience;
            let left = until.saturating_duration_since(now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(40);

    /// Whether the body of `work` is given up.
    async fn stalls(work: impl Future<Output = ()>) -> bool {
        let stream = Stream::new();
        tokio::select! {
            () = stream.scope(work) => false,
            () = stream.stalls(PATIENCE) => true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_bodies_that_stand_still_are_given_up() {
        assert!(stalls(std::future::pending()).await);
        assert!(!stalls(async { Stream::note_body_end() }).await);
        let ended = async {
            Stream::note_body_end();
            tokio::time::sleep(PATIENCE * 4).await;
        };
        assert!(!stalls(ended).await);
        let conversation = async {
            for _ in 0..8 {
                tokio::time::sleep(PATIENCE / 2).await;
                Stream::note_progress();
            }
        };
        assert!(!stalls(conversation).await);
    }

    #[test]
    fn nothing_to_note_outside_of_a_stream() {
        Stream::note_body_end();
        Stream::note_progress();
        Stream::note_abandoned();
    }
}
