//! `portcullis explain`: which router a request takes, why, and where it would go — decided by the code that serves.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use http::header::{HOST, HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use crate::app::App;
use crate::check;
use crate::cli::{self, Exit, ExplainArgs};
use crate::control::status::Applied;
use crate::exchange::{Client, Exchange, Original, RequestView, TlsFacts};
use crate::middleware::Flow;
use crate::service::Service;
use crate::snapshot::{Route, Target};
use crate::traffic::http::{EntryPointHttp, forwarded, guard, upstream};
use crate::units::Name;

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
    let question = Question::read(&arguments.method, &arguments.url, &arguments.headers, arguments.client)?;
    let mut rest: Vec<String> = arguments.config_file.iter().map(|file| file.display().to_string()).collect();
    rest.extend(arguments.flags.iter().cloned());
    let offline = check::offline(&rest)?;
    let app = &offline.app;
    let index = entry_point(app, arguments)?;
    let is_trusted = app.trusts(index, question.client);
    let treated = app.http();
    let treated = treated.get(index).ok_or("there is no entry point")?;
    let applied = app.status.applied().ok_or("no configuration could be applied")?;
    offline.runtime.block_on(explain(&question, &applied, (index, is_trusted), treated))
}

/// The entry point that is named, that listens on the URL's port, or the first one that routers use by default.
fn entry_point(app: &App, arguments: &ExplainArgs) -> Result<usize, String> {
    if let Some(wanted) = &arguments.entry_point {
        let known = || app.entry_points.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
        return app
            .entry_points
            .iter()
            .position(|name| name.as_str() == wanted)
            .ok_or_else(|| format!("entry point `{wanted}` does not exist; there are: {}", known()));
    }
    let url: http::Uri = arguments.url.parse().map_err(|error| format!("not a URL: {error}"))?;
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
    let listens = |name: &Name| app.install.entry_points.get(name).is_some_and(|found| found.address.port == port);
    let defaults = app.install.default_entry_points();
    let found = app.entry_points.iter().position(listens);
    Ok(found.or_else(|| app.entry_points.iter().position(|name| defaults.contains(name))).unwrap_or_default())
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
        Ok(Self { method: method.to_owned(), url, headers, client })
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
    let client = Arc::new(Client { trusted: is_trusted, ..client(question, index, entry_point) });
    let _ = writeln!(
        out,
        "request      {} {} from {} at entry point {}",
        question.method, question.url, question.client, entry_point.name
    );
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
    let original =
        Original { method: request.method.clone(), uri: request.uri.clone(), version: request.version, host };
    let mut exchange = Exchange::new(client, original, Instant::now());
    walk(&mut out, &route, entry_point, &mut request, &mut exchange).await;
    Ok(out)
}

fn client(question: &Question, index: usize, entry_point: &EntryPointHttp) -> Client {
    let https = question.url.scheme_str().is_some_and(|scheme| scheme == "https");
    Client {
        entry_point: entry_point.name.clone(),
        entry_point_index: index,
        peer: SocketAddr::new(question.client, 40000),
        local: SocketAddr::new(
            IpAddr::from([127, 0, 0, 1]),
            question.url.port_u16().unwrap_or(if https { 443 } else { 80 }),
        ),
        trusted: false,
        tls: https.then(|| Arc::new(TlsFacts::default())),
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
