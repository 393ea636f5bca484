//! `entryPoints`: where clients connect, and what holds for everything that comes in there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::router_tls::RouterTls;
use crate::units::{Duration, Name};

/// One entry point as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EntryPoint {
    /// Where it listens.
    pub address: Address,
    /// Leaves proofs for ACME servers to routers and servers, except those that a resolver of ours awaits.
    #[serde(default, rename = "allowACMEByPass", skip_serializing_if = "is_false")]
    pub allow_acme_by_pass: bool,
    /// Lets several processes listen on the address at once.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reuse_port: bool,
    /// Makes it one of those that a router without `entryPoints` is attached to.
    #[serde(default, skip_serializing_if = "is_false")]
    pub as_default: bool,
    /// Timeouts, and how it stops.
    #[serde(default)]
    pub transport: Transport,
    /// Who may announce a client's real address in a PROXY protocol header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whose `X-Forwarded-*` headers are believed.
    #[serde(default)]
    pub forwarded_headers: ForwardedHeaders,
    /// What holds for every HTTP request.
    #[serde(default)]
    pub http: Http,
    /// HTTP/2 settings.
    #[serde(default)]
    pub http2: Http2,
    /// What holds for datagrams, if it listens for those.
    #[serde(default)]
    pub udp: Udp,
    /// What is recorded, unless a router says otherwise.
    #[serde(default)]
    pub observability: Observability,
    /// Limits of our own.
    #[serde(default)]
    pub limits: Limits,
}

impl EntryPoint {
    /// One that listens at `address` and has the defaults otherwise.
    pub fn listening(address: Address) -> Self {
        Self {
            address,
            allow_acme_by_pass: false,
            reuse_port: false,
            as_default: false,
            transport: Transport::default(),
            proxy_protocol: None,
            forwarded_headers: ForwardedHeaders::default(),
            http: Http::default(),
            http2: Http2::default(),
            udp: Udp::default(),
            observability: Observability::default(),
            limits: Limits::default(),
        }
    }
}

/// How connections are kept and ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Transport {
    /// How it stops.
    pub life_cycle: LifeCycle,
    /// How long clients may take.
    pub responding_timeouts: RespondingTimeouts,
    /// A client's connection is closed once it is this old; zero means never.
    pub keep_alive_max_time: Duration,
    /// A client's connection is closed after so many requests; zero means never.
    pub keep_alive_max_requests: i64,
}

/// How it stops.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LifeCycle {
    /// How long it still accepts after it was told to stop.
    pub request_accept_grace_timeout: Duration,
    /// How long requests under way may take after that.
    #[serde(rename = "graceTimeOut")]
    pub grace_timeout: Duration,
}

impl Default for LifeCycle {
    fn default() -> Self {
        Self { request_accept_grace_timeout: Duration::ZERO, grace_timeout: Duration::from_secs(10) }
    }
}

/// How long clients may take; zero means as long as they like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RespondingTimeouts {
    /// For a whole request, with its body.
    pub read_timeout: Duration,
    /// For a whole response.
    pub write_timeout: Duration,
    /// Between two requests on one connection.
    pub idle_timeout: Duration,
}

impl Default for RespondingTimeouts {
    fn default() -> Self {
        Self {
            read_timeout: Duration::from_secs(60),
            write_timeout: Duration::ZERO,
            idle_timeout: Duration::from_secs(180),
        }
    }
}

/// Who may announce a client's real address in a PROXY protocol header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyProtocol {
    /// Everyone.
    pub insecure: bool,
    /// Peers with these addresses or networks.
    #[serde(rename = "trustedIPs")]
    pub trusted_ips: Vec<String>,
}

/// Whose `X-Forwarded-*` headers are believed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ForwardedHeaders {
    /// Everyone's.
    pub insecure: bool,
    /// Those of peers with these addresses or networks.
    #[serde(rename = "trustedIPs")]
    pub trusted_ips: Vec<String>,
    /// Headers named in `Connection` that are not removed.
    pub connection: Vec<String>,
    /// Leaves `X-Forwarded-For` as it came.
    pub not_append_x_forwarded_for: bool,
    /// Also sends `X-Forwarded-Scheme` and `X-Scheme`.
    pub add_x_forwarded_scheme_headers: bool,
}

