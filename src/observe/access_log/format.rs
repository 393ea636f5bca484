//! How a line is written.

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::Version;
use http::header::{self, HeaderMap, HeaderName};

use crate::observe::calendar::Moment;
use crate::observe::escape::{push_json, push_number, push_text};

use super::field::Field;
use super::headers::HeaderRules;
use super::record::{Origin, Record};
use super::settings::{self, Format, HeaderMode, Mode};

/// No line is longer, its newline included.
const MAX_LINE: usize = 16 * 1024;
const MAX_PATH: usize = 4096;
const MAX_URL: usize = 1024;
const MAX_HEADER: usize = 1024;
const MAX_NAME: usize = 512;
/// Room kept for what stands behind header fields.
const TAIL: usize = 2048;

/// How lines are written.
#[derive(Debug)]
pub(super) struct Layout {
    format: Format,
    /// One bit for each field that is written.
    kept: u64,
    headers: HeaderRules,
    query: Mode,
    /// Of local time, in seconds.
    offset: i32,
}

impl Layout {
    pub(super) fn new(format: Format, fields: &settings::Fields, offset: i32) -> Self {
        let mode = |field: &Field| {
            let named = fields.names.iter().find(|(name, _)| name.eq_ignore_ascii_case(field.name()));
            named.map_or(fields.default_mode, |(_, mode)| *mode)
        };
        let kept = Field::ALL
            .iter()
            .filter(|field| mode(field) == Mode::Keep)
            .fold(0, |kept, field| kept | 1 << *field as u64);
        Self {
            format,
            kept,
            headers: HeaderRules::new(&fields.headers),
            query: fields.query_parameters.default_mode,
            offset,
        }
    }

    /// Appends one line. `count` is the number of the request.
    pub(super) fn push_line(&self, line: &mut Vec<u8>, record: &Record<'_>, count: u64) {
        match self.format {
            Format::Json => self.push_object(line, record, count),
            Format::Common => {
                self.push_clf(line, record);
                self.push_traefik(line, record, count);
            }
            Format::GenericClf => self.push_clf(line, record),
        }
        line.push(b'\n');
        debug_assert!(line.len() <= MAX_LINE);
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Of local time, in seconds.
    pub(super) fn offset(&self) -> i32 {
        self.offset
    }

    pub(super) fn keeps(&self, field: Field) -> bool {
        self.kept & 1 << field as u64 != 0
    }

    /// The path, with its query if that is kept.
    fn path<'a>(&self, target: &'a [u8]) -> &'a [u8] {
        match self.query {
            Mode::Keep => target,
            Mode::Drop => target.split(|byte| *byte == b'?').next().unwrap_or(target),
        }
    }

    fn push_clf(&self, line: &mut Vec<u8>, record: &Record<'_>) {
        let text = |line: &mut Vec<u8>, field: Field, value: &[u8], limit: usize| {
            push_text(line, if self.keeps(field) && !value.is_empty() { value } else { b"-" }, limit);
        };
        let number = |line: &mut Vec<u8>, field: Field, value: u64| {
            if self.keeps(field) { push_number(line, value) } else { line.push(b'-') }
        };
        let request = &record.request;
        match forwarded_for(request.headers) {
            Some(forwarded) => text(line, Field::ClientHost, forwarded, MAX_NAME),
            None if self.keeps(Field::ClientHost) => push_ip(line, record.peer.ip()),
            None => line.push(b'-'),
        }
        line.extend_from_slice(b" - ");
        text(line, Field::ClientUsername, record.user.unwrap_or_default().as_bytes(), MAX_NAME);
        line.extend_from_slice(b" [");
        if self.keeps(Field::StartUTC) {
            Moment::of(record.started).push_clf(line, 0);
        } else if self.keeps(Field::StartLocal) {
            Moment::of(record.started).push_clf(line, self.offset);
        } else {
            line.push(b'-');
        }
        line.extend_from_slice(b"] \"");
        text(line, Field::RequestMethod, request.method.as_bytes(), MAX_NAME);
        line.push(b' ');
        text(line, Field::RequestPath, self.path(request.target), MAX_PATH);
        line.push(b' ');
        text(line, Field::RequestProtocol, protocol(request.version).as_bytes(), MAX_NAME);
        line.extend_from_slice(b"\" ");
        number(line, Field::DownstreamStatus, u64::from(record.response.status));
        line.push(b' ');
        number(line, Field::DownstreamContentSize, record.response.bytes);
        for name in [&header::REFERER, &header::USER_AGENT] {
            line.extend_from_slice(b" \"");
            match (request.headers.get(name), self.headers.mode(name)) {
                (None, _) | (_, HeaderMode::Drop) => line.push(b'-'),
                (_, HeaderMode::Redact) => line.extend_from_slice(REDACTED),
                (Some(value), HeaderMode::Keep) => push_text(line, value.as_bytes(), MAX_HEADER),
            }
            line.push(b'"');
        }
    }

    /// What Traefik puts behind the Common Log Format.
    fn push_traefik(&self, line: &mut Vec<u8>, record: &Record<'_>, count: u64) {
        line.push(b' ');
        if self.keeps(Field::RequestCount) {
            push_number(line, count);
        } else {
            line.push(b'-');
        }
        let router = record.route.map_or("", |route| route.router);
        let url = record.origin.map_or("", |origin| origin.url);
        for (field, value, limit) in [(Field::RouterName, router, MAX_NAME), (Field::ServiceURL, url, MAX_URL)] {
            let value = if self.keeps(field) && !value.is_empty() { value } else { "-" };
            line.extend_from_slice(b" \"");
            push_text(line, value.as_bytes(), limit);
            line.push(b'"');
        }
        line.push(b' ');
        push_number(line, if self.keeps(Field::Duration) { millis(record.duration) } else { 0 });
        line.extend_from_slice(b"ms");
    }

    /// One JSON object, its keys in the order of their bytes.
    fn push_object(&self, line: &mut Vec<u8>, record: &Record<'_>, count: u64) {
        let mut object = Object { line, layout: self, separator: b'{' };
        object.client(record);
        object.outcome(record);
        object.request(record, count);
        object.service_and_time(record);
        let (origin, response) = (record.origin.and_then(|origin| origin.headers), record.response.headers);
        object.headers("downstream_", response);
        object.text_as("\"entryPointName\":", record.entry_point);
        object.raw("\"level\":\"info\"");
        object.raw("\"msg\":\"\"");
        object.headers("origin_", origin);
        object.headers("request_", Some(record.request.headers));
        if let Some(trace) = &record.trace {
            object.text_as("\"span_id\":", trace.span_id);
        }
        object.raw("\"time\":\"");
        Moment::of(record.started + record.duration).push_rfc3339(object.line, self.offset);
        object.line.push(b'"');
        if let Some(trace) = &record.trace {
            object.text_as("\"trace_id\":", trace.trace_id);
        }
        line.push(b'}');
    }
}

