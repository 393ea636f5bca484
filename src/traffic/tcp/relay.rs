//! Bytes both ways between two connections, until both directions have ended.
//!
//! Between two plain sockets nothing is kept while nothing flows, and what flows for long is moved by the kernel (`splice(2)`).

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::{Either, select};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::SockRef;
use std::os::fd::OwnedFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

/// Bytes moved at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of the buffer that a direction over TLS has.
const BUFFER_BYTES: usize = 16 << 10;
/// A direction that has carried so many bytes is worth two descriptors for a pipe.
const SPLICE_FROM_BYTES: u64 = 256 << 10;
/// After so many more it asks again, if there was no pipe for it.
const SPLICE_AGAIN_BYTES: u64 = 16 << 20;
/// Bytes that a pipe holds. At 64 KiB, what the system gives by itself, moving costs more than copying; at so many two fifths less.
const PIPE_BYTES: usize = 1 << 20;
/// Most pipes at a time. Without privileges a user may have so many of that size.
const PIPES_LIMIT: usize = 64;
/// Longest that one direction goes on when the other has failed.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Bytes so far.
#[derive(Debug, Default)]
pub(super) struct Volume {
    up: AtomicU64,
    down: AtomicU64,
}

impl Volume {
    /// From the client.
    pub(super) fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// To the client.
    pub(super) fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

/// Relays between two sockets; `first` was read of the client's already.
pub(super) async fn plain(
    client: &TcpStream,
    server: &TcpStream,
    first: BytesMut,
    carried: &Volume,
    delay: Option<Duration>,
) -> io::Result<()> {
    let up = async {
        write_all(server, &first).await?;
        carried.up.fetch_add(first.len() as u64, Ordering::Relaxed);
        // Not to be kept for as long as the connection lives.
        drop(first);
        move_all(client, server, &carried.up).await
    };
    both(up, move_all(server, client, &carried.down), delay).await
}

/// Relays between two connections of which at least one is TLS.
pub(super) async fn layered<C, S>(
    client: C,
    server: S,
    first: BytesMut,
    carried: &Volume,
    delay: Option<Duration>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (server_read, mut server_write) = tokio::io::split(server);
    let up = async {
        server_write.write_all(&first).await?;
        server_write.flush().await?;
        carried.up.fetch_add(first.len() as u64, Ordering::Relaxed);
        drop(first);
        copy_all(client_read, server_write, &carried.up).await
    };
    both(up, copy_all(server_read, client_write, &carried.down), delay).await
}

/// Waits for both directions. When one has ended, the other has `delay` left; when one has failed, a short time: a server that
/// hangs up takes nothing any more, and what it said before may still be on its way to the client.
async fn both(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<()>>,
    delay: Option<Duration>,
) -> io::Result<()> {
    match select(pin!(up), pin!(down)).await {
        Either::Left((ended, down)) => finish(ended, down, delay).await,
        Either::Right((ended, up)) => finish(ended, up, delay).await,
    }
}

async fn finish(
    ended: io::Result<()>,
    other: impl Future<Output = io::Result<()>>,
    delay: Option<Duration>,
) -> io::Result<()> {
    let delay =
        if ended.is_err() { Some(delay.map_or(AFTER_FAILURE, |delay| delay.min(AFTER_FAILURE))) } else { delay };
    let other = rest(other, delay).await;
    ended.and(other)
}

async fn rest(direction: impl Future<Output = io::Result<()>>, delay: Option<Duration>) -> io::Result<()> {
    match delay {
        // Who is cut off here has been told by the other side that it is over.
        Some(delay) => tokio::time::timeout(delay, direction).await.unwrap_or(Ok(())),
        None => direction.await,
    }
}

/// One direction over TLS.
async fn copy_all<R, W>(mut from: R, mut to: W, count: &AtomicU64) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read) => read,
            // A peer that closes without a word of TLS is common, and the relay judges no protocol.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}

thread_local! {
    /// What was read and could be written at once needs no buffer of its own.
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into());
}

