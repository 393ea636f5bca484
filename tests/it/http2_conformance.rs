//! HTTP/2 as RFC 9113 has it: which mistakes end a connection, which a stream, and by what name.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PADDED, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, header_block, request_block,
};
use crate::harness::gateway::Gateway;
use crate::harness::peer::{PATIENCE, soon, until};
use crate::harness::server::{Server, answer};
use crate::harness::tls::{Authority, Pair, quoted, shake_hands};

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
/// The flag of a HEADERS frame that has a priority in it.
const WITH_PRIORITY: u8 = 0x20;
const WHOLE: u8 = END_HEADERS | END_STREAM;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const CANCEL: u32 = 8;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A gateway before this server, with and without TLS.
async fn before(server: &Server, pair: &Pair, flags: &[&str]) -> Gateway {
    let certificate = format!("{{certFile: {}, keyFile: {}}}", quoted(&pair.certificate), quoted(&pair.key));
    let setup = Gateway::setup().dynamic(format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: s}}
    secure: {{rule: 'PathPrefix(`/`)', service: s, tls: {{}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
tls: {{certificates: [{certificate}]}}
",
        server.url()
    ));
    flags.iter().fold(setup, |setup, flag| setup.flag(flag)).start().await
}

async fn says_target() -> Server {
    Server::start(|received| answer(200, "", received.target())).await
}

/// A client that has exchanged settings.
struct Client<S> {
    stream: S,
    /// What the ping said that came with being told to go.
    farewell: Vec<u8>,
    /// How long a frame may take.
    patience: Duration,
}

impl Client<TcpStream> {
    async fn plain(gateway: &Gateway) -> Self {
        Self::start(gateway.connect().await.into_stream()).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn start(stream: S) -> Self {
        let mut this = Self { stream, farewell: Vec::new(), patience: PATIENCE };
        this.send(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])]).await;
        let first = this.next().await.expect("settings");
        assert_eq!((first.kind, first.flags & ACK), (SETTINGS, 0));
        this.send(&[frame(SETTINGS, ACK, 0, &[])]).await;
        this
    }

    /// Sends all of it at once. Who is not listened to any more misses the end of it.
    async fn send(&mut self, frames: &[Vec<u8>]) {
        let _ = soon(self.stream.write_all(&frames.concat())).await;
        let _ = soon(self.stream.flush()).await;
    }

    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = tokio::time::timeout(self.patience, self.stream.read_exact(&mut head)).await;
        read.expect("it takes too long").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        soon(self.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap()) & 0x7fff_ffff;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of one of these kinds, or the end.
    async fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// The code of the GOAWAY that ends the connection, and the newest stream that it names.
    async fn end(&mut self, context: &str) -> (u32, u32) {
        let frame = self.next_of(&[GOAWAY]).await.unwrap_or_else(|| panic!("{context}: an end without a word"));
        assert_eq!(self.next().await, None, "{context}: more behind the last word");
        (number(&frame.payload[4..8]), number(&frame.payload[..4]))
    }

    /// Whether the connection lives, and the client was told that no more requests are taken.
    async fn is_told_to_go_and_alive(&mut self) -> bool {
        self.send(&[frame(PING, 0, 0, b"alive???")]).await;
        let (mut is_told, mut is_answered) = (false, false);
        while !(is_told && is_answered) || self.farewell.is_empty() {
            let Some(frame) = self.next_of(&[PING, GOAWAY]).await else { return false };
            match (frame.kind, frame.flags & ACK) {
                (GOAWAY, _) => is_told = frame.payload == [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0],
                (_, 0) => self.farewell = frame.payload,
                _ => is_answered = frame.payload == b"alive???",
            }
        }
        true
    }

    /// Whether the connection lives.
    async fn is_alive(&mut self) -> bool {
        self.send(&[frame(PING, 0, 0, b"alive???")]).await;
        self.next_of(&[PING, GOAWAY]).await.is_some_and(|frame| frame.kind == PING && frame.payload == b"alive???")
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &request_block("GET", "/fine", &[]))
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request_block("POST", "/fine", &[]))
}

