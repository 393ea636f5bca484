//! What can be seen of requests afterwards: the access log and the metrics.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::gateway::{Gateway, Setup};
use crate::harness::peer::{PATIENCE, Peer};
use crate::harness::server::{Server, Step, answer, raw};

/// A gateway with a few kinds of routes, and the entry point `inside` for metrics.
fn setup(server: &Server) -> Setup {
    Gateway::setup()
        .entry_point("inside")
        .flag("metrics.prometheus.entryPoint=inside")
        .flag("metrics.prometheus.addRoutersLabels=true")
        .dynamic(format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: one}}
    quiet: {{rule: 'PathPrefix(`/quiet`)', service: one, observability: {{accessLogs: false, metrics: false}}}}
    gone: {{rule: 'PathPrefix(`/gone`)', service: gone}}
    again: {{rule: 'PathPrefix(`/again`)', service: pair, middlewares: [again]}}
    auth: {{rule: 'PathPrefix(`/auth`)', service: one, middlewares: [auth]}}
  middlewares:
    again: {{retry: {{attempts: 2}}}}
    auth: {{basicAuth: {{users: ['anna:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}}}
  services:
    one: {{loadBalancer: {{servers: [{{url: '{0}'}}]}}}}
    gone: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:1'}}]}}}}
    pair: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:1'}}, {{url: '{0}'}}]}}}}
",
            server.url()
        ))
}

async fn server() -> Server {
    Server::start(|received| match received.path() {
        "/slow" => {
            vec![
                Step::Wait(Duration::from_millis(60)),
                Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
            ]
        }
        "/missing" => answer(404, "", "nothing"),
        "/ws" => raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"),
        _ => answer(200, "X-Origin: yes\r\n", "hello"),
    })
    .await
}

#[tokio::test]
async fn a_line_says_what_happened() {
    let server = server().await;
    let gateway = setup(&server).start().await;
    let mut peer = gateway.connect().await;
    let local = peer.local();
    peer.request("POST /a/b?c=d HTTP/1.1\r\nHost: a.test:8000\r\nContent-Length: 3\r\n\r\nxyz").await;
    let line = gateway.logged_path("/a/b").await;
    let expected = serde_json::json!({
        "ClientAddr": local.to_string(), "ClientHost": "127.0.0.1", "ClientPort": local.port().to_string(),
        "ClientUsername": "-", "DownstreamContentSize": 5, "DownstreamStatus": 200, "OriginContentSize": 5,
        "OriginStatus": 200, "RequestAddr": "a.test:8000", "RequestContentSize": 3, "RequestCount": 1,
        "RequestHost": "a.test", "RequestMethod": "POST", "RequestPath": "/a/b?c=d", "RequestPort": "8000",
        "RequestProtocol": "HTTP/1.1", "RequestScheme": "http", "RetryAttempts": 0, "RouterName": "all@file",
        "ServiceAddr": server.address().to_string(), "ServiceName": "one@file", "ServiceURL": server.url(),
        "entryPointName": "web", "level": "info", "msg": "",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(line[field], *value, "{field} in {line:#}");
    }
    let number = |field: &str| line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line:#}"));
    assert_eq!(number("Duration"), number("OriginDuration") + number("Overhead"));
    assert!(line["GatewayError"].is_null());
    for field in ["StartUTC", "StartLocal", "time"] {
        assert!(line[field].as_str().is_some_and(|text| text.starts_with("20")), "{field} in {line:#}");
    }
}

#[tokio::test]
async fn lines_tell_failures_apart() {
    let server = server().await;
    let gateway = setup(&server).start().await;
    let mut peer = gateway.connect().await;
    for target in ["/slow", "/missing", "/gone", "/again/1", "/again/2", "/quiet", "/auth"] {
        peer.get(target, "").await;
    }
    peer.get("/auth/yes", "Authorization: Basic YW5uYTp0ZXN0\r\n").await;
    for (path, field, value) in [
        ("/missing", "DownstreamStatus", Value::from(404)),
        ("/missing", "GatewayError", Value::Null),
        ("/gone", "DownstreamStatus", 502.into()),
        ("/gone", "GatewayError", "connect-failed".into()),
        ("/gone", "ServiceName", "gone@file".into()),
        ("/gone", "OriginStatus", Value::Null),
        ("/auth", "DownstreamStatus", 401.into()),
        ("/auth", "GatewayError", "unauthorized".into()),
        ("/auth", "OriginStatus", Value::Null),
        ("/auth/yes", "ClientUsername", "anna".into()),
    ] {
        assert_eq!(gateway.logged_path(path).await[field], value, "{path} {field}");
    }
    let slow = gateway.logged_path("/slow").await;
    for field in ["Duration", "OriginDuration"] {
        assert!(slow[field].as_u64().unwrap() >= 60_000_000, "{field} in {slow:#}");
    }
    assert!(slow["Overhead"].as_u64().unwrap() < slow["OriginDuration"].as_u64().unwrap());
    let again = gateway.logged(|line| line["RetryAttempts"] == 1).await;
    assert_eq!((&again["ServiceURL"], &again["DownstreamStatus"]), (&server.url().into(), &200.into()));
    assert!(gateway.access_log().iter().all(|line| line["RequestPath"] != "/quiet"));
}

#[tokio::test]
async fn the_common_format_is_traefiks() {
    let server = server().await;
    let gateway =
        setup(&server).flag("accessLog.format=common").flag("accessLog.fields.headers.defaultMode=keep").start().await;
    let fields = "Referer: http://b.test/\r\nUser-Agent: test/1 \"quoted\"\r\n";
    gateway.connect().await.get("/a?b=c", fields).await;
    let by = Instant::now() + PATIENCE;
    while !gateway.read("access.log").ends_with('\n') {
        assert!(Instant::now() < by, "no line");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let line = gateway.read("access.log");
    let (head, rest) = line.split_once(" [").unwrap();
    assert_eq!(head, "127.0.0.1 - -");
    let (_, rest) = rest.split_once("] ").unwrap();
    let start = "\"GET /a?b=c HTTP/1.1\" 200 5 \"http://b.test/\" \"test/1 \\\"quoted\\\"\" 1 \"all@file\" ";
    assert!(rest.starts_with(start), "{line}");
    let rest = &rest[start.len()..];
    assert!(rest.starts_with(&format!("\"{}\" ", server.url())) && rest.trim_end().ends_with("ms"), "{line}");
}

#[tokio::test]
async fn filters_keep_what_is_asked_for() {
    let server = server().await;
    let gateway = setup(&server)
        .flag("accessLog.filters.statusCodes=500-599")
        .flag("accessLog.filters.retryAttempts=true")
        .flag("accessLog.filters.minDuration=50ms")
        .start()
        .await;
    let mut peer = gateway.connect().await;
    for target in ["/plain", "/missing", "/gone", "/slow", "/again/1", "/again/2", "/gone/last"] {
        peer.get(target, "").await;
    }
    gateway.logged_path("/gone/last").await;
    let log = gateway.access_log();
    let (again, others): (Vec<_>, Vec<_>) =
        log.iter().partition(|line| line["RequestPath"].as_str().unwrap().starts_with("/again"));
    assert!(!again.is_empty() && again.iter().all(|line| line["RetryAttempts"] == 1), "{again:#?}");
    let paths: Vec<&str> = others.iter().map(|line| line["RequestPath"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/gone", "/slow", "/gone/last"]);
}

#[tokio::test]
async fn fields_are_kept_dropped_and_hidden() {
    let server = server().await;
    let gateway = setup(&server)
        .flag("accessLog.fields.names.ClientHost=drop")
        .flag("accessLog.fields.queryParameters.defaultMode=drop")
        .flag("accessLog.fields.headers.defaultMode=keep")
        .flag("accessLog.fields.headers.names.Authorization=redact")
        .flag("accessLog.fields.headers.names.X-Secret=drop")
        .start()
        .await;
    gateway.connect().await.get("/a?b=c", "Authorization: Basic x\r\nX-Secret: 1\r\nX-Other: 2\r\n").await;
    let line = gateway.logged_path("/a").await;
    assert_eq!(line["RequestPath"], "/a");
    assert_eq!((&line["ClientHost"], &line["request_X-Secret"]), (&Value::Null, &Value::Null));
    assert_eq!(line["request_Authorization"], "REDACTED");
    assert_eq!(line["request_X-Other"], "2");
    assert_eq!(line["downstream_X-Origin"], "yes", "{line:#}");
}

#[tokio::test]
async fn logs_are_reopened_by_the_signal() {
    let server = server().await;
    let gateway = setup(&server).start().await;
    let mut peer = gateway.connect().await;
    peer.get("/before", "").await;
    gateway.logged_path("/before").await;
    let folder = gateway.folder();
    for name in ["access.log", "process.log"] {
        fs::rename(folder.join(name), folder.join(format!("{name}.1"))).unwrap();
    }
    gateway.signal(Signal::USR1);
    let by = Instant::now() + PATIENCE;
    while !folder.join("access.log").exists() {
        assert!(Instant::now() < by, "{}", gateway.read("process.log.1"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    peer.get("/after", "").await;
    gateway.logged_path("/after").await;
    assert!(!gateway.read("access.log.1").contains("/after") && gateway.read("access.log.1").contains("/before"));
}

/// All series of the metrics page, by name and labels.
async fn series(gateway: &Gateway) -> BTreeMap<String, f64> {
    let page = Peer::connect(gateway.address_of("inside")).await.get("/metrics", "").await;
    assert_eq!(page.status, 200);
    let lines = page.text().lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, value)| (series.to_owned(), value.parse().expect("a number")))
        .collect()
}

/// Waits until a series has this value: a request is counted after its answer was sent.
async fn until_series(gateway: &Gateway, name: &str, value: f64) {
    let by = Instant::now() + PATIENCE;
    loop {
        let all = series(gateway).await;
        if all.get(name) == Some(&value) {
            return;
        }
        let alike: Vec<_> = all.iter().filter(|(other, _)| other.split('{').next() == name.split('{').next()).collect();
        assert!(Instant::now() < by, "{name} is not {value}: {alike:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let server = server().await;
    let gateway = setup(&server).start().await;
    let mut peer = gateway.connect().await;
    for target in ["/one", "/two", "/three", "/missing", "/gone", "/quiet", "/again/1", "/again/2"] {
        peer.get(target, "").await;
    }
    peer.request("POST /four HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789").await;
    peer.request("BREW /five HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    gateway.logged_path("/five").await;
    let retries = gateway.access_log().iter().filter_map(|line| line["RetryAttempts"].as_f64()).sum();
    assert!(retries > 0.0);
    let url = server.url();
    let router = "protocol=\"http\",router=\"all@file\",service=\"one@file\"";
    for (name, value) in [
        ("traefik_entrypoint_requests_total{code=\"200\",entrypoint=\"web\",method=\"GET\",protocol=\"http\"}".to_owned(), 5.0),
        ("traefik_entrypoint_requests_total{code=\"200\",entrypoint=\"web\",method=\"POST\",protocol=\"http\"}".to_owned(), 1.0),
        ("traefik_entrypoint_requests_total{code=\"200\",entrypoint=\"web\",method=\"EXTENSION_METHOD\",protocol=\"http\"}".to_owned(), 1.0),
        ("traefik_entrypoint_requests_total{code=\"404\",entrypoint=\"web\",method=\"GET\",protocol=\"http\"}".to_owned(), 1.0),
        ("traefik_entrypoint_requests_total{code=\"502\",entrypoint=\"web\",method=\"GET\",protocol=\"http\"}".to_owned(), 1.0),
        ("traefik_entrypoint_requests_bytes_total{code=\"200\",entrypoint=\"web\",method=\"POST\",protocol=\"http\"}".to_owned(), 10.0),
        ("traefik_entrypoint_responses_bytes_total{code=\"200\",entrypoint=\"web\",method=\"POST\",protocol=\"http\"}".to_owned(), 5.0),
        (format!("traefik_router_requests_total{{code=\"200\",method=\"GET\",{router}}}"), 3.0),
        (format!("traefik_router_request_duration_seconds_count{{code=\"200\",method=\"GET\",{router}}}"), 3.0),
        ("traefik_service_requests_total{code=\"200\",method=\"GET\",protocol=\"http\",service=\"one@file\"}".to_owned(), 3.0),
        ("traefik_service_requests_total{code=\"200\",method=\"GET\",protocol=\"http\",service=\"pair@file\"}".to_owned(), 2.0),
        ("traefik_service_retries_total{service=\"pair@file\"}".to_owned(), retries),
        (format!("traefik_service_server_up{{service=\"one@file\",url=\"{url}\"}}"), 1.0),
        ("portcullis_gateway_errors_total{code=\"connect-failed\",entrypoint=\"web\"}".to_owned(), 1.0),
        ("traefik_config_reloads_total".to_owned(), 1.0),
        ("traefik_open_connections{entrypoint=\"web\",protocol=\"TCP\"}".to_owned(), 1.0),
    ] {
        until_series(&gateway, &name, value).await;
    }
    let others = [gateway.connect().await, gateway.connect().await];
    until_series(&gateway, "traefik_open_connections{entrypoint=\"web\",protocol=\"TCP\"}", 3.0).await;
    drop((others, peer));
    until_series(&gateway, "traefik_open_connections{entrypoint=\"web\",protocol=\"TCP\"}", 0.0).await;
    gateway.command("reload").await;
    let all = series(&gateway).await;
    assert!(all.keys().all(|name| !name.contains("quiet@file")), "{all:#?}");
    for family in ["process_open_fds", "process_resident_memory_bytes", "traefik_config_last_reload_success"] {
        assert!(all.get(family).is_some_and(|value| *value > 0.0), "{family}");
    }
}

#[tokio::test]
async fn tunnels_are_counted_and_logged_when_they_end() {
    let server = server().await;
    let gateway = setup(&server).start().await;
    let mut peer = gateway.connect().await;
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(peer.get("/ws", fields).await.status, 101);
    assert_eq!(peer.bytes(5).await, b"hello");
    drop(peer);
    let line = gateway.logged_path("/ws").await;
    assert_eq!((&line["DownstreamStatus"], &line["OriginStatus"]), (&101.into(), &101.into()), "{line:#}");
    let labels = "code=\"101\",entrypoint=\"web\",method=\"GET\",protocol=\"websocket\"";
    until_series(&gateway, &format!("traefik_entrypoint_requests_total{{{labels}}}"), 1.0).await;
}

#[tokio::test]
async fn health_is_a_metric() {
    let sick = Server::start(|_| answer(500, "", "")).await;
    let gateway = Gateway::setup()
        .entry_point("inside")
        .flag("metrics.prometheus.entryPoint=inside")
        .dynamic(format!(
            "http:
  routers: {{all: {{rule: 'PathPrefix(`/`)', service: one}}}}
  services:
    one: {{loadBalancer: {{servers: [{{url: '{}'}}], healthCheck: {{path: /, interval: 20ms, timeout: 1s}}}}}}
",
            sick.url()
        ))
        .start()
        .await;
    let up = format!("traefik_service_server_up{{service=\"one@file\",url=\"{}\"}}", sick.url());
    until_series(&gateway, &up, 0.0).await;
}
