//! An entry point with an application that says what it has seen.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Version;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use portcullis::exchange::{Client, Fault};
use portcullis::traffic::entrypoint::{Connection, Handle, Observer, Options, bind, start};
use tokio::sync::Notify;

/// What the application has seen of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) host: String,
    pub(crate) body: Vec<u8>,
    pub(crate) peer: SocketAddr,
    pub(crate) trusted: bool,
}

/// An application with one behaviour per path.
///
/// `/wait` answers when the test says so, `/early` before it has read the body, `/upgrade` with 101 and then echoes,
/// `/big` with a megabyte, `/cut` with half of what it promised; every other path with the request line and the length of
/// the body.
#[derive(Default)]
pub(crate) struct App {
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) go: Notify,
    pub(crate) waiting: AtomicUsize,
    pub(crate) read_failed: Mutex<Vec<Option<Fault>>>,
    pub(crate) write_failed: AtomicBool,
}

impl App {
    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    async fn answer(&self, session: &mut ServerSession) -> pingora::Result<()> {
        let connection = Connection::of(session).expect("a connection").clone();
        let path = session.req_header().uri.path().to_owned();
        let mut body = Vec::new();
        match path.as_str() {
            "/early" => {
                let mut header = ResponseHeader::build(403, None)?;
                header.insert_header("Content-Length", "2")?;
                session.set_keepalive(connection.keep_alive());
                session.write_response_header(Box::new(header)).await?;
                session.write_response_body(Bytes::from_static(b"no"), true).await?;
                return Ok(());
            }
            "/upgrade" => return self.upgrade(session).await,
            "/continue" => session.write_continue_response().await?,
            _ => {}
        }
        loop {
            match session.read_request_body().await {
                Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(error) => {
                    self.read_failed.lock().unwrap().push(connection.body_fault());
                    return Err(error);
                }
            }
        }
        let header = session.req_header();
        let line = format!("{} {}", header.method, header.uri);
        let host = header.headers.get("host").or_else(|| header.headers.get(":authority"));
        let host = host.map_or("", |host| host.to_str().unwrap()).to_owned();
        let length = body.len();
        let (peer, trusted) = (connection.client.peer, connection.client.trusted);
        self.seen.lock().unwrap().push(Seen { line: line.clone(), host, body, peer, trusted });
        if path == "/wait" {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.wait(session).await?;
        }
        let answer = match path.as_str() {
            "/big" | "/cut" => Bytes::from(vec![b'x'; 1 << 20]),
            _ => Bytes::from(format!("{line} {length}")),
        };
        let mut header = ResponseHeader::build(200, None)?;
        if session.req_header().version != Version::HTTP_10 {
            header.insert_header("Content-Length", answer.len().to_string())?;
        }
        session.set_keepalive(connection.keep_alive());
        session.write_response_header(Box::new(header)).await?;
        if path == "/cut" {
            session.write_response_body(answer.slice(..1000), false).await?;
            return pingora::Error::e_explain(pingora::ErrorType::InternalError, "cut");
        }
        session.write_response_body(answer, true).await.inspect_err(|_| self.write_failed.store(true, Ordering::SeqCst))
    }

    /// Waits for the test, and looks out for the client as Pingora's proxy does.
    async fn wait(&self, session: &mut ServerSession) -> pingora::Result<()> {
        tokio::select! {
            () = self.go.notified() => Ok(()),
            read = session.read_body_or_idle(true) => {
                let connection = Connection::of(session).expect("a connection");
                self.read_failed.lock().unwrap().push(connection.body_fault());
                read.map(|_| ())
            }
        }
    }

    async fn upgrade(&self, session: &mut ServerSession) -> pingora::Result<()> {
        let mut header = ResponseHeader::build(101, None)?;
        header.insert_header("Connection", "Upgrade")?;
        header.insert_header("Upgrade", "echo")?;
        session.write_response_header(Box::new(header)).await?;
        while let Some(bytes) = session.read_request_body().await? {
            session.write_response_body(bytes, false).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl HttpServerApp for App {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        self.answer(&mut session).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

/// What the front door has refused.
#[derive(Default)]
pub(crate) struct Refusals(pub Mutex<Vec<(Fault, String)>>);

impl Observer for Refusals {
    fn refused(&self, _: &Client, fault: Fault, request_line: &[u8]) {
        self.0.lock().unwrap().push((fault, request_line.escape_ascii().to_string()));
    }
}

pub(crate) struct Door {
    pub(crate) handle: Handle,
    pub(crate) app: Arc<App>,
    pub(crate) refusals: Arc<Refusals>,
}

impl Door {
    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.address()
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.refusals.0.lock().unwrap().iter().map(|(fault, _)| *fault).collect()
    }
}

/// An entry point on a free port of the loopback, with options as the test wants them.
pub(crate) fn door(change: impl FnOnce(&mut Options)) -> Door {
    let mut options = Options::new("test", 3);
    // Long enough to be seen, short enough that tests stay quick.
    options.timeouts.linger = Duration::from_millis(500);
    change(&mut options);
    let (app, refusals) = (Arc::new(App::default()), Arc::new(Refusals::default()));
    let listener = bind("127.0.0.1:0", false).expect("bind");
    let handle = start(options, listener, app.clone(), refusals.clone(), None).expect("start");
    Door { handle, app, refusals }
}
