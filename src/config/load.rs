//! From sources to types: the only way in.

use std::path::PathBuf;

use super::format::Format;
use super::install::Install;
use super::routing::Routing;
use crate::problem::Problems;

/// What was found at start.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What is read at start.
    pub install: Install,
    /// What is wrong with it.
    pub problems: Problems,
    /// What people should know, though nothing is wrong.
    pub notices: Vec<String>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
}

/// STUB: reads file, environment and flags.
pub fn install(args: &[String], environment: impl Iterator<Item = (String, String)>) -> Loaded {
    let _ = (args, environment.count());
    Loaded::default()
}

/// STUB: reads what a provider has written.
pub fn dynamic(text: &str, format: Format, source: &str, provider: &str) -> (Routing, Problems) {
    let _ = (text, format, source, provider);
    (Routing::default(), Problems::new())
}
