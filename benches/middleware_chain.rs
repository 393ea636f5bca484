//! What a chain of five middlewares costs: as a closed enum, and as boxed trait objects with boxed futures.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use divan::{AllocProfiler, Bencher};
use futures_util::FutureExt;
use http::HeaderValue;
use pingora::http::{RequestHeader, ResponseHeader};
use portcullis::exchange::{Client, Exchange, Original};
use portcullis::middleware::add_prefix::AddPrefix;
use portcullis::middleware::content_type::ContentType;
use portcullis::middleware::encoded_characters::EncodedCharacters;
use portcullis::middleware::headers::Headers;
use portcullis::middleware::strip_prefix::StripPrefix;
use portcullis::middleware::{AnyMiddleware, Chain, Flow, Kit, Middleware, Settings, Step};
use portcullis::units::Name;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Five middlewares that only look: what is left is the way through the chain.
const LOOKING: [(&str, &str); 5] = [
    ("encodedCharacters", "{}"),
    ("contentType", "{}"),
    ("encodedCharacters", r#"{"allowEncodedSlash":true}"#),
    ("contentType", r#"{"autoDetect":false}"#),
    ("encodedCharacters", "{}"),
];

/// Five middlewares as a router may have them.
const WORKING: [(&str, &str); 5] = [
    ("encodedCharacters", "{}"),
    ("headers", r#"{"customRequestHeaders":{"X-Script-Name":"test"},"frameDeny":true,"contentTypeNosniff":true}"#),
    ("stripPrefix", r#"{"prefixes":["/api"]}"#),
    ("addPrefix", r#"{"prefix":"/v1"}"#),
    ("contentType", "{}"),
];

/// The same trait, made fit for `dyn` the usual way.
#[async_trait::async_trait]
trait Erased: Send + Sync {
    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow;
    fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange);
}

#[async_trait::async_trait]
impl<M: Middleware> Erased for M {
    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        Middleware::on_request(self, request, exchange).await
    }

    fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
        Middleware::on_response(self, response, exchange);
    }
}

fn enum_chain(steps: [(&str, &str); 5]) -> Chain {
    let name = Name::from("bench@file");
    let step = |(kind, settings)| {
        let settings: Settings = serde_json::from_str(&format!(r#"{{"{kind}":{settings}}}"#)).unwrap();
        Step {
            name: name.clone(),
            middleware: Arc::new(AnyMiddleware::build(&settings, &Kit { name: &name }).unwrap()),
        }
    };
    Chain::new(steps.into_iter().map(step).collect::<Vec<_>>())
}

fn dyn_chain(steps: [(&str, &str); 5]) -> Vec<Arc<dyn Erased>> {
    fn erased<M: Middleware>(settings: &str) -> Arc<dyn Erased> {
        let settings = serde_json::from_str(settings).unwrap();
        Arc::new(M::build(&settings, &Kit { name: &Name::from("bench@file") }).unwrap())
    }
    let build = |(kind, settings)| match kind {
        "addPrefix" => erased::<AddPrefix>(settings),
        "contentType" => erased::<ContentType>(settings),
        "encodedCharacters" => erased::<EncodedCharacters>(settings),
        "headers" => erased::<Headers>(settings),
        "stripPrefix" => erased::<StripPrefix>(settings),
        other => panic!("{other} is not in this benchmark"),
    };
    steps.into_iter().map(build).collect()
}

async fn through_dyn(
    chain: &[Arc<dyn Erased>],
    request: &mut RequestHeader,
    exchange: &mut Exchange,
    response: &mut ResponseHeader,
) {
    let mut depth = 0;
    for middleware in chain {
        if let Flow::Reply(_) = middleware.on_request(request, exchange).await {
            break;
        }
        depth += 1;
    }
    for middleware in chain[..depth].iter().rev() {
        middleware.on_response(response, exchange);
    }
}

async fn through_enum(
    chain: &Chain,
    request: &mut RequestHeader,
    exchange: &mut Exchange,
    response: &mut ResponseHeader,
) {
    let mut depth = 0;
    let _ = chain.on_request(request, exchange, &mut depth).await;
    chain.on_response(response, exchange, depth);
}

fn call() -> (RequestHeader, Exchange, ResponseHeader) {
    let mut request = RequestHeader::build("GET", b"/api/users/1?full=yes", Some(8)).unwrap();
    for (name, value) in
        [("Host", "example.com"), ("User-Agent", "curl/8"), ("Accept", "*/*"), ("Accept-Encoding", "gzip")]
    {
        request.append_header(name, value).unwrap();
    }
    let client = Client {
        entry_point: "web".into(),
        entry_point_index: 0,
        peer: ([192, 0, 2, 7], 4321).into(),
        local: ([192, 0, 2, 1], 80).into(),
        trusted: false,
        tls: None,
    };
    let original = Original {
        method: request.method.clone(),
        uri: request.uri.clone(),
        version: request.version,
        host: HeaderValue::from_static("example.com"),
    };
    let exchange = Exchange::new(Arc::new(client), original, Instant::now());
    (request, exchange, ResponseHeader::build(200, Some(8)).unwrap())
}

#[divan::bench(args = ["looking", "working"])]
fn as_enum(bencher: Bencher<'_, '_>, kind: &str) {
    let chain = enum_chain(if kind == "looking" { LOOKING } else { WORKING });
    bencher.with_inputs(call).bench_local_refs(|(request, exchange, response)| {
        through_enum(black_box(&chain), request, exchange, response).now_or_never()
    });
}

#[divan::bench(args = ["looking", "working"])]
fn as_dyn(bencher: Bencher<'_, '_>, kind: &str) {
    let chain = dyn_chain(if kind == "looking" { LOOKING } else { WORKING });
    bencher.with_inputs(call).bench_local_refs(|(request, exchange, response)| {
        through_dyn(black_box(&chain), request, exchange, response).now_or_never()
    });
}

#[divan::bench]
fn empty_chain(bencher: Bencher<'_, '_>) {
    let chain = Chain::default();
    bencher.with_inputs(call).bench_local_refs(|(request, exchange, response)| {
        through_enum(black_box(&chain), request, exchange, response).now_or_never()
    });
}