fn data(flags: u8, stream: u32) -> Vec<u8> {
    frame(DATA, flags, stream, b"hello")
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// The section that says so, the frames, and the error that the last one makes.
type Mistake = (&'static str, Vec<Vec<u8>>, u32);

fn mistakes() -> Vec<Mistake> {
    let begun = || frame(HEADERS, END_STREAM, 1, &request_block("GET", "/fine", &[]));
    let ping = |stream, length| frame(PING, 0, stream, &vec![0; length]);
    let settings = |bytes: &[u8]| frame(SETTINGS, 0, 0, bytes);
    let trailers = |block: &[u8]| vec![post(1), data(0, 1), frame(HEADERS, WHOLE, 1, block)];
    let padded = [&[9][..], b"12345678"].concat();
    let mut twice = vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])];
    twice.push(twice[0].clone());
    vec![
        ("4.2", vec![post(1), frame(DATA, 0, 1, &[0; 16_385])], FRAME_SIZE_ERROR),
        ("4.2", vec![frame(HEADERS, WHOLE, 1, &[0x82; 16_385])], FRAME_SIZE_ERROR),
        ("4.3", vec![frame(HEADERS, WHOLE, 1, &[0x40])], COMPRESSION_ERROR),
        ("4.3", vec![frame(HEADERS, WHOLE, 1, &[0x82, 0x80])], COMPRESSION_ERROR),
        ("4.3", vec![frame(HEADERS, WHOLE, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])], COMPRESSION_ERROR),
        ("4.3", vec![frame(HEADERS, WHOLE, 1, &[0x3f, 0xe2, 0x1f, 0x82])], COMPRESSION_ERROR),
        ("4.3", vec![frame(HEADERS, WHOLE, 1, &[0x41, 0x81, 0x00])], COMPRESSION_ERROR),
        ("4.3", vec![begun(), frame(CONTINUATION, END_HEADERS, 1, &[0x40])], COMPRESSION_ERROR),
        ("4.3", vec![begun(), ping(0, 8)], PROTOCOL_ERROR),
        ("4.3", vec![begun(), get(3)], PROTOCOL_ERROR),
        ("5.1", vec![data(END_STREAM, 1)], PROTOCOL_ERROR),
        ("5.1", vec![reset(1)], PROTOCOL_ERROR),
        ("5.1", vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])], PROTOCOL_ERROR),
        ("5.1", vec![get(1), data(END_STREAM, 1)], STREAM_CLOSED),
        ("5.1", vec![get(1), get(1)], STREAM_CLOSED),
        ("5.1", vec![post(1), reset(1), data(END_STREAM, 1)], STREAM_CLOSED),
        ("5.1", vec![post(1), reset(1), get(1)], STREAM_CLOSED),
        ("5.1.1", vec![get(2)], PROTOCOL_ERROR),
        ("5.1.1", vec![get(5), get(3)], PROTOCOL_ERROR),
        ("5.5", vec![begun(), frame(0xee, 0, 1, b"unknown")], PROTOCOL_ERROR),
        ("6.1", vec![data(END_STREAM, 0)], PROTOCOL_ERROR),
        ("6.1", vec![post(1), frame(DATA, PADDED, 1, &padded)], PROTOCOL_ERROR),
        ("6.2", vec![frame(HEADERS, WHOLE, 0, &request_block("GET", "/", &[]))], PROTOCOL_ERROR),
        ("6.2", vec![frame(HEADERS, WHOLE | PADDED, 1, &padded)], PROTOCOL_ERROR),
        ("6.2", vec![frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[0; 4])], FRAME_SIZE_ERROR),
        ("6.3", vec![frame(PRIORITY, 0, 0, &[0; 5])], PROTOCOL_ERROR),
        ("6.3", vec![get(1), frame(PRIORITY, 0, 1, &[0; 4])], FRAME_SIZE_ERROR),
        ("6.4", vec![reset(0)], PROTOCOL_ERROR),
        ("6.4", vec![get(1), frame(RST_STREAM, 0, 1, &[0; 3])], FRAME_SIZE_ERROR),
        ("6.5", vec![frame(SETTINGS, ACK, 0, &[0; 6])], FRAME_SIZE_ERROR),
        ("6.5", vec![frame(SETTINGS, 0, 1, &[0; 6])], PROTOCOL_ERROR),
        ("6.5", vec![settings(&[0, 3, 0])], FRAME_SIZE_ERROR),
        ("6.5.2", vec![settings(&[0, 2, 0, 0, 0, 2])], PROTOCOL_ERROR),
        ("6.5.2", vec![settings(&[0, 4, 0x80, 0, 0, 0])], FLOW_CONTROL_ERROR),
        ("6.5.2", vec![settings(&[0, 5, 0, 0, 0x3f, 0xff])], PROTOCOL_ERROR),
        ("6.5.2", vec![settings(&[0, 5, 1, 0, 0, 0])], PROTOCOL_ERROR),
        ("6.6", vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x88])], PROTOCOL_ERROR),
        ("6.7", vec![ping(1, 8)], PROTOCOL_ERROR),
        ("6.7", vec![ping(0, 6)], FRAME_SIZE_ERROR),
        ("6.8", vec![frame(GOAWAY, 0, 1, &[0; 8])], PROTOCOL_ERROR),
        ("6.9", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])], PROTOCOL_ERROR),
        ("6.9", vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])], FRAME_SIZE_ERROR),
        ("6.9.1", twice, FLOW_CONTROL_ERROR),
        ("6.10", vec![frame(CONTINUATION, END_HEADERS, 1, &[])], PROTOCOL_ERROR),
        ("6.10", vec![get(1), frame(CONTINUATION, END_HEADERS, 1, &[])], PROTOCOL_ERROR),
        ("6.10", vec![begun(), frame(CONTINUATION, END_HEADERS, 0, &[])], PROTOCOL_ERROR),
        ("8.1", trailers(&header_block(&[(b":method", b"POST")])), PROTOCOL_ERROR),
        ("8.1", trailers(&[0x83]), PROTOCOL_ERROR),
    ]
}

