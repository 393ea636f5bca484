//! HTTP/2 frames of a client, however they are cut, and what `h2` says to those that may pass.
#![no_main]
#![allow(dead_code, reason = "the readers have more than is called here")]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/traffic"]
mod traffic {
    pub mod entrypoint {
        use std::cell::RefCell;
        use std::io;
        use std::pin::{Pin, pin};
        use std::rc::Rc;
        use std::task::{Context, Poll, Waker};

        use bytes::Bytes;
        use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

        use self::http2::{Frames, Passage, check_cuts, check_heard, check_said, frames};
        use self::pace::Timer;
        use self::sniff::PREFACE;

        /// As those of the gateway.
        pub mod options {
            pub const HEADER_TABLE_BYTES: u32 = 4096;

            #[derive(Clone, Copy)]
            pub struct Http2 {
                pub header_table_bytes: u32,
            }

            impl Http2 {
                pub fn frame_bytes(self) -> u32 {
                    1 << 14
                }
            }
        }

        pub mod pace {
            use std::sync::LazyLock;
            use std::task::{Context, Poll};
            use std::time::Instant;

            static START: LazyLock<Instant> = LazyLock::new(Instant::now);

            /// Time stands still: an input means the same each time.
            pub fn now() -> Instant {
                *START
            }

            /// And so there is nothing to wait for.
            #[derive(Default)]
            pub struct Timer;

            impl Timer {
                pub fn poll(&mut self, _: &mut Context<'_>, _: Instant) -> Poll<()> {
                    Poll::Ready(())
                }
            }
        }

        mod sniff;

        pub mod http2 {
            mod fields;
            mod frame;
            mod frames;
            mod incoming;
            mod outgoing;
            mod patience;
            mod streams;

            use self::frame::{Cursor, HEAD_BYTES, Piece, kind};
            pub(super) use self::frames::{Frames, Passage};
            use self::incoming::Incoming;
            use self::patience::Patience;
            use super::options::{HEADER_TABLE_BYTES, Http2};
            use super::pace::now;
            use super::sniff::PREFACE;

            /// Those of a connection on which nothing was read.
            pub(super) fn frames() -> Frames {
                Frames::new(Http2 { header_table_bytes: HEADER_TABLE_BYTES })
            }

            /// How many bytes may pass of a flow that comes in pieces of so many bytes, and why no more.
            fn judge(flow: &[u8], size: usize) -> (usize, Option<String>) {
                let (mut incoming, mut patience) = (Incoming::new(PREFACE, 1 << 14), Patience::new(now()));
                let mut passed = 0;
                for piece in flow.chunks(size) {
                    match incoming.follow(piece, &mut patience, now) {
                        Ok(()) => passed += piece.len(),
                        Err(mistake) => {
                            assert!(mistake.at <= piece.len());
                            return (passed + mistake.at, Some(format!("{:?}", mistake.reason)));
                        }
                    }
                }
                (passed, None)
            }

            /// Where frames begin, and where the last whole one ends, found in the plainest way.
            pub fn starts(flow: &[u8], mut at: usize) -> Vec<usize> {
                let mut starts = vec![at];
                while let Some([a, b, c, ..]) = flow.get(at..).filter(|rest| rest.len() >= HEAD_BYTES) {
                    at += HEAD_BYTES + (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c));
                    if at > flow.len() {
                        break;
                    }
                    starts.push(at);
                }
                starts
            }

            pub fn check_cuts(flow: &[u8], size: usize) {
                let whole = judge(flow, flow.len().max(1));
                for size in [1, size] {
                    let cut = judge(flow, size);
                    assert_eq!(cut.1, whole.1, "in pieces of {size}");
                    // The beginning of the frame that is wrong may have passed by then.
                    assert!(cut.0 >= whole.0 && cut.0 <= flow.len());
                }
                if whole.1.is_some() {
                    assert!(starts(flow, PREFACE.len()).contains(&whole.0), "only whole frames pass: {}", whole.0);
                }
                let (mut cursor, mut rest, mut found) = (Cursor::behind(PREFACE.len() as u32), flow, Vec::new());
                loop {
                    let at = flow.len() - rest.len();
                    match cursor.next(&mut rest) {
                        Some(Piece::Head(_)) => found.push(at),
                        Some(Piece::Payload(_)) => {}
                        None => break,
                    }
                }
                let expected = starts(flow, PREFACE.len());
                let is_head = |at: &&usize| flow.len() >= **at + HEAD_BYTES;
                assert_eq!(found, expected.iter().filter(is_head).copied().collect::<Vec<_>>());
            }

            /// That `h2` does not hear that the client goes, however its frames were cut.
            pub fn check_heard(heard: &[u8]) {
                let starts = starts(heard, PREFACE.len());
                assert!(starts.iter().all(|at| heard.get(*at + 3) != Some(&kind::GOAWAY)), "{}", heard.escape_ascii());
            }

