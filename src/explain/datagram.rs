//! What becomes of a datagram: the UDP router that takes it, how long its session lasts, and where it goes.

use std::fmt::Write as _;
use std::time::Instant;

use super::CANDIDATES;
use crate::config::udp::Router;
use crate::control::status::Applied;
use crate::service::udp::{Server, Service};
use crate::snapshot::UdpRoute;
use crate::traffic::udp::Bounds;
use crate::units::Name;

/// Tells it of datagrams that come in at this entry point, which has this route.
pub(super) fn tell(out: &mut String, entry_point: &str, applied: &Applied, bounds: Bounds, route: Option<&UdpRoute>) {
    let serves = |router: &Router| {
        router.entry_points.is_empty() || router.entry_points.iter().any(|name| name.as_str() == entry_point)
    };
    let routers = applied.routing.udp.routers.iter().filter(|(_, router)| serves(router));
    let mut names = routers.map(|(name, _)| name);
    let Some(first) = names.next() else {
        out.push_str("UDP router   none is attached to it: they are dropped\n");
        return;
    };
    let _ = writeln!(out, "UDP router   {first}");
    let _ = writeln!(out, "  because    an entry point for UDP has one router, and this one comes first by name");
    for name in names.take(CANDIDATES) {
        let _ = writeln!(out, "  not        {name}: comes later by name");
    }
    let Some(route) = route else {
        out.push_str("dropped      the router is disabled, see `portcullis check`\n");
        return;
    };
    let Bounds { timeout, sessions } = bounds;
    let _ =
        writeln!(out, "session      until {timeout:?} pass without a datagram either way; {sessions} of them at most");
    tell_service(out, &route.service_name, &route.service);
    match route.service.pick(Instant::now()) {
        Some(pick) => {
            let _ = writeln!(out, "  one of them, now {}", pick.address);
        }
        None => out.push_str("dropped      no server is to be had\n"),
    }
}

fn tell_service(out: &mut String, name: &Name, service: &Service) {
    let kind = match service {
        Service::Servers(_) => "loadBalancer",
        Service::Weighted(_) => "weighted",
    };
    let _ = writeln!(out, "service      {name} ({kind})");
    tell_servers(out, service);
}

fn tell_servers(out: &mut String, service: &Service) {
    match service {
        Service::Servers(pool) => {
            for server in pool.servers() {
                let _ = writeln!(out, "  candidate  {} {}", server.text(), state(server));
            }
        }
        Service::Weighted(weighted) => {
            for (share, weight) in weighted.shares() {
                let rest = if *weight == 0 { ": gets no new sessions" } else { "" };
                let _ = writeln!(out, "  share      weight {weight}{rest}");
                tell_servers(out, share);
            }
        }
    }
}

fn state(server: &Server) -> &'static str {
    match (server.is_free(Instant::now()), server.is_known()) {
        (true, _) => "free",
        (false, true) => "passed over: nobody listened there a moment ago",
        (false, false) => "passed over: its name is not resolved",
    }
}
