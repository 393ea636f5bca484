//! A server whose answers are large.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An answer that fits into no buffer between the server and its reader.
pub(crate) const ANSWER_BYTES: u64 = 64 << 20;

/// A server that answers with [`ANSWER_BYTES`] where the path begins with `/large`, else with two; and how many bytes of these somebody
/// has taken.
pub(crate) async fn generous() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let taken = Arc::<AtomicU64>::default();
    let counter = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A head and its two bytes are two writes: the second would wait for the first to be acknowledged.
            stream.set_nodelay(true).expect("nodelay");
            // What waits in the kernel is not what is measured, and there is not enough of it for many servers like this one.
            socket2::SockRef::from(&stream).set_send_buffer_size(64 << 10).expect("a size");
            tokio::spawn(serve(stream, counter.clone()));
        }
    });
    (address, taken)
}

async fn serve(mut stream: TcpStream, taken: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut request = Vec::new();
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let mut rest = if request.starts_with(b"GET /large") { ANSWER_BYTES } else { 2 };
        request.clear();
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {rest}\r\n\r\n").as_bytes()).await?;
        let piece = [b'x'; 1 << 14];
        while rest > 0 {
            let wrote = stream.write(&piece[..piece.len().min(rest as usize)]).await? as u64;
            taken.fetch_add(wrote, Ordering::SeqCst);
            rest -= wrote;
        }
    }
}