/// RFC 9113 §5.4.1: the client learns why, and which of its streams may have been served.
#[tokio::test]
async fn mistakes_end_a_connection_by_their_name() {
    let (server, pair) = (says_target().await, Authority::new().certify(&["a.test"]));
    let gateway = before(&server, &pair, &[]).await;
    let mut bystander = Client::plain(&gateway).await;
    for (section, frames, code) in mistakes() {
        let context = format!("{section}: {:?}", &frames[frames.len() - 1][..9]);
        let newest = frames[..frames.len() - 1]
            .iter()
            .filter(|frame| frame[3] == HEADERS)
            .map(|frame| number(&frame[5..9]))
            .max();
        for is_split in [false, true] {
            let mut client = Client::plain(&gateway).await;
            if is_split {
                for byte in frames.concat().chunks(1).take(300) {
                    client.send(&[byte.to_vec()]).await;
                }
                client.send(&[frames.concat().split_off(frames.concat().len().min(300))]).await;
            } else {
                client.send(&frames).await;
            }
            let (said, served) = client.end(&context).await;
            assert_eq!(said, code, "{context}");
            // HPACK and the connection's window are `h2`'s to judge, which names what it has begun with.
            assert!(newest.is_none_or(|newest| served <= newest) && served <= 5, "{context}: {served}");
        }
    }
    assert!(bystander.is_alive().await);
    until(|| server.violations().is_empty()).await;
}

#[tokio::test]
async fn mistakes_are_told_over_tls_too() {
    let (server, authority) = (says_target().await, Authority::new());
    let gateway = before(&server, &authority.certify(&["a.test"]), &[]).await;
    let config = Arc::new(authority.client(&["h2"], None));
    for (section, frames, code) in mistakes() {
        let stream = shake_hands(&config, gateway.address(), "a.test").await.unwrap();
        let mut client = Client::start(stream).await;
        client.send(&frames).await;
        assert_eq!(client.end(section).await.0, code, "{section}: {:?}", &frames[frames.len() - 1][..9]);
    }
}

