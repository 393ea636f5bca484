//! Who may call from a page of another origin (Fetch standard, CORS protocol).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING, VARY,
};
use http::{Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::exchange::Reply;
use crate::problem::Problem;

/// The request field that clients of gRPC-Web set, by which their preflights are known.
const MARK: &[u8] = b"x-grpc-web";
/// How long browsers may remember the answer to a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// What the answer to a preflight depends on.
const ASKED_BY: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// Origins whose pages may call.
#[derive(Debug)]
pub(super) struct Origins {
    listed: Box<[Box<str>]>,
    anyone: bool,
}

impl Origins {
    pub(super) fn new(listed: &[String]) -> Self {
        Self {
            listed: listed.iter().map(|origin| (**origin).into()).collect(),
            anyone: listed.iter().any(|it| it == "*"),
        }
    }

    /// The origin of the page that a request comes from, if it may call.
    pub(super) fn allowed(&self, request: &RequestHeader) -> Option<HeaderValue> {
        let origin = request.headers.get(ORIGIN)?;
        let is_listed = || self.listed.iter().any(|listed| origin.as_bytes() == listed.as_bytes());
        (self.anyone || is_listed()).then(|| origin.clone())
    }

    /// The answer to the preflight of a call in gRPC-Web, if the request is one. A page that may not call is not told so, but not
    /// told that it may, either.
    pub(super) fn answer_preflight(&self, request: &RequestHeader) -> Option<Reply> {
        if request.method != Method::OPTIONS {
            return None;
        }
        let method = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let fields = request.headers.get(ACCESS_CONTROL_REQUEST_HEADERS)?;
        if !fields.as_bytes().windows(MARK.len()).any(|part| part.eq_ignore_ascii_case(MARK)) {
            return None;
        }
        let mut reply = Reply::status(StatusCode::NO_CONTENT).with(VARY, ASKED_BY);
        if let Some(origin) = self.allowed(request).filter(|_| method == "POST") {
            reply = reply
                .with(ACCESS_CONTROL_ALLOW_ORIGIN, origin)
                .with(ACCESS_CONTROL_ALLOW_METHODS, method.clone())
                .with(ACCESS_CONTROL_ALLOW_HEADERS, fields.clone())
                .with(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE)
                .with(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        Some(reply)
    }
}

/// Tells a browser that a page of `origin`, if it is one that may call, may read the answer and all of its fields.
pub(super) fn tell(response: &mut ResponseHeader, origin: Option<HeaderValue>) {
    let _ = response.append_header(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        let _ = response.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let _ = response.insert_header(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
    let mut exposed = String::new();
    let of_trailers = ["grpc-status", "grpc-message"].into_iter().filter(|name| !response.headers.contains_key(*name));
    let names = response.headers.keys().filter(|name| **name != TRANSFER_ENCODING).map(HeaderName::as_str);
    for name in names.chain(of_trailers) {
        let separator = if exposed.is_empty() { "" } else { ", " };
        exposed.push_str(separator);
        exposed.push_str(name);
    }
    if let Ok(exposed) = HeaderValue::from_maybe_shared(bytes::Bytes::from(exposed)) {
        let _ = response.insert_header(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Warns of what no browser says.
pub(super) fn warnings(path: &str, origins: &[String]) -> Vec<Problem> {
    let unknown = origins.iter().enumerate().filter(|(_, origin)| !is_origin(origin));
    unknown
        .map(|(index, origin)| {
            Problem::warning(format!("{path}[{index}]"), format!("no browser calls the origin of a page `{origin}`"))
                .with_help("a scheme and a host in lower case, and the port if it is not the usual one: `https://app.example.com`")
        })
        .collect()
}

/// Whether a browser may send this as `Origin` (HTML standard, serialization of an origin).
fn is_origin(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !b"/?#@*".contains(&byte);
    let is_host = |host: &str| !host.is_empty() && host.bytes().all(is_plain);
    matches!(text, "*" | "null")
        || text.split_once("://").is_some_and(|(scheme, host)| {
            is_host(host)
                && is_host(scheme)
                && !(scheme == "https" && host.ends_with(":443"))
                && !(scheme == "http" && host.ends_with(":80"))
        })
}

#[cfg(test)]
mod tests {
    use super::super::GrpcWeb;
    use super::*;
    use crate::middleware::Flow;
    use crate::middleware::testing::{Call, build, joined, verdict};

    /// The CORS fields of a message, one per line.
    fn shown(headers: &http::HeaderMap) -> String {
        let names = headers.keys().map(HeaderName::as_str);
        let mut lines: Vec<_> = names
            .filter(|name| name.starts_with("access-control-") || *name == "vary")
            .map(|name| format!("{}: {}", name.trim_start_matches("access-control-"), joined(headers, name)))
            .collect();
        lines.sort();
        lines.join("\n")
    }

    #[track_caller]
    fn preflight(origins: &str, fields: &str, expected: &str) {
        let middleware: GrpcWeb = build(&format!(r#"{{"allowOrigins":[{origins}]}}"#)).unwrap();
        let seen = match Call::new(&format!("OPTIONS http://h/\n{fields}")).down(&middleware) {
            Flow::Continue => "continue".to_owned(),
            Flow::Reply(reply) => {
                assert_eq!((reply.header.status, reply.body.len()), (StatusCode::NO_CONTENT, 0));
                shown(&reply.header.headers)
            }
        };
        assert_eq!(seen, expected);
    }

    const ASK: &str = "Origin: https://a.test\nAccess-Control-Request-Method: POST\n\
                       Access-Control-Request-Headers: content-type,X-Grpc-Web,x-user-agent";
    const VARIES: &str = "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

    #[test]
    fn preflights_are_answered() {
        let granted = format!(
            "allow-credentials: true\nallow-headers: content-type,X-Grpc-Web,x-user-agent\nallow-methods: POST\n\
             allow-origin: https://a.test\nmax-age: 600\n{VARIES}"
        );
        preflight(r#""https://b.test","https://a.test""#, ASK, &granted);
        preflight(r#""*""#, ASK, &granted);
        preflight("", ASK, VARIES);
        preflight(r#""https://a.test:8443","a.test""#, ASK, VARIES);
        preflight(r#""*""#, &ASK.replace("POST", "DELETE"), VARIES);
        preflight(r#""*""#, &ASK.replace("Origin: https://a.test\n", ""), VARIES);
    }

    #[test]
    fn other_preflights_go_on() {
        preflight(r#""*""#, &ASK.replace("X-Grpc-Web,", ""), "continue");
        preflight(r#""*""#, &ASK.replace("Access-Control-Request-Method: POST\n", ""), "continue");
        preflight(r#""*""#, "", "continue");
    }

    #[track_caller]
    fn response(origins: &str, origin: &str, expected: &str) {
        let middleware: GrpcWeb = build(&format!(r#"{{"allowOrigins":[{origins}]}}"#)).unwrap();
        let mut call = Call::new(&format!("POST http://h/\nContent-Type: application/grpc-web\n{origin}"));
        assert_eq!(verdict(&call.down(&middleware)), "continue");
        let response = call.up(&middleware, "Content-Type: application/grpc\nX-A: 1\nGrpc-Status: 5");
        let mut exposed: Vec<_> =
            response.headers["access-control-expose-headers"].to_str().unwrap().split(", ").collect();
        exposed.retain(|name| !name.starts_with("access-control"));
        exposed.sort_unstable();
        assert_eq!(exposed, ["content-type", "grpc-message", "grpc-status", "vary", "x-a"]);
        let all = shown(&response.headers);
        let lines: Vec<_> = all.lines().filter(|line| !line.starts_with("expose-headers")).collect();
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn answers_name_the_origin_that_asked() {
        let named = "allow-credentials: true\nallow-origin: https://a.test\nvary: Origin";
        response(r#""https://a.test""#, "Origin: https://a.test", named);
        response(r#""*""#, "Origin: https://a.test", named);
        response(r#""https://b.test""#, "Origin: https://a.test", "vary: Origin");
        response(r#""*""#, "", "vary: Origin");
    }

    #[test]
    fn what_is_no_call_is_not_told_anything() {
        let middleware: GrpcWeb = build(r#"{"allowOrigins":["*"]}"#).unwrap();
        let mut call = Call::new("POST http://h/\nContent-Type: application/grpc\nOrigin: https://a.test");
        assert_eq!(verdict(&call.down(&middleware)), "continue");
        assert_eq!(shown(&call.up(&middleware, "").headers), "");
    }

    #[test]
    fn warns_of_what_is_no_origin() {
        let list = |text: &str| warnings("allowOrigins", &[text.to_owned()]).into_iter().map(|it| it.path).next();
        for text in ["*", "null", "https://a.test", "http://[::1]:8080", "https://a.test:80", "app://x"] {
            assert_eq!(list(text), None, "{text}");
        }
        for text in
            ["", "a.test", "https://a.test/", "https://A.test", "https://*.a.test", "https://", "https://a.test:443"]
        {
            assert_eq!(list(text).as_deref(), Some("allowOrigins[0]"), "{text}");
        }
    }
}
