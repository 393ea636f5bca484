//! `tcp`: routers, services, middlewares and transports for TCP connections, as a provider publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::http::Remains;
use super::install::RuleSyntax;
use super::router_tls::Domain;
use crate::units::Name;
use crate::{middleware, service};

/// TCP objects by their qualified names.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tcp {
    /// Which connections go where.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routers: BTreeMap<Name, Arc<Router>>,
    /// Where connections go.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<Name, Arc<service::tcp::Settings>>,
    /// Who is let through.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub middlewares: BTreeMap<Name, Arc<middleware::tcp::Settings>>,
    /// How servers are spoken to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub servers_transports: BTreeMap<Name, Arc<service::tcp::transport::Settings>>,
    /// What is written, but cannot be used.
    #[serde(skip)]
    pub broken: Broken,
}

/// Objects that cannot be used. Whatever refers to one of them is disabled too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Broken {
    /// Routers.
    pub routers: BTreeMap<Name, Remains<Router>>,
    /// Services.
    pub services: BTreeMap<Name, Remains<service::tcp::Settings>>,
    /// Middlewares.
    pub middlewares: BTreeMap<Name, Remains<middleware::tcp::Settings>>,
    /// Transports.
    pub servers_transports: BTreeMap<Name, Remains<service::tcp::transport::Settings>>,
}

/// Which connections go where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Router {
    /// Where its connections come in; empty means the default entry points. Not qualified.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entry_points: Vec<Name>,
    /// Who is let through, in order. Qualified.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<Name>,
    /// Where its connections go. Qualified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// Which connections are meant.
    pub rule: Box<str>,
    /// Language of the rule, if it is not the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_syntax: Option<RuleSyntax>,
    /// Rank among the routers that match; the length of the rule if 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i64,
    /// What it does with TLS; without it, it takes connections without TLS only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouterTls>,
}

/// What a TCP router does with TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RouterTls {
    /// Passes TLS on as it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub passthrough: bool,
    /// Name of its TLS options; `None` are the default ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Name>,
    /// Who gets certificates for its names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_resolver: Option<Box<str>>,
    /// Which certificates are got; those of its rule's names if none are listed.
    #[serde(skip_serializing_if = "<[Domain]>::is_empty")]
    pub domains: Box<[Domain]>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(priority: &i64) -> bool {
    *priority == 0
}

impl Tcp {
    /// Adds what another provider has published.
    pub(super) fn merge(&mut self, other: Self) {
        let Self { routers, services, middlewares, servers_transports, broken } = other;
        self.routers.extend(routers);
        self.services.extend(services);
        self.middlewares.extend(middlewares);
        self.servers_transports.extend(servers_transports);
        self.broken.routers.extend(broken.routers);
        self.broken.services.extend(broken.services);
        self.broken.middlewares.extend(broken.middlewares);
        self.broken.servers_transports.extend(broken.servers_transports);
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
