use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const WHOLE: u8 = flag::END_STREAM | flag::END_HEADERS;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[])
}

/// What is said of these frames behind preface and settings, in pieces of any size: the mistake, if any, and its place.
fn judge(frames: &[Vec<u8>]) -> Option<(usize, Reason)> {
    let start = [PREFACE, &settings()].concat();
    let flow = [start.clone(), frames.concat()].concat();
    let follow = |size: usize| {
        let now = Instant::now();
        let (mut incoming, mut patience) = (Incoming::new(PREFACE, 16_384), Patience::new(now));
        flow.chunks(size).find_map(|piece| incoming.follow(piece, &mut patience, || now).err())
    };
    let whole = follow(flow.len());
    for size in 1..40 {
        assert_eq!(follow(size).map(|it| it.reason), whole.map(|it| it.reason), "in pieces of {size}: {frames:?}");
    }
    whole.map(|mistake| (mistake.at - start.len(), mistake.reason))
}

fn check(frames: &[Vec<u8>], expected: Option<Reason>) {
    let found = judge(frames);
    assert_eq!(found.map(|(_, reason)| reason), expected, "{frames:?}");
    if let Some((at, _)) = found {
        // The last frame is the one to blame.
        assert_eq!(at, frames[..frames.len() - 1].concat().len(), "{frames:?}");
    }
}

fn get(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, WHOLE, stream, &[0x82])
}

fn post(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &[0x83])
}

fn data(flags: u8, stream: u32) -> Vec<u8> {
    frame(kind::DATA, flags, stream, b"hello")
}

#[test]
fn what_is_in_order_passes() {
    let end = flag::END_STREAM;
    check(&[get(1), get(3), get(9), post(11), data(0, 11), data(end, 11)], None);
    check(&[post(1), data(0, 1), frame(kind::HEADERS, WHOLE, 1, b"\x00\x01xx")], None);
    check(
        &[
            frame(kind::HEADERS, end, 1, &[0x82]),
            frame(kind::CONTINUATION, 0, 1, &[]),
            frame(kind::CONTINUATION, 4, 1, &[0x84]),
        ],
        None,
    );
    check(
        &[frame(kind::PING, 0, 0, &[0; 8]), frame(kind::PING, 1, 0, &[0; 8]), frame(kind::PRIORITY, 0, 7, &[0; 5])],
        None,
    );
    check(
        &[frame(kind::SETTINGS, 1, 0, &[]), frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1, 0xff, 0xff, 9, 9, 9, 9])],
        None,
    );
    check(&[frame(kind::GOAWAY, 0, 0, &[0; 12]), frame(0xee, 0xff, 5, b"unknown"), frame(0x16, 0, 0, &[])], None);
    check(
        &[
            frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            post(1),
            frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
        ],
        None,
    );
    // A client may give up, or open windows, on what it has ended; and speak of streams that nobody remembers.
    check(
        &[
            get(1),
            frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]),
            frame(kind::RST_STREAM, 0, 1, &[0; 4]),
            frame(kind::RST_STREAM, 0, 1, &[0; 4]),
        ],
        None,
    );
    check(&[post(1), get(5), data(0, 1), frame(kind::HEADERS, WHOLE, 1, &[0x40])], None);
    let padded = flag::PADDED;
    check(&[post(1), frame(kind::DATA, padded, 1, &[0]), frame(kind::DATA, padded | end, 1, &[3, 1, 0, 0, 0])], None);
    check(&[frame(kind::HEADERS, WHOLE | padded | flag::PRIORITY, 1, &[2, 0, 0, 0, 0, 1, 0x82, 0, 0])], None);
}

