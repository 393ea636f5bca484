//! The frames of one connection on their way between the client and `h2`, which makes requests of them.
//!
//! `h2` gives most mistakes of a client the name PROTOCOL_ERROR and bears much of what costs a client nothing. So frames are looked at
//! before: a mistake ends the input for `h2`, and the client gets a GOAWAY with the name that RFC 9113 has for it. A mistake that
//! concerns one stream ends the connection, too (§5.4.1 leaves us the choice). Nothing is copied, and nothing allocated while all is well.

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::super::options::{HEADER_TABLE_BYTES, Http2};
use super::super::pace::{Timer, now};
use super::super::sniff::PREFACE;
use super::frame::{Reason, frame, kind};
use super::incoming::Incoming;
use super::outgoing::{Look, Outgoing};
use super::patience::{Cost, Patience};
use super::streams::State;

/// The frames of one connection.
#[derive(Debug)]
pub(in crate::traffic::entrypoint) struct Frames {
    incoming: Incoming,
    outgoing: Outgoing,
    patience: Patience,
    /// Most bytes of the table by which the client compresses.
    table_bytes: u32,
    /// Why the connection ends, once it does.
    verdict: Option<Reason>,
    /// Nothing that `h2` writes goes out any more.
    is_mute: bool,
    /// Since when a client that goes or was told to has had its answers.
    leaves_since: Option<Instant>,
}

/// What becomes of bytes that `h2` writes.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::traffic::entrypoint) enum Passage {
    /// So many go out.
    Pass(usize),
    /// So many do not.
    Drop(usize),
    /// So many stay here, and these go out: the request on their stream was malformed.
    Replace(usize, Vec<u8>),
}

impl Frames {
    /// Those of a connection on which nothing was read.
    pub(super) fn new(options: Http2) -> Self {
        Self {
            incoming: Incoming::new(PREFACE, options.frame_bytes()),
            outgoing: Outgoing::new(),
            patience: Patience::new(now()),
            table_bytes: options.header_table_bytes.max(HEADER_TABLE_BYTES),
            verdict: None,
            is_mute: false,
            leaves_since: None,
        }
    }

    /// Whether nothing of the client is read any more.
    pub(in crate::traffic::entrypoint) fn is_over(&self) -> bool {
        self.verdict.is_some()
    }

    /// Looks at what the client has sent: how many of these bytes `h2` may see.
    ///
    /// It does not see that the client goes. It would close a connection without requests at once, and not answer what comes behind
    /// a GOAWAY, of which more than one may come (RFC 9113 §6.8).
    pub(in crate::traffic::entrypoint) fn come_in(&mut self, bytes: &mut [u8]) -> usize {
        let before = self.incoming.cursor();
        let seen = match self.incoming.follow(bytes, &mut self.patience, now) {
            Ok(()) => bytes.len(),
            Err(mistake) => {
                self.verdict = Some(mistake.reason);
                mistake.at
            }
        };
        if self.incoming.has_goodbye() || self.incoming.cursor().has_begun(kind::GOAWAY) {
            before.rename(&mut bytes[..seen], kind::GOAWAY, kind::NONE);
        }
        seen
    }

    /// Whether the client has said that it goes.
    pub(in crate::traffic::entrypoint) fn has_goodbye(&self) -> bool {
        self.incoming.has_goodbye()
    }

    /// Waits for the end of a connection whose client goes, or was told to: ready if it has had time enough to close it.
    /// Pingora waits for a sign of the client's, for as long as the client likes. Ask whenever nothing can be read, with whether answers are
    /// on their way and how long it may stay after them.
    pub(in crate::traffic::entrypoint) fn poll_farewell(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut Timer,
        (is_busy, patience): (bool, Duration),
    ) -> Poll<()> {
        if is_busy {
            self.leaves_since = None;
        }
        ready!(timer.poll(cx, *self.leaves_since.get_or_insert_with(now) + patience));
        self.verdict = self.verdict.or(Some(Reason::No));
        Poll::Ready(())
    }

    /// Whether the client has made a mistake that ends the connection.
    pub(in crate::traffic::entrypoint) fn has_mistake(&self) -> bool {
        self.verdict.is_some_and(|reason| reason != Reason::No)
    }

    /// Looks at what `h2` writes.
    pub(in crate::traffic::entrypoint) fn look(&mut self, bytes: &[u8]) -> Passage {
        if self.is_mute {
            return Passage::Drop(bytes.len());
        }
        match self.outgoing.look(bytes) {
            Look::Pass(most) => Passage::Pass(most),
            Look::ProtocolError if self.incoming.has_unreadable_fields(self.table_bytes) => {
                self.verdict = self.verdict.or(Some(Reason::Compression));
                self.is_mute = true;
                Passage::Drop(bytes.len())
            }
            Look::ProtocolError => Passage::Pass(bytes.len()),
            // RFC 9113 §8.1.1: a stream error. `h2` resets a stream by itself that the client has not ended.
            Look::Malformed { bytes, stream } if self.incoming.streams().state(stream) == State::Ended => {
                self.charge(Cost::Mistake);
                Passage::Replace(bytes, frame(kind::RST_STREAM, stream, [Reason::Protocol as u32]))
            }
            Look::Malformed { bytes, .. } => Passage::Pass(bytes),
        }
    }

    /// Notes that these bytes have gone out.
    pub(in crate::traffic::entrypoint) fn go_out(&mut self, bytes: &[u8]) {
        let mistakes = self.outgoing.follow(bytes, &mut self.patience);
        (0..mistakes).for_each(|_| self.charge(Cost::Mistake));
        // The last bytes of answers go out when nobody is busy with them any more.
        if self.outgoing.take_answer() && self.leaves_since.is_some() {
            self.leaves_since = Some(now());
        }
    }

    fn charge(&mut self, cost: Cost) {
        if !self.patience.spend(cost, now) {
            self.verdict = self.verdict.or(Some(Reason::EnhanceYourCalm));
        }
    }

    /// What the client is told at the end, if there is something to tell and it could be understood.
    pub(in crate::traffic::entrypoint) fn last_word(&self) -> Option<Vec<u8>> {
        let is_heard = self.outgoing.is_between_frames() && !self.outgoing.has_complained();
        let reason = self.verdict.filter(|_| is_heard)?;
        log::debug!("an HTTP/2 connection ends: {reason:?}");
        let newest = self.outgoing.most_served().min(self.incoming.streams().newest());
        Some(frame(kind::GOAWAY, 0, [newest, reason as u32]))
    }
}
