//! Active health: when a server is probed, and what the answers make of it. No input or output here; see `probe`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration as Span;

use http::header::{HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

use crate::problem::{Problem, Problems, all, each, refuse};
use crate::units::Duration;

/// Most results that a change of mind may take.
const THRESHOLD_LIMIT: u32 = 100;

/// `healthCheck` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// `http` or `https` instead of the server's own scheme.
    pub scheme: String,
    /// What is probed: an HTTP answer, what the server says of itself by gRPC's health protocol, or only that a connection can
    /// be made.
    pub mode: Mode,
    /// Path asked for, with its query. Default `/`.
    pub path: String,
    /// Method. Default `GET`.
    pub method: String,
    /// The one status that counts as well. Default: any of 200–399.
    pub status: Option<u16>,
    /// Port instead of the server's own.
    pub port: Option<u16>,
    /// Time between probes of a server that is up.
    pub interval: Duration,
    /// Time between probes of a server that is down. Default: `interval`.
    pub unhealthy_interval: Option<Duration>,
    /// What a whole probe may take.
    pub timeout: Duration,
    /// Host named in the request instead of the server's own.
    pub hostname: String,
    /// Follows redirections that stay on the server. One that leads elsewhere is judged by its own status.
    pub follow_redirects: bool,
    /// Header fields of the request.
    pub headers: BTreeMap<String, String>,
    /// Successes in a row that bring a server up. Default 1.
    pub rise: u32,
    /// Failures in a row that take a server down. Default 1.
    pub fall: u32,
    /// Each pause is up to this much shorter, so that probes do not march in step. Default: a tenth of the interval.
    pub jitter: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scheme: String::new(),
            mode: Mode::Http,
            path: String::new(),
            method: String::new(),
            status: None,
            port: None,
            interval: Duration::from_secs(30),
            unhealthy_interval: None,
            timeout: Duration::from_secs(5),
            hostname: String::new(),
            follow_redirects: true,
            headers: BTreeMap::new(),
            rise: 1,
            fall: 1,
            jitter: None,
        }
    }
}

/// What is probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// An HTTP answer.
    #[default]
    Http,
    /// Only that a connection can be made.
    Tcp,
    /// The server as a whole says that it serves (`grpc.health.v1.Health/Check`). Path, method and status have no meaning.
    Grpc,
}

/// How the servers of one pool are probed, checked.
#[derive(Debug)]
pub struct Plan {
    pub(super) mode: Mode,
    pub(super) scheme: Option<&'static str>,
    pub(super) method: Method,
    pub(super) path: PathAndQuery,
    pub(super) status: Option<u16>,
    pub(super) port: Option<u16>,
    pub(super) timeout: Span,
    pub(super) host: Option<HeaderValue>,
    pub(super) follows_redirects: bool,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    interval: Span,
    unhealthy_interval: Span,
    jitter: Span,
    rise: u32,
    fall: u32,
}

impl Plan {
    /// Checks what is written.
    ///
    /// # Errors
    /// Each setting that has no meaning, or is one that cannot act.
    pub fn build(settings: &Settings) -> Result<Self, Problems> {
        let status = settings.status.filter(|status| *status != 0);
        let hostname = match settings.hostname.as_str() {
            "" => Ok(None),
            host => HeaderValue::from_str(host).map(Some).map_err(|_| Problem::at("hostname", "is not a valid host")),
        };
        let refused = each::<_, _, Vec<()>>([
            check_threshold("rise", settings.rise),
            check_threshold("fall", settings.fall),
            refuse(status.is_some_and(|status| !(200..600).contains(&status)), || {
                Problem::at("status", "is not a status that answers carry")
            }),
            refuse(settings.port == Some(0), || Problem::at("port", "0 is not a port")),
        ]);
        let question = all((scheme(&settings.scheme), method(&settings.method), path(&settings.path), hostname));
        let parts = all((refused, Rhythm::read(settings), question, headers(&settings.headers)));
        let (_, rhythm, (scheme, method, path, hostname), mut headers) = parts?;
        let host = hostname.or_else(|| headers.iter().find(|(name, _)| name == HOST).map(|(_, value)| value.clone()));
        headers.retain(|(name, _)| name != HOST);
        if !headers.iter().any(|(name, _)| name == USER_AGENT) {
            headers.push((USER_AGENT, HeaderValue::from_static("portcullis-health-check")));
        }
        Ok(Self {
            mode: settings.mode,
            scheme,
            method,
            path,
            status,
            port: settings.port,
            timeout: rhythm.timeout,
            host,
            follows_redirects: settings.follow_redirects,
            headers,
            interval: rhythm.interval,
            unhealthy_interval: rhythm.unhealthy_interval,
            jitter: rhythm.jitter,
            rise: settings.rise,
            fall: settings.fall,
        })
    }

