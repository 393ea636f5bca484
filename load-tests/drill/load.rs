//! The client: every class at its own rate, whatever the answers do; one try each.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use parking_lot::Mutex;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::tally::{Class, Tally};
use super::websocket::{self, Frame};
use super::wire::{Connection, Message, bad};

const MAX_UNDER_WAY: usize = 4_000;
const MAX_IDLE: usize = 64;
/// An idle connection older than this is not used again: a gateway may close it at any moment after its idle timeout.
const IDLE_FOR: Duration = Duration::from_secs(20);

/// What to send where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The gateway.
    #[arg(long, default_value = "127.0.0.1:8800")]
    target: SocketAddr,
    /// The origin, asked directly in the end.
    #[arg(long, default_value = "127.0.0.1:9900")]
    origin: SocketAddr,
    /// For how long.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Keep-alive GETs per second.
    #[arg(long, default_value_t = 300)]
    keep_alive: u32,
    /// GETs on new connections per second.
    #[arg(long, default_value_t = 150)]
    new_connection: u32,
    /// Slow responses begun per second, each 0.2 to 4 seconds long.
    #[arg(long, default_value_t = 10)]
    slow: u32,
    /// POSTs per second.
    #[arg(long, default_value_t = 100)]
    post: u32,
    /// WebSockets opened per second, each 0.5 to 6 seconds long.
    #[arg(long, default_value_t = 5)]
    websocket: u32,
    /// The gateway's entry point whose TCP connections all go to the origin, if there is one.
    #[arg(long)]
    tcp: Option<SocketAddr>,
    /// TCP connections opened per second, half of them for one question, half of them 0.5 to 6 seconds long.
    #[arg(long, default_value_t = 20)]
    tunnels: u32,
    /// The gateway's entry point for UDP, if there is one.
    #[arg(long)]
    udp: Option<SocketAddr>,
    /// Datagrams per second, half of them from sockets that are used again.
    #[arg(long, default_value_t = 300)]
    datagrams: u32,
    /// A response that takes longer than this, in seconds, has failed.
    #[arg(long, default_value_t = 15)]
    patience: u64,
}

struct Client {
    options: Options,
    tally: Tally,
    idle: Mutex<Vec<(Instant, Connection)>>,
    idle_sockets: Mutex<Vec<UdpSocket>>,
    /// Ids answered with success, and ids sent without a known end.
    answered: Mutex<BTreeSet<String>>,
    run: String,
}

/// Sends it all; whether nothing failed.
pub(crate) async fn run(options: Options) -> io::Result<bool> {
    let run = format!("{:x}", fastrand::u64(..));
    let client = Arc::new(Client {
        options: options.clone(),
        tally: Tally::default(),
        idle: Mutex::default(),
        idle_sockets: Mutex::default(),
        answered: Mutex::default(),
        run,
    });
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let mut classes = JoinSet::new();
    let c = &client;
    classes.spawn(pace(options.keep_alive, until, Arc::clone(c), Class::KeepAlive));
    classes.spawn(pace(options.new_connection, until, Arc::clone(c), Class::NewConnection));
    classes.spawn(pace(options.slow, until, Arc::clone(c), Class::Slow));
    classes.spawn(pace(options.post, until, Arc::clone(c), Class::Post));
    classes.spawn(pace(options.websocket, until, Arc::clone(c), Class::WebSocket));
    if options.tcp.is_some() {
        classes.spawn(pace(options.tunnels, until, Arc::clone(c), Class::Tcp));
    }
    if options.udp.is_some() {
        classes.spawn(pace(options.datagrams, until, Arc::clone(c), Class::Datagram));
    }
    while classes.join_next().await.is_some() {}
    client.idle.lock().clear();
    client.reconcile().await?;
    println!("{}", client.tally.table());
    Ok(client.tally.failures() == 0)
}

/// Begins one exchange after the other at the rate, and waits for the last ones.
async fn pace(per_second: u32, until: Instant, client: Arc<Client>, class: Class) {
    if per_second == 0 {
        return;
    }
    let mut beat = interval(Duration::from_secs(1) / per_second);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let places = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    let mut under_way = JoinSet::new();
    let mut number = 0u64;
    while Instant::now() < until {
        beat.tick().await;
        number += 1;
        while under_way.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            client.tally.failed(class, "too many under way");
            continue;
        };
        let client = Arc::clone(&client);
        under_way.spawn(async move {
            client.exchange(class, number).await;
            drop(place);
        });
    }
    while under_way.join_next().await.is_some() {}
}

impl Client {
    async fn exchange(&self, class: Class, number: u64) {
        let begin = Instant::now();
        let result = match class {
            Class::KeepAlive => self.patiently(self.keep_alive(number)).await,
            Class::NewConnection => self.patiently(self.new_connection(self.options.target, number)).await,
            Class::Slow => self.patiently(self.slow(number)).await,
            Class::Post => self.patiently(self.post(number)).await,
            Class::WebSocket => self.websocket(self.options.target, number).await,
            Class::Tcp => self.tunnel(number).await,
            Class::Datagram => self.patiently(self.datagram(number)).await,
        };
        match result {
            Ok(()) => self.tally.done(class, begin.elapsed()),
            Err(error) => self.tally.failed(class, &error.to_string()),
        }
    }