/// RFC 9113 §8.1.1: they are a stream's error, and its connection goes on.
#[tokio::test]
async fn malformed_requests_are_reset() {
    let (server, pair) = (says_target().await, Authority::new().certify(&["a.test"]));
    let gateway = before(&server, &pair, &[]).await;
    type Fields<'a> = &'a [(&'a [u8], &'a [u8])];
    let with = |name: &'static [u8], value: &'static [u8]| -> Vec<(&'static [u8], &'static [u8])> {
        let mut fields: Vec<(&[u8], &[u8])> =
            vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/bad")];
        match fields.iter_mut().find(|field| field.0 == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
        fields
    };
    for fields in [
        with(b"x", b" a"),
        with(b"x", b"a "),
        with(b"x", b"\ta"),
        with(b"x", b"a\t"),
        with(b"x", b" "),
        with(b"host", b"b.test"),
        with(b"host", b"a.test:80"),
        with(b":authority", b"u@a.test"),
        with(b":path", b"x"),
        with(b":method", b"get"),
        with(b":scheme", b"ftp"),
        with(b"connection", b"close"),
        with(b"te", b"gzip"),
        with(b"content-length", b"5"),
        with(b"content_length", b"5"),
        vec![(b":method", b"CONNECT")],
        vec![(b":method", b"CONNECT"), (b":authority", b"a.test:80"), (b":path", b"/")],
        vec![(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/bad")],
    ] {
        let shown: Vec<_> =
            fields.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect();
        let block = header_block(&fields as Fields<'_>);
        let mut client = Client::plain(&gateway).await;
        client.send(&[frame(HEADERS, WHOLE, 1, &block)]).await;
        let said = client.next_of(&[RST_STREAM, HEADERS, GOAWAY]).await.unwrap();
        assert_eq!((said.kind, said.stream, number(&said.payload)), (RST_STREAM, 1, PROTOCOL_ERROR), "{shown:?}");
        client.send(&[get(3)]).await;
        let answer = client.next_of(&[RST_STREAM, HEADERS, GOAWAY]).await.unwrap();
        assert_eq!((answer.kind, answer.stream), (HEADERS, 3), "{shown:?}");
        // The same while its body is on its way: it is reset, whatever is said before.
        if fields.contains(&(b"content-length", b"5")) {
            continue;
        }
        let mut client = Client::plain(&gateway).await;
        client.send(&[frame(HEADERS, END_HEADERS, 1, &block)]).await;
        let said = client.next_of(&[RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((said.kind, said.stream), (RST_STREAM, 1), "{shown:?}");
        assert!(client.is_alive().await, "{shown:?}");
    }
    assert!(server.received().iter().all(|it| it.path() == "/fine"), "{:?}", server.received());
    let line = gateway.logged_path("/bad").await;
    assert_eq!((&line["DownstreamStatus"], &line["GatewayError"]), (&400.into(), &"bad-request".into()), "{line}");
    assert_eq!(line["RequestProtocol"], "HTTP/2.0");
    // Trailers without an end, and lengths that are not the body's.
    let unended = frame(HEADERS, END_HEADERS, 1, &header_block(&[(b"x", b"y")]));
    let long = frame(HEADERS, END_HEADERS, 1, &request_block("POST", "/bad", &[("content-length", "9")]));
    for frames in [vec![post(1), data(0, 1), unended], vec![long, data(END_STREAM, 1)]] {
        let mut client = Client::plain(&gateway).await;
        client.send(&frames).await;
        let said = client.next_of(&[RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((said.kind, said.stream, number(&said.payload)), (RST_STREAM, 1, PROTOCOL_ERROR));
        assert!(client.is_alive().await);
    }
}

/// What a client may do, odd as it is.
#[tokio::test]
async fn what_is_allowed_is_borne() {
    let (server, pair) = (says_target().await, Authority::new().certify(&["a.test"]));
    let gateway = before(&server, &pair, &[]).await;
    let priority = |on: u32| frame(PRIORITY, 0, 1, &[&on.to_be_bytes()[..], &[9]].concat());
    for frames in [
        vec![frame(0xee, 0xff, 0, b"unknown"), frame(0xee, 0xff, 7, b"unknown")],
        vec![frame(PING, ACK, 0, b"unasked!"), frame(SETTINGS, 0, 0, &[0xff, 0xff, 1, 2, 3, 4])],
        vec![priority(0), priority(3), get(1), priority(0)],
        vec![post(1), frame(DATA, PADDED, 1, &[2, 0, 0]), data(END_STREAM, 1)],
        vec![post(1), data(0, 1), frame(HEADERS, WHOLE, 1, &header_block(&[(b"x-trailer", b"y")]))],
        vec![get(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]), reset(1), reset(1)],
        vec![post(1), reset(1), get(3), get(9), priority(9)],
        vec![
            frame(HEADERS, END_STREAM, 1, &request_block("GET", "/fine", &[])),
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ],
        // Compressed by a table whose size changes, and with Huffman's code.
        vec![
            frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]),
            frame(HEADERS, WHOLE, 1, &[&[0x20, 0x3f, 0xe1, 0x1f][..], &request_block("GET", "/fine", &[])].concat()),
        ],
        vec![frame(HEADERS, WHOLE, 1, b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff")],
    ] {
        let mut client = Client::plain(&gateway).await;
        client.send(&frames).await;
        client.send(&[get(11)]).await;
        loop {
            let said = client.next_of(&[HEADERS, GOAWAY]).await.unwrap_or_else(|| panic!("{frames:?}"));
            assert_eq!(said.kind, HEADERS, "{frames:?}");
            if said.stream == 11 {
                break;
            }
        }
        assert!(client.is_alive().await, "{frames:?}");
    }
}

/// What costs a client next to nothing ends in time, and by its name.
#[tokio::test]
async fn floods_are_told_to_calm_down() {
    let (server, pair) = (says_target().await, Authority::new().certify(&["a.test"]));
    let gateway = before(&server, &pair, &[]).await;
    let taken_back = |at: u32| [get(2 * at + 1), reset(2 * at + 1)].concat();
    let malformed = |at: u32| frame(HEADERS, WHOLE, 2 * at + 1, &request_block("GET", "/bad", &[("x", " y")]));
    // CVE-2025-8671: what makes us take requests back.
    let overflowing =
        |at: u32| [post(2 * at + 1), frame(WINDOW_UPDATE, 0, 2 * at + 1, &[0x7f, 0xff, 0xff, 0xff])].concat();
    let self_dependent = |at: u32| {
        let on_itself = [&(2 * at + 1).to_be_bytes()[..], &[9]].concat();
        [post(2 * at + 1), frame(PRIORITY, 0, 2 * at + 1, &on_itself)].concat()
    };
    let repeat = |bytes: Vec<u8>| Box::new(move |_| bytes.clone()) as Box<dyn Fn(u32) -> Vec<u8>>;
    for (name, start, round, most) in [
        ("ping", vec![], repeat(frame(PING, 0, 0, b"12345678")), 3000),
        ("pong", vec![], repeat(frame(PING, ACK, 0, b"12345678")), 3000),
        ("settings", vec![], repeat(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])), 3000),
        ("priority", vec![], repeat(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9])), 3000),
        ("windows", vec![], repeat(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])), 3000),
        ("unknown", vec![], repeat(frame(0xee, 0, 0, b"x")), 3000),
        ("goodbyes", vec![], repeat(frame(GOAWAY, 0, 0, &[0; 8])), 3000),
        ("empty data", vec![post(1)], repeat(frame(DATA, 0, 1, &[])), 3000),
        ("padding", vec![post(1)], repeat(frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat())), 3000),
        ("taken back", vec![], Box::new(taken_back), 400),
        ("window too large", vec![], Box::new(overflowing), 400),
        ("depends on itself", vec![], Box::new(self_dependent), 400),
        ("malformed", vec![], Box::new(malformed), 400),
    ] {
        let mut client = Client::plain(&gateway).await;
        client.send(&start).await;
        let (mut sent, asked) = (0, server.count());
        let code = loop {
            client.send(&(sent..sent + 10).map(&round).collect::<Vec<_>>()).await;
            sent += 10;
            assert!(sent < most + 100_000, "{name}: nobody minds");
            // Answers are read as they come: a flood that is not answered tells nothing.
            let waiting = tokio::time::timeout(Duration::from_micros(200), client.next_of(&[GOAWAY]));
            match waiting.await {
                Err(_) => {}
                // Told to go, as whoever takes back much of what it asks; it does not go.
                Ok(Some(said)) if said.payload == [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0] => {}
                Ok(Some(said)) => break number(&said.payload[4..8]),
                Ok(None) => panic!("{name}: an end without a word after {sent}"),
            }
        };
        assert_eq!(code, ENHANCE_YOUR_CALM, "{name} after {sent}");
        assert!(server.count() - asked <= 250, "{name}: {} requests were sent on", server.count() - asked);
    }
}