    /// Whether an answer with this status passes.
    pub fn passes(&self, status: u16) -> bool {
        self.status.map_or((200..400).contains(&status), |expected| expected == status)
    }

    /// The pause after a probe; `lot` is between 0 and 1.
    fn pause(&self, is_up: bool, lot: f64) -> Span {
        let whole = if is_up { self.interval } else { self.unhealthy_interval };
        whole.saturating_sub(self.jitter.mul_f64(lot.clamp(0.0, 1.0)))
    }
}

/// The times of probes, checked.
struct Rhythm {
    interval: Span,
    unhealthy_interval: Span,
    jitter: Span,
    timeout: Span,
}

impl Rhythm {
    fn read(settings: &Settings) -> Result<Self, Problems> {
        let positive =
            |path: &str, duration: Duration| duration.positive().ok_or_else(|| Problem::at(path, "must be above zero"));
        let unhealthy = settings.unhealthy_interval.map(|duration| positive("unhealthyInterval", duration));
        let (interval, unhealthy, timeout) = all((
            positive("interval", settings.interval),
            unhealthy.transpose(),
            positive("timeout", settings.timeout),
        ))?;
        let shorter = interval.min(unhealthy.unwrap_or(interval));
        let jitter = settings.jitter.map_or(shorter / 10, Duration::or_zero);
        refuse(jitter > shorter, || Problem::at("jitter", "is longer than the interval"))?;
        Ok(Self { interval, unhealthy_interval: unhealthy.unwrap_or(interval), jitter, timeout })
    }
}

fn check_threshold(path: &str, threshold: u32) -> Result<(), Problem> {
    refuse(!(1..=THRESHOLD_LIMIT).contains(&threshold), || {
        Problem::at(path, format!("must be between 1 and {THRESHOLD_LIMIT}"))
    })
}

/// What the probes of one server have led to. Only the server's probe task writes it; requests read it.
#[derive(Debug)]
pub struct State {
    is_up: AtomicBool,
    /// Results in a row that speak against `is_up`.
    streak: AtomicU32,
    /// When the next probe is due, in milliseconds; 0 before the first.
    due: AtomicU64,
}

impl Default for State {
    /// Up until the first probe says otherwise.
    fn default() -> Self {
        Self { is_up: AtomicBool::new(true), streak: AtomicU32::new(0), due: AtomicU64::new(0) }
    }
}

impl State {
    /// Whether probes pass.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// How long to wait for the next probe: none for a new server; one that was probed before keeps its rhythm.
    pub fn wait(&self, now: u64) -> Span {
        Span::from_millis(self.due.load(Ordering::Relaxed).saturating_sub(now))
    }

    /// Notes the result of a probe that ended at `now`; the new state, if it changed. `lot` is between 0 and 1.
    pub fn note(&self, passed: bool, plan: &Plan, now: u64, lot: f64) -> Option<bool> {
        let was_up = self.is_up();
        let threshold = if was_up { plan.fall } else { plan.rise };
        let streak = if passed == was_up { 0 } else { self.streak.load(Ordering::Relaxed) + 1 };
        let has_changed = streak >= threshold;
        self.streak.store(if has_changed { 0 } else { streak }, Ordering::Relaxed);
        if has_changed {
            self.is_up.store(passed, Ordering::Relaxed);
        }
        let pause = plan.pause(was_up != has_changed, lot);
        self.due
            .store(now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)).max(1), Ordering::Relaxed);
        has_changed.then_some(passed)
    }

    /// Forgets what probes said: without probes, every server counts as up.
    pub fn forget(&self) {
        self.is_up.store(true, Ordering::Relaxed);
        self.streak.store(0, Ordering::Relaxed);
        self.due.store(0, Ordering::Relaxed);
    }

    /// Has the next probe come at once.
    pub fn hurry(&self) {
        self.due.store(0, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn set(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }
}

fn scheme(written: &str) -> Result<Option<&'static str>, Problem> {
    match written {
        "" => Ok(None),
        "http" => Ok(Some("http")),
        "https" => Ok(Some("https")),
        "h2c" => Ok(Some("h2c")),
        other => Err(Problem::at("scheme", format!("`{other}` is not one of `http`, `https`, `h2c`"))),
    }
}

fn method(written: &str) -> Result<Method, Problem> {
    match written {
        "" => Ok(Method::GET),
        "CONNECT" => Err(Problem::at("method", "`CONNECT` asks for a tunnel, not for health")),
        other => Method::from_bytes(other.as_bytes())
            .map_err(|_| Problem::at("method", format!("`{other}` is not a method"))),
    }
}

