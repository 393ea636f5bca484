//! Units of work, each repeated by so many clients at once, which all wait for their answers.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

use super::bad;
use super::tally::Tally;
use super::tls::{self, NAME, Sessions};
use super::websocket;

/// Bytes that go there and back over a TCP connection.
pub(crate) const TCP_MESSAGE_BYTES: usize = 64;
/// Bytes of a datagram.
const DATAGRAM_BYTES: usize = 64;
/// Bytes that are thrown away with one call.
const STREAM_CHUNK: usize = 1 << 20;
/// A datagram that has no answer by then is lost.
const DATAGRAM_PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 64 << 10;
const MIB: u64 = 1 << 20;

/// What to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A TLS connection with a full handshake and one request.
    TlsNew,
    /// A TLS connection that goes on with a session of before, and one request.
    TlsResumed,
    /// A message there and back.
    Websocket,
    /// A TCP connection with 64 bytes there and back.
    TcpNew,
    /// A MiB from the server.
    Tcp,
    /// A datagram there and back.
    Udp,
}

#[derive(Args)]
pub(crate) struct Options {
    /// What to repeat.
    kind: Kind,
    /// The proxy.
    #[arg(long)]
    target: SocketAddr,
    /// For how long.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// By how many clients at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
}

/// Runs a load and prints what came of it.
pub(crate) async fn run(options: Options) -> io::Result<()> {
    let Options { kind, target, seconds, connections } = options;
    let patience = if kind == Kind::Udp { DATAGRAM_PATIENCE } else { PATIENCE };
    let tally = Rc::new(Tally::new(Duration::from_secs(seconds), patience));
    let mut clients = Vec::new();
    for _ in 0..connections {
        let tally = tally.clone();
        clients.push(tokio::task::spawn_local(async move {
            match kind {
                Kind::TlsNew => handshakes(&tally, target, Sessions::New).await,
                Kind::TlsResumed => handshakes(&tally, target, Sessions::Resumed).await,
                Kind::Websocket => messages(&tally, target).await,
                Kind::TcpNew => {
                    tally.repeat(async || connect_once(target).await).await;
                    Ok(())
                }
                Kind::Tcp => take(&tally, target).await,
                Kind::Udp => datagrams(&tally, target).await,
            }
        }));
    }
    for client in clients {
        client.await.map_err(io::Error::other)?.unwrap_or_else(|error| tally.fail(&error));
    }
    tally.tell(if kind == Kind::Tcp { MIB } else { 1 });
    Ok(())
}

async fn handshakes(tally: &Tally, target: SocketAddr, sessions: Sessions) -> io::Result<()> {
    let client = tls::client(sessions, &[])?;
    if sessions == Sessions::Resumed {
        // The first has no session to go on with.
        request_over_tls(&client, target).await?;
    }
    let expected = match sessions {
        Sessions::New => HandshakeKind::Full,
        Sessions::Resumed => HandshakeKind::Resumed,
    };
    tally
        .repeat(async || match request_over_tls(&client, target).await? {
            Some(kind) if kind == expected => Ok(()),
            kind => Err(bad(&format!("the handshake was {kind:?}"))),
        })
        .await;
    Ok(())
}

/// A request has to be part of it: tickets come behind the handshake, and only the answer says that the server has finished, too. The
/// server closes, so that no port of ours is worn out.
async fn request_over_tls(client: &TlsConnector, target: SocketAddr) -> io::Result<Option<HandshakeKind>> {
    let mut stream = tls::connect(client, target).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1024);
    loop {
        match stream.read_buf(&mut answer).await {
            Ok(0) => break,
            Ok(_) if answer.len() <= MAX_ANSWER => {}
            Ok(_) => return Err(bad("the answer is too long")),
            // Some close without a word of TLS.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200") || !answer.ends_with(b"xxxx") {
        return Err(bad("not the answer"));
    }
    Ok(stream.get_ref().1.handshake_kind())
}

async fn messages(tally: &Tally, target: SocketAddr) -> io::Result<()> {
    let mut connected = None;
    tally
        .repeat(async || {
            let mut client = match connected.take() {
                Some(client) => client,
                None => websocket::Client::connect(target).await?,
            };
            client.echo().await?;
            connected = Some(client);
            Ok(())
        })
        .await;
    Ok(())
}

async fn connect_once(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(&[b'x'; TCP_MESSAGE_BYTES]).await?;
    let mut answer = [0; TCP_MESSAGE_BYTES + 1];
    let mut length = 0;
    loop {
        match stream.read(&mut answer[length..]).await? {
            0 => break,
            read => length += read,
        }
    }
    if length == TCP_MESSAGE_BYTES { Ok(()) } else { Err(bad("not the answer")) }
}

/// Takes all that comes without copying it out of the kernel.
async fn take(tally: &Tally, target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"!").await?;
    let mut room = vec![0; STREAM_CHUNK];
    let pull = async {
        loop {
            let flags = rustix::net::RecvFlags::TRUNC;
            let (_, taken) =
                stream.async_io(Interest::READABLE, || Ok(rustix::net::recv(&stream, &mut room[..], flags)?)).await?;
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            tally.add(taken as u64);
        }
    };
    // Time is what ends it.
    tokio::time::timeout_at(tally.until().into(), pull).await.unwrap_or(Ok(()))
}

async fn datagrams(tally: &Tally, target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(target).await?;
    let number = Cell::new(0u64);
    tally
        .repeat(async || {
            number.set(number.get() + 1);
            let mut datagram = [0; DATAGRAM_BYTES];
            datagram[..8].copy_from_slice(&number.get().to_be_bytes());
            socket.send(&datagram).await?;
            let mut answer = [0; DATAGRAM_BYTES + 1];
            // A late answer to one that was given up is passed over.
            while socket.recv(&mut answer).await? != DATAGRAM_BYTES || answer[..DATAGRAM_BYTES] != datagram {}
            Ok(())
        })
        .await;
    Ok(())
}
