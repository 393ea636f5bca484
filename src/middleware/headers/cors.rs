//! Cross-origin requests: preflights answered here, and what browsers want to read in responses (Fetch standard, CORS protocol).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use super::Settings;
use crate::exchange::{Exchange, Reply};
use crate::middleware::field;
use crate::problem::{Problem, Problems, all, each};
use crate::units::Pattern;

/// Rules for cross-origin requests.
#[derive(Debug)]
pub(super) struct Cors {
    /// Said in answers to preflights only.
    preflight: Box<[(HeaderName, HeaderValue)]>,
    /// Said in other responses only.
    always: Box<[(HeaderName, HeaderValue)]>,
    origins: Origins,
    varies: bool,
}

/// Who may ask.
#[derive(Debug)]
struct Origins {
    /// Those that are told their own name. Browsers send credentials to no others.
    listed: Box<[String]>,
    patterns: Box<[Pattern]>,
    /// Whether all others may ask, too, and are told `*`.
    anyone: bool,
}

/// The origin that a response names, kept from the way down.
struct Allowed(HeaderValue);

impl Cors {
    /// Reads the rules; `None` if there are none.
    pub(super) fn build(settings: &Settings) -> Result<Option<Self>, Problems> {
        let credentials = settings
            .access_control_allow_credentials
            .then(|| (ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        let max_age = settings.access_control_max_age.map(|age| (ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age)));
        let (headers, methods, exposed, origins) = all((
            list("accessControlAllowHeaders", ACCESS_CONTROL_ALLOW_HEADERS, &settings.access_control_allow_headers),
            list("accessControlAllowMethods", ACCESS_CONTROL_ALLOW_METHODS, &settings.access_control_allow_methods),
            list("accessControlExposeHeaders", ACCESS_CONTROL_EXPOSE_HEADERS, &settings.access_control_expose_headers),
            Origins::build(settings),
        ))?;
        let cors = Self {
            preflight: credentials.clone().into_iter().chain(headers).chain(methods).chain(max_age).collect(),
            always: credentials.into_iter().chain(exposed).collect(),
            origins,
            varies: settings.add_vary_header,
        };
        let idle = cors.preflight.is_empty() && cors.always.is_empty() && cors.origins.is_nobody() && !cors.varies;
        Ok((!idle).then_some(cors))
    }

    /// The answer to a preflight, if the request is one.
    pub(super) fn answer_preflight(&self, request: &RequestHeader) -> Option<Reply> {
        if request.method != Method::OPTIONS || !request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let origin = request.headers.get(ORIGIN)?;
        let mut reply = Reply::status(StatusCode::OK);
        set_all(&mut reply.header, &self.preflight);
        if let Some(allowed) = self.origins.named(origin).or_else(|| self.origins.unnamed()) {
            let _ = reply.header.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        }
        if self.varies {
            add_vary(&mut reply.header);
        }
        Some(reply)
    }

    /// Remembers who asks, if the answer depends on it.
    pub(super) fn on_request(&self, request: &RequestHeader, exchange: &mut Exchange) {
        if let Some(allowed) = request.headers.get(ORIGIN).and_then(|origin| self.origins.named(origin)) {
            exchange.note(self, Allowed(allowed));
        }
    }

    pub(super) fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
        let named = exchange.take_note(self).map(|Allowed(origin)| origin);
        if let Some(origin) = named.or_else(|| self.origins.unnamed()) {
            let _ = response.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        set_all(response, &self.always);
        if self.varies {
            add_vary(response);
        }
    }
}

impl Origins {
    fn build(settings: &Settings) -> Result<Self, Problems> {
        let pattern = |(index, text): (usize, &String)| {
            Pattern::new(text)
                .map_err(|message| Problem::at(format!("accessControlAllowOriginListRegex[{index}]"), message))
        };
        let patterns = settings.access_control_allow_origin_list_regex.iter().enumerate().map(pattern);
        let patterns = each(patterns)?;
        let listed = settings.access_control_allow_origin_list.as_slice();
        // The first that fits counts, and `*` fits all: nothing behind it is ever looked at.
        Ok(match listed.iter().position(|origin| origin == "*") {
            Some(end) => Self { listed: listed[..end].into(), patterns: Box::default(), anyone: true },
            None => Self { listed: listed.into(), patterns, anyone: false },
        })
    }

