//! `portcullis explain`: which router a request or a connection takes, why, and where it would go — decided by the code that serves.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use http::header::{HOST, HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use crate::app::App;
use crate::check;
use crate::cli::{self, Exit, ExplainArgs};
use crate::control::EntryPoints;
use crate::control::status::Applied;
use crate::exchange::{Client, ConnectionView, Exchange, Original, RequestView, TlsFacts};
use crate::middleware::Flow;
use crate::service::Service;
use crate::snapshot::{Route, Target};
use crate::traffic::http::{EntryPointHttp, forwarded, guard, is_misdirected, upstream};

mod connection;
mod datagram;

use connection::Requests;

/// Explains the request on the command line.
pub fn run(arguments: &ExplainArgs) -> Exit {
    match answer(arguments) {
        Ok(text) => {
            cli::tell(text);
            Exit::Ok
        }
        Err(message) => {
            eprintln!("portcullis: {message}");
            Exit::Usage
        }
    }
}

fn answer(arguments: &ExplainArgs) -> Result<String, String> {
    let mut rest: Vec<String> = arguments.config_file.iter().map(|file| file.display().to_string()).collect();
    rest.extend(arguments.flags.iter().cloned());
    match &*arguments.method {
        "TCP" | "TLS" => return connect(arguments, &rest),
        "UDP" => return send(arguments, &rest),
        _ => {}
    }
    let question = Question::read(&arguments.method, &arguments.url, &arguments.headers, arguments.client)?;
    let question = Question { protocols: protocols(&arguments.alpn, &["h2", "http/1.1"]), ..question };
    let offline = check::offline(&rest)?;
    let app = &offline.app;
    let entry_points = app.entry_points();
    let found = entry_point(app, &tcp_names(&entry_points), arguments, question.port())?;
    let index = found.or_else(|| entry_points.tcp.iter().position(|one| one.is_default)).unwrap_or_default();
    let is_trusted = app.trusts(index, question.client);
    let treated = app.http(index).ok_or("there is no entry point")?;
    let applied = app.status.applied().ok_or("no configuration could be applied")?;
    offline.runtime.block_on(explain(&question, &applied, (index, is_trusted), &treated))
}

/// Explains a connection.
fn connect(arguments: &ExplainArgs, rest: &[String]) -> Result<String, String> {
    let (host, port) = host_and_port(&arguments.url)?;
    let offline = check::offline(rest)?;
    let app = &offline.app;
    let names = tcp_names(&app.entry_points());
    let index = entry_point(app, &names, arguments, port)?;
    let index = index.ok_or_else(|| format!("no entry point listens on port {port}; name one by --entry-point"))?;
    let applied = app.status.applied().ok_or("no configuration could be applied")?;
    let door = applied.snapshot.doors.get(index).ok_or("the entry point has no routes")?;
    let (name, protocols) = (server_name(host), protocols(&arguments.alpn, &[]));
    let connection = ConnectionView { server_name: name.as_deref(), protocols: &protocols, client: arguments.client };
    let mut out = String::new();
    let Some(entry_point) = names.get(index) else { return Err("there is no entry point".to_owned()) };
    let _ = writeln!(
        out,
        "connection   {} to {} from {} at entry point {entry_point}",
        arguments.method, arguments.url, arguments.client
    );
    let is_tls = arguments.method == "TLS";
    if let Requests::Follow(_) = connection::tell(&mut out, door, &connection, is_tls) {
        out.push_str("TCP router   none takes it: HTTP is spoken, ask for a request\n");
        connection::tell_losers(&mut out, door, None, &connection, is_tls);
    }
    Ok(out)
}

