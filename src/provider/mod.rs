//! Where configuration comes from.

use std::sync::Arc;

use crate::config::Install;
use crate::control::Updates;
use crate::problem::{Problem, Problems};

#[cfg(feature = "acme")]
pub mod acme;
pub mod file;
pub mod internal;
pub mod template;

/// A source of configuration. It publishes a whole configuration each time; equal ones are dropped.
pub trait Provider: Send + Sync {
    /// Its name, as in `name@provider`.
    fn name(&self) -> &str;

    /// Reads its source now and publishes what it finds. Blocks.
    fn read(&self, updates: &Updates);

    /// Begins to publish changes by itself, on the runtime that the caller is in.
    ///
    /// # Errors
    /// If changes cannot be noticed; `read` still works.
    fn watch(self: Arc<Self>, updates: Updates) -> Result<(), Problem>;
}

/// The providers that the static configuration switches on.
///
/// # Errors
/// Settings that cannot be read, or that leave nothing to read from.
pub fn of(install: &Install) -> Result<Vec<Arc<dyn Provider>>, Problems> {
    let mut providers: Vec<Arc<dyn Provider>> = Vec::new();
    if let Some(settings) = install.providers.settings::<file::Settings>("file")? {
        providers.push(Arc::new(file::File::new(settings).map_err(|problem| problem.under("providers.file"))?));
    }
    Ok(providers)
}

/// Names of the providers that are switched on, as Traefik's overview writes them.
pub fn names(install: &Install) -> Vec<String> {
    install.providers.each.contains_key("file").then(|| "File".to_owned()).into_iter().collect()
}
