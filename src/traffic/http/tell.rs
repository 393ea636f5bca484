//! What is told of a request once it is over: metrics and a line of the access log.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Version};
use pingora_proxy::Session;

use crate::exchange::{Client, Exchange, Fault};
use crate::observe::access_log::{ConnectionRecord, Origin, Record, Request, Response, Routed, Tls};
use crate::observe::meters::{Observation, Protocol, Refusal, Transport};
use crate::service::Service;
use crate::snapshot::{Target, TcpTarget};
use crate::traffic::entrypoint::Observer;
use crate::traffic::tcp::Report;

use super::{EntryPointHttp, Flight, Gateway};

/// gRPC's own word for what has no status, or one that is none.
const GRPC_UNKNOWN: u16 = 2;
/// The highest status that gRPC knows.
const GRPC_HIGHEST: u16 = 16;

/// How a gRPC call ended, from the trailers, or from the head of an answer that has no body.
pub(super) fn grpc_status(fields: &HeaderMap) -> Option<u16> {
    let status = fields.get("grpc-status")?.to_str().ok().and_then(|text| text.parse().ok());
    Some(status.filter(|status| *status <= GRPC_HIGHEST).unwrap_or(GRPC_UNKNOWN))
}

impl Gateway {
    /// Tells of a request that reached the hooks.
    pub(super) fn tell(&self, session: &Session, flight: &Flight) {
        let (Some(exchange), Some(connection)) = (&flight.exchange, &flight.connection) else { return };
        let entry_point = connection.http();
        let internal = flight.route.as_ref().is_some_and(|route| {
            matches!(&route.target, Target::Service { service, .. } if matches!(**service, Service::Internal(_)))
        });
        let response_bytes = session.body_bytes_sent() as u64;
        let duration = exchange.started.elapsed();
        self.count((entry_point, exchange), session, flight, internal, (duration, response_bytes));
        let Some(log) = &self.access_log else { return };
        let switch = flight.route.as_ref().and_then(|route| route.switches().access_log);
        if !switch.unwrap_or(entry_point.access_log) {
            return;
        }
        let server = flight.last_server.as_ref();
        let service = flight.service.as_ref().map(|name| name.as_str());
        log.log(&Record {
            started: SystemTime::now().checked_sub(duration).unwrap_or_else(SystemTime::now),
            duration,
            peer: exchange.client.peer,
            user: exchange.user.as_deref(),
            entry_point: &entry_point.name,
            tls: exchange.client.tls.as_ref().map(|tls| Tls {
                version: tls.version,
                cipher: tls.cipher,
                client_subject: tls.client_subject.as_deref(),
            }),
            request: Request {
                method: exchange.original.method.as_str(),
                target: exchange.original.uri.path_and_query().map_or(b"/", |target| target.as_str().as_bytes()),
                version: exchange.original.version,
                scheme: exchange.client.scheme(),
                host: exchange.original.host.as_bytes(),
                headers: &session.req_header().headers,
                bytes: flight.received_bytes,
            },
            route: flight
                .route
                .as_ref()
                .map(|route| Routed { router: route.name.as_str(), service: service.unwrap_or_default() }),
            origin: server.map(|server| Origin {
                url: server.url(),
                address: server.host_header().to_str().unwrap_or_default(),
                status: (flight.origin_status > 0).then_some(flight.origin_status),
                bytes: flight.origin_bytes,
                duration: flight.origin_duration,
                headers: None,
            }),
            retries: flight.attempt.saturating_sub(1),
            response: Response {
                status: flight.status,
                bytes: response_bytes,
                headers: session.response_written().map(|response| &response.headers),
                gzip_ratio: None,
            },
            fault: flight.fault.filter(|_| flight.origin_status == 0 || flight.status != flight.origin_status),
            trace: None,
            internal,
        });
    }

