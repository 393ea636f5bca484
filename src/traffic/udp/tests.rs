use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::*;
use crate::service::udp::{LoadBalancer, Pool, ServerSettings, Service};
use crate::snapshot::Snapshot;

const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough that no session of a test ends by itself.
const LONG: Duration = Duration::from_secs(60);

/// A server that answers with its name and what it was sent, as often as it was sent it.
struct Server {
    socket: Arc<UdpSocket>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn at(address: &str, name: &'static str) -> Self {
        let socket = Arc::new(UdpSocket::bind(address).await.unwrap());
        let own = socket.clone();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; LARGEST_V4];
            loop {
                let Ok((length, from)) = own.recv_from(&mut buffer).await else { continue };
                let answer = match length {
                    0..1000 => [name.as_bytes(), b" ", &buffer[..length]].concat(),
                    _ => buffer[..length].to_vec(),
                };
                own.send_to(&answer, from).await.unwrap();
            }
        });
        Self { socket, task }
    }

    async fn new(name: &'static str) -> Self {
        Self::at("127.0.0.1:0", name).await
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const LARGEST_V4: usize = 65_507;

struct Door {
    handle: Handle,
    current: Arc<Current>,
    meters: Arc<DatagramMeters>,
    /// Those of the service.
    service: Arc<DatagramMeters>,
    pool: Arc<Service>,
}

impl Door {
    fn open(at: &str, servers: &[SocketAddr], timeout: Duration, sessions: usize) -> Self {
        Self::over(vec![bind(at, false).unwrap()], servers, timeout, sessions)
    }

    fn over(sockets: Vec<std::net::UdpSocket>, servers: &[SocketAddr], timeout: Duration, sessions: usize) -> Self {
        let current = Arc::new(Current::new());
        let meters = Arc::new(DatagramMeters::default());
        let options = Options { name: "dns".into(), index: 0, bounds: Bounds { timeout, sessions } };
        let handle = start(options, sockets, current.clone(), (meters.clone(), Arc::default())).unwrap();
        let (service, pool) = (Arc::default(), Arc::new(Service::Servers(pool(&[], Arc::default(), None))));
        let mut door = Self { handle, current, meters, service, pool };
        door.lead_to(servers);
        door
    }

    /// A new configuration.
    fn lead_to(&mut self, servers: &[SocketAddr]) {
        let Service::Servers(before) = &*self.pool else { unreachable!() };
        self.pool = Arc::new(Service::Servers(pool(servers, self.service.clone(), Some(before))));
        let service = self.pool.clone();
        let route = UdpRoute { name: "all@file".into(), service_name: "all@file".into(), service };
        self.current.store(Arc::new(Snapshot { udp: [Some(Arc::new(route))].into(), ..Snapshot::default() }));
    }

    async fn client(&self) -> Client {
        Client::of(self.handle.address()).await
    }

    async fn until(&self, sessions: usize) {
        let reached = async {
            while self.handle.sessions() != sessions {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(timeout(PATIENCE, reached).await.is_ok(), "{} sessions", self.handle.sessions());
    }

    /// How often sessions ended this way, as entry point and service have it.
    fn ended(&self, ending: SessionEnding) -> (u64, u64) {
        (self.meters.endings(ending), self.service.endings(ending))
    }

    async fn until_dropped(&self, reason: Lost, count: u64) {
        let reached = async {
            while self.meters.drops(reason) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(timeout(PATIENCE, reached).await.is_ok(), "{} dropped", self.meters.drops(reason));
    }
}

fn pool(servers: &[SocketAddr], meters: Arc<DatagramMeters>, previous: Option<&Pool>) -> Pool {
    let servers = servers.iter().map(|address| ServerSettings { address: address.to_string().into() }).collect();
    Pool::build(&LoadBalancer { servers }, meters, previous).unwrap()
}

struct Client(UdpSocket);

impl Client {
    async fn of(door: SocketAddr) -> Self {
        let own = if door.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
        let socket = UdpSocket::bind(own).await.unwrap();
        socket.connect(door).await.unwrap();
        Self(socket)
    }

    async fn send(&self, data: &[u8]) {
        self.0.send(data).await.unwrap();
    }

    async fn answer(&self) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 16];
        let length = timeout(PATIENCE, self.0.recv(&mut buffer)).await.expect("an answer").unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn ask(&self, text: &str) -> String {
        self.send(text.as_bytes()).await;
        String::from_utf8(self.answer().await).unwrap()
    }
}

#[tokio::test]
async fn clients_stay_with_their_server_and_take_turns() {
    let (a, b) = (Server::new("a").await, Server::new("b").await);
    let door = Door::open("127.0.0.1:0", &[a.address(), b.address()], LONG, 100);
    let mut count = 0;
    for _ in 0..10 {
        let client = door.client().await;
        let first = client.ask("1").await;
        count += usize::from(first == "a 1");
        for _ in 0..5 {
            assert_eq!(client.ask("1").await, first);
        }
    }
    assert_eq!((count, door.handle.sessions(), door.meters.sessions()), (5, 10, 10));
    assert_eq!(door.meters.sums(Direction::Received), (60, 60));
    assert_eq!(door.meters.sums(Direction::Sent), (60, 180));
    door.handle.cut();
    door.until(0).await;
    assert_eq!((door.meters.open_sessions(), door.ended(SessionEnding::Cut)), (0, (10, 10)));
}

#[tokio::test]
async fn datagrams_of_every_size_pass_in_both_families() {
    let v6 = Server::at("[::1]:0", "v6").await;
    for (at, server) in [("127.0.0.1:0", &v6), ("[::1]:0", &Server::new("v4").await), (":0", &v6)] {
        let door = Door::open(at, &[server.address()], LONG, 100);
        let mut asked = vec![door.handle.address()];
        if asked[0].ip().is_unspecified() {
            asked = ["127.0.0.1", "::1"].map(|ip| SocketAddr::new(ip.parse().unwrap(), asked[0].port())).to_vec();
        }
        for asked in asked {
            let client = Client::of(asked).await;
            for length in [1000, 1400, 1473, 9000, LARGEST_V4] {
                let data: Vec<u8> = (0..length).map(|at| at as u8).collect();
                client.send(&data).await;
                assert_eq!(client.answer().await, data, "{at} {length}");
            }
            client.send(b"").await;
            assert!(client.answer().await.ends_with(b" "), "{at}: an empty one");
        }
    }
}

#[tokio::test]
async fn bursts_pass_whole_and_in_order() {
    let server = Server::new("a").await;
    let door = Door::open("127.0.0.1:0", &[server.address()], LONG, 100);
    let client = door.client().await;
    for round in 0..20 {
        for at in 0..50 {
            client.send(format!("{round}.{at}").as_bytes()).await;
        }
        for at in 0..50 {
            assert_eq!(client.answer().await, format!("a {round}.{at}").as_bytes());
        }
    }
}

#[tokio::test]
async fn a_silent_session_ends_and_an_active_one_does_not() {
    let server = Server::new("a").await;
    let door = Door::open("127.0.0.1:0", &[server.address()], Duration::from_millis(150), 100);
    let client = door.client().await;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_millis(500) {
        client.ask("1").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(door.meters.sessions(), 1);
    let silent = std::time::Instant::now();
    door.until(0).await;
    assert!(silent.elapsed() >= Duration::from_millis(100), "{:?}", silent.elapsed());
    client.ask("1").await;
    assert_eq!((door.meters.sessions(), door.ended(SessionEnding::Silent)), (2, (1, 1)));
    assert!((0.6..10.0).contains(&door.service.seconds()), "{}", door.service.seconds());
}

#[tokio::test]
async fn a_flood_of_new_clients_takes_no_more_than_there_is_and_nothing_from_who_speaks() {
    let server = Server::new("a").await;
    let door = Door::open("127.0.0.1:0", &[server.address()], LONG, 8);
    let mut speaking = Vec::new();
    for _ in 0..4 {
        let client = door.client().await;
        client.ask("1").await;
        client.ask("2").await;
        speaking.push(client);
    }
    let mut most = 0;
    for _ in 0..200 {
        let client = door.client().await;
        client.send(b"x").await;
        tokio::task::yield_now().await;
        most = most.max(door.handle.sessions());
    }
    assert!(most <= 10, "{most}");
    for client in &speaking {
        assert_eq!(client.ask("3").await, "a 3");
    }
    let new = door.client().await;
    assert_eq!(new.ask("4").await, "a 4", "there is room for who comes later");
    assert!(door.meters.evictions() > 0 && door.meters.sessions() < 210);
    let given_up = door.ended(SessionEnding::GivenUp).0 + door.handle.sessions() as u64;
    assert_eq!(given_up, door.meters.sessions());
}

#[tokio::test]
async fn where_no_session_can_be_given_up_new_clients_wait_in_vain() {
    let server = Server::new("a").await;
    let door = Door::open("127.0.0.1:0", &[server.address()], LONG, 2);
    // One source holds half of two; the other place may always be given up, unless it is proven, too.
    let other = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    other.connect(door.handle.address()).await.unwrap();
    let (one, other) = (door.client().await, Client(other));
    for client in [&one, &other] {
        client.ask("1").await;
        client.ask("2").await;
    }
    door.client().await.send(b"x").await;
    door.until_dropped(Lost::TooMany, 1).await;
    assert_eq!(door.service.drops(Lost::TooMany), 1);
    assert_eq!((one.ask("3").await, other.ask("3").await), ("a 3".to_owned(), "a 3".to_owned()));
    assert_eq!(door.handle.sessions(), 2);
}

/// The system gives each client to one of several sockets. Where its socket has no session that could be given up, another has.
#[tokio::test]
async fn sockets_that_share_a_port_share_their_places() {
    let server = Server::new("a").await;
    let first = bind("127.0.0.1:0", true).unwrap();
    let second = bind(&first.local_addr().unwrap().to_string(), true).unwrap();
    let door = Door::over(vec![first, second], &[server.address()], LONG, 1000);
    let sessions = || {
        let lanes: Vec<_> = door.handle.shared.lanes().map(|lane| lane.desk.lock().table.len()).collect();
        (lanes[0], lanes[1])
    };
    let mut clients = Vec::new();
    while sessions().0 < 4 {
        let client = door.client().await;
        let before = sessions();
        assert_eq!(client.ask("1").await, "a 1");
        if sessions().0 > before.0 {
            clients.push(client);
        }
        assert!(sessions().1 < 200, "all clients come to one socket");
    }
    door.handle.shared.lanes().nth(1).unwrap().cut();
    door.until(4).await;
    // The first one has shown that it hears us.
    assert_eq!(clients[0].ask("2").await, "a 2");
    door.handle.set_bounds(Bounds { timeout: LONG, sessions: 4 });
    while sessions().1 == 0 {
        let client = door.client().await;
        assert_eq!(client.ask("3").await, "a 3", "{:?}", sessions());
        door.until(4).await;
        clients.push(client);
    }
    assert_eq!((sessions(), door.meters.drops(Lost::TooMany)), ((3, 1), 0));
    // The oldest went, whichever socket a newer one came by.
    let mut alive = Vec::new();
    for client in &clients {
        let peer = client.0.local_addr().unwrap();
        let is_there = |lane: Arc<Lane>| lane.desk.lock().table.has(|client| client.address == peer);
        alive.push(door.handle.shared.lanes().any(is_there));
    }
    let newest = clients.len() - 3;
    let expected: Vec<bool> = (0..clients.len()).map(|at| at == 0 || at >= newest).collect();
    assert_eq!(alive, expected);
}

#[tokio::test]
async fn where_nobody_listens_the_next_datagram_goes_elsewhere() {
    let (a, b) = (Server::new("a").await, Server::new("b").await);
    let (at, other) = (a.address(), b.address());
    let door = Door::open("127.0.0.1:0", &[at], LONG, 100);
    let client = door.client().await;
    assert_eq!(client.ask("1").await, "a 1");
    drop(a);
    // Whoever held the socket may need a moment to let go of it.
    let closed = async {
        while std::net::UdpSocket::bind(at).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, closed).await.unwrap();
    client.send(b"lost").await;
    door.until(0).await;
    assert_eq!(door.ended(SessionEnding::Refused), (1, 1));
    let mut told = Vec::new();
    door.service.each_server(|server| told.push((server.address == at.to_string(), server.is_up, server.refusals)));
    assert_eq!(told, [(true, false, 1)]);
    // It comes back at the same address: no session remembers that it was away.
    let back = Server::at(&at.to_string(), "back").await;
    assert_eq!(client.ask("2").await, "back 2");
    drop(back);
    let mut door = door;
    door.lead_to(&[at, other]);
    timeout(PATIENCE, async {
        loop {
            client.send(b"3").await;
            if let Ok(answer) = timeout(Duration::from_millis(20), client.answer()).await
                && answer.starts_with(b"b ")
            {
                return;
            }
        }
    })
    .await
    .expect("the other server");
}

#[tokio::test]
async fn a_new_configuration_keeps_sessions_whose_server_is_still_meant() {
    let (a, b) = (Server::new("a").await, Server::new("b").await);
    let mut door = Door::open("127.0.0.1:0", &[a.address()], LONG, 100);
    let client = door.client().await;
    assert_eq!(client.ask("1").await, "a 1");
    door.lead_to(&[b.address(), a.address()]);
    for _ in 0..4 {
        assert_eq!(client.ask("2").await, "a 2");
    }
    assert_eq!(door.meters.sessions(), 1);
    door.lead_to(&[b.address()]);
    assert_eq!(client.ask("3").await, "b 3");
    // What is replaced is not waited for when time is up.
    door.handle.cut();
    door.until(0).await;
    assert_eq!(door.ended(SessionEnding::Cut), (2, 2));
    door.current.store(Arc::new(Snapshot { udp: [None].into(), ..Snapshot::default() }));
    client.send(b"4").await;
    door.until_dropped(Lost::NoRouter, 1).await;
    door.lead_to(&[]);
    client.send(b"5").await;
    door.until_dropped(Lost::NoServer, 1).await;
}

/// As in an upgrade: a second one reads from the same socket, the first only answers.
#[tokio::test]
async fn who_stops_reading_still_answers_and_who_closes_serves_who_is_there() {
    let slow = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let door = Door::open("127.0.0.1:0", &[slow.local_addr().unwrap()], LONG, 100);
    let client = door.client().await;
    client.send(b"question").await;
    let mut buffer = [0; 64];
    let (_, session) = timeout(PATIENCE, slow.recv_from(&mut buffer)).await.unwrap().unwrap();
    door.handle.stop_reading();
    let duplicate = UdpSocket::from_std(door.handle.duplicate_sockets().unwrap().remove(0).into()).unwrap();
    // It may be reading once more when it is told.
    timeout(PATIENCE, async {
        loop {
            client.send(b"for the successor").await;
            if timeout(Duration::from_millis(50), duplicate.readable()).await.is_ok() {
                return;
            }
        }
    })
    .await
    .unwrap();
    slow.send_to(b"late answer", session).await.unwrap();
    assert_eq!(client.answer().await, b"late answer");
    drop(duplicate);
    door.handle.resume_reading();
    while timeout(PATIENCE, slow.recv_from(&mut buffer)).await.unwrap().unwrap().0 != b"for the successor".len() {}

    door.handle.close_after_last();
    let other = door.client().await;
    // Whoever came before it was told is still served; then nobody is.
    timeout(PATIENCE, async {
        while door.meters.drops(Lost::Closing) == 0 {
            Client::of(door.handle.address()).await.send(b"too late").await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    client.send(b"still").await;
    timeout(PATIENCE, async { while slow.recv_from(&mut buffer).await.unwrap().0 != 5 {} }).await.unwrap();
    door.handle.cut();
    door.until(0).await;
    let refused = async {
        loop {
            other.send(b"x").await;
            let mut buffer = [0; 8];
            if other.0.recv(&mut buffer).await.is_err() {
                return;
            }
        }
    };
    let _ = timeout(Duration::from_secs(1), refused).await;
    assert!(door.handle.duplicate_sockets().is_err(), "the socket is closed");
}

#[tokio::test]
async fn what_has_come_before_the_end_is_served() {
    let server = Server::new("a").await;
    let door = Door::open("127.0.0.1:0", &[server.address()], LONG, 100);
    assert_eq!(door.client().await.ask("1").await, "a 1");
    let late = door.client().await;
    late.0.writable().await.unwrap();
    // In one go: the runtime has not looked at the sockets in between.
    late.0.try_send(b"last").unwrap();
    door.handle.close_after_last();
    assert_eq!(late.answer().await, b"a last");
    assert_eq!(door.meters.drops(Lost::Closing), 0);
}
