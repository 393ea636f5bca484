use super::*;
use crate::exchange::Fault;
use crate::observe::access_log::tests::{headers, sample};
use crate::observe::access_log::{Fields, Response, Routed, Settings, Tls, Trace};

fn line(settings: &str, record: &Record<'_>) -> String {
    let settings: Settings = serde_json::from_str(settings).unwrap();
    let layout = Layout::new(settings.format, &settings.fields, 3600);
    let mut line = Vec::new();
    layout.push_line(&mut line, record, 23);
    let line = String::from_utf8(line).unwrap();
    assert!(
        line.ends_with('\n')
            && line.len() <= MAX_LINE
            && line.trim_end_matches('\n').bytes().all(|b| (0x20..0x7f).contains(&b)),
        "{line:?}"
    );
    line.trim_end_matches('\n').to_owned()
}

#[test]
fn common() {
    let headers = headers(&[("user-agent", "curl/8"), ("referer", "http://a/")]);
    let mut record = sample(&headers);
    assert_eq!(
        line("{}", &record),
        r#"192.0.2.7 - - [29/Feb/2024:12:34:56 +0000] "GET /a?b=c HTTP/1.1" 200 1234 "-" "-" 23 "web@file" "http://10.0.0.7:8080" 45ms"#
    );
    assert_eq!(
        line(r#"{"fields":{"headers":{"names":{"User-Agent":"keep","Referer":"redact"}}}}"#, &record),
        r#"192.0.2.7 - - [29/Feb/2024:12:34:56 +0000] "GET /a?b=c HTTP/1.1" 200 1234 "REDACTED" "curl/8" 23 "web@file" "http://10.0.0.7:8080" 45ms"#
    );
    assert_eq!(
        line(
            r#"{"format":"genericCLF","fields":{"headers":{"defaultMode":"keep"},"queryParameters":{"defaultMode":"drop"}}}"#,
            &record
        ),
        r#"192.0.2.7 - - [29/Feb/2024:12:34:56 +0000] "GET /a HTTP/1.1" 200 1234 "http://a/" "curl/8""#
    );
    record.user = Some("ada");
    (record.route, record.origin) = (None, None);
    assert_eq!(
        line("{}", &record),
        r#"192.0.2.7 - ada [29/Feb/2024:12:34:56 +0000] "GET /a?b=c HTTP/1.1" 200 1234 "-" "-" 23 "-" "-" 45ms"#
    );
}

#[test]
fn common_with_dropped_fields() {
    let headers = headers(&[]);
    let record = sample(&headers);
    assert_eq!(line(r#"{"fields":{"defaultMode":"drop"}}"#, &record), r#"- - - [-] "- - -" - - "-" "-" - "-" "-" 0ms"#);
    assert_eq!(
        line(r#"{"fields":{"defaultMode":"drop","names":{"startlocal":"keep","DownstreamStatus":"keep"}}}"#, &record),
        r#"- - - [29/Feb/2024:13:34:56 +0100] "- - -" 200 - "-" "-" - "-" "-" 0ms"#
    );
}

#[test]
fn client_host_is_the_whole_forwarded_for() {
    let headers = headers(&[("x-forwarded-for", "203.0.113.9, 10.1.1.1")]);
    let record = sample(&headers);
    assert!(line("{}", &record).starts_with("203.0.113.9, 10.1.1.1 - - ["));
    assert!(
        line(r#"{"format":"json"}"#, &record).contains(r#""ClientHost":"203.0.113.9, 10.1.1.1","ClientPort":"4711""#)
    );
}

#[test]
fn json() {
    let headers = headers(&[("user-agent", "curl/8")]);
    let mut record = sample(&headers);
    assert_eq!(
        line(r#"{"format":"json"}"#, &record),
        concat!(
            r#"{"ClientAddr":"192.0.2.7:4711","ClientHost":"192.0.2.7","ClientPort":"4711","ClientUsername":"-","#,
            r#""DownstreamContentSize":1234,"DownstreamStatus":200,"Duration":45600000,"OriginContentSize":1200,"#,
            r#""OriginDuration":44000000,"OriginStatus":200,"Overhead":1600000,"RequestAddr":"example.org:8443","#,
            r#""RequestContentSize":7,"RequestCount":23,"RequestHost":"example.org","RequestMethod":"GET","#,
            r#""RequestPath":"/a?b=c","RequestPort":"8443","RequestProtocol":"HTTP/1.1","RequestScheme":"https","#,
            r#""RetryAttempts":0,"RouterName":"web@file","ServiceAddr":"10.0.0.7:8080","ServiceName":"app@file","#,
            r#""ServiceURL":"http://10.0.0.7:8080","StartLocal":"2024-02-29T13:34:56.12+01:00","#,
            r#""StartUTC":"2024-02-29T12:34:56.12Z","entryPointName":"websecure","level":"info","msg":"","#,
            r#""time":"2024-02-29T13:34:56+01:00"}"#
        )
    );
    (record.route, record.origin) = (None, None);
    record.fault = Some(Fault::NoRouter);
    record.response = Response { status: 404, gzip_ratio: Some(2.5), ..record.response };
    record.tls = Some(Tls { version: "1.3", cipher: "TLS_AES_128_GCM_SHA256", client_subject: Some("CN=ada") });
    record.trace = Some(Trace { trace_id: "0af7", span_id: "b7ad" });
    record.request.host = b"";
    assert_eq!(
        line(r#"{"format":"json","fields":{"names":{"ClientAddr":"drop"}}}"#, &record),
        concat!(
            r#"{"ClientHost":"192.0.2.7","ClientPort":"4711","ClientUsername":"-","#,
            r#""DownstreamContentSize":1234,"DownstreamStatus":404,"Duration":45600000,"GatewayError":"no-router","#,
            r#""GzipRatio":2.5,"Overhead":45600000,"RequestContentSize":7,"RequestCount":23,"RequestMethod":"GET","#,
            r#""RequestPath":"/a?b=c","RequestProtocol":"HTTP/1.1","RequestScheme":"https","RetryAttempts":0,"#,
            r#""SpanId":"b7ad","StartLocal":"2024-02-29T13:34:56.12+01:00","StartUTC":"2024-02-29T12:34:56.12Z","#,
            r#""TLSCipher":"TLS_AES_128_GCM_SHA256","TLSClientSubject":"CN=ada","TLSVersion":"1.3","TraceId":"0af7","#,
            r#""entryPointName":"websecure","level":"info","msg":"","span_id":"b7ad","#,
            r#""time":"2024-02-29T13:34:56+01:00","trace_id":"0af7"}"#
        )
    );
    let bare = line(r#"{"format":"json","fields":{"defaultMode":"drop"}}"#, &sample(&headers));
    assert_eq!(bare, r#"{"entryPointName":"websecure","level":"info","msg":"","time":"2024-02-29T13:34:56+01:00"}"#);
}

#[test]
fn json_headers() {
    let request =
        headers(&[("accept", "a"), ("accept", "b\"c"), ("cookie", "secret"), ("host", "h"), ("x-key", "secret")]);
    let answer = headers(&[("set-cookie", "secret"), ("content-type", "text/html")]);
    let mut record = sample(&request);
    record.response.headers = Some(&answer);
    record.origin.as_mut().unwrap().headers = Some(&answer);
    let shown = |settings: &str| {
        let value: serde_json::Value = serde_json::from_str(&line(settings, &record)).unwrap();
        let mut shown: Vec<String> = value
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| key.contains('_'))
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap()))
            .collect();
        shown.sort();
        shown
    };
    assert_eq!(
        shown(r#"{"format":"json","fields":{"headers":{"defaultMode":"keep","names":{"X-Key":"redact"}}}}"#),
        [
            "downstream_Content-Type=text/html",
            "downstream_Set-Cookie=REDACTED",
            "origin_Content-Type=text/html",
            "origin_Set-Cookie=REDACTED",
            "request_Accept=a,b\"c",
            "request_Cookie=REDACTED",
            "request_X-Key=REDACTED",
        ]
    );
    assert_eq!(
        shown(r#"{"format":"json","fields":{"headers":{"names":{"accept":"keep","Absent":"keep"}}}}"#),
        ["request_Accept=a,b\"c"]
    );
    assert!(shown(r#"{"format":"json"}"#).is_empty());
}

#[test]
fn nothing_a_client_says_forges_a_line() {
    let evil = "x\r\n\u{1b}[2J\"\\é";
    let mut headers = HeaderMap::new();
    for name in ["x-forwarded-for", "user-agent", "referer"] {
        headers.insert(name, http::HeaderValue::from_bytes(b"\x80\t\"evil\" \xff\\").unwrap());
    }
    let mut record = sample(&headers);
    record.user = Some(evil);
    record.request.target = evil.as_bytes();
    record.request.host = evil.as_bytes();
    record.request.method = evil;
    record.route = Some(Routed { router: evil, service: evil });
    for format in ["common", "genericCLF", "json"] {
        // `line` itself checks that everything is printable ASCII.
        let settings = format!(r#"{{"format":"{format}","fields":{{"headers":{{"defaultMode":"keep"}}}}}}"#);
        let written = line(&settings, &record);
        if format == "json" {
            let value: serde_json::Value = serde_json::from_str(&written).unwrap();
            assert_eq!(value["RequestPath"], evil);
            assert_eq!(value["ClientUsername"], evil);
        } else {
            assert!(written.contains(r#""x\r\n\x1b[2J\"\\\xc3\xa9 x\r\n"#), "{written}");
            assert!(written.contains(r#""\x80\t\"evil\" \xff\\""#), "{written}");
        }
    }
}

#[test]
fn lines_stay_short_whatever_comes() {
    let long = "\u{1}".repeat(60_000);
    let mut headers = HeaderMap::new();
    for index in 0..200 {
        let name = HeaderName::from_bytes(format!("x-{index}-{}", "n".repeat(60)).as_bytes()).unwrap();
        headers.insert(name, http::HeaderValue::from_bytes(&[0xff; 8000]).unwrap());
    }
    for name in ["x-forwarded-for", "user-agent", "referer"] {
        headers.insert(name, http::HeaderValue::from_bytes(&[0xff; 8000]).unwrap());
    }
    let mut record = sample(&headers);
    record.user = Some(&long);
    record.entry_point = &long;
    record.request.target = long.as_bytes();
    record.request.host = long.as_bytes();
    record.request.method = &long;
    record.route = Some(Routed { router: &long, service: &long });
    record.origin = Some(Origin { url: &long, address: &long, headers: Some(&headers), ..record.origin.unwrap() });
    record.response.headers = Some(&headers);
    record.tls = Some(Tls { version: "1.3", cipher: &long, client_subject: Some(&long) });
    record.trace = Some(Trace { trace_id: &long, span_id: &long });
    for format in ["common", "genericCLF", "json"] {
        let settings = format!(r#"{{"format":"{format}","fields":{{"headers":{{"defaultMode":"keep"}}}}}}"#);
        let written = line(&settings, &record);
        assert!(format != "json" || serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{written}");
    }
}

#[test]
fn hosts_and_addresses() {
    for (authority, host, port) in [
        ("a.b", "a.b", "-"),
        ("a.b:80", "a.b", "80"),
        ("[::1]:80", "::1", "80"),
        ("[::1]", "[::1]", "-"),
        ("::1", "::1", "-"),
        ("", "", "-"),
    ] {
        assert_eq!(split_host(authority.as_bytes()), (host.as_bytes(), port.as_bytes()), "{authority}");
    }
    for (address, expected) in [
        ("[::ffff:192.0.2.7]:80", "192.0.2.7:80"),
        ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ("10.255.0.100:65535", "10.255.0.100:65535"),
    ] {
        let mut line = Vec::new();
        push_address(&mut line, address.parse().unwrap());
        assert_eq!(line, expected.as_bytes());
    }
}

#[test]
fn every_field_is_known_by_its_name_and_in_order() {
    // 31 fields of Traefik and one of ours.
    assert_eq!(Field::ALL.len(), 32);
    assert!(Field::ALL.windows(2).all(|pair| pair[0].name() < pair[1].name()));
    assert_eq!(Field::named("clienthost"), Some(Field::ClientHost));
    assert_eq!(Layout::new(Format::Json, &Fields::default(), 0).kept.count_ones(), 32);
}
