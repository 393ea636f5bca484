//! WebSocket (RFC 6455) as far as an echo of short messages needs it: whole frames, laid out once.

use std::io;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bad;
use super::tls::NAME;

/// Bytes of a message.
const MESSAGE_BYTES: usize = 64;
const MAX_HEAD: usize = 16 << 10;
/// A frame's two bytes, and a client's mask.
const HEAD_BYTES: usize = 2;
const MASK_BYTES: usize = 4;
const MASK: [u8; MASK_BYTES] = [0x37, 0xfa, 0x21, 0x3d];
/// A whole binary message.
const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
/// Longest message whose length stands in the second byte.
const SHORT: usize = 125;

/// A client's connection.
pub(crate) struct Client {
    stream: TcpStream,
    sends: Vec<u8>,
    expects: Vec<u8>,
}

impl Client {
    /// Connects and changes the protocol.
    pub(crate) async fn connect(target: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /websocket HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let head = read_head(&mut stream, &mut BytesMut::new()).await?;
        if !head.starts_with("HTTP/1.1 101") {
            return Err(bad("the protocol was not changed"));
        }
        let message = [b'x'; MESSAGE_BYTES];
        let mut sends = vec![BINARY, MASKED | MESSAGE_BYTES as u8];
        sends.extend(MASK);
        sends.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        let mut expects = vec![BINARY, MESSAGE_BYTES as u8];
        expects.extend(message);
        Ok(Self { stream, sends, expects })
    }

    /// Sends a message and waits for its echo.
    pub(crate) async fn echo(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.sends).await?;
        let mut echo = [0; HEAD_BYTES + MESSAGE_BYTES];
        self.stream.read_exact(&mut echo).await?;
        if echo[..] == self.expects[..] { Ok(()) } else { Err(bad("another message than was sent")) }
    }
}

/// Answers a request for WebSocket and sends back what comes.
pub(crate) async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut input = BytesMut::new();
    let head = read_head(&mut stream, &mut input).await?;
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let Some((_, key)) = key else {
        return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nwebsocket\n").await;
    };
    // RFC 6455 section 4.2.2 names this identifier.
    let digest = Sha1::new().chain_update(key.trim()).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let accept = STANDARD.encode(digest);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let mut output = Vec::new();
    loop {
        while let Some(length) = first_frame(&input)? {
            let frame = input.split_to(length);
            let (head, masked) = frame.split_at(HEAD_BYTES);
            let (mask, payload) = masked.split_at(MASK_BYTES);
            output.extend([head[0], head[1] & !MASKED]);
            output.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
        stream.write_all(&output).await?;
        output.clear();
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// The length of the first frame, if it is whole.
fn first_frame(input: &[u8]) -> io::Result<Option<usize>> {
    let Some(second) = input.get(1) else { return Ok(None) };
    let payload = usize::from(second & !MASKED);
    if second & MASKED == 0 || payload > SHORT {
        return Err(bad("not a short frame of a client"));
    }
    let length = HEAD_BYTES + MASK_BYTES + payload;
    Ok((input.len() >= length).then_some(length))
}

/// A head as text; what follows it stays in `input`.
async fn read_head(stream: &mut TcpStream, input: &mut BytesMut) -> io::Result<String> {
    loop {
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = input.split_to(end + 4);
            return String::from_utf8(head.to_vec()).map_err(|_| bad("the head is not text"));
        }
        if input.len() > MAX_HEAD {
            return Err(bad("the head is too long"));
        }
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
