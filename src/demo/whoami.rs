//! One small server that tells what it was asked: method, path, headers, its name and who asked.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;

use crate::cli::{self, Exit, WhoamiArgs};
use crate::exchange::{Client, Fault};
use crate::process::Signals;
use crate::traffic::entrypoint::{self, Observer};

/// Runs one server until a signal ends it.
pub fn run(arguments: &WhoamiArgs, mut signals: Signals) -> Exit {
    let bound = match spawn(arguments.listen, &arguments.name) {
        Ok(bound) => bound,
        Err(error) => {
            eprintln!("portcullis: cannot listen on {}: {error}", arguments.listen);
            return Exit::Failed;
        }
    };
    cli::tell(format_args!("{} listens on http://{bound}\n", arguments.name));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Exit::Failed };
    match runtime.block_on(signals.next()) {
        Ok(_) => Exit::Ok,
        Err(_) => Exit::Failed,
    }
}

/// Starts a server on a thread of its own; it ends with the process. Where it listens.
///
/// # Errors
/// If the address is taken or there is no thread to be had.
pub fn spawn(address: SocketAddr, name: &str) -> std::io::Result<SocketAddr> {
    let listener = entrypoint::bind(&address.to_string(), false)?;
    let bound = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let app = Arc::new(HttpServer::new_app(Whoami::new(name)));
    let options = entrypoint::Options::new(name, 0);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        runtime.block_on(async move {
            match entrypoint::start(options, listener, app, Arc::new(Silent), None) {
                Ok(_) => std::future::pending::<()>().await,
                Err(error) => log::error!("the embedded server cannot serve: {error}"),
            }
        });
    })?;
    Ok(bound)
}

struct Silent;

impl Observer for Silent {
    fn refused(&self, _: &Client, _: Fault, _: &[u8]) {}
}

/// Largest request body that is read, in bytes; it is thrown away.
const BODY_LIMIT_BYTES: usize = 1 << 20;

/// A server that tells what it was asked.
#[derive(Debug)]
pub struct Whoami {
    name: Arc<str>,
}

impl Whoami {
    /// One that calls itself `name`.
    pub fn new(name: &str) -> Self {
        Self { name: name.into() }
    }

    fn tell(&self, request: &RequestHeader, client: Option<&SocketAddr>) -> (HeaderValue, Vec<u8>) {
        if request.uri.path() == "/health" {
            return (HeaderValue::from_static("text/plain; charset=utf-8"), b"OK\n".to_vec());
        }
        let client = client.map(ToString::to_string).unwrap_or_default();
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        let wants_json =
            request.headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"application/json"))
                || request.uri.path() == "/api";
        if wants_json {
            return (HeaderValue::from_static("application/json"), self.json(request, target, &client));
        }
        (HeaderValue::from_static("text/plain; charset=utf-8"), self.text(request, target, &client))
    }

    fn text(&self, request: &RequestHeader, target: &str, client: &str) -> Vec<u8> {
        let mut text =
            format!("Name: {}\nRemoteAddr: {client}\n{} {target} {:?}\n", self.name, request.method, request.version);
        for (name, value) in &request.headers {
            text.push_str(&format!("{}: {}\n", title_case(name.as_str()), String::from_utf8_lossy(value.as_bytes())));
        }
        text.into_bytes()
    }

    fn json(&self, request: &RequestHeader, target: &str, client: &str) -> Vec<u8> {
        let mut headers = serde_json::Map::new();
        for (name, value) in &request.headers {
            let values = headers.entry(title_case(name.as_str())).or_insert_with(|| serde_json::json!([]));
            if let Some(values) = values.as_array_mut() {
                values.push(String::from_utf8_lossy(value.as_bytes()).into());
            }
        }
        let told = serde_json::json!({
            "name": &*self.name,
            "remoteAddr": client,
            "method": request.method.as_str(),
            "url": target,
            "protocol": format!("{:?}", request.version),
            "headers": headers,
        });
        let mut text = told.to_string().into_bytes();
        text.push(b'\n');
        text
    }
}

#[async_trait]
impl ServeHttp for Whoami {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let mut read = 0;
        while let Ok(Some(chunk)) = session.read_request_body().await {
            read += chunk.len();
            if read > BODY_LIMIT_BYTES {
                session.set_keepalive(None);
                break;
            }
        }
        let client = session.client_addr().and_then(|address| address.as_inet()).copied();
        let (kind, body) = self.tell(session.req_header(), client.as_ref());
        let length = body.len();
        let is_head = session.req_header().method == Method::HEAD;
        let mut response = Response::new(if is_head { Vec::new() } else { body });
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

/// `x-real-ip` as people write it: `X-Real-Ip`.
fn title_case(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|c| {
            let written = if upper { c.to_ascii_uppercase() } else { c };
            upper = c == '-';
            written
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_as_text_and_as_json() {
        let whoami = Whoami::new("one");
        let mut request = RequestHeader::build("GET", b"/a?b=c", None).unwrap();
        request.insert_header("x-real-ip", "192.0.2.1").unwrap();
        let client = "192.0.2.9:1234".parse().unwrap();
        let (_, text) = whoami.tell(&request, Some(&client));
        let text = String::from_utf8(text).unwrap();
        for line in ["Name: one", "RemoteAddr: 192.0.2.9:1234", "GET /a?b=c HTTP/1.1", "X-Real-Ip: 192.0.2.1"] {
            assert!(text.lines().any(|told| told == line), "{line} in {text}");
        }
        request.insert_header("accept", "application/json").unwrap();
        let (kind, json) = whoami.tell(&request, Some(&client));
        assert_eq!(kind, "application/json");
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&json["name"], &json["url"]), (&"one".into(), &"/a?b=c".into()));
    }
}