#[test]
fn lengths_that_a_kind_does_not_have() {
    let size = Some(Reason::FrameSize);
    for length in [0, 7, 9] {
        check(&[frame(kind::PING, 0, 0, &vec![0; length])], size);
    }
    for length in [1, 5, 7] {
        check(&[frame(kind::SETTINGS, 0, 0, &vec![0; length])], size);
    }
    check(&[frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])], size);
    for length in [0, 3, 5, 8] {
        check(&[get(1), frame(kind::RST_STREAM, 0, 1, &vec![0; length])], size);
        check(&[get(1), frame(kind::WINDOW_UPDATE, 0, 1, &vec![1; length])], size);
        check(&[frame(kind::WINDOW_UPDATE, 0, 0, &vec![1; length])], size);
    }
    check(&[frame(kind::PRIORITY, 0, 1, &[0; 4])], size);
    check(&[frame(kind::GOAWAY, 0, 0, &[0; 7])], size);
    check(&[post(1), frame(kind::DATA, flag::PADDED, 1, &[])], size);
    check(&[frame(kind::HEADERS, WHOLE | flag::PRIORITY, 1, &[0; 4])], size);
    check(&[post(1), frame(kind::DATA, 0, 1, &[0; 16_385])], size);
    check(&[frame(0xee, 0, 0, &[0; 16_385])], size);
}

#[test]
fn frames_where_they_do_not_belong() {
    let protocol = Some(Reason::Protocol);
    for kind in [kind::DATA, kind::HEADERS, kind::PRIORITY, kind::RST_STREAM, kind::CONTINUATION] {
        check(&[frame(kind, 0, 0, &[0; 5])], protocol);
    }
    for kind in [kind::SETTINGS, kind::PING, kind::GOAWAY] {
        check(&[get(1), frame(kind, 0, 1, &[0; 8])], protocol);
    }
    // Streams that are idle, or cannot be a client's.
    for kind in [kind::DATA, kind::RST_STREAM, kind::WINDOW_UPDATE, kind::CONTINUATION] {
        check(&[get(1), frame(kind, 0, 3, &[0, 0, 0, 1])], protocol);
        check(&[get(3), frame(kind, 0, 2, &[0, 0, 0, 1])], protocol);
    }
    check(&[get(2)], protocol);
    check(&[get(1), frame(kind::PUSH_PROMISE, 0, 1, &[0, 0, 0, 2])], protocol);
    check(&[frame(kind::SETTINGS, 0, 0, &[]), get(1), frame(kind::CONTINUATION, 4, 1, &[])], protocol);
    // Within a header block.
    let begun = || frame(kind::HEADERS, flag::END_STREAM, 1, &[0x82]);
    for between in [
        get(3),
        get(1),
        data(0, 1),
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(0xee, 0, 1, &[]),
        frame(kind::CONTINUATION, 4, 3, &[]),
    ] {
        check(&[begun(), between], protocol);
    }
    // Settings come first.
    for first in [get(1), frame(kind::PING, 0, 0, &[0; 8]), frame(kind::SETTINGS, flag::ACK, 0, &[])] {
        let now = Instant::now();
        let found = Incoming::new(PREFACE, 16_384).follow(&[PREFACE, &first].concat(), &mut Patience::new(now), || now);
        assert_eq!(found, Err(Mistake { at: PREFACE.len(), reason: Reason::Protocol }));
    }
}

#[test]
fn streams_that_their_client_has_ended() {
    let closed = Some(Reason::StreamClosed);
    let reset = || frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    check(&[get(1), data(0, 1)], closed);
    check(&[get(1), get(1)], closed);
    check(&[post(1), data(flag::END_STREAM, 1), data(0, 1)], closed);
    check(&[post(1), frame(kind::HEADERS, WHOLE, 1, &[0x40]), frame(kind::HEADERS, WHOLE, 1, &[0x40])], closed);
    check(&[post(1), reset(), data(0, 1)], closed);
    check(&[post(1), reset(), get(1)], closed);
    check(&[get(1), get(3), get(5), get(3)], closed);
}

#[test]
fn payloads_that_say_what_cannot_be() {
    let protocol = Some(Reason::Protocol);
    check(&[post(1), frame(kind::DATA, flag::PADDED, 1, &[5, 1, 2, 3, 4])], protocol);
    check(&[frame(kind::HEADERS, WHOLE | flag::PADDED, 1, &[2, 0x82])], protocol);
    check(&[frame(kind::HEADERS, WHOLE | flag::PADDED | flag::PRIORITY, 1, &[2, 0, 0, 0, 0, 1, 0x82])], protocol);
    check(&[frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])], protocol);
    check(&[frame(kind::WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 0])], protocol);
    check(&[get(1), frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4])], protocol);
    for (bytes, expected) in [
        ([0, 2, 0, 0, 0, 2], protocol),
        ([0, 2, 0, 0, 0, 1], None),
        ([0, 8, 0, 0, 0, 2], protocol),
        ([0, 4, 0x80, 0, 0, 0], Some(Reason::FlowControl)),
        ([0, 4, 0x7f, 0xff, 0xff, 0xff], None),
        ([0, 5, 0, 0, 0x3f, 0xff], protocol),
        ([0, 5, 0, 0, 0x40, 0], None),
        ([0, 5, 1, 0, 0, 0], protocol),
        ([0, 5, 0, 0xff, 0xff, 0xff], None),
        ([0, 3, 0xff, 0xff, 0xff, 0xff], None),
    ] {
        check(&[frame(kind::SETTINGS, 0, 0, &bytes)], expected);
        check(&[frame(kind::SETTINGS, 0, 0, &[[0, 3, 0, 0, 0, 9], bytes].concat())], expected);
    }
}

