//! Fields that browsers protect users by, and the list of hosts that may be asked for.

use http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY, HOST, HeaderName, HeaderValue, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS, X_XSS_PROTECTION,
};
use pingora::http::{RequestHeader, ResponseHeader};

use super::Settings;
use crate::exchange::{Exchange, Fault, Reply};
use crate::middleware::field;
use crate::problem::{Problem, Problems, all, each};

const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const PUBLIC_KEY_PINS: HeaderName = HeaderName::from_static("public-key-pins");

/// Protective fields and allowed hosts.
#[derive(Debug)]
pub(super) struct Security {
    allowed_hosts: Box<[String]>,
    host_fields: Box<[HeaderName]>,
    /// Fields and the values with which a proxy before us says that the client came over TLS.
    tls_fields: Box<[(HeaderName, String)]>,
    /// Said in each response.
    always: Box<[(HeaderName, HeaderValue)]>,
    /// Said in responses to clients that came over TLS.
    over_tls: Box<[(HeaderName, HeaderValue)]>,
}

/// That the client came over TLS to a proxy before us, kept from the way down.
struct TlsBefore;

impl Security {
    pub(super) fn build(settings: &Settings) -> Result<Self, Problems> {
        let when = |is_on: bool, text: &'static str| if is_on { text } else { "" };
        let own_or = |own: &'_ str, other: &'static str| if own.is_empty() { other.to_owned() } else { own.to_owned() };
        let frames = own_or(&settings.custom_frame_options_value, when(settings.frame_deny, "DENY"));
        let scripts = own_or(&settings.custom_browser_xss_value, when(settings.browser_xss_filter, "1; mode=block"));
        let sniffing = when(settings.content_type_nosniff, "nosniff");
        let policy_report = &settings.content_security_policy_report_only;
        let always = each([
            written("customFrameOptionsValue", X_FRAME_OPTIONS, &frames),
            written("contentTypeNosniff", X_CONTENT_TYPE_OPTIONS, sniffing),
            written("customBrowserXSSValue", X_XSS_PROTECTION, &scripts),
            written("contentSecurityPolicy", CONTENT_SECURITY_POLICY, &settings.content_security_policy),
            written("contentSecurityPolicyReportOnly", CONTENT_SECURITY_POLICY_REPORT_ONLY, policy_report),
            written("referrerPolicy", REFERRER_POLICY, &settings.referrer_policy),
            written("permissionsPolicy", PERMISSIONS_POLICY, &settings.permissions_policy),
        ]);
        let host_field = |(index, text): (usize, &String)| {
            field::name(text).map_err(|message| Problem::at(format!("hostsProxyHeaders[{index}]"), message))
        };
        let tls_field = |(name, value): (&String, &String)| match field::name(name) {
            Ok(field) => Ok((field, value.clone())),
            Err(message) => Err(Problem::at(format!("sslProxyHeaders.{name}"), message)),
        };
        let (always, sts, pins, host_fields, tls_fields): (Vec<_>, _, _, _, _) = all((
            always,
            transport_security(settings),
            written("publicKey", PUBLIC_KEY_PINS, &settings.public_key),
            each(settings.hosts_proxy_headers.iter().enumerate().map(host_field)),
            each(settings.ssl_proxy_headers.iter().map(tls_field)),
        ))?;
        // Told last, and not at all while things are tried on one's own machine.
        let sts = sts.filter(|_| !settings.is_development);
        let pins = pins.filter(|_| !settings.is_development);
        let (forced, sts) = if settings.force_sts_header { (sts, None) } else { (None, sts) };
        Ok(Self {
            allowed_hosts: if settings.is_development { Box::default() } else { settings.allowed_hosts.clone().into() },
            host_fields,
            tls_fields,
            always: forced.into_iter().chain(always.into_iter().flatten()).collect(),
            over_tls: sts.into_iter().chain(pins).collect(),
        })
    }

