//! How long rules take to read: a reload reads all of them.

use divan::{Bencher, black_box};
use portcullis::rule::{Rule, Syntax};

fn main() {
    divan::main();
}

#[divan::bench(args = [
    "PathPrefix(`/api`)",
    "Host(`shop.example.com`) && PathPrefix(`/api/v1`)",
    "(Host(`a.example.com`) || Host(`b.example.com`)) && !Path(`/healthz`) && (Method(`GET`) || Header(`X-Debug`, `1`))",
])]
fn parse(text: &str) -> bool {
    Rule::parse(black_box(text), Syntax::V3).is_ok()
}

#[divan::bench]
fn parse_expression() -> bool {
    Rule::parse(black_box("Host(`a.example.com`) && PathRegexp(`^/v[0-9]+/`)"), Syntax::V3).is_ok()
}

#[divan::bench]
fn parse_ten_thousand(bencher: Bencher) {
    let texts: Vec<String> =
        (0..10_000).map(|n| format!("Host(`host-{n}.example.com`) && PathPrefix(`/api/v1/{n}`)")).collect();
    bencher.bench(|| texts.iter().filter(|text| Rule::parse(text, Syntax::V3).is_ok()).count());
}
