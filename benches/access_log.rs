//! What one line of the access log costs the request that it is about.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Version, header};
use portcullis::observe::access_log::{
    AccessLog, Fields, Format, HeaderMode, Headers, Origin, Record, Request, Response, Routed, Settings, Tls,
};

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

fn headers() -> HeaderMap {
    HeaderMap::from_iter([
        (header::HOST, HeaderValue::from_static("shop.example.org")),
        (
            header::USER_AGENT,
            HeaderValue::from_static("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ),
        (header::ACCEPT, HeaderValue::from_static("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")),
        (header::ACCEPT_LANGUAGE, HeaderValue::from_static("en-GB,en;q=0.5")),
        (header::COOKIE, HeaderValue::from_static("session=0123456789abcdef0123456789abcdef")),
    ])
}

fn record(headers: &HeaderMap, started: SystemTime) -> Record<'_> {
    Record {
        started,
        duration: Duration::from_micros(1234),
        peer: SocketAddr::from(([203, 0, 113, 7], 51312)),
        user: None,
        entry_point: "websecure",
        tls: Some(Tls { version: "1.3", cipher: "TLS_AES_128_GCM_SHA256", client_subject: None }),
        request: Request {
            method: "GET",
            target: b"/catalogue/items?page=3&sort=price",
            version: Version::HTTP_2,
            scheme: "https",
            host: b"shop.example.org",
            headers,
            bytes: 0,
        },
        route: Some(Routed { router: "shop@docker", service: "shop@docker" }),
        origin: Some(Origin {
            url: "http://10.0.0.7:8080",
            address: "10.0.0.7:8080",
            status: Some(200),
            bytes: 18_231,
            duration: Duration::from_micros(1100),
            headers: None,
        }),
        retries: 0,
        response: Response { status: 200, bytes: 18_231, headers: None, gzip_ratio: None },
        fault: None,
        trace: None,
        internal: false,
    }
}

fn run(bencher: divan::Bencher<'_, '_>, settings: Settings) {
    let settings = Settings { file_path: "/dev/null".to_owned(), ..settings };
    match AccessLog::open(&settings, 2, Arc::default()) {
        Ok(log) => {
            let headers = headers();
            let started = SystemTime::now();
            bencher.bench(|| log.log(divan::black_box(&record(&headers, started))));
        }
        Err(problem) => eprintln!("{problem}"),
    }
}

/// Formatting and handing over, with the writing thread at work.
#[divan::bench(args = ["common", "genericCLF", "json"], threads = [1, 2])]
fn line(bencher: divan::Bencher<'_, '_>, format: &str) {
    let format = match format {
        "json" => Format::Json,
        "genericCLF" => Format::GenericClf,
        _ => Format::Common,
    };
    run(bencher, Settings { format, ..Settings::default() });
}

/// JSON with all header fields.
#[divan::bench]
fn json_with_headers(bencher: divan::Bencher<'_, '_>) {
    let headers = Headers { default_mode: HeaderMode::Keep, ..Headers::default() };
    let fields = Fields { headers, ..Fields::default() };
    run(bencher, Settings { format: Format::Json, fields, ..Settings::default() });
}