/// RFC 9113 §8.1 and §8.3: pseudo-header fields have no place in trailers.
#[test]
fn trailers_with_pseudo_header_fields() {
    let protocol = Some(Reason::Protocol);
    for (block, expected) in [
        // An entry of the static table, a name of it, and names in full.
        (&b"\x83"[..], protocol),
        (b"\x8e", protocol),
        (b"\x8f", None),
        (b"\xbe", None),
        (b"\x41\x01a", protocol),
        (b"\x02\x03PUT", protocol),
        (b"\x14\x01/", protocol),
        (b"\x4f\x01a", None),
        (b"\x40\x02:x\x01a", protocol),
        (b"\x00\x02:x\x01a", protocol),
        (b"\x10\x02:x\x01a", protocol),
        (b"\x40\x02x:\x01a", None),
        (b"\x40\x81\xb9\x01a", protocol),
        (b"\x40\x82\xf2\xb4\x01a", None),
        (b"\x40\x7f\x00:", protocol),
        (b"\x40\xff\x80\x00\xb9", protocol),
        // Behind changes of the table's size.
        (b"\x20\x83", protocol),
        (b"\x20\x3f\xe1\x1f\x83", protocol),
        (b"\x20\x3f\xe1\x1f\x40\x01x\x00", None),
        (b"\x40", None),
        (b"\x3f", None),
        (b"", None),
    ] {
        check(&[post(1), data(0, 1), frame(kind::HEADERS, WHOLE, 1, block)], expected);
        let padded = [&[1, 0, 0, 0, 0, 9], block, &[0]].concat();
        check(&[post(1), frame(kind::HEADERS, WHOLE | flag::PADDED | flag::PRIORITY, 1, &padded)], expected);
        // In the head of a request they are at home.
        check(&[frame(kind::HEADERS, WHOLE, 1, block)], None);
    }
}

#[test]
fn floods_end() {
    for (frames, bytes) in [
        (vec![], frame(kind::PING, 0, 0, &[0; 8])),
        (vec![], frame(kind::PING, flag::ACK, 0, &[0; 8])),
        (vec![], settings()),
        (vec![], frame(kind::PRIORITY, 0, 1, &[0; 5])),
        (vec![], frame(0xee, 0, 0, &[])),
        (vec![], frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        (vec![frame(kind::HEADERS, 0, 1, &[])], frame(kind::CONTINUATION, 0, 1, &[])),
    ] {
        let now = Instant::now();
        let (mut incoming, mut patience) = (Incoming::new(PREFACE, 16_384), Patience::new(now));
        let start = [PREFACE, &settings(), &frames.concat()].concat();
        incoming.follow(&start, &mut patience, || now).unwrap();
        let count = (0..10_000).take_while(|_| incoming.follow(&bytes, &mut patience, || now).is_ok()).count();
        assert!((1000..=2000).contains(&count), "{bytes:?}: {count}");
    }
    let now = Instant::now();
    let (mut incoming, mut patience) = (Incoming::new(PREFACE, 16_384), Patience::new(now));
    incoming.follow(&[PREFACE, &settings()].concat(), &mut patience, || now).unwrap();
    let taken_back = |at: u32| [get(2 * at + 1), frame(kind::RST_STREAM, 0, 2 * at + 1, &[0, 0, 0, 8])].concat();
    let count = (0..10_000).take_while(|at| incoming.follow(&taken_back(*at), &mut patience, || now).is_ok()).count();
    assert!((100..=200).contains(&count), "{count}");
}