    async fn patiently(&self, work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let patience = Duration::from_secs(self.options.patience);
        timeout(patience, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn keep_alive(&self, number: u64) -> io::Result<()> {
        let nonce = format!("{}-k{number}", self.run);
        let connection = self.reuse().await?;
        let (connection, response) = self.ask(connection, &format!("GET /nonce/{nonce}"), "", &[]).await?;
        self.keep(connection, &response);
        same(&response.body, nonce.as_bytes())
    }

    async fn new_connection(&self, target: SocketAddr, number: u64) -> io::Result<()> {
        let nonce = format!("{}-n{number}", self.run);
        let connection = TcpStream::connect(target).await.map(Connection::new)?;
        let (mut connection, response) =
            self.ask(connection, &format!("GET /nonce/{nonce}"), "Connection: close\r\n", &[]).await?;
        same(&response.body, nonce.as_bytes())?;
        if connection.ends().await? { Ok(()) } else { Err(bad("more than the response")) }
    }

    async fn slow(&self, number: u64) -> io::Result<()> {
        let nonce = format!("{}-s{number}", self.run);
        let millis = fastrand::u32(200..4_000);
        let connection = self.connect().await?;
        let (_, response) = self.ask(connection, &format!("GET /slow/{nonce}/{millis}"), "", &[]).await?;
        same(&response.body, nonce.as_bytes())
    }

    async fn post(&self, number: u64) -> io::Result<()> {
        let id = format!("{}-p{number}", self.run);
        let body = vec![b'x'; fastrand::usize(1..16_384)];
        let connection = self.reuse().await?;
        let length = format!("Content-Length: {}\r\n", body.len());
        let (connection, response) = self.ask(connection, &format!("POST /post/{id}"), &length, &body).await?;
        self.keep(connection, &response);
        same(&response.body, format!("{id} {} 1", body.len()).as_bytes())?;
        self.answered.lock().insert(id);
        Ok(())
    }

    /// A connection of which the gateway understands nothing. What is in it tells whether it was whole.
    async fn tunnel(&self, number: u64) -> io::Result<()> {
        match self.options.tcp {
            Some(target) if number.is_multiple_of(2) => self.patiently(self.new_connection(target, number)).await,
            Some(target) => self.websocket(target, number).await,
            None => Err(bad("no entry point for TCP")),
        }
    }

    async fn websocket(&self, target: SocketAddr, number: u64) -> io::Result<()> {
        let until = Instant::now() + Duration::from_millis(fastrand::u64(500..6_000));
        let key = websocket::key();
        let upgrade = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        let mut connection = TcpStream::connect(target).await.map(Connection::new)?;
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
    async fn datagram(&self, number: u64) -> io::Result<()> {
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

    async fn connect(&self) -> io::Result<Connection> {
        TcpStream::connect(self.options.target).await.map(Connection::new)
    }

    /// A connection that waits for its next request, or a new one. One that the gateway closed meanwhile is no failure: any client
    /// looks before it sends. One that it closes while we send is.
    async fn reuse(&self) -> io::Result<Connection> {
        let found = loop {
            let Some((since, connection)) = self.idle.lock().pop() else { break None };
            if since.elapsed() < IDLE_FOR && !connection.is_closed() {
                break Some(connection);
            }
        };
        match found {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    fn keep(&self, connection: Connection, response: &Message) {
        let mut idle = self.idle.lock();
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

    /// What the origin saw against what we were told.
    async fn reconcile(&self) -> io::Result<()> {
        let mut origin = Connection::new(TcpStream::connect(self.options.origin).await?);
        origin.send(head(&format!("GET /ids/{}", self.run), "Connection: close\r\n").as_bytes()).await?;
        let list = origin.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)?.body;
        let list = String::from_utf8_lossy(&list);
        let seen: BTreeMap<&str, &str> = list.lines().filter_map(|line| line.split_once(' ')).collect();
        for (_, count) in seen.iter().filter(|(_, count)| **count != "1") {
            self.tally.failed(Class::Post, &format!("executed {count} times"));
        }
        for _ in self.answered.lock().iter().filter(|id| !seen.contains_key(id.as_str())) {
            self.tally.failed(Class::Post, "answered, but never executed");
        }
        Ok(())
    }
}

fn head(what: &str, headers: &str) -> String {
    format!("{what} HTTP/1.1\r\nHost: drill.test\r\n{headers}\r\n")
}

fn same(found: &[u8], expected: &[u8]) -> io::Result<()> {
    if found == expected { Ok(()) } else { Err(bad("another answer than was asked for")) }
}
