//! Just enough WebSocket (RFC 6455): short binary frames, whole, and the closing handshake.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::wire::{Connection, bad};

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Up to 125 bytes.
    Binary(Vec<u8>),
    /// The end.
    Close,
}

/// The answer to a `Sec-WebSocket-Key`.
pub(crate) fn accept(key: &str) -> String {
    // RFC 6455 section 4.2.2 names this identifier.
    STANDARD.encode(Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize())
}

/// A fresh key.
pub(crate) fn key() -> String {
    STANDARD.encode(fastrand::u128(..).to_be_bytes())
}

/// Sends a frame; a client's are masked.
pub(crate) async fn send(connection: &mut Connection, frame: &Frame, mask: Option<[u8; 4]>) -> io::Result<()> {
    let (code, payload): (u8, &[u8]) = match frame {
        Frame::Binary(payload) => (0x82, payload),
        Frame::Close => (0x88, &[0x03, 0xe8]),
    };
    let length = u8::try_from(payload.len()).ok().filter(|length| *length <= 125).ok_or_else(|| bad("too long"))?;
    let mut bytes = vec![code, length | if mask.is_some() { 0x80 } else { 0 }];
    bytes.extend(mask.iter().flatten());
    let mask = mask.unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    connection.send(&bytes).await
}

/// Reads a frame.
pub(crate) async fn receive(connection: &mut Connection) -> io::Result<Frame> {
    let head = connection.exactly(2).await?;
    let (code, length) = (head[0], head[1] & 0x7f);
    if length > 125 {
        return Err(bad("a longer frame than anybody sent"));
    }
    let mask = if head[1] & 0x80 != 0 { connection.exactly(4).await? } else { vec![0; 4] };
    let payload = connection.exactly(usize::from(length)).await?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    match code {
        0x82 => Ok(Frame::Binary(payload)),
        0x88 => Ok(Frame::Close),
        _ => Err(bad("an unexpected kind of frame")),
    }
}