fn path(written: &str) -> Result<PathAndQuery, Problem> {
    if written.contains("://") || written.starts_with("//") {
        return Err(Problem::at("path", "must be a path on the server, not a whole URL"));
    }
    let rooted = if written.starts_with('/') { written.to_owned() } else { format!("/{written}") };
    rooted.parse().map_err(|_| Problem::at("path", format!("`{written}` is not a valid path")))
}

fn headers(written: &BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, Problems> {
    let read = |(name, value): (&String, &String)| {
        let here = |message: &str| Problem::at(format!("headers.{name}"), message);
        let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| here("is not the name of a header field"))?;
        let value = HeaderValue::from_str(value).map_err(|_| here("has a value that no header field can carry"))?;
        Ok::<_, Problem>((field, value))
    };
    each(written.iter().map(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Plan {
        Plan::build(&serde_json::from_str(json).unwrap()).unwrap()
    }

    /// `results` as `+` and `-`; the states after each.
    fn check(json: &str, results: &str, expected: &str) {
        let (state, plan) = (State::default(), plan(json));
        let mut seen = String::new();
        for result in results.chars() {
            let before = state.is_up();
            let change = state.note(result == '+', &plan, 1, 0.0);
            assert_eq!(change, (state.is_up() != before).then_some(state.is_up()));
            seen.push(if state.is_up() { 'u' } else { 'd' });
        }
        assert_eq!(seen, expected, "{json} {results}");
    }

    #[test]
    fn thresholds_decide_when_the_state_changes() {
        check("{}", "+--+-", "uddud");
        check(r#"{"fall": 3, "rise": 2}"#, "--+---+-++-", "uuuuudddduu");
        check(r#"{"fall": 3, "rise": 2}"#, "+-+-+-+-", "uuuuuuuu");
    }

    #[test]
    fn probes_keep_their_rhythm() {
        let plan = plan(r#"{"interval": "10s", "unhealthyInterval": "2s", "jitter": "1s"}"#);
        let state = State::default();
        assert_eq!(state.wait(5_000), Span::ZERO, "the first is due at once");
        state.note(true, &plan, 5_000, 0.0);
        assert_eq!(state.wait(5_000), Span::from_secs(10));
        assert_eq!(state.wait(9_000), Span::from_secs(6), "whoever takes over waits for the rest");
        state.note(true, &plan, 15_000, 1.0);
        assert_eq!(state.wait(15_000), Span::from_secs(9), "jitter only shortens");
        state.note(false, &plan, 24_000, 0.0);
        assert_eq!(state.wait(24_000), Span::from_secs(2));
        state.forget();
        assert!(state.is_up() && state.wait(24_000).is_zero());
    }

    #[test]
    fn the_status_decides() {
        for (json, status, expected) in [
            ("{}", 200, true),
            ("{}", 399, true),
            ("{}", 400, false),
            ("{}", 199, false),
            (r#"{"status": 503}"#, 503, true),
            (r#"{"status": 503}"#, 200, false),
            (r#"{"status": 0}"#, 204, true),
        ] {
            assert_eq!(plan(json).passes(status), expected, "{json} {status}");
        }
    }

    #[test]
    fn requests_are_as_written() {
        let plan = plan(r#"{"path": "health?deep=1", "method": "HEAD", "headers": {"Host": "a.example", "X-A": "b"}}"#);
        assert_eq!((plan.path.as_str(), &plan.method), ("/health?deep=1", &Method::HEAD));
        assert_eq!(plan.host.as_ref().map(HeaderValue::as_bytes), Some(&b"a.example"[..]));
        assert_eq!(plan.headers.len(), 2);
        assert!(plan.headers.iter().any(|(name, _)| name == "x-a"));
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for (json, path) in [
            (r#"{"interval": 0}"#, "interval"),
            (r#"{"unhealthyInterval": "-1s"}"#, "unhealthyInterval"),
            (r#"{"timeout": 0}"#, "timeout"),
            (r#"{"rise": 0}"#, "rise"),
            (r#"{"fall": 101}"#, "fall"),
            (r#"{"port": 0}"#, "port"),
            (r#"{"status": 99}"#, "status"),
            (r#"{"scheme": "ftp"}"#, "scheme"),
            (r#"{"path": "http://a/b"}"#, "path"),
            (r#"{"path": "/a b"}"#, "path"),
            (r#"{"method": "G T"}"#, "method"),
            (r#"{"hostname": "a\nb"}"#, "hostname"),
            (r#"{"headers": {"a b": "c"}}"#, "headers.a b"),
            (r#"{"interval": "1s", "jitter": "2s"}"#, "jitter"),
        ] {
            let problem = Plan::build(&serde_json::from_str(json).unwrap()).map(|_| ()).unwrap_err().only();
            assert_eq!(problem.path, path, "{json}");
        }
        assert!(serde_json::from_str::<Settings>(r#"{"intervall": 1}"#).is_err());
    }
}
