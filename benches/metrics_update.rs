//! What counting one request costs.

use std::time::Duration;

use http::Method;
use portcullis::exchange::TlsFacts;
use portcullis::observe::meters::{HeaderValues, Observation, Protocol};
use portcullis::observe::metrics::{Metrics, Prometheus, Settings};

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

fn metrics() -> Metrics {
    let prometheus = Prometheus { add_routers_labels: true, ..Prometheus::default() };
    Metrics::new(&Settings { prometheus: Some(prometheus), ..Settings::default() }, 8)
}

fn observation(status: u16, tls: Option<&TlsFacts>) -> Observation<'_> {
    Observation {
        method: &Method::GET,
        protocol: Protocol::Http,
        status,
        duration: Duration::from_micros(850),
        request_bytes: 0,
        response_bytes: 4096,
        tls,
        headers: HeaderValues::default(),
    }
}

/// One meter, its first series.
#[divan::bench(threads = [1, 2])]
fn one_meter(bencher: divan::Bencher<'_, '_>) {
    let metrics = metrics();
    let meters = metrics.service("a@file");
    bencher.bench(|| meters.record(&observation(divan::black_box(200), None)));
}

/// One meter that has seen twenty statuses before the one that counts.
#[divan::bench]
fn one_meter_of_many_series(bencher: divan::Bencher<'_, '_>) {
    let metrics = metrics();
    let meters = metrics.service("a@file");
    (500..520).for_each(|status| meters.record(&observation(status, None)));
    bencher.bench(|| meters.record(&observation(divan::black_box(200), None)));
}

/// What a request over TLS adds: entry point, router and service.
#[divan::bench(threads = [1, 2])]
fn a_request_over_tls(bencher: divan::Bencher<'_, '_>) {
    let metrics = metrics();
    let (entry_point, service) = (metrics.entry_point("websecure"), metrics.service("a@file"));
    let router = metrics.router("r@file", "a@file");
    let tls = TlsFacts { version: "1.3", cipher: "TLS_AES_128_GCM_SHA256", ..TlsFacts::default() };
    bencher.bench(|| {
        let observation = observation(divan::black_box(200), Some(&tls));
        entry_point.record(&observation);
        if let Some(router) = &router {
            router.record(&observation);
        }
        service.record(&observation);
    });
}
