//! What the gateway serves by itself at an entry point: ping, metrics, the API, and proofs to ACME servers.

use super::install::{INTERNAL_ENTRY_POINT, Install};

/// One thing that the gateway serves by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Own {
    /// The API and the dashboard.
    Api,
    /// The health check.
    Ping,
    /// The metrics.
    Metrics,
    /// What this resolver proves to ACME servers without TLS.
    Proofs(Box<str>),
}

impl Own {
    /// All that there may be with these settings.
    pub fn all(install: &Install) -> Vec<Self> {
        let resolvers = install.certificates_resolvers.keys().cloned().map(Self::Proofs);
        [Self::Api, Self::Ping, Self::Metrics].into_iter().chain(resolvers).collect()
    }

    /// The settings that it follows from.
    pub fn setting(&self) -> String {
        match self {
            Self::Api => "api".to_owned(),
            Self::Ping => "ping".to_owned(),
            Self::Metrics => "metrics.prometheus".to_owned(),
            Self::Proofs(resolver) => format!("certificatesResolvers.{resolver}.acme.httpChallenge"),
        }
    }

    /// The entry point that it is served at, if it is, and not by routers of somebody's own.
    pub fn entry_point<'i>(&self, install: &'i Install) -> Option<&'i str> {
        match self {
            Self::Api => install.api.as_ref().filter(|api| api.insecure).map(|_| INTERNAL_ENTRY_POINT),
            Self::Ping => install.ping.as_ref().filter(|ping| !ping.manual_routing).map(|ping| &*ping.entry_point),
            Self::Metrics => {
                let prometheus = install.metrics.as_ref()?.prometheus.as_ref();
                prometheus.filter(|prometheus| !prometheus.manual_routing).map(|prometheus| &*prometheus.entry_point)
            }
            Self::Proofs(resolver) => {
                let acme = install.certificates_resolvers.get(resolver)?.acme.as_ref()?;
                acme.http_challenge.as_ref().map(|challenge| &*challenge.entry_point)
            }
        }
    }

    /// Has it be served in `install` as in `other`. Of metrics and proofs that is only said where there are any in both: whether there are,
    /// the whole process depends on.
    pub fn follow(&self, install: &mut Install, other: &Install) {
        match self {
            Self::Api => install.api.clone_from(&other.api),
            Self::Ping => install.ping.clone_from(&other.ping),
            Self::Metrics => {
                let prometheus = |install: &Install| install.metrics.as_ref()?.prometheus.clone();
                let own = install.metrics.as_mut().and_then(|metrics| metrics.prometheus.as_mut());
                if let (Some(own), Some(other)) = (own, prometheus(other)) {
                    own.entry_point = other.entry_point;
                    own.manual_routing = other.manual_routing;
                }
            }
            Self::Proofs(resolver) => {
                let other = other.certificates_resolvers.get(resolver).and_then(|other| other.acme.as_ref());
                let own = install.certificates_resolvers.get_mut(resolver).and_then(|own| own.acme.as_mut());
                let own = own.and_then(|own| own.http_challenge.as_mut());
                if let (Some(own), Some(other)) = (own, other.and_then(|other| other.http_challenge.as_ref())) {
                    own.entry_point.clone_from(&other.entry_point);
                }
            }
        }
    }
}
