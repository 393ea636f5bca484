//! Servers and clients that others wrote in Python, as programs of their own.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::peer::soon;
use super::tls::{Authority, Pair};

/// The system's, whichever comes first in the path.
const PYTHON: &str = "/usr/bin/python3";

/// What they speak.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    /// `grpcio`.
    Grpc,
    /// `websockets`.
    WebSockets,
}

impl Program {
    /// Lets the client do all that it can at `address`, over TLS if there is an authority; what it says of it.
    pub(crate) async fn call(self, address: &str, authority: Option<&Authority>) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut command = self.command("call");
        command.arg(address);
        if let Some(authority) = authority {
            std::fs::write(file.path(), &authority.certificate).expect("write");
            command.arg(file.path());
        }
        let output = soon(command.output()).await.expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn command(self, mode: &str) -> Command {
        let script = match self {
            Self::Grpc => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/grpc_peer.py"),
            Self::WebSockets => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/ws_peer.py"),
        };
        let mut command = Command::new(PYTHON);
        command.arg(script).arg(mode).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// The package that both sides are written with.
    fn package(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::WebSockets => "websockets",
        }
    }
}

/// A running server; it ends when this is dropped.
pub(crate) struct Others {
    _child: Child,
    address: String,
}

impl Others {
    /// Starts it, with this certificate if there is one. `None`: it is not installed.
    pub(crate) async fn start(program: Program, pair: Option<&Pair>) -> Option<Self> {
        let import = format!("import {}", program.package());
        let probe = Command::new(PYTHON).args(["-c", &import]).stderr(Stdio::null()).status().await;
        if !probe.is_ok_and(|status| status.success()) {
            crate::tcp_clients::skip(&format!("{} for {PYTHON}", program.package()));
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = program.command("serve");
        if let Some(pair) = pair {
            for (name, text) in [("certificate", &pair.certificate), ("key", &pair.key)] {
                let path = folder.path().join(name);
                std::fs::write(&path, text).expect("write");
                command.arg(path);
            }
        }
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = soon(lines.next_line()).await.expect("a line").expect("a port");
        Some(Self { _child: child, address: format!("127.0.0.1:{port}") })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}
