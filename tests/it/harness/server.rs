//! A server that does as a script says, reads requests strictly, and keeps every byte that it got.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::peer::until;

/// One request as it came, in the only way that a strict server can read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Which connection, counted from 0.
    pub(crate) connection: usize,
    /// Which request on that connection, counted from 0.
    pub(crate) turn: usize,
    /// Request line and fields as sent, with the blank line.
    pub(crate) head: String,
    /// Decoded body, as far as it was read.
    pub(crate) body: Vec<u8>,
    /// Whether the body was read to its end.
    pub(crate) whole: bool,
    /// Trailer fields of a chunked body, as sent.
    pub(crate) trailers: String,
}

impl Received {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.line().split(' ').next().unwrap_or_default()
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// All values of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    /// The first value of a field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// What a server does next. After the last step it reads the next request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Reads the request's body to its end.
    ReadBody,
    /// Writes these bytes as they are.
    Send(Vec<u8>),
    /// Waits.
    Wait(Duration),
    /// Waits for the test: one permit of [`Server::go`].
    WaitForTest,
    /// Ends the sending side, cleanly.
    Close,
    /// Ends the connection with a reset.
    Reset,
    /// Does nothing more until the other side closes.
    Hang,
    /// Returns what comes in, as a server does that has changed the protocol.
    Echo,
}

/// Reads the request and answers 200 with this text.
pub(crate) fn ok(text: impl AsRef<str>) -> Vec<Step> {
    answer(200, "", text)
}

/// Reads the request and answers with a status, more fields (`A: b\r\n`) and a text.
pub(crate) fn answer(status: u16, fields: &str, text: impl AsRef<str>) -> Vec<Step> {
    let text = text.as_ref();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{fields}\r\n{text}", text.len());
    vec![Step::ReadBody, Step::Send(head.into_bytes())]
}

/// Reads the request and answers with exactly these bytes.
pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Vec<Step> {
    vec![Step::ReadBody, Step::Send(bytes.as_ref().to_vec())]
}

type Script = dyn Fn(&Received) -> Vec<Step> + Send + Sync;

pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    script: Box<Script>,
    received: Mutex<Vec<Received>>,
    /// What could be read in another way than it was, or not at all.
    violations: Mutex<Vec<String>>,
    bytes: Mutex<BTreeMap<usize, Vec<u8>>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    go: tokio::sync::Semaphore,
}

