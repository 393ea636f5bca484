//! How long a look-up takes, by the number of routes and by what tells them apart; and how long the index takes to build.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use divan::{Bencher, black_box};
use http::{HeaderMap, Method};
use portcullis::exchange::RequestView;
use portcullis::rule::{Rule, Syntax};
use portcullis::snapshot::route_table::{RouteTable, Routed};

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];

fn main() {
    divan::main();
}

struct Only(Rule);

impl Routed for Only {
    fn rule(&self) -> Cow<'_, Rule> {
        Cow::Borrowed(&self.0)
    }
}

fn routes(count: usize, rule: impl Fn(usize) -> String) -> Vec<Arc<Only>> {
    (0..count).filter_map(|n| Rule::parse(&rule(n), Syntax::V3).ok()).map(|rule| Arc::new(Only(rule))).collect()
}

fn by_host(n: usize) -> String {
    format!("Host(`host-{n}.example.com`) && PathPrefix(`/api`)")
}

fn by_path(n: usize) -> String {
    format!("PathPrefix(`/services/{n}/`)")
}

/// Looks up a thousand requests in turn, so that not one route alone stays in the cache. A sample is all of them: of a sample with a
/// single one, the clock would be the larger part.
fn look_up(bencher: Bencher, rule: fn(usize) -> String, requests: &[(String, String)], count: usize) {
    let table = RouteTable::build(routes(count, rule));
    let headers = HeaderMap::new();
    let mut next = 0;
    bencher.bench_local(|| {
        let (host, path) = &requests[next % requests.len()];
        next += 1;
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let request = RequestView::new(&Method::GET, host, path, "", &headers, client);
        black_box(table.find(black_box(&request)).is_some())
    });
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 200)]
fn find_by_host(bencher: Bencher, count: usize) {
    let request = |n: usize| (format!("host-{}.example.com", n * 7919 % count), "/api/users".to_owned());
    look_up(bencher, by_host, &(0..1000).map(request).collect::<Vec<_>>(), count);
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 200)]
fn find_by_path(bencher: Bencher, count: usize) {
    let request = |n: usize| ("example.com".to_owned(), format!("/services/{}/users", n * 7919 % count));
    look_up(bencher, by_path, &(0..1000).map(request).collect::<Vec<_>>(), count);
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 200)]
fn find_nothing(bencher: Bencher, count: usize) {
    let request = |n: usize| (format!("other-{n}.example.com"), "/".to_owned());
    look_up(bencher, by_host, &(0..1000).map(request).collect::<Vec<_>>(), count);
}

#[divan::bench(args = [10_000, 100_000, 1_000_000], sample_count = 3)]
fn build_by_host(bencher: Bencher, count: usize) {
    let routes = routes(count, by_host);
    bencher.with_inputs(|| routes.clone()).bench_values(RouteTable::build);
}

#[divan::bench(args = [10_000, 100_000, 1_000_000], sample_count = 3)]
fn build_by_path(bencher: Bencher, count: usize) {
    let routes = routes(count, by_path);
    bencher.with_inputs(|| routes.clone()).bench_values(RouteTable::build);
}
