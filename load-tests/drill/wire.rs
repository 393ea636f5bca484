//! Just enough HTTP/1.1: what was received is exactly what was sent, and nothing is retried behind our back.

use std::io;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 4 * 1024 * 1024;

/// A message: its first line, its headers as they came, its body.
#[derive(Debug, Default)]
pub(crate) struct Message {
    /// The request's method and target, or the response's status, as text.
    pub first: (String, String),
    headers: Vec<(String, String)>,
    /// The body, as long as `Content-Length` says.
    pub body: Vec<u8>,
}

impl Message {
    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether it says that the connection ends with it.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"))
    }

    /// The response's status.
    pub(crate) fn status(&self) -> u16 {
        self.first.0.parse().unwrap_or_default()
    }
}

/// What a connection is made of.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection with what was read too far.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    ahead: Vec<u8>,
}

impl Connection {
    /// Over a connected stream.
    pub(crate) fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self::over(Box::new(stream))
    }

    /// Over whatever carries bytes.
    pub(crate) fn over(stream: Box<dyn Stream>) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// Whether the other side closed, or spoke, while nothing was under way. A client looks before it sends.
    pub(crate) fn is_closed(&mut self) -> bool {
        tokio::task::unconstrained(self.stream.read(&mut [0])).now_or_never().is_some()
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads a request or response with its body; `None` if the other side closed before its first byte.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<Message>> {
        let length = loop {
            if let Some(end) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.ahead.len() > MAX_HEAD {
                return Err(bad("the head is too long"));
            }
            if self.stream.read_buf(&mut self.ahead).await? == 0 {
                return if self.ahead.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let head: Vec<u8> = self.ahead.drain(..length).collect();
        let mut message = parse(&head)?;
        let length = match message.header("content-length") {
            Some(text) => text.parse().map_err(|_| bad("the length is no number"))?,
            None if message.header("transfer-encoding").is_some() => return Err(bad("an unexpected transfer coding")),
            None => 0,
        };
        if length > MAX_BODY {
            return Err(bad("the body is too long"));
        }
        message.body = self.exactly(length).await?;
        Ok(Some(message))
    }

    /// Reads so many bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            if self.stream.read_buf(&mut self.ahead).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// Whether the other side has closed, waiting for it.
    pub(crate) async fn ends(&mut self) -> io::Result<bool> {
        Ok(self.ahead.is_empty() && self.stream.read(&mut [0]).await? == 0)
    }
}

fn parse(head: &[u8]) -> io::Result<Message> {
    let text = std::str::from_utf8(head).map_err(|_| bad("the head is not text"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.splitn(3, ' ');
    let (one, two) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let first = if one.starts_with("HTTP/1.") { (two, "") } else { (one, two) };
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Message { first: (first.0.to_owned(), first.1.to_owned()), headers, body: Vec::new() })
}

/// An error in what was received.
pub(crate) fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
