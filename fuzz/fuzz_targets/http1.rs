//! Heads of HTTP/1 requests and chunked bodies, however they are cut. What we take is read alike by the parser behind us, and it
//! frames one message.
#![no_main]
#![allow(dead_code, reason = "the readers have more than is called here")]

// The head reader asks Pingora for the time of day, and for nothing else.
extern crate self as pingora;

use libfuzzer_sys::fuzz_target;

pub mod protocols {
    pub mod http {
        pub mod date {
            pub fn get_cached_date() -> String {
                "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()
            }
        }
    }
}

#[path = "../../src/exchange"]
mod exchange {
    mod fault;
    pub use fault::Fault;
}

#[path = "../../src/traffic"]
mod traffic {
    pub mod chunks;
    pub mod entrypoint {
        /// As those of the gateway; small, so that inputs reach them.
        pub mod options {
            #[derive(Clone, Copy)]
            pub struct Limits {
                pub head_bytes: usize,
                pub header_fields: usize,
                pub target_bytes: usize,
            }

            impl Default for Limits {
                fn default() -> Self {
                    Self { head_bytes: 1024, header_fields: 12, target_bytes: 80 }
                }
            }
        }

        mod framing;
        mod head;

        use bytes::BytesMut;

        use self::framing::{Body, Framing};
        use self::head::{HeadScan, Progress, answer, request_line, take};
        use self::options::Limits;
        use crate::exchange::Fault;

        /// Reads a head that comes in pieces of so many bytes; also how many empty lines' bytes stood before it.
        fn read(input: &[u8], size: usize) -> (Progress, usize) {
            let limits = Limits::default();
            let (mut scan, mut buffer) = (HeadScan::default(), BytesMut::new());
            let mut put = 0;
            for piece in input.chunks(size) {
                buffer.extend_from_slice(piece);
                put += piece.len();
                let progress = scan.advance(&mut buffer, &limits);
                if progress != Progress::Partial {
                    return (progress, put - buffer.len());
                }
            }
            (Progress::Partial, put - buffer.len())
        }

        fn check_alike(whole: &(Progress, usize), cut: &(Progress, usize)) {
            match (&whole.0, &cut.0) {
                // What is found first may be another of several mistakes.
                (Progress::Refused(_), Progress::Refused(_)) => {}
                _ => assert_eq!(whole, cut),
            }
        }

        /// Compares with the parser that Pingora has.
        fn check_parsed(head: &[u8], framing: &Framing) {
            let mut fields = [httparse::EMPTY_HEADER; 256];
            let mut request = httparse::Request::new(&mut fields);
            let parsed = request.parse(head);
            assert_eq!(parsed, Ok(httparse::Status::Complete(head.len())), "{}", head.escape_ascii());
            let line = &head[..head.iter().position(|byte| *byte == b'\r').unwrap()];
            let expected =
                format!("{} {} HTTP/1.{}", request.method.unwrap(), request.path.unwrap(), request.version.unwrap());
            assert_eq!(line, expected.as_bytes());
            assert_eq!(request.version == Some(0), framing.is_http10);
            let target = request.path.unwrap();
            assert!(target.starts_with('/') || target == "*", "{target}");
            let lines = head.split(|byte| *byte == b'\n').count() - 3;
            assert_eq!(request.headers.len(), lines, "{}", head.escape_ascii());
            let all = |name: &str| -> Vec<&[u8]> {
                let found = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
                found.map(|field| field.value).collect()
            };
            let (lengths, codings, hosts) = (all("content-length"), all("transfer-encoding"), all("host"));
            assert!(hosts.len() == 1 || framing.is_http10 && hosts.is_empty());
            match framing.body {
                Body::Chunked => {
                    assert!(lengths.is_empty() && codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked"))
                }
                Body::Length(0) if lengths.is_empty() => assert!(codings.is_empty()),
                Body::Length(length) => {
                    assert!(codings.is_empty());
                    assert_eq!(lengths, [length.to_string().as_bytes()]);
                }
            }
        }

        /// Checks what is made of bytes as a request's head, in one piece and in pieces of so many.
        pub fn check(input: &[u8], size: usize) {
            let whole = read(input, input.len().max(1));
            check_alike(&whole, &read(input, size));
            check_alike(&whole, &read(input, 1));
            let line = request_line(input);
            assert!(line.len() <= 256 && !line.contains(&b'\n'));
            let said = match whole.0 {
                Progress::Complete(end) => {
                    let mut buffer = BytesMut::from(&input[whole.1..]);
                    match take(&mut buffer, end, &Limits::default()) {
                        Ok((framing, head)) => {
                            assert_eq!(*buffer, input[whole.1 + end..]);
                            check_parsed(&head, &framing);
                            None
                        }
                        Err(fault) => {
                            assert_eq!(*buffer, input[whole.1..]);
                            Some(fault)
                        }
                    }
                }
                Progress::Refused(fault) => Some(fault),
                Progress::Partial => None,
            };
            if let Some(fault) = said {
                assert!(matches!(fault.status().as_u16(), 400..600) && fault != Fault::NoRouter);
                let answer = answer(fault, line);
                let mut fields = [httparse::EMPTY_HEADER; 16];
                assert!(httparse::Response::new(&mut fields).parse(&answer).is_ok_and(|parsed| parsed.is_complete()));
            }
        }
    }

    /// What `chunks` make of a body that comes in pieces of so many bytes: its content, and how many bytes it took; `None` if it is
    /// malformed.
    pub fn content(body: &[u8], size: usize, of_server: bool) -> Option<(Vec<u8>, usize, bool)> {
        let mut chunks = if of_server { chunks::Chunks::of_server() } else { chunks::Chunks::default() };
        let (mut input, mut content) = (bytes::BytesMut::new(), Vec::new());
        for piece in body.chunks(size) {
            input.extend_from_slice(piece);
            while let Some(part) = chunks.next(&mut input).ok()? {
                content.extend_from_slice(&part);
            }
        }
        let left = if chunks.is_done() { input.len() } else { 0 };
        Some((content, body.len() - left, chunks.is_done()))
    }

    /// How many bytes belong to a body that comes in pieces of so many bytes; `None` if it is malformed.
    pub fn length(body: &[u8], size: usize, of_server: bool) -> Option<(usize, bool)> {
        let mut chunks = if of_server { chunks::Chunks::of_server() } else { chunks::Chunks::default() };
        let mut taken = 0;
        for piece in body.chunks(size) {
            taken += chunks.scan(piece).ok()?;
        }
        Some((taken, chunks.is_done()))
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((size, input)) = input.split_first() else { return };
    let size = usize::from(*size % 64) + 1;
    traffic::entrypoint::check(input, size);
    for of_server in [false, true] {
        let whole = traffic::content(input, input.len().max(1), of_server);
        assert_eq!(traffic::content(input, size, of_server), whole);
        assert_eq!(
            traffic::length(input, size, of_server),
            whole.as_ref().map(|(_, taken, is_done)| (*taken, *is_done))
        );
    }
});
