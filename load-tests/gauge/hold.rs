//! Connections that have been used once and wait.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use h2::client::SendRequest;
use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bad;
use super::tls::{self, NAME, Sessions};

/// Bytes of the body that `compare.sh` has the server send.
const BODY_BYTES: usize = 68;

const PATIENCE: Duration = Duration::from_secs(10);
/// Whoever started this may have forgotten it.
const HELD_FOR: Duration = Duration::from_secs(600);

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// HTTP/1.1.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    H2,
}

#[derive(Args)]
pub(crate) struct Options {
    /// What is spoken.
    kind: Kind,
    /// The proxy.
    #[arg(long)]
    target: SocketAddr,
    /// How many connections.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    count: u32,
}

/// Anything to read from and write to.
trait Stream: AsyncRead + AsyncWrite {}
impl<S: AsyncRead + AsyncWrite> Stream for S {}

/// What is kept of a connection.
enum Held {
    Http1(#[expect(dead_code, reason = "dropping it would close")] Box<dyn Stream>),
    Http2(#[expect(dead_code, reason = "dropping it would close")] SendRequest<bytes::Bytes>),
}

/// Opens them one after the other, so that what they take is theirs and not the crowd's.
pub(crate) async fn run(options: Options) -> io::Result<()> {
    let mut held = Vec::new();
    let mut failed = 0;
    for _ in 0..options.count {
        match tokio::time::timeout(PATIENCE, open(options.kind, options.target)).await {
            Ok(Ok(one)) => held.push(one),
            Ok(Err(error)) => {
                failed += 1;
                eprintln!("gauge: {error}");
            }
            Err(_) => failed += 1,
        }
    }
    println!("held {}\nfailed {failed}", held.len());
    io::stdout().flush()?;
    tokio::time::sleep(HELD_FOR).await;
    Ok(())
}

async fn open(kind: Kind, target: SocketAddr) -> io::Result<Held> {
    match kind {
        Kind::Plain => {
            let mut stream = TcpStream::connect(target).await?;
            ask(&mut stream).await?;
            Ok(Held::Http1(Box::new(stream)))
        }
        Kind::Tls => {
            let client = tls::client(Sessions::New, &[])?;
            let mut stream = tls::connect(&client, target).await?;
            ask(&mut stream).await?;
            Ok(Held::Http1(Box::new(stream)))
        }
        Kind::H2 => open_h2(target).await.map(Held::Http2),
    }
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(&[b'x'; BODY_BYTES]) {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(bad("not the answer")) }
}

async fn open_h2(target: SocketAddr) -> io::Result<SendRequest<bytes::Bytes>> {
    let client = tls::client(Sessions::New, &[b"h2"])?;
    let stream = tls::connect(&client, target).await?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(connection);
    let mut sender = sender.ready().await.map_err(io::Error::other)?;
    let request = Request::get(format!("https://{NAME}/")).body(()).map_err(io::Error::other)?;
    let (answer, _) = sender.send_request(request, true).map_err(io::Error::other)?;
    let mut body = answer.await.map_err(io::Error::other)?.into_body();
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        length += chunk.map_err(io::Error::other)?.len();
    }
    if length == BODY_BYTES { Ok(sender) } else { Err(bad("not the answer")) }
}