/// Explains a datagram.
fn send(arguments: &ExplainArgs, rest: &[String]) -> Result<String, String> {
    let (_, port) = host_and_port(&arguments.url)?;
    let offline = check::offline(rest)?;
    let app = &offline.app;
    let names: Vec<Arc<str>> = app.entry_points().udp.iter().map(|one| one.name.clone()).collect();
    let index = entry_point(app, &names, arguments, port)?;
    let index = index.ok_or_else(|| format!("no entry point for UDP listens on port {port}"))?;
    let applied = app.status.applied().ok_or("no configuration could be applied")?;
    let mut out = String::new();
    let name = names.get(index).map(|name| &**name).unwrap_or_default();
    let bounds = app.bounds(name).ok_or("there is no entry point")?;
    let _ = writeln!(out, "datagram     from {} at entry point {name}", arguments.client);
    let route = applied.snapshot.udp.get(index).and_then(Option::as_deref);
    datagram::tell(&mut out, name, &applied, bounds, route);
    Ok(out)
}

/// Names of the entry points for TCP, in the order of their routes.
fn tcp_names(entry_points: &EntryPoints) -> Vec<Arc<str>> {
    entry_points.tcp.iter().map(|one| one.name.clone()).collect()
}

/// The entry point among `names` that is named, or that listens on `port`.
fn entry_point(app: &App, names: &[Arc<str>], arguments: &ExplainArgs, port: u16) -> Result<Option<usize>, String> {
    if let Some(wanted) = &arguments.entry_point {
        let found = names.iter().position(|name| **name == **wanted);
        return match found {
            Some(index) => Ok(Some(index)),
            None => Err(format!("entry point `{wanted}` does not exist; there are: {}", names.join(", "))),
        };
    }
    let install = app.install();
    let listens = |name: &Arc<str>| install.entry_points.get(&**name).is_some_and(|found| found.address.port == port);
    Ok(names.iter().position(listens))
}

/// `HOST:PORT`, where the host may be left out.
fn host_and_port(text: &str) -> Result<(&str, u16), String> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parts.ok_or_else(|| format!("`{text}` is not of the form `host:port`"))
}

/// The name that a client of `host` asks for: an address is none (RFC 6066, section 3).
fn server_name(host: &str) -> Option<String> {
    let is_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
    Some(host.to_ascii_lowercase()).filter(|host| !is_address && !host.is_empty())
}

fn protocols(written: &[String], usual: &[&str]) -> Vec<Box<[u8]>> {
    if written.is_empty() {
        return usual.iter().map(|name| name.as_bytes().into()).collect();
    }
    written.iter().map(|name| name.as_bytes().into()).collect()
}

/// How many losing routers are told.
const CANDIDATES: usize = 10;

/// The request to explain.
#[derive(Debug)]
pub struct Question {
    /// Its method.
    pub method: String,
    /// Its URL, absolute.
    pub url: http::Uri,
    /// Its header fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Who asks.
    pub client: IpAddr,
    /// The protocols that the client offers, if it asks over TLS.
    pub protocols: Vec<Box<[u8]>>,
}

impl Question {
    /// Reads what the command line says.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn read(method: &str, url: &str, headers: &[String], client: IpAddr) -> Result<Self, String> {
        let url: http::Uri = url.parse().map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        if url.scheme().is_none() || url.authority().is_none() {
            return Err(format!("`{url}` is not a whole URL: expected a form like https://example.com/path"));
        }
        let headers = headers
            .iter()
            .map(|line| {
                let (name, value) = line.split_once(':').ok_or_else(|| format!("`{line}` is not `Name: value`"))?;
                let name = name.trim().parse::<HeaderName>().map_err(|_| format!("`{name}` is not a header name"))?;
                let value = HeaderValue::from_str(value.trim()).map_err(|_| format!("`{line}` has no valid value"))?;
                Ok((name, value))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { method: method.to_owned(), url, headers, client, protocols: Vec::new() })
    }

    fn is_https(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }

