//! How much a plain request allocates, and how much memory routes take, counted in a process of its own: what is promised must not grow
//! unseen.

#![expect(unsafe_code, reason = "an allocator that counts is written with it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::harness::peer::{PATIENCE, Peer};
use crate::harness::server::{Server, ok};

/// Calls of the allocator for one request on its way to a server and back, connections kept on both sides. A change may lower it.
const MOST_PER_PLAIN_REQUEST: u64 = 38;
/// Bytes that a route takes which shares its service with others, in what the allocator is asked for. It adds about a tenth.
const MOST_PER_ROUTE: f64 = 330.0;
/// The same, with a service of its own that has one server.
const MOST_PER_ROUTE_AND_SERVICE: f64 = 1300.0;
/// Routes that are measured.
const ROUTES: usize = 10_000;
/// How long no memory is freed or taken when a configuration has settled.
const QUIET: Duration = Duration::from_millis(300);
/// Requests that are counted.
const REQUESTS: u64 = 500;

struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
/// Bytes that are held.
static HELD: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        HELD.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        HELD.fetch_add(bytes as i64 - layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

/// A gateway in this test binary, run again, whose allocations are told for each line it is sent.
struct Counted {
    process: Child,
    ask: ChildStdin,
    lines: Receiver<String>,
}

impl Counted {
    fn start(flags: &[String]) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["allocations::gateway", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env("PORTCULLIS_TEST_ROLE", "counted")
            .env("PORTCULLIS_TEST_FLAGS", flags.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ask = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = sync_channel(1024);
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, ask, lines }
    }

    /// What follows `start` in the next line that holds it.
    fn told(&self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line with {start:?}"));
            if let Some((_, rest)) = line.split_once(start) {
                return rest.to_owned();
            }
        }
    }

    fn calls(&mut self) -> u64 {
        self.ask.write_all(b"\n").unwrap();
        self.told("allocations so far: ").parse().unwrap()
    }

    /// Bytes that are held, once they have been the same for a while: what a configuration was read from is freed after it is in force.
    fn held(&mut self) -> i64 {
        let deadline = Instant::now() + PATIENCE;
        let (mut last, mut since) = (0, Instant::now());
        while Instant::now() < deadline && since.elapsed() < QUIET {
            self.ask.write_all(b"held\n").unwrap();
            let held: i64 = self.told("bytes held: ").parse().unwrap();
            if (held - last).abs() > 1 << 10 {
                (last, since) = (held, Instant::now());
            }
        }
        last
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "a role of a child process"]
fn gateway() {
    let Ok(flags) = std::env::var("PORTCULLIS_TEST_FLAGS") else { return };
    std::thread::spawn(|| {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match &*line {
                "held" => println!("bytes held: {}", HELD.load(Ordering::Relaxed)),
                _ => println!("allocations so far: {}", CALLS.load(Ordering::Relaxed)),
            }
        }
    });
    let flags: Vec<String> = flags.lines().map(str::to_owned).collect();
    let memory = portcullis::app::Memory { give_back: || {}, tidy: || {} };
    let _ = portcullis::app::run_flags(&flags, portcullis::process::Signals::install().unwrap(), memory);
}

#[tokio::test]
async fn a_plain_request_allocates_no_more_than_it_did() {
    let server = Server::start(|_| ok("fine")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let routing = format!(
        "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}}}, services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
        server.url()
    );
    std::fs::write(path("dynamic.yaml"), routing).unwrap();
    let mut gateway = Counted::start(&[
        "--entryPoints.web.address=127.0.0.1:0".to_owned(),
        "--threads=1".to_owned(),
        "--log.format=json".to_owned(),
        format!("--providers.file.filename={}", path("dynamic.yaml")),
        "--providers.file.watch=false".to_owned(),
        format!("--control.socket={}", path("control.sock")),
    ]);
    let listens = gateway.told("entry point web listens on ");
    let address: SocketAddr = listens.split('"').next().unwrap().parse().unwrap();
    let mut peer = Peer::connect(address).await;
    for _ in 0..REQUESTS {
        assert_eq!(peer.get("/", "").await.text(), "fine");
    }
    let before = gateway.calls();
    for _ in 0..REQUESTS {
        assert_eq!(peer.get("/", "").await.text(), "fine");
    }
    let each = (gateway.calls() - before) / REQUESTS;
    assert!(each > 0, "nothing was counted");
    assert!(each <= MOST_PER_PLAIN_REQUEST, "{each} calls of the allocator for a plain request");
    println!("{each} calls of the allocator for a plain request");
}

/// What a gateway with so many routes and services holds, in bytes.
fn held_with(routes: usize, services: usize) -> i64 {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut routing = String::new();
    for n in 0..routes {
        let service = n % services;
        routing += &format!(
            "[http.routers.r{n}]\nrule = \"Host(`host-{n}.example.com`) && PathPrefix(`/api`)\"\nservice = \"s{service}\"\n"
        );
    }
    for n in 0..services {
        routing += &format!("[[http.services.s{n}.loadBalancer.servers]]\nurl = \"http://127.0.0.1:9\"\n");
    }
    std::fs::write(path("dynamic.toml"), routing).unwrap();
    let mut gateway = Counted::start(&[
        "--entryPoints.web.address=127.0.0.1:0".to_owned(),
        "--threads=1".to_owned(),
        "--log.format=json".to_owned(),
        format!("--providers.file.filename={}", path("dynamic.toml")),
        "--providers.file.watch=false".to_owned(),
        format!("--control.socket={}", path("control.sock")),
    ]);
    gateway.told("configuration-applied");
    gateway.told("entry point web listens on ");
    gateway.held()
}

#[test]
fn a_route_takes_no_more_memory_than_it_did() {
    let check = |services: usize, few: usize, most: f64| {
        let each = (held_with(ROUTES, services) - held_with(few, few)) as f64 / (ROUTES - few) as f64;
        println!("{each:.0} bytes for each of {ROUTES} routes with {services} services");
        assert!(each > 100.0, "{each:.0} bytes for a route: nothing was counted");
        assert!(each <= most, "{each:.0} bytes for each of {ROUTES} routes with {services} services");
    };
    check(100, 100, MOST_PER_ROUTE);
    check(ROUTES, 1, MOST_PER_ROUTE_AND_SERVICE);
}