const REDACTED: &[u8] = b"REDACTED";

/// A JSON object while it is written.
struct Object<'a> {
    line: &'a mut Vec<u8>,
    layout: &'a Layout,
    separator: u8,
}

impl Object<'_> {
    fn client(&mut self, record: &Record<'_>) {
        self.with(Field::ClientAddr, |line| {
            line.push(b'"');
            push_address(line, record.peer);
            line.push(b'"');
        });
        match forwarded_for(record.request.headers) {
            Some(forwarded) => self.text(Field::ClientHost, forwarded),
            None => self.with(Field::ClientHost, |line| {
                line.push(b'"');
                push_ip(line, record.peer.ip());
                line.push(b'"');
            }),
        }
        self.with(Field::ClientPort, |line| {
            line.push(b'"');
            push_number(line, u64::from(record.peer.port()));
            line.push(b'"');
        });
        self.text(Field::ClientUsername, record.user.unwrap_or("-").as_bytes());
    }

    fn outcome(&mut self, record: &Record<'_>) {
        self.number(Field::DownstreamContentSize, record.response.bytes);
        self.number(Field::DownstreamStatus, u64::from(record.response.status));
        self.number(Field::Duration, nanos(record.duration));
        if let Some(fault) = record.fault {
            self.text(Field::GatewayError, fault.code().as_bytes());
        }
        if let Some(ratio) = record.response.gzip_ratio.filter(|ratio| ratio.is_finite()) {
            self.with(Field::GzipRatio, |line| _ = write!(Appending(line), "{ratio}"));
        }
        let answered = record.origin.and_then(|origin| Some((origin, origin.status?)));
        if let Some((Origin { bytes, duration, .. }, status)) = answered {
            self.number(Field::OriginContentSize, bytes);
            self.number(Field::OriginDuration, nanos(duration));
            self.number(Field::OriginStatus, u64::from(status));
        }
        let elsewhere = record.origin.map_or(Duration::ZERO, |origin| origin.duration);
        self.number(Field::Overhead, nanos(record.duration.saturating_sub(elsewhere)));
    }

    fn request(&mut self, record: &Record<'_>, count: u64) {
        let request = &record.request;
        let (host, port) = split_host(request.host);
        if !request.host.is_empty() {
            self.text(Field::RequestAddr, request.host);
        }
        self.number(Field::RequestContentSize, request.bytes);
        self.number(Field::RequestCount, count);
        if !request.host.is_empty() {
            self.text(Field::RequestHost, host);
        }
        self.text(Field::RequestMethod, request.method.as_bytes());
        let path = self.layout.path(request.target);
        self.with(Field::RequestPath, |line| push_string(line, path, MAX_PATH));
        if !request.host.is_empty() {
            self.text(Field::RequestPort, port);
        }
        self.text(Field::RequestProtocol, protocol(request.version).as_bytes());
        self.text(Field::RequestScheme, request.scheme.as_bytes());
        self.number(Field::RetryAttempts, u64::from(record.retries));
    }

    fn service_and_time(&mut self, record: &Record<'_>) {
        if let Some(route) = &record.route {
            self.text(Field::RouterName, route.router.as_bytes());
        }
        if let Some(origin) = &record.origin {
            self.text(Field::ServiceAddr, origin.address.as_bytes());
        }
        if let Some(route) = record.route.filter(|route| !route.service.is_empty()) {
            self.text(Field::ServiceName, route.service.as_bytes());
        }
        if let Some(origin) = &record.origin {
            self.with(Field::ServiceURL, |line| push_string(line, origin.url.as_bytes(), MAX_URL));
        }
        if let Some(trace) = &record.trace {
            self.text_as("\"SpanId\":", trace.span_id);
        }
        let (started, offset) = (Moment::of(record.started), self.layout.offset);
        for (field, offset) in [(Field::StartLocal, offset), (Field::StartUTC, 0)] {
            self.with(field, |line| {
                line.push(b'"');
                started.push_rfc3339_nanos(line, offset);
                line.push(b'"');
            });
        }
        if let Some(tls) = &record.tls {
            self.text(Field::TLSCipher, tls.cipher.as_bytes());
            if let Some(subject) = tls.client_subject {
                self.text(Field::TLSClientSubject, subject.as_bytes());
            }
            self.text(Field::TLSVersion, tls.version.as_bytes());
        }
        if let Some(trace) = &record.trace {
            self.text_as("\"TraceId\":", trace.trace_id);
        }
    }

    /// Header fields, as far as there is room.
    fn headers(&mut self, prefix: &str, headers: Option<&HeaderMap>) {
        let rules = &self.layout.headers;
        let Some(headers) = headers.filter(|_| !rules.show_nothing()) else { return };
        rules.each(headers, |name, values| {
            if self.line.len() + prefix.len() + name.as_str().len() + MAX_HEADER + TAIL > MAX_LINE {
                return;
            }
            self.line.extend_from_slice(&[self.separator, b'"']);
            self.separator = b',';
            self.line.extend_from_slice(prefix.as_bytes());
            push_canonical(self.line, name);
            self.line.extend_from_slice(b"\":\"");
            let Some(values) = values else { return self.line.extend_from_slice(b"REDACTED\"") };
            let end = self.line.len() + MAX_HEADER;
            for (index, value) in values.enumerate() {
                if index > 0 {
                    self.line.push(b',');
                }
                push_json(self.line, value.as_bytes(), end.saturating_sub(self.line.len() + 4));
                if self.line.len() + 8 > end {
                    break;
                }
            }
            self.line.push(b'"');
        });
    }

    fn with(&mut self, field: Field, write: impl FnOnce(&mut Vec<u8>)) {
        if self.layout.keeps(field) {
            self.raw(field.key());
            write(self.line);
        }
    }

    fn raw(&mut self, text: &str) {
        self.line.push(self.separator);
        self.separator = b',';
        self.line.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, field: Field, number: u64) {
        self.with(field, |line| push_number(line, number));
    }

    fn text(&mut self, field: Field, value: &[u8]) {
        self.with(field, |line| push_string(line, value, MAX_NAME));
    }

    fn text_as(&mut self, key: &str, value: &str) {
        self.raw(key);
        push_string(self.line, value.as_bytes(), MAX_NAME);
    }
}

