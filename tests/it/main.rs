//! The integration tests, one binary: Pingora is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say so and stop")]

#[cfg(feature = "acme")]
mod acme;
mod activation;
mod allocations;
mod api;
mod bodies;
mod cli;
mod clock;
mod compatibility_page;
mod departures;
mod endurance;
mod entry_points;
mod errors_page;
mod events;
mod examples;
mod explained;
mod fail_closed;
mod four_cells;
mod front_door;
mod grpc;
mod grpc_web;
mod h2_attacks;
mod h2_beside;
mod handover;
mod harness;
mod held_sockets;
mod http2_conformance;
mod lane;
mod observe;
#[cfg(feature = "ocsp")]
mod ocsp;
mod own_services;
mod pingora_traps;
mod policies;
mod pool;
mod proxied;
mod reload;
mod routing;
mod services;
mod shared_addresses;
mod smuggling;
mod smuggling_through;
mod stalled;
mod strain;
mod tcp;
mod tcp_clients;
mod tcp_lives;
mod tidy;
mod tls;
mod tls_to_servers;
mod tls_ways_in;
mod traefik;
mod udp;
mod udp_reloads;
mod upgrade;
mod upstream_failures;
mod websockets;
