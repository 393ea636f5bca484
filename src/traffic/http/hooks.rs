//! The life of a request, read top to bottom: a thin driver that calls the parts in Pingora's phases.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, HeaderValue, SET_COOKIE, UPGRADE};
use http::{HeaderMap, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::prelude::{Error, HttpPeer, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::exchange::{Exchange, Fault, Original, Reply, RequestView, TlsFacts};
use crate::middleware::Flow;
use crate::service::Service;
use crate::snapshot::door::Terms;
use crate::snapshot::{Door, Route, Target};
use crate::traffic::entrypoint::{Connection, Stream};

use super::respond::{self, Failure};
use super::{Flight, Gateway, answer, direct, forwarded, guard, lane, tell, upstream};

/// Pingora's hooks, all of them thin: they call the gateway and its parts.
pub struct Hooks(pub Arc<Gateway>);

impl std::ops::Deref for Hooks {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.0
    }
}

#[async_trait]
impl ProxyHttp for Hooks {
    type CTX = Flight;

    fn new_ctx(&self) -> Flight {
        Flight::default()
    }

    fn init_downstream_modules(&self, _: &mut HttpModules) {
        // Pingora would add its compression module here; the `compress` middleware does that work.
    }

    async fn request_filter(&self, session: &mut Session, flight: &mut Flight) -> Result<bool> {
        let Some(connection) = Connection::of(&session.downstream_session).cloned() else {
            return Error::e_explain(pingora::ErrorType::InternalError, "a request without a connection of ours");
        };
        session.set_keepalive(connection.keep_alive());
        // RFC 9110 §15.2: HTTP/1.0 has no informational answers.
        session.downstream_session.set_ignore_info_resp(session.req_header().version == Version::HTTP_10);
        flight.connection = Some(connection.clone());
        match self.receive(session.req_header_mut(), flight, &connection).await {
            Some(reply) => {
                self.reply(session, flight, reply).await?;
                Ok(true)
            }
            None => {
                lane::enter(session, flight);
                if direct::suits(session) && self.go_direct(session, flight).await? {
                    return Ok(true);
                }
                lane::watch_coding(session, flight);
                Ok(false)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, flight: &mut Flight) -> Result<Box<HttpPeer>> {
        self.next_peer(session, flight).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        flight: &mut Flight,
    ) -> Result<()> {
        flight.by_pingora = true;
        upstream::invite_body(session, request).await?;
        upstream::want_trailers(request, session.req_header(), flight)?;
        upstream::forget_length(request, flight)?;
        self.address(request, flight)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        flight: &mut Flight,
    ) -> Result<()> {
        if !end_of_stream && body.is_none() && session.req_header().version == Version::HTTP_2 {
            lane::end_body(session, flight);
        }
        flight.pass_down(body, end_of_stream)?;
        if !end_of_stream && body.is_none() {
            // `None` before the end would end the body towards the server.
            *body = Some(Bytes::new());
        }
        // An empty last chunk would be written as a second terminator onto a pooled connection.
        if end_of_stream && !session.was_upgraded() && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        flight: &mut Flight,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let retry = flight.may_connect_again(session, &error);
        error.set_retry(retry);
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        flight: &mut Flight,
        reused: bool,
    ) -> Box<Error> {
        self.interrupted(session, flight, error, reused)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        flight: &mut Flight,
    ) -> Result<()> {
        self.judge(session, response, flight)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        flight: &mut Flight,
    ) -> Result<()> {
        self.prepare(session, response, flight);
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        flight: &mut Flight,
    ) -> Result<Option<Duration>> {
        flight.pass_up(body, end_of_stream)?;
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut HeaderMap,
        flight: &mut Flight,
    ) -> Result<Option<Bytes>> {
        flight.grpc_status = tell::grpc_status(trailers);
        // No piece of the body was the last one. What a transform still holds goes out in place of the trailers: Pingora sends
        // either, and a body that is cut off is worse.
        // Where they are part of the body (`grpcWeb`), that is how they get to the client.
        Ok(flight.end_with_trailers(trailers)?.filter(|rest| !rest.is_empty()))
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, flight: &mut Flight) -> FailToProxy {
        lane::leave(session, flight);
        let failure = Failure::of(error, flight);
        flight.fault = Some(failure.fault);
        if !failure.client_is_there || flight.responding {
            flight.status = if flight.responding { flight.status } else { failure.fault.status().as_u16() };
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let status = failure.fault.status().as_u16();
        if self.reply(session, flight, Reply::fault(failure.fault)).await.is_err() {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        FailToProxy { error_code: status, can_reuse_downstream: true }
    }

    fn suppress_error_log(&self, _: &Session, _: &Flight, _: &Error) -> bool {
        // The access log and the metrics tell it with its code; one more line per failed request helps nobody.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Flight,
        error: &Error,
        _: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        log::debug!("attempt failed: {error}");
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, flight: &mut Flight) {
        lane::leave(session, flight);
        flight.release_attempt();
        if flight.fault == Some(Fault::ClientGone) {
            Stream::note_abandoned();
        }
        self.tell(session, flight);
        if error.is_none() && flight.by_pingora {
            respond::keep_as_told(session, flight).await;
        }
    }
}

/// Whether a request asks for a host whose TLS options are not those that its connection was made with: a client without a
/// certificate must not get to one host by a handshake for another, nor by one from before it had to show one.
pub(crate) fn is_misdirected(door: &Door, tls: &TlsFacts, host: &str) -> bool {
    let made_with = tls.options.as_deref().unwrap_or_default();
    let Terms { name, options } = door.terms(Some(host));
    name.as_str() != made_with || options.as_ref().is_some_and(|now| *now.client_demands() != tls.client_demands)
}

impl Gateway {
    /// From head to decision: canonical form, forwarding headers, route, middlewares. `None`: on to a server.
    async fn receive(
        &self,
        request: &mut RequestHeader,
        flight: &mut Flight,
        connection: &Connection,
    ) -> Option<Reply> {
        let entry_point = connection.http();
        let client = connection.client.clone();
        let canonical = guard::canonicalize(request, &entry_point.guard);
        forwarded::receive(request, &client, &connection.address, &entry_point.forwarded);
        let original = Original {
            method: request.method.clone(),
            uri: request.uri.clone(),
            version: request.version,
            host: forwarded::authority(request).unwrap_or_else(|| HeaderValue::from_static("")),
        };
        flight.exchange = Some(Box::new(Exchange::new(client, original, Instant::now())));
        if let Err(fault) = canonical {
            return Some(Reply::fault(fault));
        }
        let route = match self.find(request, flight) {
            Ok(route) => route,
            Err(fault) => return Some(Reply::fault(fault)),
        };
        let route = flight.route.insert(route).clone();
        let Target::Service { chain, name, service } = &route.target else {
            return Some(Reply::fault(Fault::RouterDisabled));
        };
        flight.service = Some(name.clone());
        if !entry_point.encoded_characters.allow(request.uri.path()) {
            return Some(Reply::fault(Fault::EncodedCharacter));
        }
        let exchange = flight.exchange.as_mut()?;
        if let Flow::Reply(reply) = chain.on_request(request, exchange, &mut flight.depth).await {
            return Some(*reply);
        }
        if let Service::Internal(internal) = &**service {
            return Some(internal.reply(request, exchange).await);
        }
        // The first server is chosen here and not in `upstream_peer`, because a reply from here keeps the client's connection.
        flight.select(request).err().map(Reply::fault)
    }

    /// The route of a request, by the snapshot in force.
    fn find(&self, request: &RequestHeader, flight: &Flight) -> Result<Arc<Route>, Fault> {
        let exchange = flight.exchange.as_ref().ok_or(Fault::Internal)?;
        let client = &exchange.client;
        let snapshot = self.current.load();
        let tables = if client.tls.is_some() { &snapshot.https } else { &snapshot.http };
        let absent = if snapshot.generation == 0 { Fault::NotReady } else { Fault::NoRouter };
        let table = tables.get(client.entry_point_index).ok_or(absent)?;
        let authority = exchange.original.host.to_str().unwrap_or_default();
        let view = RequestView::new(
            &request.method,
            authority,
            request.uri.path(),
            request.uri.query().unwrap_or_default(),
            &request.headers,
            client.address(),
        );
        let secured = client.tls.as_ref().zip(snapshot.doors.get(client.entry_point_index));
        if let Some((tls, door)) = secured
            && is_misdirected(door, tls, &view.host)
        {
            // It was made for this host, and is of no more use: a client that does not know the status comes back by another.
            if tls.server_name.as_deref() == Some(&*view.host)
                && let Some(connection) = &flight.connection
            {
                connection.end_with_this_answer();
            }
            return Err(Fault::Misdirected);
        }
        let route = table.find(&view).ok_or(absent)?;
        if let Some((tls, door)) = secured
            && !door.may_answer(&route.name, &tls.client_demands)
        {
            return Err(Fault::Misdirected);
        }
        Ok(route.clone())
    }

    /// The peer of the next attempt, once it is time for it.
    pub(super) async fn next_peer(&self, session: &Session, flight: &mut Flight) -> Result<Box<HttpPeer>> {
        if !flight.pause.is_zero() {
            tokio::time::sleep(std::mem::take(&mut flight.pause)).await;
        }
        if flight.selection.is_none() {
            flight.select(session.req_header()).map_err(|fault| {
                flight.fault = Some(fault);
                Error::explain(pingora::ErrorType::HTTPStatus(fault.status().as_u16()), fault.code())
            })?;
        }
        flight.attempt += 1;
        // What an earlier attempt was answered says nothing of this one's server.
        flight.origin_status = 0;
        flight.first_byte = None;
        // What was kept of the body comes through the filter once more.
        flight.received_bytes = 0;
        if let Some(exchange) = &mut flight.exchange {
            exchange.request_body.restart();
        }
        flight.attempt_started = Some(Instant::now());
        let upgrade =
            session.req_header().version == Version::HTTP_11 && session.req_header().headers.contains_key(UPGRADE);
        let Some(selection) = &flight.selection else {
            return Error::e_explain(pingora::ErrorType::InternalError, "no server selected");
        };
        selection.peer(upgrade).map_err(|fault| {
            flight.fault = Some(fault);
            Error::explain(pingora::ErrorType::HTTPStatus(fault.status().as_u16()), fault.code())
        })
    }
}

impl Gateway {
    /// Makes a request one for the server that was chosen.
    pub(super) fn address(&self, request: &mut RequestHeader, flight: &Flight) -> Result<()> {
        let (Some(connection), Some(selection)) = (&flight.connection, &flight.selection) else { return Ok(()) };
        forwarded::append_for(request, &connection.address, &connection.http().forwarded);
        upstream::address(request, selection)
    }

    /// Ends an attempt that broke on a connection, `reused` or not; the error says whether another follows.
    pub(super) fn interrupted(
        &self,
        session: &Session,
        flight: &mut Flight,
        mut error: Box<Error>,
        reused: bool,
    ) -> Box<Error> {
        // A mark for what may have been a race with the server's idle timeout. Undecided, it panics when asked.
        error.retry.decide_reuse(reused);
        let is_race = reused && error.retry();
        let retry = flight.may_go_on(session, &error, is_race);
        error.set_retry(retry);
        error
    }

    /// Judges the head of a server's answer.
    ///
    /// # Errors
    /// If it cannot be passed on, or is thrown away for another attempt.
    pub(super) fn judge(&self, session: &Session, response: &mut ResponseHeader, flight: &mut Flight) -> Result<()> {
        answer::check(session.req_header(), response)?;
        if is_interim(response) {
            answer::clean(response);
            return Ok(());
        }
        flight.note_answer(response.status);
        if flight.wants_retry_of_status(session, response.status) {
            flight.end_attempt(Some(response.status), None);
            let mut error =
                Error::explain(pingora::ErrorType::HTTPStatus(response.status.as_u16()), "status is tried again");
            error.as_up();
            error.set_retry(true);
            return Err(error);
        }
        answer::clean(response);
        Ok(())
    }

    /// Makes the head of a server's answer one for the client.
    pub(super) fn prepare(&self, session: &mut Session, response: &mut ResponseHeader, flight: &mut Flight) {
        if is_interim(response) {
            return;
        }
        flight.responding = true;
        // What went wrong in earlier attempts is over: the client gets a server's answer.
        flight.fault = None;
        flight.status = response.status.as_u16();
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        let was_coded = flight.is_coded_here.is_some() && response.headers.contains_key(CONTENT_ENCODING);
        flight.climb(response);
        if let Some(is_coded_here) = &flight.is_coded_here {
            is_coded_here.store(!was_coded && response.headers.contains_key(CONTENT_ENCODING), Ordering::Relaxed);
        }
        if session.req_header().version == Version::HTTP_10 && answer::unchunk(response) {
            // The end of the connection is the end of the body.
            if let Some(connection) = &flight.connection {
                connection.end_with_this_answer();
            }
        }
        // How much of the request body is outstanding is known only now.
        let keep_alive = respond::keep_alive(session, flight);
        session.set_keepalive(keep_alive);
    }
}

/// Whether the answer that counts is still to come (RFC 9110 §15.2).
pub(super) fn is_interim(response: &ResponseHeader) -> bool {
    response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
}

impl Flight {
    /// Takes a piece of the request's body down through the transforms.
    ///
    /// # Errors
    /// If one of them gives the request up.
    pub(super) fn pass_down(&mut self, body: &mut Option<Bytes>, end_of_stream: bool) -> Result<()> {
        self.received_bytes += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if end_of_stream {
            Stream::note_body_end();
        } else if self.responding {
            Stream::note_progress();
        }
        if let Some(exchange) = self.exchange.as_mut().filter(|exchange| !exchange.request_body.is_empty()) {
            // What the client sent is not what it said it is.
            exchange
                .request_body
                .chunk(body, end_of_stream)
                .map_err(|abort| Error::explain(pingora::ErrorType::InvalidHTTPHeader, abort.reason).into_down())?;
        }
        Ok(())
    }

    /// Takes a piece of the answer's body up through the middlewares.
    ///
    /// # Errors
    /// If one of them gives the answer up.
    pub(super) fn pass_up(&mut self, body: &mut Option<Bytes>, end_of_stream: bool) -> Result<()> {
        self.origin_bytes += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Stream::note_progress();
        if let Some(exchange) = self.exchange.as_mut().filter(|exchange| !exchange.response_body.is_empty()) {
            exchange
                .response_body
                .chunk(body, end_of_stream)
                .map_err(|abort| Error::explain(pingora::ErrorType::InternalError, abort.reason))?;
        }
        Ok(())
    }

    /// Ends the answer's body, whose last piece has gone up, with trailers. What comes out goes to the client.
    ///
    /// # Errors
    /// If a middleware gives the answer up.
    fn end_with_trailers(&mut self, trailers: &HeaderMap) -> Result<Option<Bytes>> {
        Stream::note_progress();
        let Some(exchange) = self.exchange.as_mut() else { return Ok(None) };
        exchange
            .response_body
            .end_with_trailers(trailers)
            .map_err(|abort| Error::explain(pingora::ErrorType::InternalError, abort.reason))
    }

    /// Chooses a server for the next attempt.
    pub(super) fn select(&mut self, request: &RequestHeader) -> Result<(), Fault> {
        let (Some(route), Some(exchange)) = (&self.route, &mut self.exchange) else { return Err(Fault::Internal) };
        let Target::Service { service, .. } = &route.target else { return Err(Fault::RouterDisabled) };
        let selection = service.select(request, exchange, &self.tried).inspect_err(|_| {
            // The answer is the gateway's, but the outage is the service's.
            if let Service::Servers(pool) = &**service {
                self.service_meters = Some(pool.meters.clone());
            }
        })?;
        self.last_server = Some(selection.server.clone());
        self.service = Some(selection.pool.name().clone());
        self.service_meters = Some(selection.pool.meters.clone());
        self.selection = Some(selection);
        Ok(())
    }

    /// The response goes up through the middlewares that its request has passed.
    pub(super) fn climb(&mut self, response: &mut ResponseHeader) {
        let Some(exchange) = &mut self.exchange else { return };
        if let Some(Target::Service { chain, .. }) = self.route.as_ref().map(|route| &route.target) {
            chain.on_response(response, exchange, self.depth);
        }
        for cookie in exchange.cookies.drain(..) {
            let _ = response.append_header(SET_COOKIE, cookie);
        }
    }
}

/// Header fields that speak of one connection only and that Pingora writes itself.
pub(super) static HOP_BY_HOP: [HeaderName; 4] =
    [HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection"), CONNECTION, CONTENT_LENGTH];
