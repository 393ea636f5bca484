//! Probes of TCP servers: whether one takes a connection, and says what it should.

use std::io;
use std::time::Duration as Span;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Server, Transport};
use crate::problem::{Problem, Problems, all, refuse};
use crate::units::Duration;

/// Longest text that is sent or expected, in bytes.
const TEXT_LIMIT_BYTES: usize = 4096;

/// `healthCheck` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Port instead of the server's own.
    pub port: i64,
    /// What is sent once connected.
    pub send: String,
    /// What the answer must begin with.
    pub expect: String,
    /// Between two probes of a server that is up.
    pub interval: Duration,
    /// Between two probes of a server that is down; `interval` if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_interval: Option<Duration>,
    /// For a whole probe.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 0,
            send: String::new(),
            expect: String::new(),
            interval: Duration::from_secs(30),
            unhealthy_interval: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// How servers are probed, checked.
#[derive(Debug)]
pub struct Plan {
    port: Option<u16>,
    send: Box<[u8]>,
    expect: Box<[u8]>,
    interval: Span,
    unhealthy_interval: Span,
    timeout: Span,
}

impl Plan {
    /// Checks what is written.
    ///
    /// # Errors
    /// Each setting that has no meaning.
    pub fn build(settings: &Settings) -> Result<Self, Problems> {
        let port = match settings.port {
            0 => Ok(None),
            port => u16::try_from(port).map(Some).map_err(|_| Problem::at("port", format!("{port} is not a port"))),
        };
        let short = |path: &str, text: &str| {
            refuse(text.len() > TEXT_LIMIT_BYTES, || {
                Problem::at(path, format!("is longer than {TEXT_LIMIT_BYTES} bytes"))
            })
        };
        let positive =
            |path: &str, time: Duration| time.positive().ok_or_else(|| Problem::at(path, "must be more than zero"));
        let unhealthy = settings.unhealthy_interval.unwrap_or(settings.interval);
        let (port, (), (), interval, unhealthy_interval, timeout) = all((
            port,
            short("send", &settings.send),
            short("expect", &settings.expect),
            positive("interval", settings.interval),
            positive("unhealthyInterval", unhealthy),
            positive("timeout", settings.timeout),
        ))?;
        Ok(Self {
            port,
            send: settings.send.as_bytes().into(),
            expect: settings.expect.as_bytes().into(),
            interval,
            unhealthy_interval,
            timeout,
        })
    }

    /// The pause after a probe.
    pub(super) fn pause(&self, is_up: bool) -> Span {
        if is_up { self.interval } else { self.unhealthy_interval }
    }

    /// Probes a server, over TLS if that is how it is spoken to.
    ///
    /// # Errors
    /// Why it does not pass.
    pub(super) async fn probe(&self, server: &Server, transport: &Transport) -> Result<(), String> {
        let probe = async {
            let stream = server.connect(self.port, self.timeout).await?;
            if server.tls {
                self.ask(transport.shake_hands(server.host(), stream).await?).await
            } else {
                self.ask(stream).await
            }
        };
        match tokio::time::timeout(self.timeout, probe).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    async fn ask<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> io::Result<()> {
        stream.write_all(&self.send).await?;
        stream.flush().await?;
        let mut answer = vec![0; self.expect.len()];
        stream.read_exact(&mut answer).await?;
        if *answer == *self.expect {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not the expected one"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tcp::pool::ServerSettings;

    #[test]
    fn what_has_no_meaning_is_refused() {
        let settings = Settings {
            port: 70_000,
            send: "x".repeat(5000),
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            ..Settings::default()
        };
        let found = Plan::build(&settings).unwrap_err();
        let paths: Vec<_> = found.iter().map(|problem| &*problem.path).collect();
        assert_eq!(paths, ["port", "send", "interval", "unhealthyInterval", "timeout"]);
    }

    #[tokio::test]
    async fn a_server_must_say_what_is_expected() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 4];
                stream.read_exact(&mut asked).await.unwrap();
                stream.write_all(if &asked == b"PING" { b"+PONG\r\n" } else { b"-ERR\r\n" }).await.unwrap();
            }
        });
        let plan = |send: &str, expect: &str| {
            Plan::build(&Settings { send: send.into(), expect: expect.into(), ..Settings::default() }).unwrap()
        };
        let written = ServerSettings { address: address.to_string(), tls: false };
        let (server, transport) = (Server::build(&written).unwrap(), Transport::build(&Default::default()).unwrap());
        assert_eq!(plan("PING", "+PONG").probe(&server, &transport).await, Ok(()));
        let refused = plan("PONG", "+PONG").probe(&server, &transport).await;
        assert_eq!(refused, Err("the answer is not the expected one".to_owned()));
    }
}
