//! What is read at start: Traefik's "static" configuration. Of it, the entry points follow a reload as well, and what is served there.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::address::Protocol;
use super::entry_points::{EntryPoint, EntryPoints};
use super::own::Own;
use super::resolvers::Resolvers;
use crate::observe::{access_log, log, metrics};
use crate::problem::{Problem, Problems};
use crate::service::{tcp, transport};
use crate::units::{Duration, Name};

/// What is read at start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Install {
    /// What holds everywhere.
    pub global: Global,
    /// How rules are read.
    pub core: Core,
    /// Threads that carry traffic; one per core if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u16>,
    /// Where clients connect. Those that could not be used are in `broken_entry_points`.
    pub entry_points: EntryPoints,
    /// Entry points that stay closed, each with what is wrong.
    #[serde(skip)]
    pub broken_entry_points: BTreeMap<Name, Box<[Problem]>>,
    /// Entry points that are there though nobody wrote them.
    #[serde(skip)]
    pub unwritten_entry_points: BTreeSet<Name>,
    /// How servers are spoken to, unless a service says otherwise.
    pub servers_transport: transport::Settings,
    /// How TCP servers are spoken to, unless a service says otherwise.
    pub tcp_servers_transport: tcp::transport::Settings,
    /// Where routers, services and middlewares come from.
    pub providers: Providers,
    /// Who gets certificates.
    #[serde(skip_serializing_if = "Resolvers::is_empty")]
    pub certificates_resolvers: Resolvers,
    /// Whether the authorities of certificates are asked what they say of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<Ocsp>,
    /// The API and the dashboard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// The health check of the gateway itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<Ping>,
    /// The process log.
    pub log: log::Settings,
    /// The access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<access_log::Settings>,
    /// What is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<metrics::Settings>,
    /// How the process ends.
    pub drain: Drain,
    /// How the process is spoken to.
    pub control: Control,
}

impl Install {
    /// The entry points of a router that names none: those with `asDefault`, otherwise all but UDP ones and `traefik`.
    pub fn default_entry_points(&self) -> Vec<Name> {
        let chosen = |keep: &dyn Fn(&Name, &EntryPoint) -> bool| {
            let kept = self
                .entry_points
                .iter()
                .filter(|(name, entry_point)| entry_point.address.protocol == Protocol::Tcp && keep(name, entry_point));
            kept.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let marked = chosen(&|_, entry_point| entry_point.as_default);
        if marked.is_empty() { chosen(&|name, _| name.as_str() != INTERNAL_ENTRY_POINT) } else { marked }
    }

    /// The entry points that API, ping and metrics are served at.
    pub fn served_at(&self) -> BTreeSet<&str> {
        let served = Own::all(self).into_iter().filter(|own| !matches!(own, Own::Proofs(_)));
        served.filter_map(|own| own.entry_point(self)).collect()
    }

    /// The entry points that ACME servers look for proofs at.
    pub fn proved_at(&self) -> BTreeSet<&str> {
        let proofs = Own::all(self).into_iter().filter(|own| matches!(own, Own::Proofs(_)));
        proofs.filter_map(|own| own.entry_point(self)).collect()
    }

    /// Finds the port that each redirection of an entry point leads to. Those that lead nowhere, with the reason.
    pub fn find_redirections(&mut self) -> Vec<(Name, String)> {
        let listening = self.entry_points.iter().filter(|(_, one)| one.address.protocol == Protocol::Tcp);
        let ports = listening.map(|(name, entry_point)| (name.clone(), entry_point.address.port));
        let ports = ports.collect::<BTreeMap<_, _>>();
        let broken = &self.broken_entry_points;
        let mut failed = Vec::new();
        for (name, entry_point) in &mut self.entry_points {
            let Some(redirection) = &mut entry_point.http.redirections.entry_point else { continue };
            let target = match redirection.to.strip_prefix(':') {
                Some(port) => port.parse().map(Some).map_err(|_| format!("`{port}` is not a port")),
                None => match ports.get(&*redirection.to) {
                    Some(port) => Ok(Some(*port)),
                    None if broken.contains_key(&*redirection.to) => Ok(None),
                    None => Err(format!("there is no entry point `{}`", redirection.to)),
                },
            };
            match target {
                Ok(port) => redirection.port = port,
                Err(message) => failed.push((name.clone(), message)),
            }
        }
        failed
    }
}

/// Entry point that serves the API, ping and metrics unless they are routed by hand.
pub const INTERNAL_ENTRY_POINT: &str = "traefik";

/// What holds everywhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Global {
    /// Leaves `X-Forwarded-For` as it came, on every entry point.
    pub not_append_x_forwarded_for: bool,
}

