//! How long it takes from a text with ten thousand routers to routes that serve: reading, compiling everything, one change, none.
//!
//! The limits that the project sets itself, for 10,000 routers: 300 ms to read, 200 ms to compile, 50 ms to apply one change.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use divan::{AllocProfiler, Bencher};
use portcullis::config::install::RuleSyntax;
use portcullis::config::{Format, Routing, load};
use portcullis::control::{EntryPointModel, EntryPoints, Inbox, Kit, Pipeline, Standing, Status, Updates};
use portcullis::observe::metrics::{Metrics, Settings};
use portcullis::problem::Problems;
use portcullis::service::Transport;
use portcullis::service::{tcp, transport};
use portcullis::snapshot::Current;
use portcullis::tls::fallback;

/// What stands in memory at the end of a benchmark is what it has allocated and not freed.
#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// Services that the routers share.
const SERVICES: usize = 100;

fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    divan::main();
}

fn toml(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let _ = write!(
            text,
            "[http.routers.r{n}]\nentryPoints = [\"web\"]\nrule = \"Host(`host-{n}.example.com`) && PathPrefix(`/api`)\"\n\
             middlewares = [\"add\"]\nservice = \"s{}\"\n",
            n % SERVICES
        );
    }
    for n in 0..SERVICES {
        let _ = write!(text, "[[http.services.s{n}.loadBalancer.servers]]\nurl = \"http://127.0.0.1:9\"\n");
    }
    text + "[http.middlewares.add.addPrefix]\nprefix = \"/x\"\n"
}

fn yaml(count: usize) -> String {
    let mut text = "http:\n  middlewares: {add: {addPrefix: {prefix: /x}}}\n  routers:\n".to_owned();
    for n in 0..count {
        let _ = write!(
            text,
            "    r{n}:\n      entryPoints: [web]\n      rule: Host(`host-{n}.example.com`) && PathPrefix(`/api`)\n\
             \x20     middlewares: [add]\n      service: s{}\n",
            n % SERVICES
        );
    }
    text.push_str("  services:\n");
    for n in 0..SERVICES {
        let _ = writeln!(text, "    s{n}: {{loadBalancer: {{servers: [{{url: \"http://127.0.0.1:9\"}}]}}}}");
    }
    text
}

fn read(text: &str, format: Format) -> Arc<Routing> {
    let (routing, problems) = load::published(text, format, "bench", "file").unwrap_or_default();
    assert!(problems.is_empty(), "{problems}");
    Arc::new(routing)
}

/// A gateway's way from a provider to the snapshot.
struct Gateway {
    updates: Updates,
    pipeline: Pipeline,
    _runtime: tokio::runtime::Runtime,
}

impl Gateway {
    fn new() -> Option<Self> {
        let runtime = tokio::runtime::Runtime::new().ok()?;
        let metrics = Arc::new(Metrics::new(&Settings::default(), 1));
        let web = EntryPointModel {
            name: "web".into(),
            standing: Standing::Open,
            is_default: true,
            middlewares: Box::default(),
            tls: None,
        };
        let kit = Kit {
            entry_points: Arc::new(EntryPoints { tcp: vec![web], ..EntryPoints::default() }),
            staples: false,
            internals: Arc::default(),
            default_syntax: RuleSyntax::V3,
            default_transport: Transport::build(&transport::Settings::default()).ok()?,
            default_tcp_transport: tcp::Transport::build(&tcp::transport::Settings::default()).ok()?,
            precedence: Vec::new(),
            metrics: metrics.clone(),
            tickets: Arc::default(),
            resolvers: BTreeSet::new(),
            fallback: fallback::certificate().ok()?,
            runtime: runtime.handle().clone(),
            give_back: None,
        };
        let inbox = Arc::new(Inbox::default());
        let updates = inbox.updates("file");
        let current = Arc::new(Current::new());
        let pipeline = Pipeline::new(inbox, kit, current, Arc::new(Status::default()), metrics);
        Some(Self { updates, pipeline, _runtime: runtime })
    }

    fn apply(&self, routing: Arc<Routing>) {
        self.updates.publish(routing, Problems::new(), None);
        let outcome = self.pipeline.apply();
        assert!(outcome.problems.is_empty(), "{}", outcome.problems);
    }
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn read_toml(bencher: Bencher, count: usize) {
    let text = toml(count);
    bencher.bench_local(|| read(&text, Format::Toml));
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn read_yaml(bencher: Bencher, count: usize) {
    let text = yaml(count);
    bencher.bench_local(|| read(&text, Format::Yaml));
}

/// From what is published first to the swap.
#[divan::bench(args = SIZES, sample_count = 10)]
fn apply_all(bencher: Bencher, count: usize) {
    let routing = read(&toml(count), Format::Toml);
    bencher.with_inputs(Gateway::new).bench_local_values(|gateway| {
        if let Some(gateway) = &gateway {
            gateway.apply(routing.clone());
        }
        gateway
    });
}

/// From a publication in which one router has another rule to the swap.
#[divan::bench(args = SIZES, sample_count = 10)]
fn apply_one_change(bencher: Bencher, count: usize) {
    let text = toml(count);
    let changed = text.replacen("host-7.example.com", "other.example.com", 1);
    let Some(gateway) = Gateway::new() else { return };
    gateway.apply(read(&text, Format::Toml));
    let mut turn = 0_usize;
    bencher
        .with_inputs(|| {
            turn += 1;
            read(if turn % 2 == 1 { &changed } else { &text }, Format::Toml)
        })
        .bench_local_values(|routing| gateway.apply(routing));
}

/// From a publication that says nothing new to the end of its application.
#[divan::bench(args = SIZES, sample_count = 10)]
fn apply_nothing_new(bencher: Bencher, count: usize) {
    let text = toml(count);
    let Some(gateway) = Gateway::new() else { return };
    gateway.apply(read(&text, Format::Toml));
    bencher.with_inputs(|| read(&text, Format::Toml)).bench_local_values(|routing| gateway.apply(routing));
}
