//! Attackers over HTTP/2, and honest clients beside them: these are served, whatever goes on, and the attackers end or stay small.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PADDED, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, header_block, request_block, resident,
};
use crate::harness::gateway::Gateway;
use crate::harness::generous::generous;
use crate::harness::honest;
use crate::harness::peer::until;
use crate::harness::server::{Server, answer};

/// Requests of each honest client.
const REQUESTS: usize = 200;
/// Most by which an attacker makes the process grow, in KiB: with few requests at a time, and with as many as a connection may have.
const GROWTH_KIB: u64 = 16 << 10;
const CROWD_KIB: u64 = 40 << 10;
/// Number of the setting for the windows of streams (RFC 9113 §6.5.2), and the largest window.
const INITIAL_WINDOW: u16 = 4;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// What an attacker does, on a connection of its own.
struct Attack {
    name: &'static str,
    settings: &'static [(u16, u32)],
    /// What it sends, round after round; then it waits.
    round: fn(u32) -> Vec<u8>,
    rounds: u32,
    reads: Reads,
    fate: Fate,
    growth_kib: u64,
}

/// Whether an attacker reads what the gateway says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Yes,
    No,
}

/// What becomes of an attacker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is sent away, and comes again.
    Leaves,
    /// It may stay, since it costs no more than others. If it is sent away, it does not come again.
    Stays,
}

/// How attackers have fared.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    came: AtomicUsize,
    left: AtomicUsize,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }
}

/// The stream of a round of which each opens so many, by its place among these.
fn stream(round: u32, streams: u32, at: u32) -> u32 {
    2 * (round * streams + at) + 1
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request_block("GET", path, &[]))
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request_block("POST", "/attack", &[]))
}

