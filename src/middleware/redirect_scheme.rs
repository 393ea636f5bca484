//! `redirectScheme`: sends clients to the same URL under another scheme or port.

use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::redirect::{Asked, Lasting, redirect, refuse};
use super::{Flow, Kit, Middleware};
use crate::exchange::Exchange;
use crate::problem::{Problem, Problems, all};

/// Settings of `redirectScheme`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Scheme that clients are sent to, mostly `https`.
    #[serde(default)]
    pub scheme: String,
    /// Port that clients are sent to. Empty: the scheme's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port: String,
    /// Whether clients may remember the answer (301, 308) or not (302, 307).
    #[serde(default)]
    pub permanent: bool,
}

/// Sends clients to another scheme.
#[derive(Debug)]
pub struct RedirectScheme {
    scheme: String,
    port: String,
    lasting: Lasting,
}

impl Middleware for RedirectScheme {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        // Compared with what requests came over, which is lower case.
        let scheme = settings.scheme.to_ascii_lowercase();
        let port = match (scheme.as_str(), settings.port.as_str()) {
            (_, "") | ("http", "80") | ("https", "443") => Ok(String::new()),
            (_, port) if port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(format!(":{port}")),
            (_, port) => Err(Problem::at("port", format!("`{port}` is not a port"))),
        };
        let ((), port) = all((check_scheme(&scheme), port))?;
        Ok(Self { scheme, port, lasting: Lasting::of(settings.permanent) })
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        let Some(asked) = Asked::from(request, exchange) else { return refuse() };
        if asked.scheme == self.scheme && asked.port == self.port {
            return Flow::Continue;
        }
        let location = [&*self.scheme, "://", asked.host, &*self.port, asked.target].concat();
        redirect(&request.method, &location, self.lasting)
    }
}

/// RFC 3986 §3.1.
fn check_scheme(scheme: &str) -> Result<(), Problem> {
    if scheme.is_empty() {
        return Err(Problem::at("scheme", "you must provide a target scheme"));
    }
    if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    {
        let problem = Problem::at("scheme", format!("`{scheme}` is not a scheme"));
        return Err(problem.with_help("write `https`, without `://`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build, verdict};

    #[track_caller]
    fn check(settings: &str, call: Call, expected: &str) {
        let middleware: RedirectScheme = build(settings).unwrap();
        let mut call = call;
        assert_eq!(verdict(&call.down(&middleware)), expected);
    }

    const HTTPS: &str = r#"{"scheme":"https"}"#;
    const HTTPS_8443: &str = r#"{"scheme":"https","port":"8443"}"#;

    #[test]
    fn sends_to_the_same_url_under_another_scheme() {
        check(HTTPS, Call::new("GET http://foo/a?b=c"), "302 https://foo/a?b=c");
        check(HTTPS, Call::new("GET http://foo:80"), "302 https://foo/");
        check(HTTPS, Call::new("GET http://foo:8080/x"), "302 https://foo/x");
        check(HTTPS, Call::new("GET http://[::1]:8080/x"), "302 https://[::1]/x");
        check(HTTPS, Call::new("GET http://[::1]/x"), "302 https://[::1]/x");
        check(HTTPS_8443, Call::new("GET http://foo:8080/x"), "302 https://foo:8443/x");
        check(r#"{"scheme":"https","port":"443"}"#, Call::new("GET http://foo/"), "302 https://foo/");
        check(r#"{"scheme":"http","port":"80"}"#, Call::new("GET https://foo:80/"), "302 http://foo/");
    }

    #[test]
    fn leaves_alone_what_is_there_already() {
        check(HTTPS, Call::new("GET https://foo/"), "continue");
        check(HTTPS, Call::new("GET https://foo:443/"), "continue");
        check(r#"{"scheme":"HTTPS","port":"443"}"#, Call::new("GET https://foo/"), "continue");
        check(HTTPS_8443, Call::new("GET https://foo:8443/"), "continue");
        check(HTTPS_8443, Call::new("GET https://foo/"), "302 https://foo:8443/");
    }

    #[test]
    fn the_method_and_the_wish_make_the_status() {
        let permanent = r#"{"scheme":"https","permanent":true}"#;
        for (method, temporary, lasting) in
            [("GET", 302, 301), ("HEAD", 302, 301), ("POST", 307, 308), ("OPTIONS", 307, 308)]
        {
            check(HTTPS, Call::new(&format!("{method} http://foo/")), &format!("{temporary} https://foo/"));
            check(permanent, Call::new(&format!("{method} http://foo/")), &format!("{lasting} https://foo/"));
        }
    }

    #[test]
    fn only_trusted_proxies_say_what_the_client_sees() {
        for (proto, expected) in [
            ("https", "continue"),
            ("HTTPS", "continue"),
            ("wss", "continue"),
            ("http", "302 https://foo/"),
            ("ws", "302 https://foo/"),
        ] {
            let text = format!("GET http://foo/\nX-Forwarded-Proto: {proto}");
            check(HTTPS, Call::new(&text).with_client(|client| client.trusted = true), expected);
            check(HTTPS, Call::new(&text), "302 https://foo/");
        }
        let evil = "GET http://foo/\nX-Forwarded-Host: evil.com\nX-Forwarded-Prefix: //evil.com";
        check(HTTPS, Call::new(evil).with_client(|client| client.trusted = true), "302 https://foo/");
    }

    #[test]
    fn without_a_host_there_is_nowhere_to_go() {
        check(HTTPS, Call::new("GET http:///a"), "400 bad-request");
    }

    #[test]
    fn refuses_what_is_no_scheme_or_port() {
        for (settings, path) in [
            ("{}", "scheme"),
            (r#"{"scheme":"https://"}"#, "scheme"),
            (r#"{"scheme":"https","port":"x"}"#, "port"),
            (r#"{"scheme":"https","port":"0"}"#, "port"),
        ] {
            assert_eq!(build::<RedirectScheme>(settings).unwrap_err().path, path, "{settings}");
        }
    }
}
