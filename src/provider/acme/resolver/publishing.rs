//! What a resolver publishes: every certificate that is kept, and what is wrong.

use std::sync::Arc;

use super::{Mind, Resolver};
use crate::config::Routing;
use crate::config::tls::Certificate;
use crate::control::Updates;
use crate::problem::{Problem, Problems};
use crate::provider::Provider;
use crate::tls::certificate;
use crate::units::Secret;

impl Resolver {
    /// What is published: all that is kept.
    pub(super) fn routing(&self, mind: &Mind) -> Routing {
        let of_mind = mind.unsaved.iter();
        let kept =
            mind.kept.certificates.iter().filter(|kept| !mind.unsaved.iter().any(|new| new.domain == kept.domain));
        let mut routing = Routing::default();
        for (at, stored) in kept.chain(of_mind).enumerate() {
            let Some((cert_file, key_file)) = stored.pem() else { continue };
            let settings = certificate::Settings { cert_file, key_file: Secret::new(key_file), stores: Vec::new() };
            let path = format!("tls.certificates@{}[{at}]", self.provider).into();
            routing.tls.certificates.push(Certificate { path, settings: Arc::new(settings) });
        }
        routing
    }

    /// What is wrong now.
    pub(super) fn problems(&self, mind: &Mind) -> Problems {
        let path = format!("certificatesResolvers.{}.acme", self.name);
        let mut found = Problems::new();
        if let Some(message) = &mind.storage {
            found.push(Problem::at("storage", format!("{}: {message}", self.storage.path().display())));
        }
        if !mind.unsaved.is_empty() {
            let message = format!("{}: new certificates cannot be written", self.storage.path().display());
            found.push(Problem::at("storage", message));
        }
        if let Some(Err(problem)) = &self.dns {
            found.push(problem.clone());
        }
        for (name, reason) in &mind.objections {
            found.push(Problem::warning("", format!("no certificate is got for `{name}`: {reason}")));
        }
        for (names, failure) in mind.patience.failures() {
            found.push(Problem::warning("", format!("no certificate for {}: {failure}", names.join(", "))));
        }
        found.under(&path)
    }
}

impl Provider for Resolver {
    fn name(&self) -> &str {
        &self.provider
    }

    /// Publishes what is kept, so that it is in force from the first request on.
    fn read(&self, updates: &Updates) {
        let mut mind = Mind::default();
        match self.storage.load(&self.name) {
            Ok(kept) => mind.kept = kept,
            Err(message) => {
                mind.storage = Some(message);
                mind.kept = self.storage.last(&self.name);
            }
        }
        updates.publish(Arc::new(self.routing(&mind)), self.problems(&mind), None);
    }

    fn watch(self: Arc<Self>, updates: Updates) -> Result<(), Problem> {
        tokio::spawn(self.run(updates));
        Ok(())
    }
}
