//! `headers`: sets and removes fields, answers for cross-origin requests, and adds fields that browsers protect users by.

use std::collections::BTreeMap;

use pingora::http::{RequestHeader, ResponseHeader};
use serde::{Deserialize, Serialize};

use super::{Flow, Kit, Middleware};
use crate::exchange::Exchange;
use crate::problem::{Problem, Problems, all};

mod cors;
mod custom;
mod security;

use cors::Cors;
use custom::Custom;
use security::Security;

/// Settings of `headers`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Request fields to set, by name; an empty value removes the field. `Host` changes the host that the server is asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub custom_request_headers: BTreeMap<String, String>,
    /// Response fields to set, by name; an empty value removes the field.
    #[serde(skip_serializing_if = "is_default")]
    pub custom_response_headers: BTreeMap<String, String>,

    /// Whether pages of other origins may send credentials.
    #[serde(skip_serializing_if = "is_default")]
    pub access_control_allow_credentials: bool,
    /// Request fields that pages of other origins may set.
    #[serde(skip_serializing_if = "is_default")]
    pub access_control_allow_headers: Vec<String>,
    /// Methods that pages of other origins may use.
    #[serde(skip_serializing_if = "is_default")]
    pub access_control_allow_methods: Vec<String>,
    /// Origins that may ask; `*` is any.
    #[serde(skip_serializing_if = "is_default")]
    pub access_control_allow_origin_list: Vec<String>,
    /// Regular expressions for origins that may ask.
    #[serde(skip_serializing_if = "is_default")]
    pub access_control_allow_origin_list_regex: Vec<String>,
    /// Response fields that pages of other origins may read.
    #[serde(skip_serializing_if = "is_default")]
    pub access_control_expose_headers: Vec<String>,
    /// How long browsers may remember the answer to a preflight, in seconds.
    #[serde(skip_serializing_if = "is_default")]
    pub access_control_max_age: Option<i64>,
    /// Whether caches are told that responses differ by `Origin`.
    #[serde(skip_serializing_if = "is_default")]
    pub add_vary_header: bool,

    /// Hosts that may be asked for, with their port if they have one; others are answered 500. Empty: any.
    #[serde(skip_serializing_if = "is_default")]
    pub allowed_hosts: Vec<String>,
    /// Request fields of which the first that is there names the host instead of `Host`.
    #[serde(skip_serializing_if = "is_default")]
    pub hosts_proxy_headers: Vec<String>,
    /// Request fields and the values with which they say that the client came over TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub ssl_proxy_headers: BTreeMap<String, String>,
    /// For how long browsers shall come over TLS only, in seconds (`Strict-Transport-Security`). 0: not told.
    #[serde(skip_serializing_if = "is_default")]
    pub sts_seconds: Option<i64>,
    /// Whether that holds for subdomains, too.
    #[serde(skip_serializing_if = "is_default")]
    pub sts_include_subdomains: bool,
    /// Whether browser makers may list the host.
    #[serde(skip_serializing_if = "is_default")]
    pub sts_preload: bool,
    /// Whether it is told without TLS, too.
    #[serde(skip_serializing_if = "is_default", rename = "forceSTSHeader")]
    pub force_sts_header: bool,
    /// Whether no page may frame this one (`X-Frame-Options: DENY`).
    #[serde(skip_serializing_if = "is_default")]
    pub frame_deny: bool,
    /// `X-Frame-Options` in your own words.
    #[serde(skip_serializing_if = "is_default")]
    pub custom_frame_options_value: String,
    /// Whether browsers must believe the media type (`X-Content-Type-Options: nosniff`).
    #[serde(skip_serializing_if = "is_default")]
    pub content_type_nosniff: bool,
    /// Whether old browsers filter scripts (`X-XSS-Protection: 1; mode=block`).
    #[serde(skip_serializing_if = "is_default")]
    pub browser_xss_filter: bool,
    /// `X-XSS-Protection` in your own words.
    #[serde(skip_serializing_if = "is_default", rename = "customBrowserXSSValue")]
    pub custom_browser_xss_value: String,
    /// `Content-Security-Policy`.
    #[serde(skip_serializing_if = "is_default")]
    pub content_security_policy: String,
    /// `Content-Security-Policy-Report-Only`.
    #[serde(skip_serializing_if = "is_default")]
    pub content_security_policy_report_only: String,
    /// `Public-Key-Pins`, over TLS only. Browsers have given it up.
    #[serde(skip_serializing_if = "is_default")]
    pub public_key: String,
    /// `Referrer-Policy`.
    #[serde(skip_serializing_if = "is_default")]
    pub referrer_policy: String,
    /// `Permissions-Policy`.
    #[serde(skip_serializing_if = "is_default")]
    pub permissions_policy: String,
    /// Whether hosts, transport security and key pins are left out, for trying things on one's own machine.
    #[serde(skip_serializing_if = "is_default")]
    pub is_development: bool,

    /// Without effect; see `permissionsPolicy`.
    #[serde(skip_serializing_if = "is_default")]
    pub feature_policy: Option<String>,
    /// Without effect; see `redirectScheme` and the redirections of entry points.
    #[serde(skip_serializing_if = "is_default")]
    pub ssl_redirect: Option<bool>,
    /// Without effect; see `redirectScheme`.
    #[serde(skip_serializing_if = "is_default")]
    pub ssl_temporary_redirect: Option<bool>,
    /// Without effect; see `redirectRegex`.
    #[serde(skip_serializing_if = "is_default")]
    pub ssl_host: Option<String>,
    /// Without effect; see `redirectRegex`.
    #[serde(skip_serializing_if = "is_default")]
    pub ssl_force_host: Option<bool>,
}