/// One direction between two sockets.
async fn move_all(from: &TcpStream, to: &TcpStream, count: &AtomicU64) -> io::Result<()> {
    let mut splice_from = SPLICE_FROM_BYTES;
    loop {
        from.readable().await?;
        let (read, rest) = match move_once(from, to) {
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if read == 0 {
            return SockRef::from(to).shutdown(std::net::Shutdown::Write);
        }
        write_all(to, &rest).await?;
        let so_far = count.fetch_add(read as u64, Ordering::Relaxed) + read as u64;
        if so_far >= splice_from {
            if let Some(pipe) = Pipe::open() {
                return splice_all(from, to, &pipe, count).await;
            }
            splice_from = so_far + SPLICE_AGAIN_BYTES;
        }
    }
}

/// Reads once and writes what can be written without waiting: how many bytes were read, and those that are left.
fn move_once(from: &TcpStream, to: &TcpStream) -> io::Result<(usize, Vec<u8>)> {
    CHUNK.with_borrow_mut(|chunk| {
        let read = from.try_read(chunk)?;
        let written = match to.try_write(&chunk[..read]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        Ok((read, chunk[written..read].to_vec()))
    })
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A pipe for one direction.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    _place: Place,
}

/// One of the places that there are for pipes.
struct Place;

static PIPES: AtomicUsize = AtomicUsize::new(0);

impl Pipe {
    /// `None` if there are enough of them, or the system gives none of that size: a short one is slower than buffers are.
    fn open() -> Option<Self> {
        let taken = PIPES.fetch_add(1, Ordering::Relaxed);
        let place = Place;
        if taken >= PIPES_LIMIT {
            return None;
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        fcntl_setpipe_size(&writer, PIPE_BYTES).ok()?;
        Some(Self { reader, writer, _place: place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The rest of one direction, from socket to socket by way of a pipe: the bytes never leave the kernel.
async fn splice_all(from: &TcpStream, to: &TcpStream, pipe: &Pipe, count: &AtomicU64) -> io::Result<()> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        let filled = from
            .async_io(Interest::READABLE, || Ok(splice(from, None, &pipe.writer, None, PIPE_BYTES, flags)?))
            .await?;
        if filled == 0 {
            return SockRef::from(to).shutdown(std::net::Shutdown::Write);
        }
        let mut left = filled;
        while left > 0 {
            let moved =
                to.async_io(Interest::WRITABLE, || Ok(splice(&pipe.reader, None, to, None, left, flags)?)).await?;
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left -= moved;
        }
        count.fetch_add(filled as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::BufStream;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn what_a_server_said_before_it_hung_up_reaches_the_client() {
        let ((mut client, ours), (upstream, mut server)) = (pair().await, pair().await);
        upstream.writable().await.unwrap();
        upstream.try_write(b"a question").unwrap();
        server.readable().await.unwrap();
        server.write_all(b"too many connections").await.unwrap();
        // With the question unread: the system resets the connection, and there is no writing to it.
        drop(server);
        upstream.ready(Interest::ERROR).await.unwrap();
        let carried = Volume::default();
        let delay = Some(Duration::from_secs(5));
        let ended = plain(&ours, &upstream, BytesMut::from("another"), &carried, delay).await;
        assert!(ended.is_err());
        drop(ours);
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        assert_eq!(told, "too many connections");
    }

    #[tokio::test]
    async fn first_bytes_do_not_wait_for_more() {
        let ((client, _far), (upstream, mut server)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let carried = Volume::default();
        let relayed = layered(client, BufStream::new(upstream), BytesMut::from("hello"), &carried, None);
        let mut said = [0; 5];
        let read = tokio::time::timeout(Duration::from_secs(5), server.read_exact(&mut said));
        tokio::select! {
            _ = relayed => panic!("it ended"),
            read = read => read.expect("bytes in time").unwrap(),
        };
        assert_eq!(&said, b"hello");
    }
}