    fn count(
        &self,
        (entry_point, exchange): (&EntryPointHttp, &Exchange),
        session: &Session,
        flight: &Flight,
        internal: bool,
        (duration, response_bytes): (Duration, u64),
    ) {
        if internal && !self.metrics.count_internals() {
            return;
        }
        let switch = flight.route.as_ref().and_then(|route| route.switches().metrics);
        if !switch.unwrap_or(entry_point.metrics) {
            return;
        }
        let headers = &session.req_header().headers;
        // The server's side of a translated call is gRPC.
        let protocol = if exchange.is_grpc_web { Protocol::GrpcWeb } else { Protocol::of(headers) };
        let status = match protocol {
            Protocol::Grpc | Protocol::GrpcWeb => {
                let of_head = || grpc_status(&session.response_written()?.headers);
                flight.grpc_status.or_else(of_head).unwrap_or(GRPC_UNKNOWN)
            }
            Protocol::Http | Protocol::Websocket | Protocol::Sse => flight.status,
        };
        let observation = Observation {
            method: &exchange.original.method,
            protocol,
            status,
            duration,
            request_bytes: flight.received_bytes,
            response_bytes,
            tls: exchange.client.tls.as_deref(),
            headers: self.metrics.header_values(headers),
        };
        entry_point.meters.record(&observation);
        if let Some(fault) = flight.fault {
            entry_point.meters.record_fault(fault);
        }
        if let Some(meters) = flight.route.as_ref().and_then(|route| route.meters()) {
            meters.record(&observation);
        }
        if let Some(meters) = &flight.service_meters {
            let protocol = if exchange.is_grpc_web { Protocol::Grpc } else { protocol };
            meters.record(&Observation { protocol, ..observation });
            for _ in 1..flight.attempt {
                meters.record_retry();
            }
        }
    }
}

/// The gateway as one entry point sees it. What the front door refuses never reaches the hooks; it is told here.
pub struct AtEntryPoint {
    /// Whose access log it is told to.
    pub gateway: Arc<Gateway>,
    /// What is counted and logged there.
    pub http: Arc<EntryPointHttp>,
}

impl Observer for AtEntryPoint {
    fn opened(&self) {
        self.http.meters.opened(Transport::Tcp);
    }

    fn closed(&self) {
        self.http.meters.closed(Transport::Tcp);
    }

    fn turned_away(&self, _: &Client, refusal: Refusal) {
        self.http.meters.refuse(refusal);
    }

    fn carried(&self, client: &Client, report: &Report) {
        let Some(log) = self.gateway.access_log.as_ref().filter(|_| self.http.access_log) else { return };
        let service = match &report.route.target {
            TcpTarget::Service { name, .. } => name.as_str(),
            TcpTarget::Disabled => "",
        };
        let tls = client.tls.as_deref();
        log.log_connection(&ConnectionRecord {
            started: report.started,
            duration: report.began.elapsed(),
            peer: client.peer,
            entry_point: &self.http.name,
            server_name: tls.and_then(|tls| tls.server_name.as_deref()),
            tls: tls.filter(|tls| !tls.version.is_empty()).map(|tls| Tls {
                version: tls.version,
                cipher: tls.cipher,
                client_subject: tls.client_subject.as_deref(),
            }),
            router: report.route.name.as_str(),
            service,
            server: report.server.as_ref().map(|server| server.address()),
            received_bytes: report.received_bytes,
            sent_bytes: report.sent_bytes,
            ending: report.ending.name(),
        });
    }

    fn refused(&self, client: &Client, fault: Fault, request_line: &[u8]) {
        let entry_point = &*self.http;
        entry_point.meters.record_fault(fault);
        if fault == Fault::TooManyConnections {
            entry_point.meters.refuse(Refusal::TooMany);
        }
        let is_logged = entry_point.access_log && !request_line.is_empty();
        let Some(log) = self.gateway.access_log.as_ref().filter(|_| is_logged) else { return };
        let mut words = request_line.split(|byte| *byte == b' ');
        let method = words.next().and_then(|word| std::str::from_utf8(word).ok()).unwrap_or_default();
        log.log(&Record {
            started: SystemTime::now(),
            duration: Duration::ZERO,
            peer: client.peer,
            user: None,
            entry_point: &entry_point.name,
            tls: None,
            request: Request {
                method,
                target: words.next().unwrap_or_default(),
                version: if words.next() == Some(b"HTTP/2.0") { Version::HTTP_2 } else { Version::HTTP_11 },
                scheme: client.scheme(),
                host: b"",
                headers: &HeaderMap::new(),
                bytes: 0,
            },
            route: None,
            origin: None,
            retries: 0,
            response: Response { status: fault.status().as_u16(), bytes: 0, headers: None, gzip_ratio: None },
            fault: Some(fault),
            trace: None,
            internal: false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grpc_knows_is_a_status() {
        for (text, expected) in
            [("0", Some(0)), ("16", Some(16)), ("17", Some(2)), ("-1", Some(2)), ("OK", Some(2)), ("", Some(2))]
        {
            let fields = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), text.parse().unwrap())]);
            assert_eq!(grpc_status(&fields), expected, "{text}");
        }
        assert_eq!(grpc_status(&HeaderMap::new()), None);
    }
}
