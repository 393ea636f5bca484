//! A raw client: bytes out, bytes in, with a deadline on every wait.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait of a test; only a failing one waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What `future` gives, or a panic when it takes too long.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Reset,
}

/// One response, as far as tests care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Fields behind a chunked body, as sent.
    pub(crate) trailers: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

pub(crate) struct Peer<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Self { stream, buffer: Vec::new() }
    }

    /// A client with another address of the loopback.
    pub(crate) async fn connect_from(source: [u8; 4], address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((source, 0))).expect("bind");
        Self { stream: socket.connect(address).await.expect("connect"), buffer: Vec::new() }
    }

    /// Waits until something has come in, and leaves it there.
    pub(crate) async fn readable(&self) {
        soon(self.stream.readable()).await.expect("readable");
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("an address")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// A client over a connection that stands.
    pub(crate) fn of(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.write(bytes.as_ref()).await.expect("send");
    }

    /// Sends, and does not care whether the other side still takes it.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.write(bytes.as_ref()).await.is_ok()
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        soon(async {
            self.stream.write_all(bytes).await?;
            // TLS may keep some of it otherwise.
            self.stream.flush().await
        })
        .await
    }

    /// Sends byte by byte, each in a segment of its own as far as the kernel plays along.
    pub(crate) async fn drip(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            if !self.try_send([*byte]).await {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("shut down");
    }

    /// Ends the sending half, if the other side is still there.
    pub(crate) async fn try_half_close(&mut self) -> std::io::Result<()> {
        self.stream.shutdown().await
    }

    /// More bytes; `Err` at the end of the connection.
    async fn more(&mut self) -> Result<(), End> {
        match soon(self.stream.read_buf(&mut self.buffer)).await {
            Ok(0) => Err(End::Closed),
            Ok(_) => Ok(()),
            Err(_) => Err(End::Reset),
        }
    }

    /// Whether nothing comes for so long.
    pub(crate) async fn is_silent_for(&mut self, time: Duration) -> bool {
        let mut byte = [0; 1];
        tokio::time::timeout(time, self.stream.read(&mut byte)).await.is_err()
    }

    /// Exactly so many bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.try_bytes(count).await.expect("more bytes")
    }

    /// Exactly so many bytes, or how the connection ended instead.
    pub(crate) async fn try_bytes(&mut self, count: usize) -> Result<Vec<u8>, End> {
        while self.buffer.len() < count {
            self.more().await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// The head of the next message, whoever writes it.
    async fn lines(&mut self) -> Result<String, End> {
        let end = loop {
            match self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more().await?,
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        Ok(String::from_utf8(head).expect("the head is text"))
    }

    /// The head of a request, for tests that are the server.
    pub(crate) async fn request_head(&mut self) -> String {
        self.lines().await.expect("a request")
    }

    /// The head of the next response, or how the connection ended instead.
    pub(crate) async fn head(&mut self) -> Result<Answer, End> {
        let head = self.lines().await?;
        Ok(Answer { status: head[9..12].parse().expect("a status"), head, body: Vec::new(), trailers: String::new() })
    }

    /// The next response, or how the connection ended instead.
    pub(crate) async fn try_answer(&mut self) -> Result<Answer, End> {
        let mut answer = self.head().await?;
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.buffer.len() < length {
                self.more().await?;
            }
            answer.body = self.buffer.drain(..length).collect();
        }
        Ok(answer)
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("an answer")
    }

    /// The final response to a request with `method`, whatever its framing, past all interim ones; or how the connection
    /// ended instead, which is also what a body that is cut off gives.
    pub(crate) async fn response_to(&mut self, method: &str) -> Result<Answer, End> {
        let mut answer = self.head().await?;
        while answer.status < 200 && answer.status != 101 {
            answer = self.head().await?;
        }
        if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            (answer.body, answer.trailers) = self.chunks().await?;
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.buffer.len() < length {
                self.more().await?;
            }
            answer.body = self.buffer.drain(..length).collect();
        } else {
            match self.end().await {
                End::Closed => answer.body = std::mem::take(&mut self.buffer),
                End::Reset => return Err(End::Reset),
            }
        }
        Ok(answer)
    }

    /// Sends a GET for `target`, with more fields (`A: b\r\n`), and reads the response.
    pub(crate) async fn get(&mut self, target: &str, fields: &str) -> Answer {
        self.request(&format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await
    }

    /// Sends a request as it is and reads the response.
    pub(crate) async fn request(&mut self, request: &str) -> Answer {
        self.send(request).await;
        let method = request.split(' ').next().unwrap_or_default();
        self.response_to(method).await.unwrap_or_else(|end| panic!("{end:?} instead of a response to {request:.300}"))
    }

    /// The body of a chunked response, and its trailers.
    async fn chunks(&mut self) -> Result<(Vec<u8>, String), End> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk().await?;
            if chunk.is_empty() {
                let mut trailers = String::new();
                loop {
                    let line = self.line().await?;
                    if line == "\r\n" {
                        return Ok((body, trailers));
                    }
                    trailers.push_str(&line);
                }
            }
            body.extend(chunk);
        }
    }

    /// The next chunk; of the last, empty one, only its size line.
    pub(crate) async fn chunk(&mut self) -> Result<Vec<u8>, End> {
        let size = self.line().await?;
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
        if size == 0 {
            return Ok(Vec::new());
        }
        while self.buffer.len() < size + 2 {
            self.more().await?;
        }
        let chunk = self.buffer.drain(..size).collect();
        assert_eq!(self.buffer.drain(..2).as_slice(), b"\r\n");
        Ok(chunk)
    }

    async fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Ok(String::from_utf8(line).expect("a line of text"));
            }
            self.more().await?;
        }
    }

    /// Reads until the connection ends.
    pub(crate) async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.more().await {
                return end;
            }
        }
    }

    /// Reads until the connection ends, and what came before.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, End) {
        let end = self.end().await;
        (std::mem::take(&mut self.buffer), end)
    }

    pub(crate) fn into_stream(self) -> S {
        self.stream
    }
}
