//! The static configuration, translated into what each part wants to be told.

use http::header::{HeaderName, HeaderValue};
use rustix::process::{Resource, getrlimit};

use crate::config::address::Protocol;
use crate::config::entry_points::{EntryPoint, UnderscoreHeaders};
use crate::config::install::Install;
use crate::observe::metrics::Metrics;
use crate::problem::{Problem, Problems, all};
use crate::process::drain::Plan;
use crate::traffic::http::forwarded::host_name;
use crate::traffic::http::{EncodedCharacters, EntryPointHttp, ForwardedOptions, GuardOptions, Underscores};
use crate::traffic::{entrypoint, udp};
use crate::units::{Duration, Name, Networks};

/// Entry points that serve TCP, by name.
pub(super) fn tcp_entry_points(install: &Install) -> impl Iterator<Item = (&Name, &EntryPoint)> {
    install.entry_points.iter().filter(|(_, entry_point)| entry_point.address.protocol == Protocol::Tcp)
}

/// Entry points that serve UDP, by name.
pub(super) fn udp_entry_points(install: &Install) -> impl Iterator<Item = (&Name, &EntryPoint)> {
    install.entry_points.iter().filter(|(_, entry_point)| entry_point.address.protocol == Protocol::Udp)
}

/// How the requests of one entry point are treated.
pub(super) fn http(name: &Name, entry_point: &EntryPoint, install: &Install, metrics: &Metrics) -> EntryPointHttp {
    let http = &entry_point.http;
    let headers = &entry_point.forwarded_headers;
    let encoded = &http.encoded_characters;
    EntryPointHttp {
        name: name.as_str().into(),
        guard: GuardOptions {
            sanitize_path: http.sanitize_path,
            encode_query_semicolons: http.encode_query_semicolons,
            underscores: match http.underscore_headers_strategy {
                UnderscoreHeaders::Keep => Underscores::Keep,
                UnderscoreHeaders::Delete => Underscores::Delete,
                UnderscoreHeaders::Reject => Underscores::Reject,
            },
        },
        forwarded: ForwardedOptions {
            connection: headers.connection.iter().filter_map(|name| name.parse::<HeaderName>().ok()).collect(),
            append_for: !headers.not_append_x_forwarded_for && !install.global.not_append_x_forwarded_for,
            scheme_headers: headers.add_x_forwarded_scheme_headers,
            server: HeaderValue::from_str(&host_name()).unwrap_or_else(|_| HeaderValue::from_static("localhost")),
        },
        encoded_characters: EncodedCharacters {
            slash: encoded.allow_encoded_slash,
            backslash: encoded.allow_encoded_back_slash,
            null: encoded.allow_encoded_null_character,
            semicolon: encoded.allow_encoded_semicolon,
            percent: encoded.allow_encoded_percent,
            question_mark: encoded.allow_encoded_question_mark,
            hash: encoded.allow_encoded_hash,
        },
        access_log: entry_point.observability.access_logs,
        metrics: entry_point.observability.metrics,
        meters: metrics.entry_point(name.as_str()),
    }
}

/// Whether a resolver proves in handshakes that names are ours. If none does, whoever asks for a proof means a server behind us.
pub(super) fn proves_in_handshakes(install: &Install) -> bool {
    let mut resolvers = install.certificates_resolvers.values().filter_map(|resolver| resolver.acme.as_ref());
    resolvers.any(|acme| acme.tls_challenge.is_some())
}

/// What the front door of one entry point is told.
///
/// # Errors
/// Problems, with their paths from the root.
pub(super) fn door(index: usize, name: &Name, entry_point: &EntryPoint) -> Result<entrypoint::Options, Problems> {
    let path = format!("entryPoints.{name}");
    let mut options = entrypoint::Options::new(name.as_str(), index);
    let headers = &entry_point.forwarded_headers;
    let forwarders = networks(&headers.trusted_ips, &format!("{path}.forwardedHeaders.trustedIPs"));
    let proxies = entry_point.proxy_protocol.as_ref().map(|proxy| {
        let networks = networks(&proxy.trusted_ips, &format!("{path}.proxyProtocol.trustedIPs"))?;
        Ok::<_, Problems>(entrypoint::Trusted { networks, everyone: proxy.insecure })
    });
    let (forwarders, proxies) = all((forwarders, proxies.transpose()))?;
    options.forwarders = entrypoint::Trusted { networks: forwarders, everyone: headers.insecure };
    options.proxy_protocol = proxies;
    let written = &entry_point.transport;
    let times = &mut options.timeouts;
    times.read = written.responding_timeouts.read_timeout.positive();
    times.write = written.responding_timeouts.write_timeout.positive();
    times.idle = written.responding_timeouts.idle_timeout.positive();
    // A request is read within the read timeout, so its head is as well.
    times.head = times.read.map_or(times.head, |read| read.min(times.head));
    times.handshake = times.read.map_or(times.handshake, |read| read.min(times.handshake));
    options.keep_alive.max_time = written.keep_alive_max_time.positive();
    options.keep_alive.max_requests = u64::try_from(written.keep_alive_max_requests).ok().filter(|most| *most > 0);
    options.acme.by_pass = entry_point.allow_acme_by_pass;
    limits(entry_point, &mut options);
    Ok(options)
}