fn widen(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// Attacks until it is told to stop.
async fn attack(gateway: std::net::SocketAddr, attack: &Attack, tally: &Tally) {
    while tally.goes_on() {
        let mut attacker = Frames::connect(gateway, attack.settings).await;
        tally.came.fetch_add(1, Ordering::SeqCst);
        if attack.reads == Reads::No {
            for round in (0..attack.rounds).map(attack.round) {
                // Who does not read may not be read either.
                if !timeout(Duration::from_millis(500), attacker.send_raw(&round)).await.unwrap_or(false) {
                    break;
                }
            }
            while tally.goes_on() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            return;
        }
        let (mut write, over) = attacker.split();
        for round in (0..attack.rounds).map(attack.round) {
            if !tally.goes_on() || over.load(Ordering::SeqCst) || write.write_all(&round).await.is_err() {
                break;
            }
        }
        while tally.goes_on() && !over.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if over.load(Ordering::SeqCst) {
            tally.left.fetch_add(1, Ordering::SeqCst);
        }
        if attack.fate == Fate::Stays {
            return;
        }
    }
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

/// Peak of the process's resident memory, in KiB.
fn peak(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Honest clients beside each of these attacks.
async fn check(attacks: &'static [Attack]) {
    for one in attacks {
        let server = Server::start(|received| answer(200, "", received.target())).await;
        let (large, _) = generous().await;
        let mut gateway = Gateway::setup()
            .flag("log.level=INFO")
            .flag("entryPoints.web.transport.respondingTimeouts.writeTimeout=2s")
            .dynamic(format!(
                "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: s}}
    large: {{rule: 'PathPrefix(`/large`)', service: large}}
  services:
    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    large: {{loadBalancer: {{servers: [{{url: 'http://{large}'}}]}}}}
",
                server.url()
            ))
            .start()
            .await;
        let address = gateway.address();
        let alone = honest::ask(address, REQUESTS).await;
        let (before, idle) = (resident(gateway.pid()), descriptors(&gateway));
        let tally = Arc::<Tally>::default();
        let attacking = tokio::spawn({
            let tally = tally.clone();
            async move { attack(address, one, &tally).await }
        });
        until(|| tally.came.load(Ordering::SeqCst) > 0).await;
        let beside = honest::ask(address, REQUESTS).await;
        match one.fate {
            // If the honest ones were too quick for it.
            Fate::Leaves => until(|| tally.left.load(Ordering::SeqCst) > 0).await,
            // Whatever it asked for has been given up. What is left is a connection, and one to a server that is idle.
            Fate::Stays => until(|| descriptors(&gateway) <= idle + 4).await,
        }
        tally.stop.store(true, Ordering::SeqCst);
        attacking.await.unwrap();
        let grown = peak(&gateway).saturating_sub(before);
        println!(
            "{}: alone {alone}; beside it {beside}; it came {} times and was sent away {} times; {grown} KiB more",
            one.name,
            tally.came.load(Ordering::SeqCst),
            tally.left.load(Ordering::SeqCst),
        );
        assert!(grown < one.growth_kib, "{}: {grown} KiB more", one.name);
        assert!(gateway.is_alive());
        assert_eq!(server.violations(), Vec::<String>::new(), "{}", one.name);
        honest::ask(address, 10).await;
    }
}

/// CVE-2023-44487: requests that are taken back at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_clients_are_served_beside_rapid_resets() {
    check(&[Attack {
        name: "rapid resets",
        settings: &[],
        round: |round| {
            let of = |at| {
                [get(stream(round, 10, at), "/attack"), frame(RST_STREAM, 0, stream(round, 10, at), &[0, 0, 0, 8])]
            };
            (0..10).flat_map(of).flatten().collect()
        },
        rounds: 10_000,
        reads: Reads::Yes,
        fate: Fate::Leaves,
        growth_kib: GROWTH_KIB,
    }])
    .await;
}

/// CVE-2025-8671: frames that make the gateway take the request back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_clients_are_served_beside_resets_that_others_provoke() {
    const ATTACK: Attack = Attack {
        name: "",
        settings: &[],
        round: |_| Vec::new(),
        rounds: 50_000,
        reads: Reads::Yes,
        fate: Fate::Leaves,
        growth_kib: GROWTH_KIB,
    };
    check(&[
        Attack {
            name: "steps of no bytes",
            round: |at| [get(2 * at + 1, "/attack"), widen(2 * at + 1, 0)].concat(),
            ..ATTACK
        },
        Attack {
            name: "windows that overflow",
            round: |at| [get(2 * at + 1, "/attack"), widen(2 * at + 1, LARGEST_WINDOW)].concat(),
            ..ATTACK
        },
        Attack {
            name: "heads behind the end",
            round: |at| [get(2 * at + 1, "/attack"), get(2 * at + 1, "/attack")].concat(),
            ..ATTACK
        },
        Attack {
            name: "bodies behind the end",
            round: |at| [get(2 * at + 1, "/attack"), frame(DATA, 0, 2 * at + 1, b"x")].concat(),
            ..ATTACK
        },
        Attack {
            name: "priorities of four bytes",
            round: |at| [get(2 * at + 1, "/attack"), frame(PRIORITY, 0, 2 * at + 1, &[0; 4])].concat(),
            ..ATTACK
        },
        Attack {
            name: "streams that depend on themselves",
            round: |at| {
                let own = 2 * at + 1;
                [get(own, "/attack"), frame(PRIORITY, 0, own, &[&own.to_be_bytes()[..], &[9]].concat())].concat()
            },
            ..ATTACK
        },
    ])
    .await;
}

/// CVE-2024-27316 and CVE-2026-49975: heads without end, and small ones that become large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_clients_are_served_beside_heads_of_any_size() {
    const ATTACK: Attack = Attack {
        name: "",
        settings: &[],
        round: |_| Vec::new(),
        rounds: 50_000,
        reads: Reads::Yes,
        fate: Fate::Leaves,
        growth_kib: GROWTH_KIB,
    };
    /// One entry of the dynamic table (RFC 7541 §6.2.1), and its index again and again.
    fn bomb(at: u32, name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut block = request_block("GET", "/attack", &[]);
        block.extend([0x40, name.len() as u8]);
        block.extend(name);
        block.extend([value.len() as u8]);
        block.extend(value);
        block.extend([0xbe; 12_000]);
        frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &block)
    }
    check(&[
        Attack {
            name: "endless heads",
            round: |at| match at {
                0 => frame(HEADERS, 0, 1, &request_block("GET", "/attack", &[])),
                _ => frame(CONTINUATION, 0, 1, &header_block(&[(b"x-filler", &[b'x'; 15_000])])),
            },
            ..ATTACK
        },
        Attack {
            name: "heads that go on with nothing",
            round: |at| match at {
                0 => frame(HEADERS, 0, 1, &request_block("GET", "/attack", &[])),
                _ => frame(CONTINUATION, 0, 1, &[]).repeat(50),
            },
            ..ATTACK
        },
        Attack { name: "heads that blow up", round: |at| bomb(at, b"x", &[b'y'; 120]), ..ATTACK },
        Attack { name: "cookies that blow up", round: |at| bomb(at, b"cookie", b"a=b"), ..ATTACK },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_clients_are_served_beside_floods_of_frames() {
    const ATTACK: Attack = Attack {
        name: "",
        settings: &[],
        round: |_| Vec::new(),
        rounds: 50_000,
        reads: Reads::Yes,
        fate: Fate::Leaves,
        growth_kib: GROWTH_KIB,
    };
    check(&[
        Attack { name: "pings", round: |_| frame(PING, 0, 0, b"12345678").repeat(100), ..ATTACK },
        Attack { name: "settings", round: |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(100), ..ATTACK },
        Attack { name: "priorities", round: |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]).repeat(100), ..ATTACK },
        Attack { name: "unknown frames", round: |_| frame(0xee, 0xff, 0, &[0; 200]).repeat(100), ..ATTACK },
        Attack {
            name: "bodies of nothing",
            round: |at| if at == 0 { post(1) } else { frame(DATA, 0, 1, &[]).repeat(100) },
            ..ATTACK
        },
        Attack {
            name: "bodies of padding",
            round: |at| {
                if at == 0 { post(1) } else { frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat()).repeat(100) }
            },
            ..ATTACK
        },
        // Whoever sends faster than the server reads is sent away; others may send as they like.
        Attack {
            name: "bodies byte by byte",
            round: |at| if at == 0 { post(1) } else { frame(DATA, 0, 1, b"x").repeat(100) },
            fate: Fate::Stays,
            ..ATTACK
        },
        Attack {
            name: "pings whose answers nobody reads",
            round: |_| frame(PING, 0, 0, b"12345678").repeat(1000),
            reads: Reads::No,
            fate: Fate::Stays,
            ..ATTACK
        },
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_clients_are_served_beside_readers_that_do_not_read() {
    const STREAMS: u32 = 250;
    const ATTACK: Attack = Attack {
        name: "",
        settings: &[(INITIAL_WINDOW, 0)],
        round: |_| Vec::new(),
        rounds: STREAMS,
        reads: Reads::Yes,
        fate: Fate::Stays,
        growth_kib: CROWD_KIB,
    };
    check(&[
        Attack { name: "windows that stay shut", round: |at| get(2 * at + 1, "/large"), ..ATTACK },
        Attack {
            name: "windows that open byte by byte",
            round: |at| match at {
                0..STREAMS => get(2 * at + 1, "/large"),
                _ => (0..STREAMS).flat_map(|at| widen(2 * at + 1, 1)).collect(),
            },
            rounds: STREAMS + 4,
            ..ATTACK
        },
        Attack {
            name: "wide windows, and nobody reads",
            settings: &[(INITIAL_WINDOW, LARGEST_WINDOW)],
            round: |at| match at {
                0 => widen(0, LARGEST_WINDOW - 65_535),
                _ => get(2 * at - 1, "/large"),
            },
            rounds: STREAMS + 1,
            reads: Reads::No,
            ..ATTACK
        },
    ])
    .await;
}