/// What holds for every HTTP request of an entry point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Http {
    /// Sends everything to another entry point.
    #[serde(skip_serializing_if = "Redirections::is_empty")]
    pub redirections: Redirections,
    /// Middlewares put before those of each router. As written: a bare name belongs to the router's provider.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<Name>,
    /// What the routers ask of TLS that do not say so themselves; all of them are for TLS only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouterTls>,
    /// Which encoded characters a path may have.
    pub encoded_characters: EncodedCharacters,
    /// Writes `;` in a query as `%3B`.
    pub encode_query_semicolons: bool,
    /// Removes `/./`, `/../` and doubled slashes.
    pub sanitize_path: bool,
    /// Most bytes that a request's head may have.
    pub max_header_bytes: i64,
    /// What happens to header names with an underscore.
    pub underscore_headers_strategy: UnderscoreHeaders,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            redirections: Redirections::default(),
            middlewares: Vec::new(),
            tls: None,
            encoded_characters: EncodedCharacters::default(),
            encode_query_semicolons: false,
            sanitize_path: true,
            max_header_bytes: 1 << 20,
            underscore_headers_strategy: UnderscoreHeaders::Keep,
        }
    }
}

/// Sends everything to another entry point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Redirections {
    /// Where to.
    pub entry_point: Option<Redirection>,
}

impl Redirections {
    fn is_empty(&self) -> bool {
        self.entry_point.is_none()
    }
}

/// A redirection of a whole entry point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirection {
    /// Name of an entry point, or a port like `:443`.
    pub to: Box<str>,
    /// Scheme of the new location.
    #[serde(default = "https")]
    pub scheme: Box<str>,
    /// Whether clients may remember it.
    #[serde(default = "yes")]
    pub permanent: bool,
    /// Priority of the router that does it.
    #[serde(default = "next_to_highest")]
    pub priority: i64,
    /// Port of the new location. Unknown if the entry point that it leads to is written, but cannot be used.
    #[serde(skip)]
    pub port: Option<u16>,
}

/// Which encoded characters a path may have; a request with another one is answered with 400.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct EncodedCharacters {
    /// `%2F`
    pub allow_encoded_slash: bool,
    /// `%5C`
    pub allow_encoded_back_slash: bool,
    /// `%00`
    pub allow_encoded_null_character: bool,
    /// `%3B`
    pub allow_encoded_semicolon: bool,
    /// `%25`
    pub allow_encoded_percent: bool,
    /// `%3F`
    pub allow_encoded_question_mark: bool,
    /// `%23`
    pub allow_encoded_hash: bool,
}

impl Default for EncodedCharacters {
    fn default() -> Self {
        Self {
            allow_encoded_slash: true,
            allow_encoded_back_slash: true,
            allow_encoded_null_character: true,
            allow_encoded_semicolon: true,
            allow_encoded_percent: true,
            allow_encoded_question_mark: true,
            allow_encoded_hash: true,
        }
    }
}

/// What happens to header names with an underscore, which some servers take for a dash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UnderscoreHeaders {
    /// They pass.
    #[default]
    Keep,
    /// They are removed.
    Delete,
    /// The request is answered with 400.
    Reject,
}

/// HTTP/2 settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Http2 {
    /// Most requests under way on one connection.
    pub max_concurrent_streams: u32,
    /// Table by which a client may compress the header fields of its requests, in bytes (RFC 7541 §4.2); 0 for none. It is memory
    /// that each connection may take.
    pub max_decoder_header_table_size: u32,
}

impl Default for Http2 {
    fn default() -> Self {
        Self { max_concurrent_streams: 250, max_decoder_header_table_size: 4096 }
    }
}

/// What holds for the datagrams of an entry point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Udp {
    /// A session ends when neither its client nor its server has sent anything for so long.
    pub timeout: Duration,
}

impl Default for Udp {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(3) }
    }
}

/// What is recorded about the requests of an entry point, unless a router says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Observability {
    /// Whether requests are written to the access log.
    pub access_logs: bool,
    /// Whether requests are counted.
    pub metrics: bool,
    /// Whether requests are traced.
    pub tracing: bool,
    /// How much of a request is traced.
    pub trace_verbosity: TraceVerbosity,
}

impl Default for Observability {
    fn default() -> Self {
        Self { access_logs: true, metrics: true, tracing: true, trace_verbosity: TraceVerbosity::Minimal }
    }
}

/// How much of a request is traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TraceVerbosity {
    /// The request, and the attempts to serve it.
    #[default]
    Minimal,
    /// Each step as well.
    Detailed,
}

/// Limits of our own. What is not set has the built-in limit of the entry point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Most connections open at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Most header fields that a request may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_header_fields: Option<u32>,
    /// How long a request's head may take to arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_timeout: Option<Duration>,
    /// Least bytes per second of a request's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_body_rate: Option<u32>,
    /// Least bytes per second that a client must take of a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_send_rate: Option<u32>,
    /// Longest request target, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_request_target: Option<u32>,
    /// Most UDP sessions open at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
}

/// All entry points, by name.
pub type EntryPoints = BTreeMap<Name, EntryPoint>;

fn https() -> Box<str> {
    "https".into()
}

fn yes() -> bool {
    true
}

/// Above every router that a user can write.
fn next_to_highest() -> i64 {
    i64::MAX - 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}