fn limits(entry_point: &EntryPoint, options: &mut entrypoint::Options) {
    if let Some(bytes) = usize::try_from(entry_point.http.max_header_bytes).ok().filter(|bytes| *bytes > 0) {
        options.limits.head_bytes = bytes;
    }
    let own = &entry_point.limits;
    let positive = |written: u32| usize::try_from(written).ok().filter(|limit| *limit > 0);
    if let Some(most) = own.max_connections.and_then(positive) {
        options.limits.connections = most;
    }
    if let Some(most) = own.max_header_fields.and_then(positive) {
        options.limits.header_fields = most;
    }
    if let Some(bytes) = own.max_request_target.and_then(positive) {
        options.limits.target_bytes = bytes;
    }
    if let Some(time) = own.head_timeout.and_then(Duration::positive) {
        options.timeouts.head = time;
    }
    if let Some(least) = own.min_body_rate {
        options.rates.body.bytes_per_second = least;
    }
    if let Some(least) = own.min_send_rate {
        options.rates.send.bytes_per_second = least;
    }
    if let Some(http2) = &mut options.http2 {
        http2.max_concurrent_streams = entry_point.http2.max_concurrent_streams.max(1);
        http2.header_table_bytes = entry_point.http2.max_decoder_header_table_size;
        let head_bytes = u32::try_from(options.limits.head_bytes).unwrap_or(u32::MAX);
        http2.max_header_list_bytes = http2.max_header_list_bytes.min(head_bytes);
    }
}

/// What holds for the sessions of an entry point for UDP.
pub(super) fn bounds(entry_point: &EntryPoint, install: &Install) -> udp::Bounds {
    let written = entry_point.limits.max_sessions.and_then(|most| usize::try_from(most).ok()).filter(|most| *most > 0);
    let sessions = written.unwrap_or_else(|| {
        // Each has a descriptor. Those that are left are for connections.
        let descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
        let share = descriptors.map_or(MAX_SESSIONS, |most| most / 4 / udp_entry_points(install).count().max(1));
        share.clamp(1, MAX_SESSIONS)
    });
    udp::Bounds { timeout: entry_point.udp.timeout.or_zero(), sessions }
}

/// Sessions of an entry point for UDP, unless it says otherwise.
const MAX_SESSIONS: usize = 16_384;

fn networks(entries: &[String], path: &str) -> Result<Networks, Problems> {
    Networks::parse(entries).map_err(|wrong| {
        wrong.into_iter().map(|(index, message)| Problem::at(format!("{path}[{index}]"), message)).collect()
    })
}

/// How the process ends: the longest grace of any entry point, unless `drain` says otherwise.
pub(super) fn drain(install: &Install) -> Plan {
    let plan = drain_of(install, install.entry_points.values());
    let lame_duck = install.drain.lame_duck;
    Plan { accept_grace: lame_duck.map_or(plan.accept_grace, Duration::or_zero), ..plan }
}

/// How an entry point ends while the process goes on. `drain.lameDuck` is no part of it: nothing reports that it goes.
pub(super) fn drain_one(install: &Install, entry_point: &EntryPoint) -> Plan {
    drain_of(install, std::iter::once(entry_point))
}

fn drain_of<'e>(install: &Install, entry_points: impl Iterator<Item = &'e EntryPoint> + Clone) -> Plan {
    let defaults = Plan::default();
    let cycles = || entry_points.clone().map(|entry_point| &entry_point.transport.life_cycle);
    let longest = |time: &dyn Fn(&crate::config::entry_points::LifeCycle) -> Duration| {
        cycles().map(|cycle| time(cycle).or_zero()).max().unwrap_or_default()
    };
    let written = &install.drain;
    let or = |own: Option<Duration>, default| own.map_or(default, Duration::or_zero);
    let requests = or(written.timeout, longest(&|cycle| cycle.grace_timeout));
    Plan {
        accept_grace: longest(&|cycle| cycle.request_accept_grace_timeout),
        idle_spread: or(written.idle_spread, defaults.idle_spread),
        requests,
        tunnels: or(written.web_socket_timeout, defaults.tunnels.max(requests)),
    }
}

/// Now, as the API and logs write it.
pub(super) fn now_rfc3339() -> String {
    time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

/// This machine's share of threads for traffic.
pub(super) fn threads(install: &Install) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    install.threads.map_or(all, |threads| usize::from(threads).max(1))
}
