//! What one pick costs: each strategy, few and many servers, one thread and several.

use std::sync::Arc;
use std::time::Instant;

use divan::{Bencher, black_box};
use http::{HeaderValue, Method, Uri, Version};
use pingora::http::RequestHeader;
use portcullis::exchange::{Client, Exchange, Original};
use portcullis::observe::meters::ServiceMeters;
use portcullis::service::{ServerPool, Transport, pool, transport};
use portcullis::units::Name;

const STRATEGIES: [&str; 7] = ["wrr", "p2c", "hrw", "leasttime", "random", "ketama", "drr"];

fn main() {
    divan::main();
}

fn pool(strategy: &str, servers: usize, more: &str) -> Arc<ServerPool> {
    let server =
        |n: usize| format!(r#"{{"url": "http://10.0.{}.{}:8080", "weight": {}}}"#, n / 250, n % 250, n % 3 + 1);
    let servers = (0..servers).map(server).collect::<Vec<_>>().join(",");
    let json = format!(r#"{{"servers": [{servers}], "strategy": "{strategy}"{more}}}"#);
    let settings: pool::Settings = serde_json::from_str(&json).unwrap_or_else(|error| panic!("settings: {error}"));
    let transport = Transport::build(&transport::Settings::default());
    let transport = transport.unwrap_or_else(|problem| panic!("{problem}"));
    let meters = Arc::new(ServiceMeters::default());
    ServerPool::build(&Name::from("web@file"), &settings, transport, meters, None)
        .unwrap_or_else(|problem| panic!("{problem}"))
}

fn request() -> RequestHeader {
    RequestHeader::build(Method::GET, b"/", None).unwrap_or_else(|error| panic!("{error}"))
}

fn exchange() -> Exchange {
    let client = Client {
        entry_point: "web".into(),
        entry_point_index: 0,
        peer: ([192, 0, 2, 1], 50_000).into(),
        local: ([127, 0, 0, 1], 80).into(),
        trusted: false,
        tls: None,
    };
    let original = Original {
        method: Method::GET,
        uri: Uri::from_static("/"),
        version: Version::HTTP_11,
        host: HeaderValue::from_static("a.example"),
    };
    Exchange::new(Arc::new(client), original, Instant::now())
}

#[divan::bench(args = STRATEGIES, consts = [3, 100])]
fn pick<const SERVERS: usize>(bencher: Bencher<'_, '_>, strategy: &str) {
    let (pool, request) = (pool(strategy, SERVERS, ""), request());
    bencher.with_inputs(exchange).bench_local_refs(|exchange| {
        drop(black_box(pool.select(&request, exchange, &[])));
    });
}

#[divan::bench(args = STRATEGIES, threads = [2])]
fn pick_from_two_threads(bencher: Bencher<'_, '_>, strategy: &str) {
    let (pool, request) = (pool(strategy, 10, ""), request());
    bencher.with_inputs(exchange).bench_refs(|exchange| {
        drop(black_box(pool.select(&request, exchange, &[])));
    });
}

#[divan::bench]
fn pick_by_cookie(bencher: Bencher<'_, '_>) {
    let pool = pool("wrr", 10, r#", "sticky": {"cookie": {"name": "s"}}"#);
    let mut request = request();
    let _ = request.insert_header("cookie", "theme=dark; s=http://10.0.0.7:8080; lang=en");
    bencher.with_inputs(exchange).bench_local_refs(|exchange| {
        drop(black_box(pool.select(&request, exchange, &[])));
    });
}

#[divan::bench]
fn peer(bencher: Bencher<'_, '_>) {
    let pool = pool("wrr", 10, "");
    let selection = pool.select(&request(), &mut exchange(), &[]);
    let selection = selection.unwrap_or_else(|fault| panic!("{fault:?}"));
    bencher.bench_local(|| black_box(selection.peer(false)));
}