pub(super) fn push_string(line: &mut Vec<u8>, value: &[u8], limit: usize) {
    line.push(b'"');
    push_json(line, value, limit);
    line.push(b'"');
}

/// The whole of the client's `X-Forwarded-For`, as Traefik logs it: a claim, unless the peer is trusted.
fn forwarded_for(headers: &HeaderMap) -> Option<&[u8]> {
    const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    headers.get(X_FORWARDED_FOR).map(http::HeaderValue::as_bytes).filter(|value| !value.is_empty())
}

/// Host and port of an authority; `-` for a port that is not there.
fn split_host(authority: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = authority.iter().rposition(|byte| *byte == b':') else { return (authority, b"-") };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    match host {
        [b'[', inner @ .., b']'] => (inner, port),
        // `::1` and `[::1]` have no port.
        _ if host.contains(&b':') || host.contains(&b'[') => (authority, b"-"),
        _ => (host, port),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn push_ip(line: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    line.push(b'.');
                }
                push_number(line, u64::from(octet));
            }
        }
        IpAddr::V6(v6) => _ = write!(Appending(line), "{v6}"),
    }
}

pub(super) fn push_address(line: &mut Vec<u8>, address: SocketAddr) {
    let ip = address.ip().to_canonical();
    line.extend(ip.is_ipv6().then_some(b'['));
    push_ip(line, ip);
    line.extend(ip.is_ipv6().then_some(b']'));
    line.push(b':');
    push_number(line, u64::from(address.port()));
}

/// Appends a name as Go spells it: `User-Agent`.
fn push_canonical(line: &mut Vec<u8>, name: &HeaderName) {
    let start = line.len();
    push_text(line, name.as_str().as_bytes(), MAX_HEADER);
    let mut first = true;
    for byte in &mut line[start..] {
        if first {
            byte.make_ascii_uppercase();
        }
        first = *byte == b'-';
    }
}

struct Appending<'a>(&'a mut Vec<u8>);

impl Write for Appending<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
