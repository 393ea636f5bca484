//! The client: every class at its own rate, whatever the answers do; one try each.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::secure::{self, Greeter, Session};
use super::tally::{Class, Tally};
use super::wire::{Connection, bad};

mod http1;
mod http2;
mod tunnels;

const MAX_UNDER_WAY: usize = 4_000;

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
    /// The authority that vouches for the gateway over TLS, in PEM, if it speaks TLS.
    #[arg(long)]
    authority: Option<PathBuf>,
    /// GETs over TLS that keep their connections, per second.
    #[arg(long, default_value_t = 60)]
    secure_keep_alive: u32,
    /// GETs over TLS on new connections per second.
    #[arg(long, default_value_t = 20)]
    secure_new_connection: u32,
    /// Requests over HTTP/2 within TLS per second, a third of them 0.2 to 4 seconds long.
    #[arg(long, default_value_t = 60)]
    http2: u32,
    /// gRPC streams opened per second, each 0.5 to 6 seconds long.
    #[arg(long, default_value_t = 5)]
    grpc: u32,
    /// WebSockets over TLS opened per second, each 0.5 to 6 seconds long.
    #[arg(long, default_value_t = 3)]
    secure_websocket: u32,
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
    greeter: Option<Greeter>,
    idle: Mutex<Vec<(Instant, Connection)>>,
    secure_idle: Mutex<Vec<(Instant, Connection)>>,
    /// Connections over HTTP/2.
    streams: Mutex<Vec<SendRequest<Bytes>>>,
    dialing: tokio::sync::Mutex<()>,
    idle_sockets: Mutex<Vec<UdpSocket>>,
    /// Ids answered with success, and ids sent without a known end.
    answered: Mutex<BTreeSet<String>>,
    run: String,
}

/// A way into the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Plain,
    Secure(Session),
}

/// Sends it all; whether nothing failed.
pub(crate) async fn run(options: Options) -> io::Result<bool> {
    let run = format!("{:x}", fastrand::u64(..));
    let client = Arc::new(Client {
        options: options.clone(),
        tally: Tally::default(),
        greeter: options.authority.as_deref().map(Greeter::new).transpose()?,
        idle: Mutex::default(),
        secure_idle: Mutex::default(),
        streams: Mutex::default(),
        dialing: tokio::sync::Mutex::default(),
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
    if options.authority.is_some() {
        classes.spawn(pace(options.secure_keep_alive, until, Arc::clone(c), Class::SecureKeepAlive));
        classes.spawn(pace(options.secure_new_connection, until, Arc::clone(c), Class::SecureNewConnection));
        classes.spawn(pace(options.http2, until, Arc::clone(c), Class::Http2));
        classes.spawn(pace(options.grpc, until, Arc::clone(c), Class::Grpc));
        classes.spawn(pace(options.secure_websocket, until, Arc::clone(c), Class::SecureWebSocket));
    }
    if options.tcp.is_some() {
        classes.spawn(pace(options.tunnels, until, Arc::clone(c), Class::Tcp));
    }
    if options.udp.is_some() {
        classes.spawn(pace(options.datagrams, until, Arc::clone(c), Class::Datagram));
    }
    while classes.join_next().await.is_some() {}
    client.idle.lock().clear();
    client.secure_idle.lock().clear();
    client.streams.lock().clear();
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
            Class::KeepAlive => self.patiently(self.keep_alive(Door::Plain, number)).await,
            Class::NewConnection => self.patiently(self.new_connection(Door::Plain, number)).await,
            Class::Slow => self.patiently(self.slow(number)).await,
            Class::Post => self.patiently(self.post(number)).await,
            Class::SecureKeepAlive => self.patiently(self.keep_alive(Door::Secure(Session::Fresh), number)).await,
            Class::SecureNewConnection => {
                let session = if number.is_multiple_of(2) { Session::Resumed } else { Session::Fresh };
                self.patiently(self.new_connection(Door::Secure(session), number)).await
            }
            Class::Http2 => self.patiently(self.stream(number)).await,
            Class::Grpc => self.grpc(number).await,
            Class::WebSocket => self.websocket(self.connect(Door::Plain).await, number).await,
            Class::SecureWebSocket => {
                let connection = self.patiently(self.connect(Door::Secure(Session::Fresh))).await;
                self.websocket(connection, number).await
            }
            Class::Tcp => self.tunnel(number).await,
            Class::Datagram => self.patiently(self.datagram(number)).await,
        };
        match result {
            Ok(()) => self.tally.done(class, begin.elapsed()),
            Err(error) => self.tally.failed(class, &error.to_string()),
        }
    }

    async fn patiently<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let patience = Duration::from_secs(self.options.patience);
        timeout(patience, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn new_connection(&self, door: Door, number: u64) -> io::Result<()> {
        self.only_request(self.connect(door).await?, number).await
    }

    async fn connect(&self, door: Door) -> io::Result<Connection> {
        let Door::Secure(session) = door else {
            return TcpStream::connect(self.options.target).await.map(Connection::new);
        };
        let stream = TcpStream::connect(self.options.target).await?;
        let stream = self.greeter()?.http1(stream, session).await?;
        if secure::is_resumed(&stream) {
            self.tally.resumed();
        }
        Ok(Connection::over(Box::new(stream)))
    }

    fn greeter(&self) -> io::Result<&Greeter> {
        self.greeter.as_ref().ok_or_else(|| bad("no authority for TLS"))
    }

    /// Where connections through that door wait.
    fn idle(&self, door: Door) -> &Mutex<Vec<(Instant, Connection)>> {
        if door == Door::Plain { &self.idle } else { &self.secure_idle }
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
