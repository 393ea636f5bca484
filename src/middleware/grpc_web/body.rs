//! Bodies of gRPC-Web, piece by piece as they come: base64 of gRPC's frames, and trailers as the last frame.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;

use super::Form;
use crate::exchange::{Abort, BodyTransform};

/// The first byte of the frame that holds the trailers, not compressed.
const TRAILERS: u8 = 0x80;
/// Letters of base64 that stand for three bytes.
const GROUP: usize = 4;

/// A request's body: base64 becomes what it stands for. It may be put together of several parts, each padded by itself.
#[derive(Debug, Default)]
pub(super) struct FromText {
    /// Letters of a group that is not complete.
    begun: Vec<u8>,
}

impl BodyTransform for FromText {
    fn chunk(&mut self, data: &mut Option<Bytes>, end: bool) -> Result<(), Abort> {
        if let Some(text) = data.take() {
            let decoded = self.decode(&text)?;
            *data = (!decoded.is_empty()).then(|| Bytes::from(decoded));
        }
        if end && !self.begun.is_empty() {
            return Err(Abort { reason: "the request's base64 ends within a group".to_owned() });
        }
        Ok(())
    }

    fn restart(&mut self) {
        self.begun.clear();
    }
}

impl FromText {
    fn decode(&mut self, text: &[u8]) -> Result<Vec<u8>, Abort> {
        let mut letters = std::mem::take(&mut self.begun);
        // RFC 2045 §6.8: line breaks mean nothing.
        letters.extend(text.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        let whole = letters.len() - letters.len() % GROUP;
        let mut decoded = Vec::with_capacity(whole / GROUP * 3);
        let mut rest = &letters[..whole];
        while !rest.is_empty() {
            let padded = memchr::memchr(b'=', rest).map(|at| at - at % GROUP + GROUP);
            let (part, behind) = rest.split_at(padded.unwrap_or(rest.len()));
            STANDARD
                .decode_vec(part, &mut decoded)
                .map_err(|error| Abort { reason: format!("the request's base64 cannot be read: {error}") })?;
            rest = behind;
        }
        letters.drain(..whole);
        self.begun = letters;
        Ok(decoded)
    }
}

/// An answer's body.
#[derive(Debug)]
pub(super) struct ToWeb {
    form: Form,
}

impl ToWeb {
    pub(super) fn new(form: Form) -> Self {
        Self { form }
    }
}

impl BodyTransform for ToWeb {
    fn chunk(&mut self, data: &mut Option<Bytes>, _: bool) -> Result<(), Abort> {
        if self.form == Form::Text
            && let Some(bytes) = data.take_if(|bytes| !bytes.is_empty())
        {
            // Each piece is padded by itself, so that nothing of a message waits for the next one.
            *data = Some(Bytes::from(STANDARD.encode(&bytes)));
        }
        Ok(())
    }

    fn end_with_trailers(&mut self, data: &mut Option<Bytes>, trailers: &HeaderMap) -> Result<(), Abort> {
        if !trailers.is_empty() {
            let frame = frame_of(trailers)?;
            let joined = match data.take() {
                Some(bytes) => [&bytes, &frame[..]].concat(),
                None => frame,
            };
            *data = Some(Bytes::from(joined));
        }
        self.chunk(data, true)
    }
}

/// The trailers in a frame, as lines of HTTP/1 without the empty one at the end.
fn frame_of(trailers: &HeaderMap) -> Result<Vec<u8>, Abort> {
    let mut frame = vec![TRAILERS, 0, 0, 0, 0];
    for (name, value) in trailers {
        frame.extend_from_slice(name.as_str().as_bytes());
        frame.extend_from_slice(b": ");
        frame.extend_from_slice(value.as_bytes());
        frame.extend_from_slice(b"\r\n");
    }
    let length = u32::try_from(frame.len() - 5).map_err(|_| Abort { reason: "trailers of 4 GiB".to_owned() })?;
    frame[1..5].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the pieces of a request's body become, or how they fail.
    fn decoded(pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
        let mut decoder = FromText::default();
        let mut all = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let mut data = Some(Bytes::copy_from_slice(piece));
            decoder.chunk(&mut data, index + 1 == pieces.len()).map_err(|abort| abort.reason)?;
            assert!(decoder.begun.len() < GROUP);
            all.extend_from_slice(&data.unwrap_or_default());
        }
        Ok(all)
    }

    #[test]
    fn text_is_read_however_it_is_cut() {
        for (text, expected) in [
            ("", ""),
            ("YWJj", "abc"),
            ("YWI=", "ab"),
            ("YQ==YmM=ZGVm", "abcdef"),
            ("YW\r\nJj\r\n", "abc"),
            ("YQ==\nYg==", "ab"),
        ] {
            for size in 1..=text.len().max(1) {
                let pieces: Vec<_> = text.as_bytes().chunks(size).collect();
                assert_eq!(decoded(&pieces).unwrap(), expected.as_bytes(), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn text_that_is_none_is_refused() {
        for (text, part) in [
            ("YWJ", "ends within a group"),
            ("YWJjZ", "ends within a group"),
            ("YW=j", "cannot be read"),
            ("=YWJ", "cannot be read"),
            ("====", "cannot be read"),
            ("YWJ!", "cannot be read"),
            ("YW J", "cannot be read"),
            // Bits that stand for nothing: two texts must not mean the same.
            ("YR==", "cannot be read"),
            ("_-__", "cannot be read"),
        ] {
            let error = decoded(&[text.as_bytes()]).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn another_attempt_begins_anew() {
        let mut decoder = FromText::default();
        decoder.chunk(&mut Some(Bytes::from_static(b"YW")), false).unwrap();
        decoder.restart();
        let mut again = Some(Bytes::from_static(b"YWJj"));
        decoder.chunk(&mut again, true).unwrap();
        assert_eq!(again.unwrap(), "abc");
    }

    #[test]
    fn trailers_are_the_last_frame() {
        let trailers = HeaderMap::from_iter([
            (http::HeaderName::from_static("grpc-status"), "5".parse().unwrap()),
            (http::HeaderName::from_static("x-bin"), "AAE".parse().unwrap()),
        ]);
        let frame = b"\x80\0\0\0\x1cgrpc-status: 5\r\nx-bin: AAE\r\n";
        for (form, rest, expected) in [
            (Form::Binary, None, frame.to_vec()),
            (Form::Binary, Some("ab"), [b"ab", &frame[..]].concat()),
            (Form::Text, Some("ab"), STANDARD.encode([b"ab", &frame[..]].concat()).into_bytes()),
        ] {
            let mut data = rest.map(Bytes::from);
            ToWeb::new(form).end_with_trailers(&mut data, &trailers).unwrap();
            assert_eq!(data.unwrap(), expected, "{form:?} {rest:?}");
        }
        let mut none = None;
        ToWeb::new(Form::Text).end_with_trailers(&mut none, &HeaderMap::new()).unwrap();
        assert_eq!(none, None);
    }

    proptest! {
        #[test]
        fn what_is_said_in_text_is_heard(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8)) {
            let mut encoder = ToWeb::new(Form::Text);
            let mut texts = Vec::new();
            for piece in &pieces {
                let mut data = Some(Bytes::from(piece.clone()));
                encoder.chunk(&mut data, false).unwrap();
                texts.push(data.unwrap_or_default());
            }
            let texts: Vec<&[u8]> = texts.iter().map(|text| &text[..]).collect();
            prop_assert_eq!(decoded(&texts).unwrap(), pieces.concat());
        }
    }
}
