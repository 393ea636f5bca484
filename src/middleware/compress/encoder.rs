//! A body on its way through an encoder.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use brotli::CompressorWriter as BrotliEncoder;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::negotiate::Coding;
use crate::exchange::{Abort, BodyTransform};

/// Brotli's quality: the highest that keeps up with a network.
const BROTLI_QUALITY: u32 = 4;
/// Brotli's and zstd's windows as powers of two; memory grows with them.
const WINDOW_BITS: u32 = 18;
/// Zstd's own default.
const ZSTD_LEVEL: i32 = 3;
/// What Brotli collects before it hands on, in bytes.
const BROTLI_BUFFER_BYTES: usize = 4096;

/// What all encoders of the process may take together, in bytes. Responses beyond it go out as they are.
const BUDGET_BYTES: usize = 1 << 30;

static TAKEN_BYTES: AtomicUsize = AtomicUsize::new(0);

/// When encoded bytes go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// With each chunk: somebody may be waiting for it.
    EachChunk,
    /// When there are enough of them.
    Full,
}

/// Encodes a body. The encoder comes into being with the first byte.
pub(super) struct Encoding {
    coding: Coding,
    pace: Pace,
    state: State,
    _share: Share,
}

/// An encoder's part of the budget, given back when it drops.
struct Share {
    bytes: usize,
    taken: &'static AtomicUsize,
}

enum State {
    Idle,
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<BrotliEncoder<Vec<u8>>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
    Done,
}

impl Encoding {
    /// An encoder; `None` if the memory of all encoders is used up.
    pub(super) fn begin(coding: Coding, pace: Pace) -> Option<Self> {
        let share = Share::take(&TAKEN_BYTES, needed_bytes(coding), BUDGET_BYTES)?;
        Some(Self { coding, pace, state: State::Idle, _share: share })
    }

    fn encode(&mut self, input: &[u8], end: bool) -> io::Result<Vec<u8>> {
        if matches!(self.state, State::Idle) {
            self.state = State::begin(self.coding)?;
        }
        self.state.write(input)?;
        if end {
            return std::mem::replace(&mut self.state, State::Done).finish();
        }
        if self.pace == Pace::EachChunk {
            self.state.flush()?;
        }
        Ok(self.state.take())
    }
}

impl BodyTransform for Encoding {
    fn chunk(&mut self, data: &mut Option<Bytes>, end: bool) -> Result<(), Abort> {
        let input = data.take().unwrap_or_default();
        // An empty chunk in between carries nothing; behind the end nothing may follow.
        if matches!(self.state, State::Done) || (input.is_empty() && !end) {
            return Ok(());
        }
        let encoded = self.encode(&input, end).map_err(|error| {
            self.state = State::Done;
            Abort { reason: format!("encode the body as {}: {error}", self.coding.name()) }
        })?;
        *data = (!encoded.is_empty()).then(|| Bytes::from(encoded));
        Ok(())
    }
}

/// What an encoder takes, measured and rounded up.
const fn needed_bytes(coding: Coding) -> usize {
    match coding {
        Coding::Gzip => 320 << 10,
        Coding::Brotli => 2 << 20,
        Coding::Zstd => 1 << 20,
    }
}

