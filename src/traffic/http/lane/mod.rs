//! The lane of the few requests for which Pingora's session does not do enough: those whose body is kept for another
//! attempt beyond its 64 KiB, those whose response waits for a media type that is guessed from the body, and those whose
//! response from an HTTP/2 server is to be encoded and may turn out to have no body; and those whose body ends with trailers.
//! Such a request gets a session of ours around Pingora's; all others pass by at the price of one look.

use std::sync::Arc;

use http::Method;
use http::header::CONTENT_LENGTH;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora_proxy::Session;
use tokio::sync::oneshot;

use crate::exchange::{Exchange, RetryPolicy};

use self::guess::Guess;
use self::replay::Replay;
use self::session::Wrapped;
use super::Flight;

mod guess;
mod replay;
mod session;

pub(super) use guess::name_type;

/// What Pingora keeps of a request body by itself, in bytes.
const PINGORA_KEEPS_BYTES: usize = 64 * 1024;

/// The way by which a wrapped session comes back.
pub(super) struct WayBack(oneshot::Receiver<Box<ServerSession>>);

/// Wraps the session of a request on its way to a server, if the request needs it.
pub(super) fn enter(session: &mut Session, flight: &mut Flight) {
    let Some(exchange) = &flight.exchange else { return };
    if (exchange.retry.is_none() && !exchange.detect_content_type) || session.is_upgrade_req() {
        return;
    }
    let guess = wants_guess(session.req_header(), exchange).then(Guess::default);
    let replay = exchange.retry.as_ref().and_then(|policy| kept_bytes(session.req_header(), policy));
    let replay = replay.filter(|_| !session.is_body_empty()).map(Replay::new);
    if guess.is_none() && replay.is_none() {
        return;
    }
    wrap(session, flight, (guess, replay));
}

/// Wraps the session of a request whose answer a middleware may encode, and whose server may speak HTTP/2: whether there is a
/// body to encode is only known behind the hooks.
pub(super) fn watch_coding(session: &mut Session, flight: &mut Flight) {
    let is_of_use = flight.exchange.as_ref().is_some_and(|exchange| may_be_coded(exchange));
    if is_of_use && flight.way_back.is_none() && !session.is_upgrade_req() {
        wrap(session, flight, (None, None));
    }
}

/// Wraps the session of a request whose body is over and has trailers behind it. Pingora reads no trailers, and asks for more of the
/// body again and again as long as something is left to be read.
pub(super) fn end_body(session: &mut Session, flight: &mut Flight) {
    // A session that is wrapped already knows by itself.
    if flight.way_back.is_none() {
        wrap(session, flight, (None, None));
    }
}

fn may_be_coded(exchange: &Exchange) -> bool {
    exchange.accept_encoding.as_ref().is_some_and(|accepted| accepted != "identity")
}

fn wrap(session: &mut Session, flight: &mut Flight, parts: (Option<Guess>, Option<Replay>)) {
    let (Some(exchange), Some(connection)) = (&flight.exchange, &flight.connection) else { return };
    flight.is_coded_here = may_be_coded(exchange).then(Arc::default);
    let (back, way_back) = oneshot::channel();
    let inner = std::mem::replace(&mut session.downstream_session, nobody());
    let wrapped = Wrapped::new(inner, connection.clone(), (back, flight.is_coded_here.clone()), parts);
    *session.downstream_session = ServerSession::new_custom(Box::new(wrapped));
    flight.way_back = Some(WayBack(way_back));
}

/// Puts Pingora's own session back in its place. Without a wrapped session nothing happens.
pub(super) fn leave(session: &mut Session, flight: &mut Flight) {
    let Some(WayBack(mut way_back)) = flight.way_back.take() else { return };
    drop(std::mem::replace(&mut session.downstream_session, nobody()));
    match way_back.try_recv() {
        Ok(inner) => session.downstream_session = inner,
        Err(_) => debug_assert!(false, "a wrapped session gives back what it holds when it is dropped"),
    }
}

/// Whether the response may have a body, and its type is to be guessed.
fn wants_guess(request: &RequestHeader, exchange: &Exchange) -> bool {
    exchange.detect_content_type && request.method != Method::HEAD
}

/// How much of the request body is to be kept here. `None`: Pingora keeps enough, or the body is too long anyway.
fn kept_bytes(request: &RequestHeader, policy: &RetryPolicy) -> Option<usize> {
    let limit = policy.body_limit_bytes;
    let announced = request.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let fits = announced.is_none_or(|length| length > PINGORA_KEEPS_BYTES && length <= limit);
    (policy.attempts > 1 && limit > PINGORA_KEEPS_BYTES && fits).then_some(limit)
}

/// What stands in a session's place while it is moved. Nobody speaks to it.
fn nobody() -> Box<ServerSession> {
    Box::new(ServerSession::new_custom(Box::new(())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn keeps_only_what_pingora_does_not() {
        let policy = |attempts, body_limit_bytes| RetryPolicy {
            attempts,
            initial_interval: Duration::ZERO,
            timeout: None,
            statuses: [].into(),
            network_errors: true,
            non_idempotent: false,
            body_limit_bytes,
        };
        for (length, attempts, limit, expected) in [
            (Some("100"), 2, 1 << 20, None),
            (Some("65536"), 2, 1 << 20, None),
            (Some("65537"), 2, 1 << 20, Some(1 << 20)),
            (Some("1048576"), 2, 1 << 20, Some(1 << 20)),
            (Some("1048577"), 2, 1 << 20, None),
            (Some("99999999999999999999"), 2, 1 << 20, Some(1 << 20)),
            (None, 2, 1 << 20, Some(1 << 20)),
            (None, 1, 1 << 20, None),
            (None, 2, 65_536, None),
            (None, 2, 0, None),
        ] {
            let mut request = RequestHeader::build("POST", b"/", None).unwrap();
            if let Some(length) = length {
                request.insert_header(CONTENT_LENGTH, length).unwrap();
            }
            assert_eq!(kept_bytes(&request, &policy(attempts, limit)), expected, "{length:?} {attempts} {limit}");
        }
    }
}
