//! Where requests go.

pub mod transport;

/// STUB: as written, one kind per service.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {}