impl Share {
    fn take(taken: &'static AtomicUsize, bytes: usize, budget: usize) -> Option<Self> {
        let more = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= budget);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self { bytes, taken })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl State {
    fn begin(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            Coding::Brotli => {
                let encoder = BrotliEncoder::new(Vec::new(), BROTLI_BUFFER_BYTES, BROTLI_QUALITY, WINDOW_BITS);
                Self::Brotli(Box::new(encoder))
            }
            Coding::Zstd => {
                let mut encoder = ZstdEncoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(WINDOW_BITS)?;
                Self::Zstd(encoder)
            }
        })
    }

    fn write(&mut self, input: &[u8]) -> io::Result<()> {
        match self {
            Self::Idle | Self::Done => Ok(()),
            Self::Gzip(encoder) => encoder.write_all(input),
            Self::Brotli(encoder) => encoder.write_all(input),
            Self::Zstd(encoder) => encoder.write_all(input),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Idle | Self::Done => Ok(()),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }

    /// What has come out so far.
    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Idle | Self::Done => Vec::new(),
            Self::Gzip(encoder) => std::mem::take(encoder.get_mut()),
            Self::Brotli(encoder) => std::mem::take(encoder.get_mut()),
            Self::Zstd(encoder) => std::mem::take(encoder.get_mut()),
        }
    }

    /// The rest.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Idle | Self::Done => Ok(Vec::new()),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn decoder(coding: Coding, encoded: &[u8]) -> Box<dyn Read + '_> {
        match coding {
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(encoded)),
            Coding::Brotli => Box::new(brotli::Decompressor::new(encoded, 4096)),
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(encoded).unwrap()),
        }
    }

    /// As much as can be decoded of `encoded`, which may not be complete.
    fn decode(coding: Coding, encoded: &[u8]) -> Vec<u8> {
        let mut decoder = decoder(coding, encoded);
        let (mut decoded, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(length @ 1..) = decoder.read(&mut buffer) {
            decoded.extend_from_slice(&buffer[..length]);
        }
        decoded
    }

    /// A whole body; whatever is missing of it is an error.
    fn decode_whole(coding: Coding, encoded: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        decoder(coding, encoded).read_to_end(&mut decoded).unwrap();
        decoded
    }

    fn run(coding: Coding, pace: Pace, chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut encoding = Encoding::begin(coding, pace).unwrap();
        let mut sent: Vec<_> = chunks
            .iter()
            .map(|chunk| {
                let mut data = Some(Bytes::copy_from_slice(chunk));
                encoding.chunk(&mut data, false).unwrap();
                data.unwrap_or_default().to_vec()
            })
            .collect();
        let mut data = None;
        encoding.chunk(&mut data, true).unwrap();
        sent.push(data.unwrap_or_default().to_vec());
        sent
    }

    #[test]
    fn what_is_flushed_can_be_read_at_once() {
        for coding in Coding::ALL {
            let sent = run(coding, Pace::EachChunk, &[b"data: one\n\n", b"", b"data: two\n\n"]);
            assert_eq!(decode(coding, &sent[0]), b"data: one\n\n", "{coding:?}");
            assert!(sent[1].is_empty(), "{coding:?}");
            assert_eq!(decode(coding, &sent[..3].concat()), b"data: one\n\ndata: two\n\n", "{coding:?}");
        }
    }

    #[test]
    fn an_empty_body_is_still_a_valid_one_and_nothing_follows_the_end() {
        for coding in Coding::ALL {
            let mut encoding = Encoding::begin(coding, Pace::Full).unwrap();
            let mut data = None;
            encoding.chunk(&mut data, true).unwrap();
            let encoded = data.unwrap();
            assert!(!encoded.is_empty() && decode(coding, &encoded).is_empty(), "{coding:?}");
            let mut late = Some(Bytes::from_static(b"late"));
            encoding.chunk(&mut late, false).unwrap();
            assert_eq!(late, None, "{coding:?}");
        }
    }

    #[test]
    fn last_bytes_may_come_with_the_end() {
        for coding in Coding::ALL {
            let mut encoding = Encoding::begin(coding, Pace::Full).unwrap();
            let mut data = Some(Bytes::from(vec![b'a'; 100_000]));
            encoding.chunk(&mut data, true).unwrap();
            let encoded = data.unwrap();
            assert!(encoded.len() < 1_000, "{coding:?}");
            assert_eq!(decode(coding, &encoded), vec![b'a'; 100_000], "{coding:?}");
        }
    }

    #[test]
    fn the_budget_is_kept_and_given_back() {
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        let shares: Vec<_> = (0..5).map_while(|_| Share::take(&TAKEN, 30, 100)).collect();
        assert_eq!((shares.len(), TAKEN.load(Ordering::Relaxed)), (3, 90));
        drop(shares);
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn comes_out_as_it_went_in(chunks in prop::collection::vec(prop::collection::vec(0..8u8, 0..5_000), 0..8), each: bool) {
            let pace = if each { Pace::EachChunk } else { Pace::Full };
            let slices: Vec<_> = chunks.iter().map(Vec::as_slice).collect();
            for coding in Coding::ALL {
                prop_assert_eq!(decode_whole(coding, &run(coding, pace, &slices).concat()), chunks.concat());
            }
        }
    }
}
