//! Requests over HTTP/1.1, with and without TLS.

use std::io;

use tokio::time::{Duration, Instant};

use super::super::wire::{Connection, Message, bad};
use super::{Client, Door, head, same};

/// An idle connection older than this is not used again: a gateway may close it at any moment after its idle timeout.
const IDLE_FOR: Duration = Duration::from_secs(20);
const MAX_IDLE: usize = 64;

impl Client {
    pub(super) async fn keep_alive(&self, door: Door, number: u64) -> io::Result<()> {
        let nonce = format!("{}-k{number}", self.run);
        let connection = self.reuse(door).await?;
        let (connection, response) = self.ask(connection, &format!("GET /nonce/{nonce}"), "", &[]).await?;
        self.keep(door, connection, &response);
        same(&response.body, nonce.as_bytes())
    }

    pub(super) async fn only_request(&self, connection: Connection, number: u64) -> io::Result<()> {
        let nonce = format!("{}-n{number}", self.run);
        let (mut connection, response) =
            self.ask(connection, &format!("GET /nonce/{nonce}"), "Connection: close\r\n", &[]).await?;
        same(&response.body, nonce.as_bytes())?;
        if connection.ends().await? { Ok(()) } else { Err(bad("more than the response")) }
    }

    pub(super) async fn slow(&self, number: u64) -> io::Result<()> {
        let nonce = format!("{}-s{number}", self.run);
        let millis = fastrand::u32(200..4_000);
        let connection = self.connect(Door::Plain).await?;
        let (_, response) = self.ask(connection, &format!("GET /slow/{nonce}/{millis}"), "", &[]).await?;
        same(&response.body, nonce.as_bytes())
    }

    pub(super) async fn post(&self, number: u64) -> io::Result<()> {
        let id = format!("{}-p{number}", self.run);
        let body = vec![b'x'; fastrand::usize(1..16_384)];
        let connection = self.reuse(Door::Plain).await?;
        let length = format!("Content-Length: {}\r\n", body.len());
        let (connection, response) = self.ask(connection, &format!("POST /post/{id}"), &length, &body).await?;
        self.keep(Door::Plain, connection, &response);
        same(&response.body, format!("{id} {} 1", body.len()).as_bytes())?;
        self.answered.lock().insert(id);
        Ok(())
    }

    /// A connection that waits for its next request, or a new one. One that the gateway closed meanwhile is no failure: any client
    /// looks before it sends. One that it closes while we send is.
    async fn reuse(&self, door: Door) -> io::Result<Connection> {
        let found = loop {
            let Some((since, mut connection)) = self.idle(door).lock().pop() else { break None };
            if since.elapsed() < IDLE_FOR && !connection.is_closed() {
                break Some(connection);
            }
        };
        match found {
            Some(connection) => Ok(connection),
            None => self.connect(door).await,
        }
    }

    fn keep(&self, door: Door, connection: Connection, response: &Message) {
        let mut idle = self.idle(door).lock();
        if !response.closes() && idle.len() < MAX_IDLE {
            // At a random place: some are used again at once, some wait for long.
            let at = fastrand::usize(..=idle.len());
            idle.insert(at, (Instant::now(), connection));
        }
    }

    async fn ask(
        &self,
        mut connection: Connection,
        what: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<(Connection, Message)> {
        let mut bytes = head(what, headers).into_bytes();
        bytes.extend(body);
        connection.send(&bytes).await?;
        let response = connection.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if let Some(generation) = response.header("x-generation") {
            self.tally.generation(generation);
        }
        match response.status() {
            200 => Ok((connection, response)),
            status => Err(bad(&format!("status {status}"))),
        }
    }
}
