//! Hand-overs to real child processes, good ones and all kinds of bad ones.
//!
//! The children are this test binary again, running one of the ignored tests in [`role`]: there, standard input is the channel.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portcullis::process::handover::{Bequest, Deadlines, Departure, Failure, Handover, Word};
use portcullis::process::{BoundBy, Protocol, SocketName};

const PATIENT: Deadlines = Deadlines { ready: Duration::from_secs(30), accepting: Duration::from_secs(30) };
const HASTY: Deadlines = Deadlines { ready: Duration::from_millis(1500), accepting: Duration::from_millis(300) };

/// A hand-over to this binary in the given role. What it says of its one test must not stand among the results of these here.
fn to(role: &str) -> Handover {
    let binary = std::env::current_exe().unwrap();
    let role = format!("handover::role::{role}");
    let arguments = ["-c", "exec \"$0\" \"$@\" >/dev/null", binary.to_str().unwrap(), &role];
    let arguments = arguments.into_iter().chain(["--exact", "--ignored", "--nocapture", "--quiet"]);
    Handover::new("/bin/sh".into(), arguments.map(Into::into).collect()).within(PATIENT)
}

fn name(entry_point: &str, protocol: Protocol, address: impl ToString) -> SocketName {
    let (entry_point, address) = (entry_point.into(), address.to_string());
    SocketName { entry_point, protocol, address, bound_by: BoundBy::Gateway }
}

fn web() -> (TcpListener, SocketName) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener, name("web", Protocol::Tcp, "web"))
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A dead one that is not reaped yet counts as dead.
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
}

async fn is_gone(pid: u32) {
    let by = Instant::now() + Duration::from_secs(20);
    while lives(pid) {
        assert!(Instant::now() < by, "process {pid} still lives");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn fails(handover: &Handover) -> Failure {
    let (listener, web) = web();
    handover.begin(&[(web, listener.as_fd())], &Bequest::default()).await.expect_err("a bad successor")
}

#[tokio::test]
async fn a_good_heir_serves_all_kinds_of_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let (tcp, web) = web();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let path = folder.path().join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let spare = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = [
        (web, tcp.as_fd()),
        (name("gone", Protocol::Tcp, "gone"), spare.as_fd()),
        (name("dns", Protocol::Udp, "dns"), udp.as_fd()),
        (name("local", Protocol::Unix, "local"), unix.as_fd()),
    ];
    let handover = to("serves");
    let heir = handover.begin(&sockets, &Bequest::default()).await.unwrap();
    assert_eq!(heir.unclaimed(), [name("gone", Protocol::Tcp, "gone")]);
    let mut successor = heir.go().await.unwrap();
    let pid = successor.pid().to_string();

    let mut answer = String::new();
    TcpStream::connect(tcp.local_addr().unwrap()).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, pid);
    answer.clear();
    UnixStream::connect(&path).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, pid);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.send_to(b"?", udp.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 32];
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], pid.as_bytes());

    assert!(matches!(handover.begin(&[], &Bequest::default()).await, Err(Failure::Underway)), "one at a time");
    assert_eq!(successor.word().await, Word::Dropped(vec![name("web", Protocol::Tcp, "web")]));
    assert_eq!(successor.word().await, Word::Gone(Departure::Left));
    drop(successor);
    handover.begin(&[], &Bequest::default()).await.unwrap();
}

