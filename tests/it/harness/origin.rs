//! A scripted server for proxied requests: it answers by path, and the test may steer it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub(crate) struct Script {
    /// One permit for each piece of `/stream` and `/counted`.
    pub(crate) pieces: Semaphore,
    pub(crate) requests: AtomicUsize,
    /// Connections that the proxy has dropped in the middle of an answer.
    pub(crate) abandoned: AtomicUsize,
}

impl Script {
    async fn piece(&self) {
        self.pieces.acquire().await.expect("it is never closed").forget();
    }
}

/// Starts a server that answers `/stream` in three steered chunks, `/hang` never, `/upgrade` with an echo, and everything
/// else with `ok`.
pub(crate) async fn origin() -> (SocketAddr, Arc<Script>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let script =
        Arc::new(Script { pieces: Semaphore::new(0), requests: AtomicUsize::new(0), abandoned: AtomicUsize::new(0) });
    let shared = script.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = shared.clone();
            tokio::spawn(async move {
                let _ = serve(stream, &script).await;
            });
        }
    });
    (address, script)
}

async fn serve(mut stream: TcpStream, script: &Script) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        script.requests.fetch_add(1, Ordering::SeqCst);
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        buffer.drain(..end);
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        while buffer.len() < length {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        buffer.drain(..length);
        match head.split(' ').nth(1).unwrap_or_default() {
            "/stream" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
                for _ in 0..3 {
                    script.piece().await;
                    stream.write_all(b"5\r\npiece\r\n").await?;
                }
                stream.write_all(b"0\r\n\r\n").await?;
            }
            "/counted" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await?;
                for _ in 0..2 {
                    script.piece().await;
                    stream.write_all(b"piece").await?;
                }
            }
            "/hang" => {
                let mut byte = [0];
                let _ = stream.read(&mut byte).await;
                script.abandoned.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            "/upgrade" => {
                stream
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                    .await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                return Ok(());
            }
            _ => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?,
        }
    }
}
