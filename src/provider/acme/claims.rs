//! One proof of a name at a time: whoever looks for it, in a handshake or in DNS, does not say for which order.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Names that are being proved.
#[derive(Debug, Default)]
pub struct Claims {
    names: Mutex<BTreeSet<Box<str>>>,
    freed: Notify,
}

/// The right to prove some names, until it is dropped.
pub(super) struct Claim {
    claims: Arc<Claims>,
    names: BTreeSet<Box<str>>,
}

impl Claims {
    /// Waits until nobody proves one of these names. All are taken at once, so that two never wait for each other.
    pub(super) async fn take(self: &Arc<Self>, names: &[Box<str>]) -> Claim {
        // The record of a wildcard stands where that of its domain does (RFC 8555 §8.4).
        let names: BTreeSet<Box<str>> =
            names.iter().map(|name| name.strip_prefix("*.").unwrap_or(name).into()).collect();
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            {
                let mut taken = self.names.lock();
                if taken.is_disjoint(&names) {
                    taken.extend(names.iter().cloned());
                    return Claim { claims: self.clone(), names };
                }
            }
            freed.await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.names.lock().retain(|name| !self.names.contains(name));
        self.claims.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_name_is_proved_by_one_at_a_time() {
        let claims = Arc::new(Claims::default());
        let names = |text: &str| -> Vec<Box<str>> { text.split(' ').map(Into::into).collect() };
        let (one, two, three) = (names("a.test b.test"), names("b.test *.c.test"), names("c.test"));
        let first = claims.take(&one).await;
        let mut second = Box::pin(claims.take(&two));
        assert!(second.as_mut().now_or_never().is_none());
        // Whoever waits has nothing.
        let third = claims.take(&three).await;
        drop(first);
        assert!(second.as_mut().now_or_never().is_none());
        drop(third);
        let second = second.await;
        assert!(claims.take(&three).now_or_never().is_none());
        drop(second);
        assert!(claims.names.lock().is_empty());
    }
}