    /// The answer to a request for a host that is not allowed.
    pub(super) fn refuse_host(&self, request: &RequestHeader) -> Option<Reply> {
        if self.allowed_hosts.is_empty() {
            return None;
        }
        let named =
            self.host_fields.iter().find_map(|name| request.headers.get(name).filter(|value| !value.is_empty()));
        let host = match (named, request.uri.authority()) {
            (Some(named), _) => named.as_bytes(),
            (None, Some(authority)) => authority.as_str().as_bytes(),
            (None, None) => request.headers.get(HOST).map_or(&b""[..], HeaderValue::as_bytes),
        };
        let is_allowed = self.allowed_hosts.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(host));
        (!is_allowed).then(|| Reply::fault(Fault::HostRefused))
    }

    /// Remembers whether the client came over TLS, if a field says so and a response depends on it.
    pub(super) fn on_request(&self, request: &RequestHeader, exchange: &mut Exchange) {
        let says_tls = |(name, value): &(HeaderName, String)| {
            request.headers.get(name).is_some_and(|sent| sent.as_bytes() == value.as_bytes())
        };
        if !self.over_tls.is_empty() && exchange.client.tls.is_none() && self.tls_fields.iter().any(says_tls) {
            exchange.note(self, TlsBefore);
        }
    }

    pub(super) fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
        for (name, value) in &self.always {
            let _ = response.insert_header(name.clone(), value.clone());
        }
        if !self.over_tls.is_empty()
            && (exchange.client.tls.is_some() || exchange.take_note::<_, TlsBefore>(self).is_some())
        {
            for (name, value) in &self.over_tls {
                let _ = response.insert_header(name.clone(), value.clone());
            }
        }
    }
}

/// Whether any setting of this part is written.
pub(super) fn is_wanted(settings: &Settings) -> bool {
    settings.frame_deny
        || settings.content_type_nosniff
        || settings.browser_xss_filter
        || settings.force_sts_header
        || settings.sts_include_subdomains
        || settings.sts_preload
        || settings.sts_seconds.is_some_and(|seconds| seconds != 0)
        || !settings.allowed_hosts.is_empty()
        || !settings.hosts_proxy_headers.is_empty()
        || !settings.ssl_proxy_headers.is_empty()
        || [
            &settings.custom_frame_options_value,
            &settings.custom_browser_xss_value,
            &settings.content_security_policy,
            &settings.content_security_policy_report_only,
            &settings.public_key,
            &settings.referrer_policy,
            &settings.permissions_policy,
        ]
        .iter()
        .any(|text| !text.is_empty())
}

/// RFC 6797 §6.1.
fn transport_security(settings: &Settings) -> Result<Option<(HeaderName, HeaderValue)>, Problem> {
    let seconds = settings.sts_seconds.unwrap_or(0);
    if seconds == 0 {
        return Ok(None);
    }
    if seconds < 0 {
        return Err(Problem::at("stsSeconds", "it cannot be negative"));
    }
    let subdomains = if settings.sts_include_subdomains { "; includeSubDomains" } else { "" };
    let preload = if settings.sts_preload { "; preload" } else { "" };
    written("stsSeconds", STRICT_TRANSPORT_SECURITY, &format!("max-age={seconds}{subdomains}{preload}"))
}

/// A field with a value as written; `None` if nothing is.
fn written(path: &str, name: HeaderName, text: &str) -> Result<Option<(HeaderName, HeaderValue)>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = field::value(text).map_err(|message| Problem::at(path, message))?;
    Ok(Some((name, value)))
}

#[cfg(test)]
mod tests {
    use crate::middleware::headers::Headers;
    use crate::middleware::testing::{Call, build, joined, verdict};

    #[track_caller]
    fn check(settings: &str, call: &str, name: &str, expected: &str) {
        let middleware: Headers = build(settings).unwrap();
        let mut call = Call::new(call);
        assert_eq!(verdict(&call.down(&middleware)), "continue");
        let response = call.up(&middleware, "X-Frame-Options: server");
        assert_eq!(joined(&response.headers, name), expected, "{settings}");
    }

