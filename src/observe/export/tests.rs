use super::*;
use crate::observe::datagrams::{Direction, Lost, ServerReport, ServerView, SessionEnding};
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method};

use crate::exchange::TlsFacts;
use crate::observe::meters::{HeaderValues, Observation, Protocol, RouterMeters};
use crate::observe::metrics::{Certificate, Settings, Upgrade};

fn exporter(settings: &str) -> (Arc<Metrics>, Exporter) {
    let settings: Settings = serde_json::from_str(settings).unwrap();
    let metrics = Arc::new(Metrics::new(&settings, 2));
    let exporter = Exporter::new(metrics.clone()).unwrap();
    (metrics, exporter)
}

fn observation(method: &Method) -> Observation<'_> {
    Observation {
        method,
        protocol: Protocol::Http,
        status: 200,
        duration: Duration::from_millis(250),
        request_bytes: 7,
        response_bytes: 24,
        tls: None,
        headers: HeaderValues::default(),
    }
}

/// Reads a page back: each series with its value. Fails if a line is not of the format, or a series stands there twice.
fn series(exporter: &Exporter) -> BTreeMap<String, f64> {
    let page = String::from_utf8(exporter.prometheus_text()).unwrap();
    let mut found = BTreeMap::new();
    let mut family = "";
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# TYPE ") {
            family = comment.split(' ').next().unwrap();
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with(family), "{series} is not of {family}");
            assert!(found.insert(series.to_owned(), value.parse().unwrap()).is_none(), "twice: {series}");
        }
    }
    found
}