/// How rules are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Core {
    /// Syntax of a rule whose router does not name one.
    pub default_rule_syntax: RuleSyntax,
}

/// How responders (OCSP) are asked about certificates. What they answer is shown to clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ocsp {
    /// URLs that are asked instead, by the URL of the responder that a certificate names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub responder_overrides: BTreeMap<Box<str>, Box<str>>,
}

impl Ocsp {
    /// What cannot be asked.
    pub(super) fn problems(&self) -> Problems {
        let is_url = |url: &str| {
            let uri = url.parse::<http::Uri>().ok();
            uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
        };
        let wrong = self.responder_overrides.iter().filter(|(_, url)| !is_url(url));
        wrong
            .map(|(named, url)| {
                Problem::at(format!("responderOverrides.{named}"), format!("`{url}` is no URL of HTTP"))
            })
            .collect()
    }
}

/// Which rule language a router speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleSyntax {
    /// That of Traefik 2.
    V2,
    /// That of Traefik 3.
    #[default]
    V3,
}

/// Where routers, services and middlewares come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Providers {
    /// Least time between two changes that come into force. Traefik waits for two seconds; here a change is to be in force
    /// within one.
    pub providers_throttle_duration: Duration,
    /// Providers in the order in which their routers win, all else being equal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub precedence: Vec<Box<str>>,
    /// Each provider's own settings, as written: this module does not know who publishes.
    #[serde(flatten)]
    pub each: BTreeMap<Box<str>, serde_json::Value>,
}

impl Providers {
    /// The settings of one provider, if it is switched on.
    ///
    /// # Errors
    /// A problem whose path begins with `providers`.
    pub fn settings<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Problem> {
        let Some(written) = self.each.get(name) else { return Ok(None) };
        T::deserialize(written).map(Some).map_err(|error| Problem::at(format!("providers.{name}"), error.to_string()))
    }
}

/// Half of what a change may take, so that one which comes right after another is in time, too.
const THROTTLE: Duration = Duration::from_millis(500);

impl Default for Providers {
    fn default() -> Self {
        Self { providers_throttle_duration: THROTTLE, precedence: Vec::new(), each: BTreeMap::new() }
    }
}

/// The API and the dashboard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Api {
    /// Path put before the API and the dashboard.
    pub base_path: Box<str>,
    /// Serves them on the entry point `traefik`, to everyone.
    pub insecure: bool,
    /// Whether there is a dashboard.
    pub dashboard: bool,
    /// Title of the dashboard.
    pub dashboard_name: Box<str>,
}

impl Default for Api {
    fn default() -> Self {
        Self { base_path: "/".into(), insecure: false, dashboard: true, dashboard_name: "".into() }
    }
}

/// The health check of the gateway itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ping {
    /// Entry point where `/ping` is served.
    pub entry_point: Box<str>,
    /// Serves `/ping` nowhere by itself; a router to `ping@internal` does.
    pub manual_routing: bool,
    /// Status that is answered once the gateway was told to stop.
    pub terminating_status_code: u16,
}

impl Default for Ping {
    fn default() -> Self {
        Self { entry_point: INTERNAL_ENTRY_POINT.into(), manual_routing: false, terminating_status_code: 503 }
    }
}

/// How the process ends. What is not set has the built-in time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Drain {
    /// How long it still accepts everything while it reports that it is going.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lame_duck: Option<Duration>,
    /// Over how long idle connections are closed, one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_spread: Option<Duration>,
    /// How long requests under way may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How long WebSockets may stay open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_socket_timeout: Option<Duration>,
}

/// How the process is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Control {
    /// Path of the socket for `reload`, `upgrade` and the like; a built-in path if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Box<str>>,
}
