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

/// How long hooks have to answer a client that does not send its body, before its stream is reset without a word.
const LAST_WORD: Duration = Duration::from_secs(1);

/// One HTTP/2 stream. Hooks speak to it by the functions without `self`, which do nothing for HTTP/1.
#[derive(Debug)]
pub struct Stream {
    started: Instant,
    /// How long the request body may take; once the answer has begun, how long nothing may flow.
    patience: Option<Duration>,
    /// Milliseconds from the start to what counts as the last progress of the body.
    progress: AtomicU64,
    /// The body has been read to its end.
    is_read: AtomicBool,
    is_abandoned: AtomicBool,
}

impl Stream {
    pub(super) fn new(patience: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            started: now(),
            patience,
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

    /// When the request body is to be whole, as far as is known by now. Over HTTP/1 the wire keeps the time.
    pub fn body_due() -> Option<Instant> {
        CURRENT.try_with(|stream| stream.due()).ok().flatten()
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

    fn due(&self) -> Option<Instant> {
        let patience = self.patience.filter(|_| !self.is_read.load(Ordering::Relaxed))?;
        Some(self.started + Duration::from_millis(self.progress.load(Ordering::Relaxed)) + patience)
    }

    /// Resolves when the request body is overdue and the hooks have not made an end of it.
    pub(super) async fn stalls(&self) {
        while let Some(due) = self.due() {
            let left = (due + LAST_WORD).saturating_duration_since(now());
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

    const PATIENCE: Duration = Duration::from_secs(40);

    /// Whether the body of `work` is given up.
    async fn stalls(work: impl Future<Output = ()>) -> bool {
        let stream = Stream::new(Some(PATIENCE));
        tokio::select! {
            () = stream.scope(work) => false,
            () = stream.stalls() => true,
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

    #[tokio::test(start_paused = true)]
    async fn hooks_know_when_a_body_is_due() {
        let started = now();
        let stream = Stream::new(Some(PATIENCE));
        let seen = stream.scope(async {
            let first = Stream::body_due();
            tokio::time::sleep(PATIENCE / 2).await;
            Stream::note_progress();
            let second = Stream::body_due();
            Stream::note_body_end();
            (first, second, Stream::body_due())
        });
        assert_eq!(seen.await, (Some(started + PATIENCE), Some(started + PATIENCE * 3 / 2), None));
        let stream = Stream::new(None);
        assert_eq!(stream.scope(async { Stream::body_due() }).await, None);
        assert_eq!(Stream::body_due(), None);
    }

    #[test]
    fn nothing_to_note_outside_of_a_stream() {
        Stream::note_body_end();
        Stream::note_progress();
        Stream::note_abandoned();
    }
}