            /// That these bytes are frames as we may send them: whole, and of errors one at most.
            pub fn check_said(said: &[u8]) {
                let starts = starts(said, 0);
                assert_eq!(starts.last(), Some(&said.len()), "a frame is cut: {}", said.escape_ascii());
                let errors: Vec<_> = starts
                    .iter()
                    .filter(|at| said.get(**at + 3) == Some(&kind::GOAWAY) && said[**at + 13..**at + 17] != [0; 4])
                    .collect();
                assert!(errors.len() <= 1, "two errors end the connection: {}", said.escape_ascii());
            }
        }

        /// Most times that anything is asked to go on.
        const STEPS: usize = 100_000;

        /// A client that has said all it will say, and takes what it is sent.
        struct Client {
            frames: Frames,
            flow: Vec<u8>,
            at: usize,
            size: usize,
            /// What `h2` has been given.
            heard: Vec<u8>,
            said: Vec<u8>,
        }

        struct Wire(Rc<RefCell<Client>>);

        // As `Conn` of the gateway does it.
        impl AsyncRead for Wire {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                let client = &mut *self.0.borrow_mut();
                if client.frames.is_over() {
                    return Poll::Ready(Ok(()));
                }
                let left = &client.flow[client.at..];
                if left.is_empty() && client.frames.has_goodbye() {
                    return client.frames.poll_farewell(cx, &mut Timer, (false, std::time::Duration::ZERO)).map(Ok);
                }
                let mut piece = left[..left.len().min(client.size).min(buffer.remaining())].to_vec();
                client.at += piece.len();
                let good = client.frames.come_in(&mut piece);
                assert!(good <= piece.len());
                client.heard.extend_from_slice(&piece[..good]);
                buffer.put_slice(&piece[..good]);
                Poll::Ready(Ok(()))
            }
        }

        impl AsyncWrite for Wire {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                let client = &mut *self.0.borrow_mut();
                Poll::Ready(Ok(match client.frames.look(bytes) {
                    Passage::Pass(most) => {
                        let written = most.min(client.size.max(9));
                        client.said.extend_from_slice(&bytes[..written]);
                        client.frames.go_out(&bytes[..written]);
                        written
                    }
                    Passage::Drop(bytes) => bytes,
                    Passage::Replace(bytes, frame) => {
                        client.said.extend_from_slice(&frame);
                        bytes
                    }
                }))
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }

        /// Serves the connection until it ends: every request gets an answer of a few bytes.
        fn serve(wire: Wire) {
            let mut cx = Context::from_waker(Waker::noop());
            let mut handshake = pin!(
                h2::server::Builder::new()
                    .max_concurrent_streams(8)
                    .max_header_list_size(4096)
                    .initial_window_size(64 << 10)
                    .initial_connection_window_size(1 << 20)
                    .handshake::<_, Bytes>(wire)
            );
            let Some(shaken) = (0..STEPS).find_map(|_| match handshake.as_mut().poll(&mut cx) {
                Poll::Ready(shaken) => Some(shaken),
                Poll::Pending => None,
            }) else {
                panic!("the handshake does not end");
            };
            let Ok(mut connection) = shaken else { return };
            let mut held = Vec::new();
            for _ in 0..STEPS {
                match connection.poll_accept(&mut cx) {
                    Poll::Ready(Some(Ok((request, mut answer)))) => {
                        let response = http::Response::builder().header("date", "now").body(()).unwrap();
                        // A stream that is reset gets none.
                        if let Ok(mut body) = answer.send_response(response, false) {
                            let _ = body.send_data(Bytes::from_static(b"hello"), true);
                        }
                        // Bodies are never read: windows run full.
                        held.push(request);
                    }
                    Poll::Ready(Some(Err(_)) | None) => return,
                    Poll::Pending => {}
                }
            }
            panic!("the connection does not end");
        }

        /// A flow in which frames are whole more often than in any bytes: each begins with kind, flags, stream and length in a byte each.
        fn assemble(mut input: &[u8]) -> Vec<u8> {
            let mut flow = PREFACE.to_vec();
            // Most clients begin so.
            flow.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
            while let [kind, flags, stream, length, rest @ ..] = input {
                let payload = &rest[..rest.len().min(usize::from(*length))];
                flow.extend_from_slice(&[0, 0, payload.len() as u8, *kind % 12, *flags, 0, 0, 0, *stream]);
                flow.extend_from_slice(payload);
                input = &rest[payload.len()..];
            }
            flow.extend_from_slice(input);
            flow
        }

        /// Checks what is made of a client that sends this.
        pub fn check(input: &[u8]) {
            let [form, size, input @ ..] = input else { return };
            let flow = if form & 1 == 0 { assemble(input) } else { [PREFACE, input].concat() };
            let size = usize::from(*size) + 1;
            check_cuts(&flow, size);
            let client = Client { frames: frames(), flow, at: 0, size, heard: Vec::new(), said: Vec::new() };
            let client = Rc::new(RefCell::new(client));
            serve(Wire(client.clone()));
            let Ok(client) = Rc::try_unwrap(client).map(RefCell::into_inner) else { panic!("somebody holds the wire") };
            let last_word = client.frames.last_word();
            assert!(last_word.is_none() || client.frames.is_over());
            check_heard(&client.heard);
            check_said(&[client.said, last_word.unwrap_or_default()].concat());
        }
    }
}

fuzz_target!(|input: &[u8]| traffic::entrypoint::check(input));