/// Limits of the entry point hold over HTTP/2 as over HTTP/1, and settings are what clients are told.
#[tokio::test]
async fn limits_and_settings_act() {
    let (server, authority) = (says_target().await, Authority::new());
    let flags = [
        "entryPoints.web.http2.maxConcurrentStreams=7",
        "entryPoints.web.http2.maxDecoderHeaderTableSize=0",
        "entryPoints.web.http.maxHeaderBytes=3000",
        "entryPoints.web.limits.maxRequestTarget=50",
        "entryPoints.web.limits.maxHeaderFields=10",
    ];
    let gateway = before(&server, &authority.certify(&["a.test"]), &flags).await;
    let config = Arc::new(authority.client(&["h2"], None));
    for is_secure in [false, true] {
        let connect = async || {
            let plain = gateway.connect().await.into_stream();
            if is_secure {
                Box::new(shake_hands(&config, gateway.address(), "a.test").await.unwrap()) as Box<dyn Wire>
            } else {
                Box::new(plain)
            }
        };
        let mut raw = connect().await;
        raw.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat())
            .await
            .unwrap();
        let told = Client { stream: raw, farewell: Vec::new(), patience: PATIENCE }.next().await.unwrap();
        let setting =
            |id: u16| told.payload.chunks(6).find(|it| it[..2] == id.to_be_bytes()).map(|it| number(&it[2..]));
        // RFC 9113 §6.5.2: table, streams, header list.
        assert_eq!((setting(1), setting(3), setting(6)), (Some(0), Some(7), Some(3000)));
        let fields: Vec<(String, String)> = (0..11).map(|at| (format!("x{at}"), "y".to_owned())).collect();
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let long = format!("/{}", "x".repeat(50));
        for (block, status) in [
            (request_block("GET", "/fine", &fields[..9]), Some(b"200")),
            (request_block("GET", "/fine", &fields), Some(b"431")),
            (request_block("GET", &long, &[]), Some(b"414")),
            (request_block("GET", "/fine", &[("x", &"y".repeat(3000))]), Some(b"431")),
            (header_block(&[(b":method", b"CONNECT"), (b":authority", b"a.test:80")]), Some(b"405")),
        ] {
            let mut client = Client::start(connect().await).await;
            client.send(&[frame(HEADERS, WHOLE, 1, &block)]).await;
            let said = client.next_of(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
            assert_eq!(said.kind, HEADERS);
            let mut decoder = h2_status(&said.payload);
            assert_eq!(
                decoder.take(),
                status.map(|status| status.to_vec()),
                "{:?}",
                said.payload.escape_ascii().to_string()
            );
            assert!(client.is_alive().await);
        }
        // One stream too many.
        let hanging = |at: u32| post(2 * at + 1);
        let mut client = Client::start(connect().await).await;
        client.send(&(0..8).map(hanging).collect::<Vec<_>>()).await;
        let said = client.next_of(&[RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((said.kind, said.stream, number(&said.payload)), (RST_STREAM, 15, 7), "REFUSED_STREAM");
    }
}

/// A client that says that it goes gets what it has asked for, and is answered until it has gone; if it stays, it is left.
#[tokio::test]
async fn whoever_goes_is_answered_and_then_left() {
    let (server, authority) = (says_target().await, Authority::new());
    let gateway = before(&server, &authority.certify(&["a.test"]), &[]).await;
    for code in [0, 0xff] {
        let mut client = Client::plain(&gateway).await;
        let goodbye = |newest: u32| frame(GOAWAY, 0, 0, &[newest.to_be_bytes(), u32::to_be_bytes(code)].concat());
        let (first, second) = (goodbye(u32::MAX >> 1), goodbye(0));
        // The second one comes in two pieces, of which the first ends within its head.
        client.send(&[post(1), first, second[..5].to_vec()]).await;
        client.send(&[second[5..].to_vec()]).await;
        assert!(client.is_alive().await, "{code}");
        client.send(&[data(END_STREAM, 1)]).await;
        let answer = client.next_of(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((answer.kind, answer.stream), (HEADERS, 1), "{code}");
        assert!(client.is_alive().await, "{code}");
        client.patience = 2 * PATIENCE;
        assert_eq!(client.end("who goes").await, (0, 1), "{code}");
    }
}

/// A client that was told that no more requests are taken, and stays, is left.
#[tokio::test]
async fn whoever_is_told_to_go_and_stays_is_left() {
    let (server, authority) = (says_target().await, Authority::new());
    let flags = ["entryPoints.web.transport.keepAliveMaxRequests=1"];
    let gateway = before(&server, &authority.certify(&["a.test"]), &flags).await;
    let mut client = Client::plain(&gateway).await;
    client.send(&[get(1)]).await;
    assert!(client.is_told_to_go_and_alive().await);
    client.patience = 2 * PATIENCE;
    assert_eq!(client.end("who stays").await, (0, 1));
}

/// A client that is told to go by a process that ends, and is not there any more, does not take it all of its time.
#[tokio::test]
async fn whoever_is_gone_does_not_hold_up_the_end() {
    let (server, authority) = (says_target().await, Authority::new());
    let mut gateway = before(&server, &authority.certify(&["a.test"]), &[]).await;
    let mut client = Client::plain(&gateway).await;
    client.send(&[get(1)]).await;
    assert_eq!(client.next_of(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap().kind, HEADERS);
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(gateway.ended().await, Some(0));
    assert!(!gateway.log().contains("\"cut\""), "{}", gateway.log());
}

/// A client that shakes hands and says nothing more, or not enough, holds nothing for long.
#[tokio::test]
async fn silence_over_tls_ends_in_time() {
    let (server, authority) = (says_target().await, Authority::new());
    let flags = [
        "entryPoints.web.transport.respondingTimeouts.idleTimeout=600ms",
        "entryPoints.web.transport.respondingTimeouts.readTimeout=700ms",
        "entryPoints.web.limits.headTimeout=600ms",
    ];
    let gateway = before(&server, &authority.certify(&["a.test"]), &flags).await;
    let config = Arc::new(authority.client(&["h2"], None));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let whole = [preface.to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    let begun = [whole.clone(), frame(HEADERS, 0, 1, &request_block("GET", "/fine", &[]))].concat();
    let stalled = [whole.clone(), post(1), data(0, 1)].concat();
    for said in [&b""[..], &preface[..10], preface, &whole, &begun, &stalled, b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = shake_hands(&config, gateway.address(), "a.test").await.unwrap();
        stream.write_all(said).await.unwrap();
        let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!(gateway.logged(|line| line["GatewayError"] == "body-timeout").await["DownstreamStatus"], 408);
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// The status at the start of a response's block.
fn h2_status(block: &[u8]) -> Option<Vec<u8>> {
    match block {
        [0x20, rest @ ..] => h2_status(rest),
        [0x88, ..] => Some(b"200".to_vec()),
        // A literal whose name stands in the static table, as it is or in Huffman's code, whose digits from 0 to 9 are these.
        [0x48 | 0x08 | 0x18, length, rest @ ..] => {
            let text = &rest[..usize::from(length & 0x7f)];
            if length & 0x80 == 0 {
                return Some(text.to_vec());
            }
            let bits: String = text.iter().map(|byte| format!("{byte:08b}")).collect();
            let mut bits = bits.as_str();
            let mut digits = Vec::new();
            let codes =
                ["00000", "00001", "00010", "011001", "011010", "011011", "011100", "011101", "011110", "011111"];
            while let Some(digit) = codes.iter().position(|code| bits.starts_with(code)) {
                digits.push(b'0' + digit as u8);
                bits = &bits[codes[digit].len()..];
            }
            Some(digits)
        }
        _ => None,
    }
}

/// The public suite of tests for RFC 9113, where it is installed: `make conformance`.
#[tokio::test]
#[ignore = "needs the program httpwg: make conformance"]
async fn the_public_suite_passes() {
    // Some cases want an answer in several pieces.
    let server = Server::says("an answer that is long enough for that").await;
    let pair = Authority::new().certify(&["a.test"]);
    let gateway = before(&server, &pair, &[]).await;
    let program = std::env::var("HTTPWG").unwrap_or_else(|_| "httpwg".to_owned());
    let address = gateway.address().to_string();
    let run = tokio::process::Command::new(program)
        .args(["--address", &address, "--frame-timeout", "2000"])
        .env("SEQUENTIAL", "1")
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), run).await.expect("it ends").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    println!(
        "{}",
        said.lines().filter(|line| line.contains("Passed") || line.contains("failed")).collect::<Vec<_>>().join("\n")
    );
    assert!(said.contains("107/107") && output.status.success(), "{said}");
}
