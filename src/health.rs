//! `portcullis healthcheck`: asks a running gateway whether it is well.
//!
//! Where it serves `ping` is written in its configuration, but that may have been changed since, and a reload may have come to nothing
//! because an address was taken. So the process itself is asked for the address, where it can be reached.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::{self, Exit};
use crate::config::install::Ping;
use crate::config::load::{self, Loaded};
use crate::process::command::{self, Command, Pinged};
use crate::units::environment;

/// How long a health check may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How long the process may take to say where to ask. It does not while it reloads or is replaced.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// The variable that names the control socket.
const CONTROL: &str = "PORTCULLIS_CONTROL_SOCKET";

/// Asks the ping entry point of a running gateway with this configuration.
pub fn ask(flags: &[String]) -> Exit {
    let loaded = load::install(flags, environment());
    match find(&loaded).and_then(|found| check(&found)) {
        Ok(address) => {
            cli::tell(format_args!("OK: http://{address}/ping\n"));
            Exit::Ok
        }
        Err(message) => {
            eprintln!("portcullis: {message}");
            Exit::Failed
        }
    }
}

/// Where to ask: what the process says itself, or else what is written.
fn find(loaded: &Loaded) -> Result<Vec<SocketAddr>, String> {
    let Some(ping) = &loaded.install.ping else {
        return Err("`ping` is not enabled in the configuration".to_owned());
    };
    match running(loaded) {
        Some(None) => Err("`ping` is written, but not in force: `portcullis reload` says why".to_owned()),
        Some(Some(Pinged { entry_point, address: None })) => {
            Err(format!("entry point `{entry_point}` of `ping` is not open"))
        }
        Some(Some(Pinged { entry_point, address: Some(address) })) => {
            let written = loaded.install.entry_points.get(&*ping.entry_point).map(|written| written.address.port);
            let is_as_written = written.is_some_and(|port| port == 0 || port == address.port());
            if *entry_point != *ping.entry_point || !is_as_written {
                eprintln!(
                    "portcullis: `ping` is served by entry point `{entry_point}` on {address}, not as it is written"
                );
            }
            Ok(reachable(address))
        }
        None => written(loaded, ping),
    }
}

/// What the process says of its ping that runs with this configuration: `None` if it cannot be asked or is not certain to be that one.
fn running(loaded: &Loaded) -> Option<Option<Pinged>> {
    let named = std::env::var_os(CONTROL).map(PathBuf::from);
    let named = named.or_else(|| loaded.install.control.socket.as_deref().map(PathBuf::from));
    let socket = command::find_socket(named.as_deref()).ok()?;
    let detail = command::send(&socket, Command::Status, TOLD_WITHIN).ok()?.detail?;
    let file = |file: &Path| file.canonicalize().ok();
    // In the usual place there may be another gateway of the same user.
    let is_same_file = || {
        let written = loaded.file.as_deref().and_then(file);
        written.is_some_and(|written| detail["configFile"].as_str().is_some_and(|its| Path::new(its) == written))
    };
    if named.is_none() && !is_same_file() {
        return None;
    }
    serde_json::from_value(detail.get("ping")?.clone()).ok()
}

fn written(loaded: &Loaded, ping: &Ping) -> Result<Vec<SocketAddr>, String> {
    let missing = || format!("entry point `{}` of `ping` does not exist", ping.entry_point);
    let entry_point = loaded.install.entry_points.get(&*ping.entry_point).ok_or_else(missing)?;
    let host = match &*entry_point.address.host {
        "" => "127.0.0.1",
        host => host,
    };
    let found = (host, entry_point.address.port).to_socket_addrs();
    let found = found.map_err(|error| format!("`{host}` is not found: {error}"))?;
    Ok(found.flat_map(reachable).collect())
}

/// One that listens everywhere is asked on this machine.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    let here = |ip: IpAddr| SocketAddr::new(ip, address.port());
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![here(Ipv4Addr::LOCALHOST.into())],
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![here(Ipv4Addr::LOCALHOST.into()), here(Ipv6Addr::LOCALHOST.into())]
        }
        _ => vec![address],
    }
}

/// The first address that answers has to answer well.
fn check(addresses: &[SocketAddr]) -> Result<SocketAddr, String> {
    let mut last = "`ping` has no address".to_owned();
    for address in addresses {
        match ask_at(*address) {
            Ok(200) => return Ok(*address),
            Ok(status) => return Err(format!("http://{address}/ping answered {status}")),
            Err(error) => last = format!("ping failed: http://{address}/ping: {error}"),
        }
    }
    Err(last)
}

fn ask_at(address: SocketAddr) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    write!(stream, "GET /ping HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}
