//! How servers are spoken to: timeouts, TLS, idle connections.

/// STUB: `serversTransports.<name>` as written.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {}
