//! What the machine may do to a gateway: kill it, stop it for a while, take its disk away, have it read its files again for ever.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use crate::harness::gateway::Gateway;
use crate::harness::peer::{PATIENCE, Peer, soon, until};
use crate::harness::server::Server;

fn to(server: &Server) -> String {
    format!(
        "http:
  routers: {{all: {{rule: 'PathPrefix(`/`)', service: one}}}}
  services: {{one: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
",
        server.url()
    )
}

/// A gateway that finds its socket as systemd would leave it: as descriptor 3, named in the environment.
fn activated(listener: &TcpListener, folder: &Path) -> Child {
    let handed = OwnedFd::from(listener.try_clone().unwrap());
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web; exec \"$0\" \"$@\"";
    let path = |name: &str| folder.join(name).display().to_string();
    Command::new("/bin/sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_portcullis"), "run", "--threads=2"])
        .arg(format!("--entryPoints.web.address={}", listener.local_addr().unwrap()))
        .arg(format!("--providers.file.filename={}", path("dynamic.yaml")))
        .arg(format!("--log.filePath={}", path("process.log")))
        .env("RUNTIME_DIRECTORY", folder)
        .stdin(Stdio::from(handed))
        .spawn()
        .unwrap()
}

/// D-UPG-3: the process is killed again and again. With a socket that systemd holds, nobody is refused, and only requests that
/// were under way are lost.
#[tokio::test]
async fn kills_refuse_nobody() {
    const CLIENTS: usize = 4;
    const KILLS: usize = 6;
    let server = Server::says("ok").await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("dynamic.yaml"), to(&server)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (over, done, lost) =
        (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (over, done, lost) = (over.clone(), done.clone(), lost.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let mut peer = Peer::of(TcpStream::connect(address).await.expect("nobody is refused"));
                    let sent = peer.try_send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
                    let well = sent && peer.response_to("GET").await.is_ok_and(|answer| answer.status == 200);
                    if well { &done } else { &lost }.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let more = async || {
        let before = done.load(Ordering::SeqCst);
        until(|| done.load(Ordering::SeqCst) > before + 20).await;
    };
    for _ in 0..KILLS {
        let mut process = activated(&listener, folder.path());
        more().await;
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let mut process = activated(&listener, folder.path());
    more().await;
    over.store(true, Ordering::SeqCst);
    for client in clients {
        soon(client).await.expect("a client that was not refused");
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let lost = lost.load(Ordering::SeqCst);
    assert!(lost <= KILLS * CLIENTS, "{lost} of {} requests were lost", done.load(Ordering::SeqCst) + lost);
}

/// D-BACKLOG: a process that gets no time for a while has a queue that is long enough.
#[tokio::test]
async fn clients_wait_for_a_process_that_stands_still() {
    const CLIENTS: usize = 600;
    let server = Server::says("ok").await;
    let gateway = Gateway::with(to(&server)).await;
    let address = gateway.address();
    gateway.signal(Signal::STOP);
    let mut waiting = Vec::new();
    for _ in 0..CLIENTS {
        let mut peer = Peer::of(soon(TcpStream::connect(address)).await.expect("there is a place in the queue"));
        peer.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        waiting.push(peer);
    }
    gateway.signal(Signal::CONT);
    for mut peer in waiting {
        assert_eq!(peer.response_to("GET").await.expect("an answer").status, 200);
    }
}

/// The lines that the access log has lost, as the metrics say.
async fn dropped(address: SocketAddr) -> u64 {
    let page = Peer::connect(address).await.get("/metrics", "").await;
    let line = page.text().lines().find(|line| line.starts_with("portcullis_access_log_dropped_lines_total "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a number")
}

/// D-DISK: a full disk and a reader that does not read cost lines, which are counted, and no request.
#[tokio::test]
async fn logs_that_nobody_takes_cost_no_request() {
    let server = Server::says("ok").await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Somebody who has opened it and does not read: opening for both ways does not wait for the other end.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    for log in [Path::new("/dev/full"), &pipe] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dynamic.yaml"), to(&server)).unwrap();
        let root = folder.path().to_owned();
        let path = |name: &str| root.join(name).display().to_string();
        let flags = [
            "run".to_owned(),
            "--entryPoints.web.address=127.0.0.1:0".to_owned(),
            "--entryPoints.inside.address=127.0.0.1:0".to_owned(),
            "--metrics.prometheus.entryPoint=inside".to_owned(),
            "--accessLog.format=json".to_owned(),
            format!("--accessLog.filePath={}", log.display()),
            format!("--log.filePath={}", path("process.log")),
            format!("--providers.file.filename={}", path("dynamic.yaml")),
            format!("--control.socket={}", path("control")),
        ];
        let gateway = Gateway::bare(&flags.each_ref().map(String::as_str), folder).await;
        let mut peer = gateway.connect().await;
        for _ in 0..200 {
            assert_eq!(soon(peer.get("/", "")).await.status, 200);
        }
        let inside = gateway.address_of("inside");
        let by = Instant::now() + PATIENCE;
        // The pipe keeps what its reader may still read; a full disk loses every line.
        while log != pipe && dropped(inside).await < 200 {
            assert!(Instant::now() < by, "{} lines were dropped", dropped(inside).await);
        }
        // Its own upgrade and its end wait for a log only so long.
        let started = Instant::now();
        let told = gateway.told("upgrade").await;
        assert_eq!(told.code, Some(0), "{told:?}");
        assert!(started.elapsed() < Duration::from_secs(9));
        assert_eq!(soon(gateway.connect().await.get("/", "")).await.status, 200);
        let heir = told.out.split(' ').find_map(|word| word.parse().ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(heir.unwrap(), Signal::KILL).unwrap();
    }
    drop(reader);
}

/// What a process holds: descriptors, threads, memory in KiB.
fn held(pid: u32) -> (usize, usize, usize) {
    let entries = |kind: &str| fs::read_dir(format!("/proc/{pid}/{kind}")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    (entries("fd"), entries("task"), resident.unwrap())
}

/// D-RLD-3: reloads leave nothing behind, though connections hold on to what was in force when they came.
#[tokio::test]
async fn a_thousand_reloads_leave_nothing_behind() {
    const ROUTERS: usize = 50;
    let server = Server::says("ok").await;
    let text = |round: usize| {
        let routers: String = (0..ROUTERS)
            .map(|at| format!("    r{at}: {{rule: 'Path(`/{}/{at}`)', service: s{}}}\n", round % 2, (at + round) % 7))
            .collect();
        let services: String = (0..7)
            .map(|at| format!("    s{at}: {{loadBalancer: {{servers: [{{url: '{}/{round}'}}]}}}}\n", server.url()))
            .collect();
        format!("http:\n  routers:\n{routers}  services:\n{services}")
    };
    let gateway = Gateway::setup().flag("providers.file.watch=false").dynamic(text(0)).start().await;
    let file = gateway.folder().join("dynamic.yaml");
    let mut control = BufReader::new(UnixStream::connect(gateway.folder().join("control")).await.unwrap());
    let mut reload = async |round: usize| {
        fs::write(&file, text(round)).unwrap();
        control.get_mut().write_all(b"{\"command\":\"reload\"}\n").await.unwrap();
        let mut answer = String::new();
        soon(control.read_line(&mut answer)).await.unwrap();
        assert!(answer.contains("\"done\":true"), "{answer}");
    };
    let mut holding = Vec::new();
    for round in 1..=200 {
        reload(round).await;
        if round % 10 == 0 {
            let mut peer = gateway.connect().await;
            assert_eq!(peer.get(&format!("/{}/0", round % 2), "").await.status, 200);
            holding.push(peer);
        }
    }
    let before = held(gateway.pid());
    for round in 201..=1000 {
        reload(round).await;
    }
    for peer in &mut holding {
        assert_eq!(peer.get("/0/0", "").await.status, 200);
    }
    let after = held(gateway.pid());
    let (descriptors, threads, memory) = after;
    assert!(descriptors <= before.0 + 8 && threads <= before.1 + 2, "{before:?} {after:?}");
    // Four times a KiB for each reload: an allocator breathes.
    assert!(memory <= before.2 + 4 * 800, "{before:?} {after:?}");
}