#[tokio::test]
async fn three_hundred_sockets_and_the_longest_names() {
    let sockets: Vec<UdpSocket> = (0..300).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let long = |at: usize| format!("{at:0>1024}");
    let named: Vec<(SocketName, BorrowedFd<'_>)> =
        sockets.iter().enumerate().map(|(at, s)| (name(&long(at), Protocol::Udp, long(at)), s.as_fd())).collect();
    let heir = to("takes_every_other").begin(&named, &Bequest::default()).await.unwrap();
    assert_eq!(heir.unclaimed().len(), 150);
    assert!(heir.unclaimed().iter().all(|name| name.address.ends_with(['1', '3', '5', '7', '9'])));

    let longer = name(&"n".repeat(1025), Protocol::Udp, "");
    let result = to("serves").begin(&[(longer, sockets[0].as_fd())], &Bequest::default()).await;
    assert!(matches!(result, Err(Failure::TooMuch)));
}

#[tokio::test]
async fn an_early_end_is_told_and_the_next_upgrade_works() {
    let check = async |role: &str, expected: &str| {
        let failure = fails(&to(role)).await.to_string();
        assert!(failure.contains(expected) && !failure.contains('\n'), "{role}: {failure}");
    };
    check("exits", "exit status: 3").await;
    check("panics", "exit status: 101").await;
    check("babbles", "not one of ours").await;
    check("refuses", "http.routers.web.rule: unknown matcher `Hots`; second line").await;
    check("never_asks", "exit status: 0").await;
}

#[tokio::test]
async fn one_that_hangs_before_go_is_killed() {
    let handover = to("hangs").within(HASTY);
    assert!(matches!(fails(&handover).await, Failure::NotReady(_)));
    let (listener, web) = web();
    let heir = to("serves").begin(&[(web, listener.as_fd())], &Bequest::default()).await.unwrap();
    let pid = heir.pid();
    assert!(lives(pid));
    drop(heir);
    is_gone(pid).await;
}

#[tokio::test]
async fn one_that_hangs_after_go_is_asked_to_end() {
    let (listener, web) = web();
    let handover = to("hangs_after_go").within(Deadlines { ready: PATIENT.ready, ..HASTY });
    let heir = handover.begin(&[(web, listener.as_fd())], &Bequest::default()).await.unwrap();
    let pid = heir.pid();
    assert!(matches!(heir.go().await, Err(Failure::NotAccepting { .. })));
    is_gone(pid).await;
}

/// It comes to accept when the old process serves alone again: it has to notice, and not to speak for the service.
#[tokio::test]
async fn one_that_comes_too_late_knows() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let (listener, _) = web();
    let handover = to("comes_too_late").within(Deadlines { ready: PATIENT.ready, ..HASTY });
    let web = name("web", Protocol::Tcp, report.display());
    let heir = handover.begin(&[(web, listener.as_fd())], &Bequest::default()).await.unwrap();
    let pid = heir.pid();
    assert!(matches!(heir.go().await, Err(Failure::NotAccepting { .. })));
    is_gone(pid).await;
    assert_eq!(std::fs::read_to_string(report).unwrap(), "GivenUp");
}

#[tokio::test]
async fn a_death_after_go_lets_the_ancestor_resume() {
    let (listener, web) = web();
    let sockets = [(web, listener.as_fd())];
    let heir = to("dies_after_go").begin(&sockets, &Bequest::default()).await.unwrap();
    assert!(matches!(heir.go().await, Err(Failure::Ended(how)) if how.contains("exit status: 9")));

    let heir = to("dies_accepting").begin(&sockets, &Bequest::default()).await.unwrap();
    let mut successor = heir.go().await.unwrap();
    let Word::Gone(Departure::Died(how)) = successor.word().await else { panic!("it did not leave on purpose") };
    assert!(how.contains("signal: 6"), "{how}");
    // The socket is still ours and accepts.
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
}

#[tokio::test]
async fn programs_that_cannot_be_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = |called: &str, content: &[u8], mode| {
        let path = folder.path().join(called);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    // A header of another machine: 64 bits, little end first, machine 0xF7 (BPF).
    let mut foreign = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0xf7, 0, 1, 0, 0, 0];
    foreign.resize(256, 0);
    let check = async |program: PathBuf| {
        let failure = fails(&Handover::new(program, Vec::new()).within(PATIENT)).await;
        let text = failure.to_string();
        assert!(matches!(failure, Failure::Start { .. } | Failure::Ended(_)), "{text}");
        assert!(!text.contains('\n'), "{text}");
    };
    check(folder.path().join("missing")).await;
    check(folder.path().to_owned()).await;
    check(file("not-executable", b"#!/bin/sh\n", 0o644)).await;
    check(file("foreign", &foreign, 0o755)).await;
    check(file("noise", &[0xde, 0xad, 0xbe, 0xef, 0, 1, 2, 3], 0o755)).await;
    check(file("empty", b"", 0o755)).await;
    check(PathBuf::from("/bin/true")).await;
}

/// What the children do. Run by hand they do nothing, for there is nothing to inherit.
#[expect(clippy::disallowed_methods, reason = "a child ends as its role says")]
mod role {
    use portcullis::process::Inheritance;

