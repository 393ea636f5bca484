//! Which streams a client has opened, and which of them it has ended: of the newest ones exactly, in a few bytes.

/// So many of the newest streams are remembered.
const REMEMBERED: u32 = 1024;
const WORDS: usize = REMEMBERED as usize / 64;

/// The streams of one connection, from the client's side of them (RFC 9113 §5.1).
#[derive(Debug)]
pub(super) struct Streams {
    /// The newest one; 0 before the first.
    newest: u32,
    /// From here to the newest none was left out.
    unbroken_from: u32,
    /// A bit for each of the newest: the client has ended it.
    ended: [u64; WORDS],
}

/// What a stream is to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not opened yet, or no stream that a client can open.
    Idle,
    /// The client may send on it.
    Open,
    /// The client has sent its last, or has taken it back.
    Ended,
    /// Too old, or left out: nothing is known.
    Unknown,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { newest: 0, unbroken_from: 1, ended: [0; WORDS] }
    }

    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    pub(super) fn state(&self, stream: u32) -> State {
        if stream > self.newest || stream.is_multiple_of(2) {
            State::Idle
        } else if stream < self.unbroken_from || (self.newest - stream) / 2 >= REMEMBERED {
            State::Unknown
        } else if self.ended[Self::word(stream)] & Self::bit(stream) != 0 {
            State::Ended
        } else {
            State::Open
        }
    }

    /// Notes that the client has opened a stream, which must be an idle one of its own.
    pub(super) fn open(&mut self, stream: u32) {
        let next = if self.newest == 0 { 1 } else { self.newest.saturating_add(2) };
        if stream != next {
            // What lies between is closed for good; nobody asks for the bits of it, but those of `stream` on start anew.
            self.unbroken_from = stream;
        }
        self.newest = stream;
        self.ended[Self::word(stream)] &= !Self::bit(stream);
    }

    /// Notes that the client will send no more on a stream.
    pub(super) fn end(&mut self, stream: u32) {
        if self.state(stream) == State::Open {
            self.ended[Self::word(stream)] |= Self::bit(stream);
        }
    }

    fn word(stream: u32) -> usize {
        (stream / 2 % REMEMBERED / 64) as usize
    }

    fn bit(stream: u32) -> u64 {
        1 << (stream / 2 % 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_idle_open_and_ended() {
        let mut streams = Streams::new();
        assert_eq!((streams.state(0), streams.state(1), streams.newest()), (State::Idle, State::Idle, 0));
        streams.open(1);
        streams.open(3);
        streams.end(3);
        streams.end(5);
        for (stream, expected) in
            [(0, State::Idle), (1, State::Open), (2, State::Idle), (3, State::Ended), (5, State::Idle)]
        {
            assert_eq!(streams.state(stream), expected, "{stream}");
        }
        streams.open(5);
        assert_eq!(streams.state(5), State::Open);
    }

    #[test]
    fn nothing_is_said_of_what_was_left_out() {
        let mut streams = Streams::new();
        streams.open(1);
        streams.end(1);
        streams.open(9);
        streams.end(9);
        streams.open(11);
        for (stream, expected) in
            [(1, State::Unknown), (3, State::Unknown), (7, State::Unknown), (9, State::Ended), (11, State::Open)]
        {
            assert_eq!(streams.state(stream), expected, "{stream}");
        }
    }

    #[test]
    fn old_streams_are_forgotten_and_their_places_used_again() {
        let mut streams = Streams::new();
        for at in 0..3 * REMEMBERED {
            let stream = 2 * at + 1;
            streams.open(stream);
            assert_eq!(streams.state(stream), State::Open);
            streams.end(stream);
        }
        let newest = streams.newest();
        assert_eq!(streams.state(newest - 2 * (REMEMBERED - 1)), State::Ended);
        assert_eq!(streams.state(newest - 2 * REMEMBERED), State::Unknown);
        streams.open(u32::MAX >> 1);
        assert_eq!((streams.state(newest), streams.state(u32::MAX >> 1)), (State::Unknown, State::Open));
    }
}
