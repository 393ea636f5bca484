//! Certificates from ACME servers (RFC 8555): one provider for each resolver. It reads what routers want from the status, gets and
//! renews it, keeps it in `acme.json`, and publishes it like any other provider publishes certificates.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Install;
use crate::config::resolvers::Acme;
use crate::control::Status;
use crate::problem::{Problem, Problems};
use crate::tls::{Authorities, Challenges};
use crate::web::{Web, system_authorities};

use self::dns::{Dns, Environment};
use self::storage::Storage;

mod account;
mod claims;
mod der;
mod dns;
mod key;
mod order;
mod patience;
mod plan;
mod proof;
mod renewal;
mod resolver;
mod server;
mod storage;

pub use claims::Claims;
pub use proof::Answers;
pub use resolver::Resolver;

/// Largest answer that is read, in bytes. Chains of certificates have some kilobytes.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

/// Where proofs are shown.
#[derive(Clone, Debug, Default)]
pub struct Proofs {
    /// To requests without TLS.
    pub answers: Arc<Answers>,
    /// In handshakes.
    pub challenges: Arc<Challenges>,
    /// Names that are being proved, by whatever resolver.
    pub claims: Arc<Claims>,
}

/// The resolvers of a configuration.
///
/// # Errors
/// What is wrong with their settings, apart from what only turns up while they work.
pub fn resolvers(install: &Install, status: &Arc<Status>, proofs: &Proofs) -> Result<Vec<Arc<Resolver>>, Problems> {
    let mut storages = BTreeMap::<&str, Arc<Storage>>::new();
    let mut found = Vec::new();
    let mut problems = Problems::new();
    let environment = Environment::of_process();
    for (name, resolver) in &install.certificates_resolvers {
        let Some(settings) = &resolver.acme else { continue };
        let storage = storages.entry(&settings.storage).or_insert_with(|| Storage::new(&settings.storage)).clone();
        match build(name, settings, (storage, &environment), status, proofs) {
            Ok(resolver) => found.push(Arc::new(resolver)),
            Err(problem) => problems.push(problem.under(&format!("certificatesResolvers.{name}.acme"))),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

fn build(
    name: &str,
    settings: &Acme,
    (storage, environment): (Arc<Storage>, &Environment),
    status: &Arc<Status>,
    proofs: &Proofs,
) -> Result<Resolver, Problem> {
    let web = web(settings)?;
    let dns = match &settings.dns_challenge {
        Some(challenge) => {
            dns::check(&challenge.provider)?;
            // What the environment lacks may be right where this will run: it is told, and keeps no other resolver from work.
            Some(Dns::new(challenge, environment, webhook()?).map(Arc::new))
        }
        None => None,
    };
    Ok(Resolver::new(name, settings.clone(), storage, (web, dns), (status.clone(), proofs.clone())))
}

/// How the ACME server is asked.
fn web(settings: &Acme) -> Result<Web, Problem> {
    let own = &settings.ca_certificates;
    let system = if own.is_empty() || settings.ca_system_cert_pool { system_authorities() } else { Vec::new() };
    let authorities = Authorities::new(own, &system).map_err(|problem| problem.under("caCertificates"))?;
    Ok(Web {
        authorities,
        server_name: Some(settings.ca_server_name.clone()).filter(|name| !name.is_empty()),
        whole: settings.client_timeout.positive(),
        head: settings.client_response_header_timeout.positive(),
        limit_bytes: ANSWER_LIMIT_BYTES,
    })
}

fn webhook() -> Result<Web, Problem> {
    let whole = Some(std::time::Duration::from_secs(30));
    let authorities = Authorities::new(&[], &system_authorities())?;
    Ok(Web { authorities, server_name: None, whole, head: whole, limit_bytes: ANSWER_LIMIT_BYTES })
}
