//! What the gateway carries without understanding it: WebSockets, TCP connections, datagrams.

use std::io;

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Duration, Instant, sleep};

use super::super::websocket::{self, Frame};
use super::super::wire::{Connection, bad};
use super::{Client, head, same};

/// Sockets that wait to be used again.
const MAX_IDLE: usize = 64;

impl Client {
    /// A connection of which the gateway understands nothing. What is in it tells whether it was whole.
    pub(super) async fn tunnel(&self, number: u64) -> io::Result<()> {
        let target = self.options.tcp.ok_or_else(|| bad("no entry point for TCP"))?;
        let connection = self.patiently(TcpStream::connect(target)).await.map(Connection::new);
        if number.is_multiple_of(2) {
            self.patiently(self.only_request(connection?, number)).await
        } else {
            self.websocket(connection, number).await
        }
    }

    /// Echoes over a WebSocket, and its end.
    pub(super) async fn websocket(&self, connection: io::Result<Connection>, number: u64) -> io::Result<()> {
        let until = Instant::now() + Duration::from_millis(fastrand::u64(500..6_000));
        let key = websocket::key();
        let upgrade = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        let mut connection = connection?;
        let request = head("GET /websocket", &upgrade);
        self.patiently(async {
            connection.send(request.as_bytes()).await?;
            let response = connection.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let accepted = response.header("sec-websocket-accept") == Some(&websocket::accept(&key));
            if response.status() == 101 && accepted {
                Ok(())
            } else {
                Err(bad(&format!("status {}", response.status())))
            }
        })
        .await?;
        let mut count = 0u32;
        while Instant::now() < until {
            count += 1;
            let text = format!("{} {number} {count}", self.run).into_bytes();
            self.patiently(async {
                websocket::send(&mut connection, &Frame::Binary(text.clone()), Some(fastrand::u32(..).to_be_bytes()))
                    .await?;
                match websocket::receive(&mut connection).await? {
                    Frame::Binary(echo) => same(&echo, &text),
                    Frame::Close => Err(bad("closed by the other side")),
                }
            })
            .await?;
            sleep(Duration::from_millis(100)).await;
        }
        self.patiently(async {
            websocket::send(&mut connection, &Frame::Close, Some([1, 2, 3, 4])).await?;
            match websocket::receive(&mut connection).await? {
                Frame::Close => Ok(()),
                Frame::Binary(_) => Err(bad("an echo of nothing")),
            }
        })
        .await
    }

    /// A datagram that nobody sends again: one that is lost is missing for ever.
    pub(super) async fn datagram(&self, number: u64) -> io::Result<()> {
        let text = format!("{}-d{number}", self.run);
        let used = if number.is_multiple_of(2) { self.idle_sockets.lock().pop() } else { None };
        let socket = match (used, self.options.udp) {
            (Some(socket), _) => socket,
            (None, Some(target)) => {
                let socket = UdpSocket::bind(if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).await?;
                socket.connect(target).await?;
                socket
            }
            (None, None) => return Err(bad("no entry point for UDP")),
        };
        socket.send(text.as_bytes()).await?;
        let mut answer = [0; 256];
        let length = socket.recv(&mut answer).await?;
        if number.is_multiple_of(2) {
            let mut idle = self.idle_sockets.lock();
            if idle.len() < MAX_IDLE {
                // At a random place: some sessions end between two datagrams.
                let at = fastrand::usize(..=idle.len());
                idle.insert(at, socket);
            }
        }
        same(answer.get(..length).unwrap_or_default(), text.as_bytes())
    }
}