    #[test]
    fn says_what_is_set() {
        let call = "GET http://h/";
        for (settings, name, expected) in [
            (r#"{"frameDeny":true}"#, "X-Frame-Options", "DENY"),
            (r#"{"frameDeny":true,"customFrameOptionsValue":"SAMEORIGIN"}"#, "X-Frame-Options", "SAMEORIGIN"),
            (r#"{"contentTypeNosniff":true}"#, "X-Frame-Options", "server"),
            (r#"{"contentTypeNosniff":true}"#, "X-Content-Type-Options", "nosniff"),
            (r#"{"browserXssFilter":true}"#, "X-XSS-Protection", "1; mode=block"),
            (r#"{"browserXssFilter":true,"customBrowserXSSValue":"0"}"#, "X-XSS-Protection", "0"),
            (r#"{"contentSecurityPolicy":"default-src 'self'"}"#, "Content-Security-Policy", "default-src 'self'"),
            (r#"{"contentSecurityPolicyReportOnly":"a"}"#, "Content-Security-Policy-Report-Only", "a"),
            (r#"{"referrerPolicy":"same-origin"}"#, "Referrer-Policy", "same-origin"),
            (r#"{"permissionsPolicy":"camera=()"}"#, "Permissions-Policy", "camera=()"),
        ] {
            check(settings, call, name, expected);
        }
    }

    #[test]
    fn transport_security_is_said_over_tls() {
        let sts = "Strict-Transport-Security";
        let full = r#"{"stsSeconds":10,"stsIncludeSubdomains":true,"stsPreload":true}"#;
        check(full, "GET https://h/", sts, "max-age=10; includeSubDomains; preload");
        check(full, "GET http://h/", sts, "");
        check(r#"{"stsSeconds":10,"forceSTSHeader":true}"#, "GET http://h/", sts, "max-age=10");
        check(r#"{"stsSeconds":10,"isDevelopment":true}"#, "GET https://h/", sts, "");
        check(r#"{"publicKey":"pin"}"#, "GET https://h/", "Public-Key-Pins", "pin");
        check(r#"{"publicKey":"pin"}"#, "GET http://h/", "Public-Key-Pins", "");
        let proxied = r#"{"stsSeconds":10,"sslProxyHeaders":{"X-Forwarded-Proto":"https"}}"#;
        check(proxied, "GET http://h/\nX-Forwarded-Proto: https", sts, "max-age=10");
        check(proxied, "GET http://h/\nX-Forwarded-Proto: http", sts, "");
        assert_eq!(build::<Headers>(r#"{"stsSeconds":-1}"#).unwrap_err().path, "stsSeconds");
    }

    #[test]
    fn only_allowed_hosts_may_be_asked_for() {
        let settings = r#"{"allowedHosts":["Good.com","good.com:8080"],"hostsProxyHeaders":["X-Original-Host"]}"#;
        for (call, expected) in [
            ("GET http://good.com/", "continue"),
            ("GET http://GOOD.com:8080/", "continue"),
            ("GET http://good.com:81/", "500 host-refused"),
            ("GET http://bad.com/", "500 host-refused"),
            ("GET http://bad.com/\nX-Original-Host: good.com", "continue"),
            ("GET http://good.com/\nX-Original-Host: bad.com", "500 host-refused"),
            ("GET http://good.com/\nX-Original-Host:", "continue"),
        ] {
            let middleware: Headers = build(settings).unwrap();
            assert_eq!(verdict(&Call::new(call).down(&middleware)), expected, "{call}");
        }
        let development: Headers = build(r#"{"allowedHosts":["a"],"isDevelopment":true}"#).unwrap();
        assert_eq!(verdict(&Call::new("GET http://b/").down(&development)), "continue");
    }
}
