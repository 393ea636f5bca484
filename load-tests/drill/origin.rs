//! The backend: answers with what it was asked, as slowly as it was asked to, and remembers every id it was posted.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::grpc;
use super::websocket::{self, Frame};
use super::wire::{Connection, Message};

const MAX_CONNECTIONS: usize = 10_000;
const MAX_IDS: usize = 1_000_000;
const MAX_DELAY: Duration = Duration::from_secs(60);

type Ids = Arc<Mutex<BTreeMap<String, u32>>>;

/// Serves until the process ends: at the same port, datagrams are sent back.
pub(crate) async fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    tokio::spawn(send_back(UdpSocket::bind(listener.local_addr()?).await?));
    let ids = Ids::default();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, _) = listener.accept().await?;
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let ids = Arc::clone(&ids);
        tokio::spawn(async move {
            let _ = if begins_http2(&stream).await {
                grpc::serve(stream).await
            } else {
                converse(Connection::new(stream), &ids).await
            };
            drop(place);
        });
    }
}

/// Whether the client says HTTP/2's preface (RFC 9113 §3.4).
async fn begins_http2(stream: &TcpStream) -> bool {
    let mut start = [0; 3];
    while let Ok(length @ 1..) = stream.peek(&mut start).await {
        if length == start.len() || !b"PRI".starts_with(&start[..length]) {
            return &start == b"PRI";
        }
        // No request is as short as that, so more comes at once.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

async fn send_back(socket: UdpSocket) {
    let mut datagram = vec![0; 1 << 16];
    loop {
        // An error tells of a client that is gone.
        if let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), from).await;
        }
    }
}

async fn converse(mut connection: Connection, ids: &Ids) -> io::Result<()> {
    while let Some(request) = connection.receive().await? {
        let (method, target) = (request.first.0.as_str(), request.first.1.as_str());
        let mut parts = target.trim_start_matches('/').split('/');
        let (action, argument) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match (method, action) {
            ("GET", "nonce") => reply(&mut connection, 200, argument.as_bytes()).await?,
            ("GET", "slow") => {
                let millis = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
                dribble(&mut connection, argument, Duration::from_millis(millis).min(MAX_DELAY)).await?;
            }
            ("POST", "post") => {
                let seen = remember(ids, argument);
                let answer = format!("{argument} {} {seen}", request.body.len());
                reply(&mut connection, if seen == 0 { 507 } else { 200 }, answer.as_bytes()).await?;
            }
            ("GET", "ids") => {
                let list = list(ids, argument);
                reply(&mut connection, 200, list.as_bytes()).await?;
            }
            ("GET", "websocket") => return echo(connection, &request).await,
            _ => reply(&mut connection, 404, b"what?").await?,
        }
        if request.closes() {
            break;
        }
    }
    Ok(())
}

/// How often this id came, this time included; 0 when there are too many to remember.
fn remember(ids: &Ids, id: &str) -> u32 {
    let mut ids = ids.lock();
    if ids.len() >= MAX_IDS {
        return 0;
    }
    let seen = ids.entry(id.to_owned()).or_default();
    *seen += 1;
    *seen
}

/// One line `id count` for each id that begins so.
fn list(ids: &Ids, prefix: &str) -> String {
    let ids = ids.lock();
    let found = ids.iter().filter(|(id, _)| id.starts_with(prefix));
    found.map(|(id, count)| format!("{id} {count}\n")).collect()
}

async fn reply(connection: &mut Connection, status: u16, body: &[u8]) -> io::Result<()> {
    let mut bytes = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend(body);
    connection.send(&bytes).await
}

/// Half of the time until the head, half over the bytes of the body.
async fn dribble(connection: &mut Connection, text: &str, over: Duration) -> io::Result<()> {
    tokio::time::sleep(over / 2).await;
    connection.send(format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n\r\n", text.len()).as_bytes()).await?;
    let pause = over / 2 / u32::try_from(text.len().max(1)).unwrap_or(1);
    for byte in text.as_bytes() {
        tokio::time::sleep(pause).await;
        connection.send(&[*byte]).await?;
    }
    Ok(())
}

async fn echo(mut connection: Connection, request: &Message) -> io::Result<()> {
    let accept = websocket::accept(request.header("sec-websocket-key").unwrap_or_default());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    connection.send(head.as_bytes()).await?;
    loop {
        let frame = websocket::receive(&mut connection).await?;
        websocket::send(&mut connection, &frame, None).await?;
        if frame == Frame::Close {
            return Ok(());
        }
    }
}