    use super::*;

    fn inherited() -> Option<Inheritance> {
        Inheritance::take().unwrap()
    }

    fn blocking(f: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f);
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn serves() {
        let Some(mut inheritance) = inherited() else { return };
        let mut claim =
            |called: &str, protocol| inheritance.sockets().claim(&name(called, protocol, called)).map(|it| it.socket);
        let (tcp, udp, unix) =
            (claim("web", Protocol::Tcp), claim("dns", Protocol::Udp), claim("local", Protocol::Unix));
        blocking(async move {
            let pid = std::process::id().to_string();
            inheritance.ready().unwrap();
            inheritance.wait_go().await.unwrap();
            let bond = inheritance.accepting().unwrap();
            if let Some(tcp) = tcp {
                let tcp = tokio::net::TcpListener::from_std(tcp.into()).unwrap();
                let mut client = tcp.accept().await.unwrap().0.into_std().unwrap();
                client.write_all(pid.as_bytes()).unwrap();
            }
            if let Some(unix) = unix {
                let unix = tokio::net::UnixListener::from_std(unix.into()).unwrap();
                let mut client = unix.accept().await.unwrap().0.into_std().unwrap();
                client.write_all(pid.as_bytes()).unwrap();
            }
            if let Some(udp) = udp {
                let udp = tokio::net::UdpSocket::from_std(udp.into()).unwrap();
                let (_, peer) = udp.recv_from(&mut [0; 8]).await.unwrap();
                udp.send_to(pid.as_bytes(), peer).await.unwrap();
            }
            bond.drop_sockets(&[name("web", Protocol::Tcp, "web")]);
            bond.leave();
        });
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn takes_every_other() {
        let Some(mut inheritance) = inherited() else { return };
        let names: Vec<SocketName> = inheritance.sockets().unclaimed().cloned().collect();
        let held: Vec<OwnedFd> =
            names.iter().step_by(2).map(|name| inheritance.sockets().claim(name).unwrap().socket).collect();
        inheritance.ready().unwrap();
        blocking(async { drop(inheritance.wait_go().await) });
        drop(held);
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn exits() {
        if inherited().is_some() {
            std::process::exit(3);
        }
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn panics() {
        assert!(inherited().is_none(), "as a successor with a fault would");
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn babbles() {
        if let Some(_inheritance) = channel() {
            std::thread::sleep(Duration::from_secs(60));
        }
    }

    /// The channel by its raw end, to say something that the interface cannot say.
    fn channel() -> Option<()> {
        std::env::var_os(portcullis::process::handover::VARIABLE)?;
        let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
        socket.write_all(b"hello, world").ok()
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn refuses() {
        if let Some(inheritance) = inherited() {
            inheritance.failed("http.routers.web.rule: unknown matcher `Hots`\nsecond line");
            std::process::exit(78);
        }
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn never_asks() {}

    #[test]
    #[ignore = "a role of a child process"]
    fn hangs() {
        if let Some(_inheritance) = inherited() {
            std::thread::sleep(Duration::from_secs(60));
        }
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn hangs_after_go() {
        if let Some(mut inheritance) = inherited() {
            inheritance.ready().unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn comes_too_late() {
        let mut signals = portcullis::process::Signals::install().unwrap();
        let Some(mut inheritance) = inherited() else { return };
        let report = inheritance.sockets().unclaimed().next().unwrap().address.clone();
        inheritance.ready().unwrap();
        blocking(async move {
            inheritance.wait_go().await.unwrap();
            signals.next_end().await.unwrap();
            let denied = inheritance.accepting().expect_err("nobody waits for it");
            std::fs::write(report, format!("{denied:?}")).unwrap();
        });
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn dies_after_go() {
        let Some(mut inheritance) = inherited() else { return };
        inheritance.ready().unwrap();
        blocking(async move {
            inheritance.wait_go().await.unwrap();
            std::process::exit(9);
        });
    }

    #[test]
    #[ignore = "a role of a child process"]
    fn dies_accepting() {
        let Some(mut inheritance) = inherited() else { return };
        inheritance.ready().unwrap();
        blocking(async move {
            inheritance.wait_go().await.unwrap();
            let _bond = inheritance.accepting().unwrap();
            std::process::abort();
        });
    }
}