#[test]
fn an_entry_point_as_traefik_shows_it() {
    let (metrics, exporter) = exporter(r#"{"prometheus":{}}"#);
    let meters = metrics.entry_point("web");
    let tls = TlsFacts { version: "1.3", cipher: "TLS_AES_128_GCM_SHA256", ..TlsFacts::default() };
    meters.record(&Observation { tls: Some(&tls), ..observation(&Method::GET) });
    meters.record(&Observation { duration: Duration::from_secs(6), ..observation(&Method::GET) });
    meters.record_fault(Fault::NoRouter);
    meters.refuse(Refusal::TooMany);
    meters.opened(Transport::Tcp);
    let page = series(&exporter);
    let labels = r#"code="200",entrypoint="web",method="GET",protocol="http""#;
    let check = |series: &str, expected: f64| assert_eq!(page.get(series), Some(&expected), "{series} in {page:#?}");
    check(&format!("traefik_entrypoint_requests_total{{{labels}}}"), 2.0);
    check(&format!("traefik_entrypoint_requests_bytes_total{{{labels}}}"), 14.0);
    check(&format!("traefik_entrypoint_responses_bytes_total{{{labels}}}"), 48.0);
    for (bound, count) in [("0.1", 0.0), ("0.3", 1.0), ("1.2", 1.0), ("5", 1.0), ("+Inf", 2.0)] {
        check(&format!("traefik_entrypoint_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}}"), count);
    }
    check(&format!("traefik_entrypoint_request_duration_seconds_sum{{{labels}}}"), 6.25);
    check(&format!("traefik_entrypoint_request_duration_seconds_count{{{labels}}}"), 2.0);
    check(
        r#"traefik_entrypoint_requests_tls_total{entrypoint="web",tls_cipher="TLS_AES_128_GCM_SHA256",tls_version="1.3"}"#,
        1.0,
    );
    check(r#"traefik_open_connections{entrypoint="web",protocol="TCP"}"#, 1.0);
    check(r#"portcullis_gateway_errors_total{code="no-router",entrypoint="web"}"#, 1.0);
    check(r#"portcullis_connections_refused_total{entrypoint="web",reason="too-many"}"#, 1.0);
    meters.closed(Transport::Tcp);
    assert_eq!(series(&exporter)[r#"traefik_open_connections{entrypoint="web",protocol="TCP"}"#], 0.0);
}

#[test]
fn routers_and_services() {
    let (metrics, exporter) = exporter(r#"{"prometheus":{"addRoutersLabels":true,"buckets":[1]}}"#);
    let router = metrics.router("r@file", "s\"\\\n@file").unwrap();
    let service = metrics.service("s@file");
    router.record(&observation(&Method::POST));
    service.record(&Observation { protocol: Protocol::Grpc, status: 14, ..observation(&Method::POST) });
    service.record_retry();
    service.set_servers(["http://10.0.0.7:80"]);
    service.set_server_up("http://10.0.0.7:80", false);
    let page = series(&exporter);
    for (series, expected) in [
        (
            r#"traefik_router_requests_total{code="200",method="POST",protocol="http",router="r@file",service="s\"\\\n@file"}"#,
            1.0,
        ),
        (r#"traefik_service_requests_total{code="14",method="POST",protocol="grpc",service="s@file"}"#, 1.0),
        (r#"traefik_service_retries_total{service="s@file"}"#, 1.0),
        (r#"traefik_service_server_up{service="s@file",url="http://10.0.0.7:80"}"#, 0.0),
    ] {
        assert_eq!(page.get(series), Some(&expected), "{series} in {page:#?}");
    }
}

#[test]
fn the_process_itself() {
    let (metrics, exporter) = exporter(r#"{"prometheus":{}}"#);
    metrics.config_reloaded(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    metrics.config_failed();
    metrics.set_problems(2, 1);
    metrics.upgraded(Upgrade::Failed);
    metrics.access_log_drops().fetch_add(3, Ordering::Relaxed);
    metrics.set_certificates(vec![Certificate {
        common_name: "a.example".to_owned(),
        serial: "7".to_owned(),
        names: "a.example,b.example".to_owned(),
        not_after: 1_800_000_000,
    }]);
    let page = series(&exporter);
    for (series, expected) in [
        ("traefik_config_reloads_total", 1.0),
        ("traefik_config_last_reload_success", 1.7e9),
        ("portcullis_config_reload_failures_total", 1.0),
        (r#"portcullis_config_problems{severity="error"}"#, 1.0),
        (r#"portcullis_config_problems{severity="warning"}"#, 2.0),
        (r#"portcullis_upgrades_total{result="failed"}"#, 1.0),
        ("portcullis_access_log_dropped_lines_total", 3.0),
        (r#"traefik_tls_certs_not_after{cn="a.example",sans="a.example,b.example",serial="7"}"#, 1.8e9),
    ] {
        assert_eq!(page.get(series), Some(&expected), "{series}");
    }
    assert!(page["process_resident_memory_bytes"] > 1e6 && page["process_open_fds"] > 0.0);
    assert!(page["process_start_time_seconds"] > 1.5e9);
}

#[test]
fn what_is_gone_is_shown_once_more() {
    let (metrics, exporter) = exporter(r#"{"prometheus":{"addRoutersLabels":true}}"#);
    let record = |router: &RouterMeters| router.record(&observation(&Method::GET));
    let (kept, gone) = (metrics.router("kept", "s").unwrap(), metrics.router("gone", "s").unwrap());
    record(&kept);
    record(&gone);
    let shown = || {
        let total = |name: &&String| name.starts_with("traefik_router_requests_total");
        series(&exporter).keys().filter(total).map(|name| name.contains("gone")).collect::<Vec<_>>()
    };
    assert_eq!(shown(), [true, false]);
    drop(gone);
    assert_eq!(shown(), [true, false]);
    assert_eq!(shown(), [false]);
    // It comes back with nothing.
    let back = metrics.router("gone", "s").unwrap();
    assert_eq!(shown(), [false]);
    record(&back);
    assert_eq!(shown(), [true, false]);
}

#[test]
fn header_labels_stand_on_the_totals_alone() {
    let (metrics, exporter) = exporter(r#"{"prometheus":{"headerLabels":{"agent":"User-Agent"}}}"#);
    let meters = metrics.entry_point("web");
    for agent in ["curl", "curl", "wget"] {
        let headers = HeaderMap::from_iter([(http::header::USER_AGENT, HeaderValue::from_static(agent))]);
        meters.record(&Observation { headers: metrics.header_values(&headers), ..observation(&Method::GET) });
    }
    meters.record(&Observation { headers: metrics.header_values(&HeaderMap::new()), ..observation(&Method::GET) });
    let page = series(&exporter);
    let total = |agent: &str| {
        page[&format!(
            r#"traefik_entrypoint_requests_total{{agent="{agent}",code="200",entrypoint="web",method="GET",protocol="http"}}"#
        )]
    };
    assert_eq!((total("curl"), total("wget"), total("")), (2.0, 1.0, 1.0));
    let bytes = r#"traefik_entrypoint_responses_bytes_total{code="200",entrypoint="web",method="GET",protocol="http"}"#;
    assert_eq!(page[bytes], 96.0);
}

#[test]
fn no_family_is_named_twice() {
    let mut names: Vec<&str> = FAMILIES.iter().chain(&PROCESS_FAMILIES).map(|family| family.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn datagrams_are_shown_with_what_became_of_their_sessions() {
    #[derive(Debug)]
    struct Servers;
    impl ServerReport for Servers {
        fn each(&self, see: &mut dyn FnMut(ServerView<'_>)) {
            see(ServerView { address: "a:53", is_up: true, refusals: 0 });
            see(ServerView { address: "b:53", is_up: false, refusals: 3 });
        }
    }
    let (metrics, exporter) = exporter(r#"{"prometheus":{}}"#);
    let (entry_point, service) = (metrics.udp_entry_point("dns"), metrics.udp_service("s@file"));
    let servers: Arc<Servers> = Arc::new(Servers);
    let report: std::sync::Weak<Servers> = Arc::downgrade(&servers);
    service.set_servers(report);
    for meters in [&entry_point, &service] {
        (0..3).for_each(|_| meters.opened());
        meters.closed(SessionEnding::Silent, Duration::from_millis(1500));
        meters.closed(SessionEnding::GivenUp, Duration::from_millis(250));
        meters.carried(Direction::Received, 4, 40);
        meters.dropped(Lost::TooMany, 2);
    }
    entry_point.evicted();
    let page = series(&exporter);
    let check = |series: &str, expected: f64| assert_eq!(page.get(series), Some(&expected), "{series} in {page:#?}");
    for (scope, label) in [("entrypoint", r#"entrypoint="dns""#), ("service", r#"service="s@file""#)] {
        let name = |rest: &str| format!("portcullis_{scope}_udp_{rest}");
        check(&name(&format!("sessions_total{{{label}}}")), 3.0);
        check(&name(&format!("open_sessions{{{label}}}")), 1.0);
        check(&name(&format!("session_seconds_total{{{label}}}")), 1.75);
        let mut labels = [r#"ending="given-up""#, label];
        labels.sort_unstable();
        check(&name(&format!("ended_sessions_total{{{}}}", labels.join(","))), 1.0);
        check(&name(&format!("datagrams_total{{direction=\"received\",{label}}}")), 4.0);
        let mut labels = [r#"reason="too-many""#, label];
        labels.sort_unstable();
        check(&name(&format!("dropped_datagrams_total{{{}}}", labels.join(","))), 2.0);
    }
    check(r#"portcullis_entrypoint_udp_evicted_sessions_total{entrypoint="dns"}"#, 1.0);
    check(r#"portcullis_udp_server_up{address="a:53",service="s@file"}"#, 1.0);
    check(r#"portcullis_udp_server_up{address="b:53",service="s@file"}"#, 0.0);
    check(r#"portcullis_udp_server_refusals_total{address="b:53",service="s@file"}"#, 3.0);
    drop(servers);
    assert!(
        !series(&exporter).keys().any(|series| series.starts_with("portcullis_udp_server")),
        "its servers are gone"
    );
}
