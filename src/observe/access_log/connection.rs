//! A line for each TCP connection, in the format of the requests' lines. Traefik writes none.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::field::Field;
use super::format::{Layout, nanos, push_address, push_ip, push_string};
use super::record::Tls;
use super::settings::Format;
use crate::observe::calendar::Moment;
use crate::observe::escape::{push_number, push_text};

/// Longest name of a router, a service or a host, in bytes.
const NAME_LIMIT_BYTES: usize = 512;

/// A TCP connection that has ended.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionRecord<'a> {
    /// When it was accepted.
    pub started: SystemTime,
    /// How long it lasted.
    pub duration: Duration,
    /// The caller.
    pub peer: SocketAddr,
    /// Name of the entry point.
    pub entry_point: &'a str,
    /// The name that the client asked for, if it spoke TLS.
    pub server_name: Option<&'a str>,
    /// TLS, if it was ended here.
    pub tls: Option<Tls<'a>>,
    /// Qualified name of the router.
    pub router: &'a str,
    /// Qualified name of the service; empty if there is none.
    pub service: &'a str,
    /// The server, if one was connected to.
    pub server: Option<&'a str>,
    /// Bytes from the client.
    pub received_bytes: u64,
    /// Bytes to the client.
    pub sent_bytes: u64,
    /// How it ended.
    pub ending: &'static str,
}

impl Layout {
    /// Appends one line.
    pub(super) fn push_connection(&self, line: &mut Vec<u8>, record: &ConnectionRecord<'_>) {
        match self.format() {
            Format::Json => self.push_connection_object(line, record),
            Format::Common | Format::GenericClf => self.push_connection_clf(line, record),
        }
        line.push(b'\n');
    }

    fn push_connection_clf(&self, line: &mut Vec<u8>, record: &ConnectionRecord<'_>) {
        let text = |line: &mut Vec<u8>, field: Field, value: &str| {
            push_text(
                line,
                if self.keeps(field) && !value.is_empty() { value.as_bytes() } else { b"-" },
                NAME_LIMIT_BYTES,
            );
        };
        if self.keeps(Field::ClientHost) {
            push_ip(line, record.peer.ip())
        } else {
            line.push(b'-')
        }
        line.extend_from_slice(b" - - [");
        Moment::of(record.started).push_clf(line, if self.keeps(Field::StartUTC) { 0 } else { self.offset() });
        line.extend_from_slice(b"] \"TCP ");
        text(line, Field::RequestHost, record.server_name.unwrap_or_default());
        line.extend_from_slice(b"\" ");
        line.extend_from_slice(record.ending.as_bytes());
        line.push(b' ');
        push_number(line, record.sent_bytes);
        if self.format() == Format::Common {
            line.extend_from_slice(b" \"-\" \"-\" - \"");
            text(line, Field::RouterName, record.router);
            line.extend_from_slice(b"\" \"");
            text(line, Field::ServiceAddr, record.server.unwrap_or_default());
            line.extend_from_slice(b"\" ");
            push_number(line, u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX));
            line.extend_from_slice(b"ms");
        }
    }

    fn push_connection_object(&self, line: &mut Vec<u8>, record: &ConnectionRecord<'_>) {
        let mut separator = b'{';
        let mut key = |line: &mut Vec<u8>, name: &str| {
            line.push(std::mem::replace(&mut separator, b','));
            push_string(line, name.as_bytes(), NAME_LIMIT_BYTES);
            line.push(b':');
        };
        let (tls, server_name) = (record.tls, record.server_name);
        let texts = [
            (Field::RequestHost, server_name),
            (Field::RequestProtocol, Some(if server_name.is_some() || tls.is_some() { "TLS" } else { "TCP" })),
            (Field::RouterName, Some(record.router)),
            (Field::ServiceAddr, record.server),
            (Field::ServiceName, Some(record.service).filter(|name| !name.is_empty())),
            (Field::TLSCipher, tls.map(|tls| tls.cipher)),
            (Field::TLSClientSubject, tls.and_then(|tls| tls.client_subject)),
            (Field::TLSVersion, tls.map(|tls| tls.version)),
        ];
        if self.keeps(Field::ClientAddr) {
            key(line, Field::ClientAddr.name());
            line.push(b'"');
            push_address(line, record.peer);
            line.push(b'"');
        }
        if self.keeps(Field::ClientHost) {
            key(line, Field::ClientHost.name());
            line.push(b'"');
            push_ip(line, record.peer.ip());
            line.push(b'"');
        }
        let numbers = [
            (Field::DownstreamContentSize, record.sent_bytes),
            (Field::Duration, nanos(record.duration)),
            (Field::RequestContentSize, record.received_bytes),
        ];
        for (field, number) in numbers.into_iter().filter(|(field, _)| self.keeps(*field)) {
            key(line, field.name());
            push_number(line, number);
        }
        for (field, text) in texts.into_iter().filter(|(field, _)| self.keeps(*field)) {
            if let Some(text) = text {
                key(line, field.name());
                push_string(line, text.as_bytes(), NAME_LIMIT_BYTES);
            }
        }
        if self.keeps(Field::StartUTC) {
            key(line, Field::StartUTC.name());
            line.push(b'"');
            Moment::of(record.started).push_rfc3339_nanos(line, 0);
            line.push(b'"');
        }
        for (name, text) in
            [("ending", record.ending), ("entryPointName", record.entry_point), ("level", "info"), ("msg", "")]
        {
            key(line, name);
            push_string(line, text.as_bytes(), NAME_LIMIT_BYTES);
        }
        key(line, "time");
        line.push(b'"');
        Moment::of(record.started + record.duration).push_rfc3339(line, self.offset());
        line.extend_from_slice(b"\"}");
    }
}
