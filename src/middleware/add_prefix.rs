//! `addPrefix`: puts a prefix before the request path.

use serde::{Deserialize, Serialize};

use super::{Kit, Middleware};
use crate::problem::Problem;

/// Settings of `addPrefix`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Text that is put before the path. Starts with `/`.
    pub prefix: String,
}

/// Puts a prefix before the request path.
#[derive(Debug)]
pub struct AddPrefix {}

impl Middleware for AddPrefix {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problem> {
        if settings.prefix.is_empty() {
            return Err(Problem::at("prefix", "prefix cannot be empty"));
        }
        Ok(Self {})
    }
}
