//! What stands behind a proxy where no usual server fits.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use clap::Subcommand;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{bad, websocket};

const BACKLOG: i32 = 8192;
const STREAM_CHUNK: usize = 256 << 10;
/// Largest message of gRPC's default.
const MAX_MESSAGE: usize = 4 << 20;
/// The flag and the length before a message (gRPC, "gRPC over HTTP2", Length-Prefixed-Message).
const PREFIX_BYTES: usize = 5;
/// Streams and windows so large that no proxy waits for this server.
const STREAMS: u32 = 4096;
const WINDOW_BYTES: u32 = 16 << 20;

/// What to serve.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Kind {
    /// Unary gRPC over clear text: every method answers with the message that it was sent.
    Grpc,
    /// WebSocket: every message comes back.
    Websocket,
    /// TCP: 64 bytes come back, then the connection is closed.
    Reply,
    /// TCP: after the first byte, bytes without end.
    Stream,
    /// UDP: every datagram comes back.
    Datagrams,
}

/// Serves until the process ends.
pub(crate) async fn run(kind: Kind, listen: SocketAddr) -> io::Result<()> {
    if let Kind::Datagrams = kind {
        return send_back(&UdpSocket::bind(listen).await?).await;
    }
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // Whoever hangs up in the middle is the load's business, which counts it.
        tokio::task::spawn_local(async move {
            match kind {
                Kind::Grpc => grpc(stream).await,
                Kind::Websocket => websocket::serve(stream).await,
                Kind::Reply => reply(stream).await,
                Kind::Stream | Kind::Datagrams => stream_on(stream).await,
            }
        });
    }
}

/// Blocking would be cheaper, but batches are rare: each client waits for its answer.
async fn send_back(socket: &UdpSocket) -> io::Result<()> {
    let mut datagram = vec![0; 1 << 16];
    loop {
        socket.readable().await?;
        // An error tells of a client that is gone.
        while let Ok((length, from)) = socket.try_recv_from(&mut datagram) {
            let _ = socket.try_send_to(&datagram[..length], from);
        }
    }
}

async fn reply(mut stream: TcpStream) -> io::Result<()> {
    let mut message = [0; super::load::TCP_MESSAGE_BYTES];
    stream.read_exact(&mut message).await?;
    stream.write_all(&message).await
}

async fn stream_on(mut stream: TcpStream) -> io::Result<()> {
    stream.read_u8().await?;
    let chunk = vec![b'x'; STREAM_CHUNK];
    loop {
        stream.write_all(&chunk).await?;
    }
}

async fn grpc(stream: TcpStream) -> io::Result<()> {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(STREAMS)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(io::Error::other)?;
    while let Some(request) = connection.accept().await {
        let (request, answer) = request.map_err(io::Error::other)?;
        tokio::task::spawn_local(call(request, answer));
    }
    poll_fn(|cx| connection.poll_closed(cx)).await.map_err(io::Error::other)
}

async fn call(request: Request<RecvStream>, mut answer: SendResponse<Bytes>) -> io::Result<()> {
    let mut body = request.into_body();
    let mut message = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(io::Error::other)?;
        body.flow_control().release_capacity(chunk.len()).map_err(io::Error::other)?;
        if message.len() + chunk.len() > PREFIX_BYTES + MAX_MESSAGE {
            return Err(bad("the message is too long"));
        }
        message.extend_from_slice(&chunk);
    }
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut sending = answer.send_response(response, false).map_err(io::Error::other)?;
    let mut trailers = HeaderMap::new();
    let status = if is_whole(&message) {
        sending.send_data(message.freeze(), false).map_err(io::Error::other)?;
        "0"
    } else {
        // INTERNAL: what came is not one message.
        "13"
    };
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    sending.send_trailers(trailers).map_err(io::Error::other)
}

/// Whether this is one message, not compressed.
fn is_whole(message: &[u8]) -> bool {
    match message.split_first_chunk::<PREFIX_BYTES>() {
        Some(([0, a, b, c, d], rest)) => u32::from_be_bytes([*a, *b, *c, *d]) as usize == rest.len(),
        _ => false,
    }
}
