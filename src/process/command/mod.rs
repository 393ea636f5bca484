//! Commands to a running process over a Unix socket: one JSON object per line, one answer per line.

mod path;
mod server;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

pub use path::{find_socket, socket_path};
pub use server::{Control, InsteadOf, Request};

/// Longest line in bytes, command or answer.
const MAX_LINE: u64 = 1024 * 1024;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Read the configuration again, and say what is wrong with it.
    Reload,
    /// Hand over to a new process of the program on disk.
    Upgrade,
    /// Say how it is.
    Status,
    /// Drain and end.
    Drain,
    /// Open the log files again.
    ReopenLogs,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    command: Command,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub done: bool,
    /// One line for people.
    pub message: String,
    /// What is wrong, one line each; there can be problems although it was done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What else people should know, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// What was asked for, for machines: the status, or the settings that wait for an upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

impl Answer {
    /// It was done.
    pub fn done(message: impl Into<String>) -> Self {
        Self { done: true, message: message.into(), problems: Vec::new(), notices: Vec::new(), detail: None }
    }

    /// It was not done, and why.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { done: false, ..Self::done(message) }
    }

    /// Adds what is wrong.
    #[must_use]
    pub fn with_problems<P: ToString>(mut self, problems: impl IntoIterator<Item = P>) -> Self {
        self.problems.extend(problems.into_iter().map(|problem| problem.to_string()));
        self
    }

    /// Adds what else people should know.
    #[must_use]
    pub fn with_notices(mut self, notices: impl IntoIterator<Item = String>) -> Self {
        self.notices.extend(notices);
        self
    }

    /// Adds what machines want to read.
    #[must_use]
    pub fn with_detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = Some(detail);
        self
    }
}

/// Where a process can be asked whether it is well, in the detail of its status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pinged {
    /// The entry point of `ping`.
    pub entry_point: String,
    /// Where that one listens, if it does.
    pub address: Option<SocketAddr>,
}

/// Sends a command to the process that listens on `path` and waits for its answer. Blocks.
///
/// # Errors
/// A problem in words for people: nobody listens, no permission, no answer within `timeout`.
pub fn send(path: &Path, command: Command, timeout: Duration) -> Result<Answer, Problem> {
    let trouble = |what: &str, error: std::io::Error| {
        let text = match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => format!("no answer within {timeout:?}"),
            _ => format!("{what}: {error}"),
        };
        Problem::at(path.display().to_string(), text)
    };
    let mut stream = UnixStream::connect(path).map_err(|error| {
        trouble("cannot connect", error).with_help("is it running, and is this its control socket?")
    })?;
    stream.set_write_timeout(Some(timeout)).map_err(|error| trouble("cannot connect", error))?;
    let mut line = serde_json::to_vec(&Line { command }).map_err(|error| trouble("cannot write", error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|error| trouble("cannot write", error))?;
    let mut answer = Vec::new();
    let by = Instant::now() + timeout;
    let mut reader = BufReader::new(Within { stream, by }).take(MAX_LINE);
    reader.read_until(b'\n', &mut answer).map_err(|error| trouble("cannot read the answer", error))?;
    if answer.is_empty() {
        return Err(Problem::at(path.display().to_string(), "it hung up without an answer"));
    }
    serde_json::from_slice(&answer)
        .map_err(|error| Problem::at(path.display().to_string(), format!("its answer is not understood: {error}")))
}

/// Reads until a moment, however slowly the bytes trickle.
struct Within {
    stream: UnixStream,
    by: Instant,
}

impl Read for Within {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_json_object() {
        let line = serde_json::to_string(&Line { command: Command::ReopenLogs }).unwrap();
        assert_eq!(line, r#"{"command":"reopen-logs"}"#);
        assert!(serde_json::from_str::<Line>(r#"{"command":"shell"}"#).is_err());
        let answer = Answer::done("reloaded").with_problems(["one"]);
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"done":true,"message":"reloaded","problems":["one"]}"#);
    }
}
