//! Sockets that systemd binds: a shell plays its part, and this test binary runs again as the service.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use portcullis::process::{BoundBy, Protocol, SocketName, systemd};

/// Descriptors 3, 4 and 5 are TCP, UDP and a plain file; the shell's own process becomes the service, as under systemd.
const SCRIPT: &str = "exec 3<&0 4<&1 5</dev/null 0</dev/null 1>/dev/null; \
    LISTEN_PID=$PID LISTEN_FDS=$COUNT LISTEN_FDNAMES=web:dns: exec \"$0\" \"$@\"";

fn check(role: &str, pid: &str, count: &str) {
    let tcp: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
    let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(SCRIPT.replace("$PID", pid).replace("$COUNT", count))
        .arg(std::env::current_exe().unwrap())
        .args([&format!("activation::{role}"), "--exact", "--ignored", "--quiet", "--test-threads=1"])
        .env("PORTCULLIS_TEST_ROLE", role)
        .stdin(Stdio::from(tcp))
        .stdout(Stdio::from(udp))
        .status()
        .unwrap();
    assert!(status.success(), "{role}: {status}");
}

#[test]
fn sockets_are_adopted_by_name() {
    check("adopts", "$$", "3");
}

#[test]
fn sockets_for_another_process_or_in_absurd_numbers_are_not() {
    check("adopts_nothing", "1", "3");
    check("complains", "$$", "99999999");
    check("complains", "$$", "many");
}

fn is_role() -> bool {
    std::env::var_os("PORTCULLIS_TEST_ROLE").is_some()
}

#[test]
#[ignore = "a role of a child process"]
fn adopts() {
    if !is_role() {
        return;
    }
    let (mut sockets, problems) = systemd::adopt_sockets();
    let name = |entry_point: &str, protocol| SocketName {
        entry_point: entry_point.into(),
        protocol,
        address: "wherever".to_owned(),
        bound_by: BoundBy::Gateway,
    };
    assert!(sockets.claim(&name("web", Protocol::Udp)).is_none());
    let web = sockets.claim(&name("web", Protocol::Tcp)).unwrap().socket;
    TcpListener::from(web).local_addr().unwrap();
    let dns = sockets.claim(&name("dns", Protocol::Udp)).unwrap().socket;
    UdpSocket::from(dns).local_addr().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("`unknown`"), "{problems:?}");
}

#[test]
#[ignore = "a role of a child process"]
fn adopts_nothing() {
    if is_role() {
        let (sockets, problems) = systemd::adopt_sockets();
        assert!(sockets.is_empty() && problems.is_empty());
    }
}

#[test]
#[ignore = "a role of a child process"]
fn complains() {
    if is_role() {
        let (sockets, problems) = systemd::adopt_sockets();
        assert!(sockets.is_empty() && problems.len() == 1);
    }
}