/// Sets and removes fields. Requests meet cross-origin rules, then custom fields, then the check of hosts; responses the other way
/// round, so that custom fields have the last word over protective ones.
#[derive(Debug)]
pub struct Headers {
    custom: Custom,
    cors: Option<Cors>,
    security: Security,
}

impl Middleware for Headers {
    type Settings = Settings;

    fn warnings(settings: &Settings) -> Vec<Problem> {
        let unused = [
            ("featurePolicy", settings.feature_policy.is_some(), "use `permissionsPolicy`"),
            ("sslRedirect", settings.ssl_redirect.is_some(), "use `redirectScheme`, or the entry point's redirections"),
            ("sslTemporaryRedirect", settings.ssl_temporary_redirect.is_some(), "use `redirectScheme`"),
            ("sslHost", settings.ssl_host.is_some(), "use `redirectRegex`"),
            ("sslForceHost", settings.ssl_force_host.is_some(), "use `redirectRegex`"),
        ];
        let mut found: Vec<_> = unused
            .into_iter()
            .filter(|(_, written, _)| *written)
            .map(|(path, _, help)| Problem::warning(path, format!("`{path}` has no effect any more")).with_help(help))
            .collect();
        found.extend(cors::warning(settings));
        found
    }

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let parts = (Custom::build(settings), Cors::build(settings), Security::build(settings));
        let (custom, cors, security) = all(parts)?;
        if custom.is_idle() && cors.is_none() && !security::is_wanted(settings) && Self::warnings(settings).is_empty() {
            let problem = Problem::at("", "headers configuration not valid");
            return Err(problem.with_help("set at least one of its options").into());
        }
        Ok(Self { custom, cors, security })
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        if let Some(cors) = &self.cors {
            if let Some(reply) = cors.answer_preflight(request) {
                return Flow::reply(reply);
            }
            cors.on_request(request, exchange);
        }
        self.custom.on_request(request);
        if let Some(mut reply) = self.security.refuse_host(request) {
            // The check of hosts is the innermost part; its answer passes the other two.
            self.finish(&mut reply.header, exchange);
            return Flow::reply(reply);
        }
        self.security.on_request(request, exchange);
        Flow::Continue
    }

    fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
        self.security.on_response(response, exchange);
        self.finish(response, exchange);
    }
}

impl Headers {
    fn finish(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
        self.custom.on_response(response);
        if let Some(cors) = &self.cors {
            cors.on_response(response, exchange);
        }
    }
}

/// Whether a setting is as if it were not written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build, joined, verdict};

    #[test]
    fn nothing_set_is_an_error() {
        for settings in ["{}", r#"{"customRequestHeaders":{},"stsSeconds":0,"isDevelopment":true}"#] {
            assert_eq!(build::<Headers>(settings).unwrap_err().message, "headers configuration not valid");
        }
    }

    #[test]
    fn settings_come_back_as_written() {
        let text = r#"{"customRequestHeaders":{"X-A":""},"accessControlMaxAge":5,"forceSTSHeader":true,"customBrowserXSSValue":"0","sslHost":"h"}"#;
        let settings: Settings = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&settings).unwrap(), text);
    }

    #[test]
    fn warns_of_what_does_nothing() {
        let settings: Settings = serde_json::from_str(r#"{"sslRedirect":true,"featurePolicy":"x"}"#).unwrap();
        let paths: Vec<_> = Headers::warnings(&settings).into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["featurePolicy", "sslRedirect"]);
        assert!(build::<Headers>(r#"{"sslRedirect":true}"#).is_ok());
    }

    #[test]
    fn custom_fields_have_the_last_word() {
        let middleware: Headers =
            build(r#"{"frameDeny":true,"contentTypeNosniff":true,"customResponseHeaders":{"X-Frame-Options":"","Server":"mine"}}"#).unwrap();
        let mut call = Call::new("GET http://h/");
        assert_eq!(verdict(&call.down(&middleware)), "continue");
        let response = call.up(&middleware, "Server: nginx");
        assert_eq!(joined(&response.headers, "X-Frame-Options"), "");
        assert_eq!(joined(&response.headers, "X-Content-Type-Options"), "nosniff");
        assert_eq!(joined(&response.headers, "Server"), "mine");
    }

    #[test]
    fn a_refused_host_is_told_so_with_custom_fields() {
        let middleware: Headers =
            build(r#"{"allowedHosts":["good"],"customResponseHeaders":{"X-A":"1"},"accessControlAllowOriginList":["http://o"]}"#).unwrap();
        let mut call = Call::new("GET http://bad/\nOrigin: http://o");
        let Flow::Reply(reply) = call.down(&middleware) else { panic!("continued") };
        assert_eq!(reply.header.status, 500);
        assert_eq!(&*reply.body, b"Bad Host");
        assert_eq!(joined(&reply.header.headers, "X-A"), "1");
        assert_eq!(joined(&reply.header.headers, "Access-Control-Allow-Origin"), "http://o");
    }
}
