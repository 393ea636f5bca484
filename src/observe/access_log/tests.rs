use super::*;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Version};

pub(super) fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// A request that went well.
pub(super) fn sample(headers: &HeaderMap) -> Record<'_> {
    Record {
        started: started(),
        duration: Duration::from_micros(45_600),
        peer: ([192, 0, 2, 7], 4711).into(),
        user: None,
        entry_point: "websecure",
        tls: None,
        request: Request {
            method: "GET",
            target: b"/a?b=c",
            version: Version::HTTP_11,
            scheme: "https",
            host: b"example.org:8443",
            headers,
            bytes: 7,
        },
        route: Some(Routed { router: "web@file", service: "app@file" }),
        origin: Some(Origin {
            url: "http://10.0.0.7:8080",
            address: "10.0.0.7:8080",
            status: Some(200),
            bytes: 1200,
            duration: Duration::from_millis(44),
            headers: None,
        }),
        retries: 0,
        response: Response { status: 200, bytes: 1234, headers: None, gzip_ratio: None },
        fault: None,
        trace: None,
        internal: false,
    }
}

fn started() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_709_210_096_120)
}

#[test]
fn filters_are_alternatives() {
    let headers = HeaderMap::new();
    let check = |filters: &str, (status, retries, millis): (u16, u32, u64), expected: bool| {
        let filters: Filters = serde_json::from_str(filters).unwrap();
        let mut record = sample(&headers);
        (record.response.status, record.retries) = (status, retries);
        record.duration = Duration::from_millis(millis);
        assert_eq!(is_wanted(&filters, &record), expected, "{filters:?} {status} {retries} {millis}");
    };
    check("{}", (200, 0, 1), true);
    let all = r#"{"statusCodes":["404","500-599"],"retryAttempts":true,"minDuration":"10ms"}"#;
    check(all, (200, 0, 10), false);
    check(all, (404, 0, 1), true);
    check(all, (405, 0, 1), false);
    check(all, (503, 0, 1), true);
    check(all, (200, 1, 1), true);
    check(all, (200, 0, 11), true);
    check(r#"{"minDuration":"1s"}"#, (500, 3, 999), false);
    check(r#"{"retryAttempts":true}"#, (500, 0, 999), false);
}

#[test]
fn writes_counts_and_reopens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let settings = Settings {
        file_path: path.to_str().unwrap().to_owned(),
        filters: Filters { retry_attempts: true, ..Filters::default() },
        ..Settings::default()
    };
    let dropped = Arc::new(AtomicU64::new(0));
    let log = AccessLog::open(&settings, 2, dropped.clone()).unwrap();
    let headers = HeaderMap::new();
    let written = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split(' ').nth(12).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let retried = Record { retries: 1, ..sample(&headers) };
    log.log(&retried);
    log.log(&sample(&headers));
    log.log(&Record { internal: true, ..retried });
    log.log(&retried);
    log.flush();
    assert_eq!(written(&path), ["1", "3"]);
    let old = folder.path().join("access.log.1");
    std::fs::rename(&path, &old).unwrap();
    log.reopen().unwrap();
    log.log(&retried);
    drop(log);
    assert_eq!((written(&old), written(&path)), (vec!["1".to_owned(), "3".to_owned()], vec!["4".to_owned()]));
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
}

#[test]
fn a_path_that_cannot_be_opened_is_a_problem() {
    let settings = Settings { file_path: "/nonexistent/a.log".to_owned(), ..Settings::default() };
    assert_eq!(AccessLog::open(&settings, 1, Arc::default()).unwrap_err().path, "filePath");
}
