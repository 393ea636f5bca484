//! The services of the gateway itself, made from settings: ping, metrics, the API, and proofs to ACME servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::admin::{self, About, Api, Dashboard, Noop, Ping};
use crate::config::install::Install;
use crate::control::Status;
use crate::observe::export::Exporter;
use crate::problem::Problems;
use crate::provider::internal::{API, DASHBOARD, NOOP, PING, PROMETHEUS};
use crate::provider::{self, Provider};
use crate::service::Internal;
use crate::tls::Challenges;
use crate::units::Name;

use super::options;

type All = BTreeMap<Name, Arc<dyn Internal>>;

/// What they are made with.
pub(super) struct Makers {
    exporter: Option<Arc<Exporter>>,
    status: Arc<Status>,
    terminating: Arc<AtomicBool>,
    /// When the process began, RFC 3339.
    started: String,
}

impl Makers {
    pub(super) fn new(exporter: Option<Exporter>, status: Arc<Status>, terminating: Arc<AtomicBool>) -> Self {
        Self { exporter: exporter.map(Arc::new), status, terminating, started: options::now_rfc3339() }
    }

    /// All of a process that starts, but for the proofs.
    pub(super) fn all(&self, install: &Install) -> All {
        let mut all = All::new();
        all.insert(NOOP.into(), Arc::new(Noop));
        if let Some(exporter) = &self.exporter {
            all.insert(PROMETHEUS.into(), Arc::new(admin::Metrics::new(exporter.clone())));
        }
        self.make_ping(install, &mut all);
        self.make_api(install, &mut all);
        all
    }

    /// Those of `next`, if they are others than the `known` ones of `before`. What stays is the same.
    pub(super) fn others(&self, known: &All, before: &Install, next: &Install) -> Option<All> {
        let mut others = known.clone();
        if before.ping != next.ping {
            others.remove(PING);
            self.make_ping(next, &mut others);
        }
        if before.api != next.api {
            others.remove(API);
            others.remove(DASHBOARD);
            self.make_api(next, &mut others);
        }
        (before.ping != next.ping || before.api != next.api).then_some(others)
    }

    fn make_ping(&self, install: &Install, all: &mut All) {
        if let Some(ping) = &install.ping {
            let ping = Ping::new(self.terminating.clone(), ping.terminating_status_code);
            all.insert(PING.into(), Arc::new(ping));
        }
    }

    fn make_api(&self, install: &Install, all: &mut All) {
        let Some(api) = &install.api else { return };
        let about = Arc::new(self.about(install));
        all.insert(API.into(), Arc::new(Api::new(self.status.clone(), about.clone())));
        if api.dashboard {
            all.insert(DASHBOARD.into(), Arc::new(Dashboard::new(self.status.clone(), about)));
        }
    }

    fn about(&self, install: &Install) -> About {
        let api = install.api.clone().unwrap_or_default();
        let metrics = self.exporter.as_ref().map_or("", |_| "Prometheus");
        About {
            base_path: api.base_path.trim_end_matches('/').to_owned(),
            started: self.started.clone(),
            dashboard_name: api.dashboard_name.to_string(),
            features: serde_json::json!({
                "tracing": "", "metrics": metrics, "accessLog": install.access_log.is_some(),
            }),
            providers: provider::names(install),
        }
    }
}

/// Who gets certificates, and the service that proves to ACME servers that names are ours.
#[cfg(feature = "acme")]
pub(super) fn resolvers(
    install: &Install,
    status: &Arc<Status>,
    challenges: &Arc<Challenges>,
    internals: &mut All,
) -> Result<Vec<Arc<dyn Provider>>, Problems> {
    let proofs = provider::acme::Proofs { challenges: challenges.clone(), ..Default::default() };
    internals.insert(provider::internal::ACME_HTTP.into(), proofs.answers.clone());
    let resolvers = provider::acme::resolvers(install, status, &proofs)?;
    Ok(resolvers.into_iter().map(|resolver| resolver as Arc<dyn Provider>).collect())
}

#[cfg(not(feature = "acme"))]
pub(super) fn resolvers(
    install: &Install,
    _: &Arc<Status>,
    _: &Arc<Challenges>,
    _: &mut All,
) -> Result<Vec<Arc<dyn Provider>>, Problems> {
    match install.certificates_resolvers.keys().next() {
        None => Ok(Vec::new()),
        Some(name) => {
            let message = "this program was built without the feature `acme`";
            Err(crate::problem::Problem::at(format!("certificatesResolvers.{name}"), message).into())
        }
    }
}
