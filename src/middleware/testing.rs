//! Calls from text, for the tests of middlewares.

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use http::HeaderValue;
use pingora::http::{RequestHeader, ResponseHeader};

use super::{Flow, Kit, Middleware};
use crate::exchange::{Client, Exchange, Original, TlsFacts};
use crate::problem::{Problem, Problems};
use crate::units::Name;

/// A request and its exchange.
pub(crate) struct Call {
    pub(crate) request: RequestHeader,
    pub(crate) exchange: Exchange,
}

impl Call {
    /// A call from text: a line `GET http://host/path`, then fields, one per line. `https` makes a call over TLS. The client is
    /// `192.0.2.7:4321` and not trusted.
    pub(crate) fn new(text: &str) -> Self {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let (method, url) = lines.next().and_then(|line| line.split_once(' ')).expect("a line with method and URL");
        let (scheme, rest) = url.split_once("://").expect("a URL with a scheme");
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        let mut request = RequestHeader::build(method, path.as_bytes(), None).expect("a request");
        if !host.is_empty() {
            request.append_header("Host", host).expect("a host");
        }
        for line in lines {
            let (name, value) = line.split_once(':').expect("a field with a colon");
            request.append_header(name.to_owned(), value.trim()).expect("a field");
        }
        let client = Client {
            entry_point: "web".into(),
            entry_point_index: 0,
            peer: ([192, 0, 2, 7], 4321).into(),
            local: ([192, 0, 2, 1], 80).into(),
            trusted: false,
            tls: (scheme == "https").then(|| Arc::new(TlsFacts::default())),
        };
        let original = Original {
            method: request.method.clone(),
            uri: request.uri.clone(),
            version: request.version,
            host: HeaderValue::from_str(host).expect("a host"),
        };
        Self { request, exchange: Exchange::new(Arc::new(client), original, Instant::now()) }
    }

    /// Changes what is known of the client.
    pub(crate) fn with_client(mut self, change: impl FnOnce(&mut Client)) -> Self {
        change(Arc::make_mut(&mut self.exchange.client));
        self
    }

    /// Takes the request through `middleware`, which must not wait for anything.
    pub(crate) fn down(&mut self, middleware: &impl Middleware) -> Flow {
        middleware
            .on_request(&mut self.request, &mut self.exchange)
            .now_or_never()
            .expect("a middleware that does not wait")
    }

    /// Takes a 200 with these fields up through `middleware`.
    pub(crate) fn up(&mut self, middleware: &impl Middleware, fields: &str) -> ResponseHeader {
        let mut response = ResponseHeader::build(200, None).expect("a status");
        for (name, value) in fields.lines().filter_map(|line| line.split_once(':')) {
            response.append_header(name.trim().to_owned(), value.trim()).expect("a field");
        }
        middleware.on_response(&mut response, &mut self.exchange);
        response
    }

    /// The values of one request field, joined.
    pub(crate) fn field(&self, name: &str) -> String {
        joined(&self.request.headers, name)
    }

    /// Path and query of the request as it stands now.
    pub(crate) fn target(&self) -> &str {
        self.request.uri.path_and_query().map_or("", |target| target.as_str())
    }
}

/// Builds a middleware from JSON, or says what alone is wrong with it.
pub(crate) fn build<M: Middleware>(settings: &str) -> Result<M, Problem> {
    build_or_all(settings).map_err(Problems::only)
}

/// Builds a middleware from JSON, or says everything that is wrong with it.
pub(crate) fn build_or_all<M: Middleware>(settings: &str) -> Result<M, Problems> {
    let settings: M::Settings = serde_json::from_str(settings).unwrap_or_else(|error| panic!("{settings}: {error}"));
    M::build(&settings, &Kit { name: &Name::from("test@file") })
}

/// A reply in one line: status, code of the fault, `Location`.
pub(crate) fn verdict(flow: &Flow) -> String {
    let Flow::Reply(reply) = flow else { return "continue".to_owned() };
    let fault = reply.fault.map(|fault| format!(" {}", fault.code())).unwrap_or_default();
    let location = reply.header.headers.get("location").map(|value| format!(" {}", value.to_str().expect("ASCII")));
    format!("{}{fault}{}", reply.header.status.as_u16(), location.unwrap_or_default())
}

/// The values of one field, joined.
pub(crate) fn joined(headers: &http::HeaderMap, name: &str) -> String {
    headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(" | ")
}
