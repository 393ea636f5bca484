//! A raw HTTP/2 client: frames out as they are written, frames in as they come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peer::{End, Peer, soon};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A response; its status where the compressed form is known, 0 otherwise.
    Answered(u16),
    Reset,
    /// GOAWAY, or the end of the connection.
    Over,
}

pub(crate) struct Frames {
    peer: Peer,
}

impl Frames {
    /// Connects and sends the preface with these settings.
    pub(crate) async fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut this = Self { peer: Peer::connect(address).await };
        this.peer.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        this.send(SETTINGS, 0, 0, &payload).await;
        this
    }

    /// Sends a frame; false if nobody takes it.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.peer.try_send(frame(kind, flags, stream, payload)).await
    }

    /// Sends bytes as they are; false if nobody takes them.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.peer.try_send(bytes).await
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> Result<Frame, End> {
        let head = self.peer.try_bytes(9).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes(head[5..9].try_into().expect("four bytes")) & 0x7fff_ffff;
        let payload = self.peer.try_bytes(length).await?;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until the fate of `stream` is known.
    pub(crate) async fn fate(&mut self, stream: u32) -> Fate {
        loop {
            match self.next().await {
                Err(_) => return Fate::Over,
                Ok(frame) if frame.kind == GOAWAY => return Fate::Over,
                Ok(frame) if frame.stream == stream && frame.kind == RST_STREAM => return Fate::Reset,
                Ok(frame) if frame.stream == stream && frame.kind == HEADERS => {
                    return Fate::Answered(status(&frame.payload));
                }
                Ok(frame) if frame.kind == SETTINGS && frame.flags & ACK == 0 => {
                    self.send(SETTINGS, ACK, 0, &[]).await;
                }
                Ok(_) => {}
            }
        }
    }

    /// Reads until the connection ends.
    pub(crate) async fn end(mut self) -> End {
        self.peer.end().await
    }

    /// Whether the connection is still open after everything that came was read.
    pub(crate) async fn is_open(&mut self) -> bool {
        loop {
            match tokio::time::timeout(Duration::from_millis(200), self.next()).await {
                Err(_) => return true,
                Ok(Err(_)) => return false,
                Ok(Ok(frame)) if frame.kind == GOAWAY => return false,
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Reads and forgets everything in the background, so that the other side can write. The flag turns true when it says
    /// GOAWAY or ends the connection.
    pub(crate) fn split(self) -> (tokio::net::tcp::OwnedWriteHalf, Arc<AtomicBool>) {
        let (mut read, write) = self.peer.into_stream().into_split();
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        tokio::spawn(async move {
            let mut head = [0; 9];
            while read.read_exact(&mut head).await.is_ok() && head[3] != GOAWAY {
                let length = u64::from(head[0]) << 16 | u64::from(head[1]) << 8 | u64::from(head[2]);
                if tokio::io::copy(&mut (&mut read).take(length), &mut tokio::io::sink()).await.is_err() {
                    break;
                }
            }
            flag.store(true, Ordering::SeqCst);
            let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
        });
        (write, over)
    }
}

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header list, without indexing (RFC 7541 §6.2.2).
pub(crate) fn header_block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            integer(&mut out, text.len());
            out.extend_from_slice(text);
        }
    }
    out
}

/// A GET or POST for `path` at a.test.
pub(crate) fn request_block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":authority", b"a.test"),
        (b":path", path.as_bytes()),
    ];
    fields.extend(more.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    header_block(&fields)
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn integer(out: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return out.push(value as u8);
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push(value as u8 | 128);
        value /= 128;
    }
    out.push(value as u8);
}

/// The status at the start of a header block, if it is one of the static table or not Huffman-coded.
fn status(block: &[u8]) -> u16 {
    match block {
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        _ => 0,
    }
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Waits for a write half to be refused, or for all of it to be taken.
pub(crate) async fn pour(write: &mut tokio::net::tcp::OwnedWriteHalf, bytes: &[u8]) -> bool {
    soon(write.write_all(bytes)).await.is_ok()
}