impl Server {
    /// A server that takes the steps that `script` says for each request head.
    pub(crate) async fn start(script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            received: Mutex::default(),
            violations: Mutex::default(),
            bytes: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            go: tokio::sync::Semaphore::new(0),
        });
        let serving = shared.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = serving.connections.fetch_add(1, Ordering::SeqCst);
                let shared = serving.clone();
                tokio::spawn(async move {
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    let mut line = Line { stream, buffer: Vec::new(), connection, shared: shared.clone() };
                    if let Err(End::Nonsense(why)) = line.serve().await {
                        let came = shared.bytes.lock().unwrap()[&connection].escape_ascii().to_string();
                        shared.violations.lock().unwrap().push(format!("{why}: {came:.2000}"));
                    }
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared, accepting }
    }

    /// A server that answers everything with `text`.
    pub(crate) async fn says(text: &'static str) -> Self {
        Self::start(move |_| ok(text)).await
    }

    /// A server that answers with the line of the request, a blank and the length of its body.
    pub(crate) async fn echo() -> Self {
        Self::start(|received| {
            let nonce = received.header("x-nonce").unwrap_or_default();
            answer(200, &format!("X-Nonce: {nonce}\r\n"), received.line())
        })
        .await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests whose heads were read, in order.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    /// The request that came last.
    pub(crate) fn last(&self) -> Received {
        self.received().last().cloned().expect("a request")
    }

    /// Waits for so many requests.
    pub(crate) async fn until_count(&self, count: usize) {
        until(|| self.count() >= count).await;
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// What was no strict HTTP.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.shared.violations.lock().unwrap().clone()
    }

    /// Lets one [`Step::WaitForTest`] go on.
    pub(crate) fn go(&self) {
        self.shared.go.add_permits(1);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Why a connection is served no longer.
enum End {
    Over,
    Nonsense(&'static str),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Over
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
    connection: usize,
    shared: Arc<Shared>,
}

impl Line {
    async fn serve(&mut self) -> Result<(), End> {
        for turn in 0.. {
            let head = self.head().await?;
            let framing = judge(&head).map_err(End::Nonsense)?;
            let received = Received { connection: self.connection, turn, head, ..Received::default() };
            let steps = (self.shared.script)(&received);
            let index = {
                let mut all = self.shared.received.lock().unwrap();
                all.push(received);
                all.len() - 1
            };
            let mut unread = framing != Framing::Length(0);
            for step in steps {
                if matches!(step, Step::ReadBody) {
                    self.body(framing, index).await?;
                    unread = false;
                } else {
                    self.step(step).await?;
                }
            }
            if unread {
                self.body(framing, index).await?;
            }
        }
        Ok(())
    }

    async fn step(&mut self, step: Step) -> Result<(), End> {
        match step {
            Step::ReadBody => {}
            Step::Send(bytes) => self.stream.write_all(&bytes).await?,
            Step::Wait(time) => tokio::time::sleep(time).await,
            Step::WaitForTest => self.shared.go.acquire().await.expect("it is never closed").forget(),
            Step::Close => {
                self.stream.shutdown().await?;
                while self.more().await.is_ok() {}
                return Err(End::Over);
            }
            Step::Reset => {
                socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                return Err(End::Over);
            }
            Step::Hang => {
                while self.more().await.is_ok() {}
                return Err(End::Over);
            }
            Step::Echo => loop {
                let bytes = std::mem::take(&mut self.buffer);
                self.stream.write_all(&bytes).await?;
                self.more().await?;
            },
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), End> {
        let before = self.buffer.len();
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(End::Over);
        }
        let mut bytes = self.shared.bytes.lock().unwrap();
        bytes.entry(self.connection).or_default().extend_from_slice(&self.buffer[before..]);
        Ok(())
    }

    /// A line with its CRLF; any other line end is nonsense.
    async fn line(&mut self) -> Result<String, End> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..].iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
                let at = from + at;
                while self.buffer.len() < at + 2 {
                    if self.buffer[at] == b'\n' {
                        return Err(End::Nonsense("a bare LF"));
                    }
                    self.more().await?;
                }
                if &self.buffer[at..at + 2] != b"\r\n" {
                    return Err(End::Nonsense("a line end that is not CRLF"));
                }
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                // Field values may hold bytes beyond ASCII (RFC 9110 §5.5); names and targets are looked at later.
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            from = self.buffer.len();
            self.more().await?;
        }
    }

    async fn head(&mut self) -> Result<String, End> {
        let mut head = String::new();
        loop {
            let line = self.line().await?;
            head.push_str(&line);
            if line == "\r\n" {
                return Ok(head);
            }
        }
    }

    async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, End> {
        while self.buffer.len() < count {
            self.more().await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    async fn body(&mut self, framing: Framing, index: usize) -> Result<(), End> {
        if let Framing::Length(length) = framing {
            let body = self.exactly(length).await?;
            let mut all = self.shared.received.lock().unwrap();
            all[index].body = body;
            all[index].whole = true;
            return Ok(());
        }
        loop {
            let size = self.line().await?;
            let size = size.trim_end_matches("\r\n");
            if size.is_empty() || size.len() > 16 || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(End::Nonsense("a chunk size that is not bare hexadecimal"));
            }
            let size = usize::from_str_radix(size, 16).map_err(|_| End::Nonsense("a chunk size too large"))?;
            if size == 0 {
                break;
            }
            let chunk = self.exactly(size).await?;
            if self.exactly(2).await? != b"\r\n" {
                return Err(End::Nonsense("a chunk that does not end in CRLF"));
            }
            self.shared.received.lock().unwrap()[index].body.extend_from_slice(&chunk);
        }
        loop {
            let line = self.line().await?;
            if line == "\r\n" {
                self.shared.received.lock().unwrap()[index].whole = true;
                return Ok(());
            }
            self.shared.received.lock().unwrap()[index].trailers.push_str(&line);
        }
    }
}

/// How the body of a request is framed, if nobody could read its head in another way.
fn judge(head: &str) -> Result<Framing, &'static str> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else { return Err("a request line that is not three words") };
    if !is_token(method) || !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err("an odd request line");
    }
    if !(target.starts_with('/') || target == "*")
        || !target.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'#')
    {
        return Err("an odd request target");
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Err("a field without a colon") };
        if !is_token(name) {
            return Err("an odd field name");
        }
        let value = value.trim_matches([' ', '\t']);
        if value.bytes().any(|byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
            return Err("a control character in a field");
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            "host" => hosts += 1,
            _ => {}
        }
    }
    if hosts != 1 {
        return Err("not exactly one Host");
    }
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([], ["chunked"]) => Ok(Framing::Chunked),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) && !length.is_empty() => {
            length.parse().map(Framing::Length).map_err(|_| "a length too large")
        }
        _ => Err("framing that can be read in two ways"),
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
