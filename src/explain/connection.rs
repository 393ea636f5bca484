//! What becomes of a connection before there is a request: the TCP router that takes it, or the TLS options under which requests
//! follow.

use std::fmt::Write as _;
use std::sync::Arc;

use super::CANDIDATES;
use crate::exchange::{ConnectionView, TlsFacts};
use crate::service::tcp;
use crate::snapshot::door::{Terms, Way};
use crate::snapshot::{Door, TcpRoute, TcpTarget, TcpTls};

/// Whether requests follow on a connection.
pub(super) enum Requests {
    /// Over TLS, which said so much, or without it.
    Follow(Option<TlsFacts>),
    /// It has come to its end.
    None,
}

/// Tells which way a connection goes; `is_tls`: it begins with a ClientHello.
pub(super) fn tell(out: &mut String, door: &Door, connection: &ConnectionView<'_>, is_tls: bool) -> Requests {
    if !is_tls {
        let Some(route) = door.tcp_unread(connection.client).or_else(|| door.tcp_plain(connection.client)) else {
            return Requests::Follow(None);
        };
        tell_route(out, door, route, connection);
        return Requests::None;
    }
    match door.over_tls(connection) {
        Way::Http(terms) => match tell_terms(out, terms) {
            true => Requests::Follow(Some(facts(terms, connection))),
            false => Requests::None,
        },
        Way::Tcp(route) => {
            tell_route(out, door, route, connection);
            Requests::None
        }
    }
}

/// What the handshake would have said.
fn facts(terms: &Terms, connection: &ConnectionView<'_>) -> TlsFacts {
    TlsFacts {
        server_name: connection.server_name.map(Into::into),
        options: Some(terms.name.as_str().into()),
        client_demands: terms.options.as_ref().map(|options| *options.client_demands()).unwrap_or_default(),
        ..TlsFacts::default()
    }
}

/// Says whether there is a handshake at all.
fn tell_terms(out: &mut String, terms: &Terms) -> bool {
    let is_whole = terms.options.is_some();
    let rest = if is_whole { "" } else { ": they do not exist or are broken, so the handshake is refused" };
    let _ = writeln!(out, "TLS options  {}{rest}", terms.name);
    is_whole
}

fn tell_route(out: &mut String, door: &Door, route: &Arc<TcpRoute>, connection: &ConnectionView<'_>) {
    let _ = writeln!(out, "TCP router   {} (priority {})", route.name, route.priority);
    let _ = writeln!(out, "  because    {} matches, and nothing that matches ranks higher", route.rule);
    tell_losers(out, door, Some(route), connection, !matches!(route.tls, TcpTls::Without));
    match &route.tls {
        TcpTls::Without => {}
        TcpTls::Passthrough => out.push_str("TLS          passed on as it is\n"),
        TcpTls::Terminate(terms) => {
            if !tell_terms(out, terms) {
                return;
            }
        }
    }
    let TcpTarget::Service { middlewares, name, service } = &route.target else {
        out.push_str("closed       the router is disabled, see `portcullis check`\n");
        return;
    };
    for (index, middleware) in middlewares.iter().enumerate() {
        let is_admitted = middleware.admit(connection.client).is_ok();
        let verdict = if is_admitted { "lets it through" } else { "closes it" };
        let _ = writeln!(out, "middleware {} {verdict}", index + 1);
        if !is_admitted {
            return;
        }
    }
    let _ = writeln!(out, "service      {name}");
    tell_tcp_servers(out, service);
}

/// The TCP routers that do not take the connection, and why.
pub(super) fn tell_losers(
    out: &mut String,
    door: &Door,
    winner: Option<&Arc<TcpRoute>>,
    connection: &ConnectionView<'_>,
    is_tls: bool,
) {
    let is_winner = |route: &Arc<TcpRoute>| winner.is_some_and(|winner| Arc::ptr_eq(winner, route));
    for route in door.tcp().routes().filter(|route| !is_winner(route)).take(CANDIDATES) {
        let is_for_tls = !matches!(route.tls, TcpTls::Without);
        let reason = match route.rule.first_failure(connection) {
            _ if is_for_tls != is_tls => if is_for_tls { "it is for TLS" } else { "it is not for TLS" }.to_owned(),
            Some(reason) => reason,
            None => "matches too, but ranks lower".to_owned(),
        };
        let _ = writeln!(out, "  not        {} (priority {}): {reason}", route.name, route.priority);
    }
}

fn tell_tcp_servers(out: &mut String, service: &tcp::Service) {
    match service {
        tcp::Service::Servers(pool) => {
            for server in pool.servers() {
                let state = if server.is_up() { "up" } else { "down" };
                let _ = writeln!(out, "  candidate  {} {state}", server.address());
            }
        }
        tcp::Service::Weighted(weighted) => {
            for (share, weight) in weighted.shares() {
                let _ = writeln!(out, "  share      weight {weight}");
                tell_tcp_servers(out, share);
            }
        }
    }
}
