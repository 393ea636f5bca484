use super::*;
use std::time::Duration;

use http::{HeaderValue, Method, header};

use crate::exchange::TlsFacts;

fn observation(method: &Method) -> Observation<'_> {
    Observation {
        method,
        protocol: Protocol::Http,
        status: 200,
        duration: Duration::from_millis(150),
        request_bytes: 10,
        response_bytes: 20,
        tls: None,
        headers: HeaderValues::default(),
    }
}

fn shape() -> Option<Arc<Shape>> {
    Some(Arc::new(Shape::new(&[0.1, 0.3, 1.2, 5.0], 2, 128)))
}

#[test]
fn an_unused_meter_is_small() {
    for (name, size) in
        [("router", size_of::<RouterMeters>()), ("service", size_of::<ServiceMeters>()), ("meter", size_of::<Meter>())]
    {
        assert!(size <= 64, "{name}: {size}");
    }
}

#[test]
fn keys_say_what_was_put_in() {
    let check = |method: &str, protocol: Protocol, status: u16, expected: (&str, &str, &str)| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let key = Key::of(&Observation { protocol, status, headers: HeaderValues(200), ..observation(&method) });
        assert_eq!((key.method(), key.protocol(), &*key.code()), expected);
        assert_eq!(key.headers(), HeaderValues(200));
        assert_eq!(key.without_headers().headers(), HeaderValues(0));
        assert_eq!(key.without_headers().method(), expected.0);
    };
    for method in &Key::METHODS[..9] {
        check(method, Protocol::Http, 200, (method, "http", "200"));
    }
    check("BREW", Protocol::Websocket, 101, ("EXTENSION_METHOD", "websocket", "101"));
    check("get", Protocol::Sse, 999, ("EXTENSION_METHOD", "sse", "999"));
    check("POST", Protocol::Grpc, 0, ("POST", "grpc", "0"));
    check("PUT", Protocol::GrpcWeb, 16, ("PUT", "grpc-web", "16"));
    check("PUT", Protocol::GrpcWeb, 65535, ("PUT", "grpc-web", "other"));
}

#[test]
fn protocols_are_told_by_header_fields() {
    let check = |pairs: &[(&'static str, &'static str)], expected: Protocol| {
        let headers = pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        assert_eq!(Protocol::of(&headers), expected, "{pairs:?}");
    };
    check(&[], Protocol::Http);
    check(&[("upgrade", "WebSocket"), ("connection", "Upgrade")], Protocol::Websocket);
    check(&[("upgrade", "h2c")], Protocol::Http);
    check(&[("accept", "text/html, Text/Event-Stream")], Protocol::Sse);
    check(&[("accept", "text/html;q=0.9,text/event-stream;q=0.5")], Protocol::Sse);
    check(&[("accept", "text/event-stream-of-mine, x/text/event-stream")], Protocol::Http);
    check(&[("upgrade", "h2c"), ("upgrade", "x, websocket")], Protocol::Websocket);
    check(&[("content-type", "Application/gRPC+proto")], Protocol::Grpc);
    check(&[("content-type", "application/grpc+proto")], Protocol::Grpc);
    check(&[("content-type", "application/grpc-web-text")], Protocol::GrpcWeb);
    check(&[("content-type", "application/json")], Protocol::Http);
}

#[test]
fn hostile_methods_and_codes_stay_bounded() {
    let meters = RouterMeters::new("r", "s", shape());
    for number in 0..20_000_u32 {
        let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
        meters.record(&Observation { status: (number % 1000) as u16, ..observation(&method) });
    }
    let (mut series, mut requests) = (0, 0);
    meters.meter.each(|_, totals| {
        series += 1;
        requests += totals.requests();
    });
    assert_eq!((series, requests), (129, 20_000));
}

#[test]
fn suites_have_a_place_each() {
    let meters = EntryPointMeters::new("web", shape());
    let say = |version, cipher| {
        let tls = TlsFacts { version, cipher, ..TlsFacts::default() };
        meters.record(&Observation { tls: Some(&tls), ..observation(&Method::GET) });
    };
    SUITES[..9].iter().for_each(|(version, cipher)| say(version, cipher));
    say("1.2", "TLS_RSA_WITH_RC4_128_SHA");
    say("1.3", "TLS_AES_128_CCM_SHA256");
    say("1.3", "TLS_AES_128_CCM_SHA256");
    assert_eq!(meters.meter.tls(), Some([1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1]));
}

#[test]
fn what_nobody_asked_for_is_not_counted() {
    let meters = ServiceMeters::default();
    meters.record(&observation(&Method::GET));
    meters.meter.each(|_, _| panic!("counted"));
    assert!(meters.meter.book.get().is_none());
    meters.record_retry();
    meters.set_servers(["http://a"]);
    meters.set_server_up("http://a", false);
    meters.each_server(|url, _| panic!("{url}"));
    assert_eq!(meters.retries(), 0);
}

#[test]
fn connections_count_until_they_close() {
    let meters = EntryPointMeters::new("web", None);
    meters.opened(Transport::Tcp);
    meters.opened(Transport::Udp);
    meters.opened(Transport::Tcp);
    assert_eq!((meters.open_connections(Transport::Tcp), meters.open_connections(Transport::Udp)), (2, 1));
    meters.closed(Transport::Tcp);
    meters.closed(Transport::Udp);
    assert_eq!((meters.open_connections(Transport::Tcp), meters.open_connections(Transport::Udp)), (1, 0));
}

#[test]
fn faults_and_refusals_count_each_for_itself() {
    let meters = EntryPointMeters::new("web", shape());
    for (times, fault) in Fault::ALL.iter().enumerate() {
        (0..times).for_each(|_| meters.record_fault(*fault));
    }
    assert_eq!(meters.faults(), Some(std::array::from_fn(|times| times as u64)));
    for (index, (refusal, _)) in Refusal::ALL.iter().enumerate() {
        assert_eq!(*refusal as usize, index);
        meters.refuse(*refusal);
        assert_eq!(meters.refused(*refusal), 1);
    }
}

#[test]
fn servers_come_and_go() {
    let meters = ServiceMeters::new("web", shape());
    let servers = || {
        let mut seen = Vec::new();
        meters.each_server(|url, up| seen.push(format!("{url} {up}")));
        seen
    };
    meters.set_server_up("http://a", false);
    assert_eq!(servers(), ["http://a false"]);
    meters.set_servers(["http://a", "http://b"]);
    assert_eq!(servers(), ["http://a false", "http://b true"]);
    meters.set_servers(["http://b"]);
    meters.set_server_up("http://a", true);
    meters.set_server_up("http://b", false);
    assert_eq!(servers(), ["http://b false"]);
}
