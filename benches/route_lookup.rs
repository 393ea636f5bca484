//! How long a look-up takes, by the number of routes and by what tells them apart; and how long the index takes to build.
//!
//! The limit that the project sets itself: between 10 and 100,000 routes, twice the time at most, whichever of the routes is asked for.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use divan::{Bencher, black_box};
use http::{HeaderMap, Method};
use portcullis::exchange::RequestView;
use portcullis::rule::{Rule, Syntax};
use portcullis::snapshot::route_table::{RouteTable, Routed};

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// Requests that are asked in turn, whatever the number of routes: as many as the most routes, so that each is asked for.
const REQUESTS: usize = 100_000;

fn main() {
    divan::main();
}

struct Only(Rule);

impl Routed for Only {
    fn rule(&self) -> Cow<'_, Rule> {
        Cow::Borrowed(&self.0)
    }
}

/// Routes in rank order: without a priority of its own, the longer rule is the stronger.
fn routes(count: usize, rule: impl Fn(usize) -> String) -> Vec<Arc<Only>> {
    let mut rules: Vec<String> = (0..count).map(rule).collect();
    rules.sort_by_key(|rule| Reverse(rule.len()));
    rules.iter().filter_map(|rule| Rule::parse(rule, Syntax::V3).ok()).map(|rule| Arc::new(Only(rule))).collect()
}

fn by_host(n: usize) -> String {
    format!("Host(`host-{n}.example.com`) && PathPrefix(`/api`)")
}

fn by_path(n: usize) -> String {
    format!("PathPrefix(`/services/{n}/`)")
}

fn by_open_path(n: usize) -> String {
    format!("PathPrefix(`/services/{n}`)")
}

/// Hosts and paths one behind the other, in an order without a pattern. A gateway has just read the request that it looks up: what a
/// benchmark must not do is to wait for the texts of requests. Read in turn, they come into the cache by themselves; what they push
/// out of it is missed by the table, and that is as it would be.
struct Requests {
    text: String,
    ends: Vec<(u32, u32)>,
}

impl Requests {
    fn new(count: usize, request: impl Fn(usize) -> (String, String)) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let mut order: Vec<usize> = (0..REQUESTS).map(|n| n % count).collect();
        random.shuffle(&mut order);
        let mut requests = Self { text: String::new(), ends: Vec::with_capacity(REQUESTS) };
        for n in order {
            let (host, path) = request(n);
            requests.text.push_str(&host);
            let host_end = requests.text.len() as u32;
            requests.text.push_str(&path);
            requests.ends.push((host_end, requests.text.len() as u32));
        }
        requests
    }

    /// Asks for all of them. A sample of divan is a thousand, since of one alone the clock would be the larger part.
    fn look_up(&self, bencher: Bencher, count: usize, rule: fn(usize) -> String, is_found: bool) {
        let table = RouteTable::build(routes(count, rule));
        let headers = HeaderMap::new();
        let (mut next, mut start) = (0, 0);
        bencher.bench_local(|| {
            if next == self.ends.len() {
                (next, start) = (0, 0);
            }
            let (host_end, end) = self.ends[next];
            let (host, path) = (&self.text[start..host_end as usize], &self.text[host_end as usize..end as usize]);
            (next, start) = (next + 1, end as usize);
            let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let request = RequestView::new(&Method::GET, host, path, "", &headers, client);
            assert_eq!(table.find(black_box(&request)).is_some(), is_found);
        });
    }
}

fn host_of(n: usize) -> String {
    format!("host-{n}.example.com")
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn any_by_host(bencher: Bencher, count: usize) {
    Requests::new(count, |n| (host_of(n), "/api/users".to_owned())).look_up(bencher, count, by_host, true);
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn any_by_path(bencher: Bencher, count: usize) {
    let request = |n| ("example.com".to_owned(), format!("/services/{n}/users"));
    Requests::new(count, request).look_up(bencher, count, by_path, true);
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn any_by_open_path(bencher: Bencher, count: usize) {
    let request = |n| ("example.com".to_owned(), format!("/services/{n}/users"));
    Requests::new(count, request).look_up(bencher, count, by_open_path, true);
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn one_by_host(bencher: Bencher, count: usize) {
    Requests::new(count, |_| (host_of(7), "/api/users".to_owned())).look_up(bencher, count, by_host, true);
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn one_by_path(bencher: Bencher, count: usize) {
    let request = |_| ("example.com".to_owned(), "/services/7/users".to_owned());
    Requests::new(count, request).look_up(bencher, count, by_path, true);
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn none_by_host(bencher: Bencher, count: usize) {
    let request = |n| (format!("other-{n}.example.com"), "/".to_owned());
    Requests::new(count, request).look_up(bencher, count, by_host, false);
}

/// The host is known, the path is not.
#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn none_by_path_of_host(bencher: Bencher, count: usize) {
    Requests::new(count, |n| (host_of(n), "/apart".to_owned())).look_up(bencher, count, by_host, false);
}

/// The path begins as one that is known, as far as there is one.
#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn none_by_path(bencher: Bencher, count: usize) {
    let request = |n| ("example.com".to_owned(), format!("/services/{n}x/users"));
    Requests::new(count, request).look_up(bencher, count, by_path, false);
}

#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn none_by_open_path(bencher: Bencher, count: usize) {
    let request = |n| ("example.com".to_owned(), format!("/services/x{n}/users"));
    Requests::new(count, request).look_up(bencher, count, by_open_path, false);
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