    fn port(&self) -> u16 {
        self.url.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// The request as it would arrive.
    fn request(&self) -> Result<RequestHeader, String> {
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let mut request = RequestHeader::build(self.method.as_str(), target.as_bytes(), None)
            .map_err(|error| format!("not a request: {error}"))?;
        // As with curl: the URL says where to connect, and whom to ask for unless a header does.
        if let Some(authority) = self.url.authority().filter(|_| !self.headers.iter().any(|(name, _)| name == HOST)) {
            let _ = request.insert_header(HOST, authority.as_str());
        }
        for (name, value) in &self.headers {
            let _ = request.append_header(name.clone(), value.clone());
        }
        Ok(request)
    }
}

/// Explains `question`, asked at the entry point of this index, which trusts what the client says of others, or does not.
///
/// # Errors
/// A sentence, if it is no request at all.
pub async fn explain(
    question: &Question,
    applied: &Applied,
    (index, is_trusted): (usize, bool),
    entry_point: &EntryPointHttp,
) -> Result<String, String> {
    let mut out = String::new();
    let mut request = question.request()?;
    let _ = writeln!(
        out,
        "request      {} {} from {} at entry point {}",
        question.method, question.url, question.client, entry_point.name
    );
    let door = applied.snapshot.doors.get(index).ok_or("the entry point has no routes")?;
    let name = question.url.host().and_then(server_name);
    let connection =
        ConnectionView { server_name: name.as_deref(), protocols: &question.protocols, client: question.client };
    let Requests::Follow(tls) = connection::tell(&mut out, door, &connection, question.is_https()) else {
        return Ok(out);
    };
    let client = Arc::new(Client { trusted: is_trusted, ..client(question, index, entry_point, tls) });
    let canonical = guard::canonicalize(&mut request, &entry_point.guard);
    let address = client.address_text();
    forwarded::receive(&mut request, &client, &address, &entry_point.forwarded);
    if let Err(fault) = canonical {
        let _ = writeln!(out, "refused      {} {} before routing", fault.status().as_u16(), fault.code());
        return Ok(out);
    }
    let host = forwarded::authority(&request).unwrap_or_else(|| HeaderValue::from_static(""));
    let view = RequestView::new(
        &request.method,
        host.to_str().unwrap_or_default(),
        request.uri.path(),
        request.uri.query().unwrap_or_default(),
        &request.headers,
        client.address(),
    );
    let _ = writeln!(out, "seen as      host {} path {}", view.host, view.path);
    if client.tls.as_ref().is_some_and(|tls| is_misdirected(door, tls, &view.host)) {
        out.push_str(
            "refused      421 misdirected: other TLS options hold for that host than the connection was made with\n",
        );
        return Ok(out);
    }
    let tables = if client.tls.is_some() { &applied.snapshot.https } else { &applied.snapshot.http };
    let Some(table) = tables.get(index) else { return Err("the entry point has no routes".to_owned()) };
    let route = table.find(&view).cloned();
    match &route {
        Some(route) => tell_route(&mut out, route, applied),
        None => out.push_str("router       none matches: 404\n"),
    }
    for (loser, reason) in table.candidates(&view, CANDIDATES + 1) {
        if route.as_ref().is_some_and(|winner| Arc::ptr_eq(winner, loser)) {
            continue;
        }
        let reason = reason.unwrap_or_else(|| "matches too, but ranks lower".to_owned());
        let _ = writeln!(out, "  not        {} (priority {}): {reason}", loser.name, loser.priority);
    }
    let Some(route) = route else { return Ok(out) };
    if client.tls.as_ref().is_some_and(|tls| !door.may_answer(&route.name, &tls.client_demands)) {
        out.push_str(
            "refused      421 misdirected: clients of this router must show a certificate, and the handshake has not asked for it\n",
        );
        return Ok(out);
    }
    let original =
        Original { method: request.method.clone(), uri: request.uri.clone(), version: request.version, host };
    let mut exchange = Exchange::new(client, original, Instant::now());
    walk(&mut out, &route, entry_point, &mut request, &mut exchange).await;
    Ok(out)
}

fn client(question: &Question, index: usize, entry_point: &EntryPointHttp, tls: Option<TlsFacts>) -> Client {
    Client {
        entry_point: entry_point.name.clone(),
        entry_point_index: index,
        peer: SocketAddr::new(question.client, 40000),
        local: SocketAddr::new(IpAddr::from([127, 0, 0, 1]), question.port()),
        trusted: false,
        tls: tls.map(Arc::new),
    }
}

fn tell_route(out: &mut String, route: &Route, applied: &Applied) {
    let rule = applied.routing.http.routers.get(&route.name).map(|router| router.rule.to_string()).unwrap_or_default();
    let _ = writeln!(out, "router       {} (priority {})", route.name, route.priority);
    let _ = writeln!(out, "  because    {rule} matches, and nothing that matches ranks higher");
}

/// Down the chain, step by step, on the request itself; then the service.
async fn walk(
    out: &mut String,
    route: &Route,
    entry_point: &EntryPointHttp,
    request: &mut RequestHeader,
    exchange: &mut Exchange,
) {
    let Target::Service { chain, name, service } = &route.target else {
        out.push_str("answer       503: the router is disabled, see `portcullis check`\n");
        return;
    };
    if !entry_point.encoded_characters.allow(request.uri.path()) {
        out.push_str("answer       400: the path holds an encoded character that the entry point denies\n");
        return;
    }
    for (index, step) in chain.steps().iter().enumerate() {
        let before = request.clone();
        let flow = step.middleware.on_request(request, exchange).await;
        let _ = writeln!(out, "middleware {} {} ({})", index + 1, step.name, step.middleware.kind());
        for change in changes(&before, request) {
            let _ = writeln!(out, "  sets       {change}");
        }
        if let Flow::Reply(reply) = flow {
            let _ = writeln!(out, "  answers    {}", reply.header.status);
            if let Some(location) = reply.header.headers.get(http::header::LOCATION) {
                let _ = writeln!(out, "  location   {}", String::from_utf8_lossy(location.as_bytes()));
            }
            return;
        }
    }
    tell_service(out, name.as_str(), service, request, exchange);
}

/// What changed between two heads, a line each.
fn changes(before: &RequestHeader, after: &RequestHeader) -> Vec<String> {
    let mut changes = Vec::new();
    if before.uri != after.uri {
        changes.push(format!("target {} → {}", before.uri, after.uri));
    }
    for name in after.headers.keys() {
        let (old, new) = (before.headers.get(name), after.headers.get(name));
        if old != new {
            let value = new.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default();
            changes.push(format!("header {name}: {value}"));
        }
    }
    for name in before.headers.keys().filter(|name| !after.headers.contains_key(*name)) {
        changes.push(format!("header {name} removed"));
    }
    changes
}

fn tell_service(out: &mut String, name: &str, service: &Service, request: &mut RequestHeader, exchange: &mut Exchange) {
    let _ = writeln!(out, "service      {name} ({})", kind(service));
    if let Service::Internal(_) = service {
        return;
    }
    match service.select(request, exchange, &[]) {
        Ok(selection) => {
            if selection.pool.name().as_str() != name {
                let _ = writeln!(out, "  picks      {}", selection.pool.name());
            }
            for member in selection.pool.members() {
                let state = if member.server.is_up(exchange.started) { "up" } else { "down" };
                let _ = writeln!(out, "  candidate  {} weight {} {state}", member.server.url(), member.weight);
            }
            let _ = writeln!(out, "  one of them, now {}", selection.server.url());
            let before = request.clone();
            if upstream::address(request, &selection).is_err() {
                out.push_str("  answers    500: the path is too long with that of the server\n");
                return;
            }
            let _ = writeln!(out, "sends        {} {}", request.method, request.uri);
            for change in changes(&before, request).iter().filter(|change| change.starts_with("header")) {
                let _ = writeln!(out, "  sets       {change}");
            }
        }
        Err(fault) => {
            let _ = writeln!(out, "  answers    {} {}", fault.status().as_u16(), fault.code());
        }
    }
}

fn kind(service: &Service) -> &'static str {
    match service {
        Service::Servers(_) => "loadBalancer",
        Service::Weighted(_) => "weighted",
        Service::Internal(_) => "internal",
    }
}