    fn is_nobody(&self) -> bool {
        !self.anyone && self.listed.is_empty() && self.patterns.is_empty()
    }

    /// What `origin` is told if it is one of those that are told their own name.
    fn named(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        let text = origin.to_str().ok()?;
        let fits = self.listed.iter().any(|item| item == text) || self.patterns.iter().any(|it| it.is_match(text));
        fits.then(|| origin.clone())
    }

    /// What all others are told.
    fn unnamed(&self) -> Option<HeaderValue> {
        self.anyone.then(|| HeaderValue::from_static("*"))
    }
}

/// Warns of credentials for whoever asks.
pub(super) fn warning(settings: &Settings) -> Option<Problem> {
    let anyone = settings.access_control_allow_origin_list.iter().any(|origin| origin == "*");
    (settings.access_control_allow_credentials && anyone).then(|| {
        Problem::warning(
            "accessControlAllowCredentials",
            "browsers send no credentials where the allowed origin is `*`",
        )
        .with_help("list the origins, or match them with `accessControlAllowOriginListRegex`")
    })
}

fn list(path: &str, name: HeaderName, items: &[String]) -> Result<Option<(HeaderName, HeaderValue)>, Problem> {
    if items.is_empty() {
        return Ok(None);
    }
    let value = field::value(&items.join(",")).map_err(|message| Problem::at(path, message))?;
    Ok(Some((name, value)))
}

fn set_all(response: &mut ResponseHeader, fields: &[(HeaderName, HeaderValue)]) {
    for (name, value) in fields {
        let _ = response.insert_header(name.clone(), value.clone());
    }
}

/// Says that the response differs by `Origin`, unless it says so already.
fn add_vary(response: &mut ResponseHeader) {
    let says = |value: &HeaderValue| {
        value.as_bytes().split(|byte| *byte == b',').any(|item| {
            let item = item.trim_ascii();
            item.eq_ignore_ascii_case(b"origin") || item == b"*"
        })
    };
    if !response.headers.get_all(VARY).iter().any(says) {
        let _ = response.append_header(VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::Flow;
    use crate::middleware::headers::Headers;
    use crate::middleware::testing::{Call, build, joined};

    /// The CORS fields of a message, one per line.
    fn shown(headers: &http::HeaderMap) -> String {
        let mut lines: Vec<_> = headers
            .keys()
            .filter(|name| name.as_str().starts_with("access-control-") || *name == VARY)
            .map(|name| {
                format!("{}: {}", name.as_str().trim_start_matches("access-control-"), joined(headers, name.as_str()))
            })
            .collect();
        lines.sort();
        lines.join("\n")
    }

    #[track_caller]
    fn preflight(settings: &str, fields: &str, expected: &str) {
        let middleware: Headers = build(settings).unwrap();
        let seen = match Call::new(&format!("OPTIONS http://h/\n{fields}")).down(&middleware) {
            Flow::Continue => "continue".to_owned(),
            Flow::Reply(reply) => {
                assert_eq!((reply.header.status, reply.body.len()), (StatusCode::OK, 0));
                shown(&reply.header.headers)
            }
        };
        assert_eq!(seen, expected);
    }

    #[track_caller]
    fn response(settings: &str, origin: &str, fields: &str, expected: &str) {
        let middleware: Headers = build(settings).unwrap();
        let mut call = Call::new(&format!("GET http://h/\n{origin}"));
        assert!(matches!(call.down(&middleware), Flow::Continue));
        assert_eq!(shown(&call.up(&middleware, fields).headers), expected);
    }

    const ASK: &str = "Origin: https://foo.bar.org\nAccess-Control-Request-Method: PUT";

    #[test]
    fn preflights_are_answered() {
        preflight(
            r#"{"accessControlAllowMethods":["GET","PUT"],"accessControlAllowHeaders":["origin","X-A"],"accessControlAllowCredentials":true,
                "accessControlAllowOriginList":["https://foo.bar.org"],"accessControlMaxAge":600,"addVaryHeader":true}"#,
            ASK,
            "allow-credentials: true\nallow-headers: origin,X-A\nallow-methods: GET,PUT\nallow-origin: https://foo.bar.org\nmax-age: 600\nvary: Origin",
        );
        preflight(r#"{"accessControlAllowOriginList":["*"]}"#, ASK, "allow-origin: *");
        preflight(r#"{"accessControlAllowOriginList":["https://x"],"accessControlMaxAge":0}"#, ASK, "max-age: 0");
        preflight(
            r#"{"accessControlAllowOriginListRegex":["^https://.*\\.bar\\.org$"]}"#,
            ASK,
            "allow-origin: https://foo.bar.org",
        );
    }

    #[test]
    fn what_is_no_preflight_goes_on() {
        preflight(r#"{"accessControlAllowOriginList":["*"]}"#, "Origin: https://foo", "continue");
        preflight(r#"{"accessControlAllowOriginList":["*"]}"#, "Access-Control-Request-Method: PUT", "continue");
        preflight(r#"{"frameDeny":true}"#, ASK, "continue");
    }

    #[test]
    fn responses_name_the_origin_that_asked() {
        let listed =
            r#"{"accessControlAllowOriginList":["https://a","https://b"],"accessControlExposeHeaders":["X-A","X-B"]}"#;
        response(listed, "Origin: https://b", "", "allow-origin: https://b\nexpose-headers: X-A,X-B");
        response(listed, "Origin: https://c", "", "expose-headers: X-A,X-B");
        response(listed, "", "Access-Control-Allow-Origin: kept", "allow-origin: kept\nexpose-headers: X-A,X-B");
        response(
            r#"{"accessControlAllowOriginList":["*"],"accessControlAllowCredentials":true}"#,
            "",
            "",
            "allow-credentials: true\nallow-origin: *",
        );
        response(r#"{"accessControlAllowOriginListRegex":["."]}"#, "Origin: null", "", "allow-origin: null");
    }

    #[test]
    fn an_origin_listed_before_any_may_send_credentials() {
        let settings =
            r#"{"accessControlAllowOriginList":["https://a","*","https://b"],"accessControlAllowCredentials":true}"#;
        response(settings, "Origin: https://a", "", "allow-credentials: true\nallow-origin: https://a");
        response(settings, "Origin: https://b", "", "allow-credentials: true\nallow-origin: *");
        response(settings, "", "", "allow-credentials: true\nallow-origin: *");
        let preflight_of = |origin: &str, allowed: &str| {
            let ask = format!("Origin: {origin}\nAccess-Control-Request-Method: PUT");
            preflight(settings, &ask, &format!("allow-credentials: true\nallow-origin: {allowed}"));
        };
        preflight_of("https://a", "https://a");
        preflight_of("https://c", "*");
    }

    #[test]
    fn vary_is_added_once() {
        let settings = r#"{"addVaryHeader":true}"#;
        for (before, after) in [
            ("", "Origin"),
            ("Vary: Accept", "Accept | Origin"),
            ("Vary: Accept, origin", "Accept, origin"),
            ("Vary: *", "*"),
        ] {
            response(settings, "", before, &format!("vary: {after}"));
        }
    }

    #[test]
    fn problems_name_their_place() {
        let problem = build::<Headers>(r#"{"accessControlAllowOriginListRegex":["a","("]}"#).unwrap_err();
        assert_eq!(problem.path, "accessControlAllowOriginListRegex[1]");
        let settings =
            serde_json::from_str(r#"{"accessControlAllowCredentials":true,"accessControlAllowOriginList":["*"]}"#)
                .unwrap();
        assert!(warning(&settings).is_some());
    }
}
