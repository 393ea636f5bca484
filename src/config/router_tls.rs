//! `tls` of a router, and of all routers of an entry point: that it takes TLS only, with which options, and where the
//! certificates come from.

use serde::{Deserialize, Serialize};

use super::routing::Names;
use super::tree::{Node, Value};
use crate::units::Name;

/// Local name of the TLS options that hold where none are named. It belongs to no provider.
const DEFAULT_OPTIONS: &str = "default";

/// What a router asks of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RouterTls {
    /// Name of its TLS options; `None` are the default ones. Qualified, but for those of an entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Name>,
    /// Who gets certificates for its domains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_resolver: Option<Box<str>>,
    /// Which certificates are got; those of its rule's hosts if none are listed.
    #[serde(skip_serializing_if = "<[Domain]>::is_empty")]
    pub domains: Box<[Domain]>,
}

/// The names in one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Domain {
    /// Its first name.
    pub main: Box<str>,
    /// Further names.
    #[serde(skip_serializing_if = "<[Box<str>]>::is_empty")]
    pub sans: Box<[Box<str>]>,
}

impl RouterTls {
    /// Reads the section out of a checked tree.
    pub(super) fn read(node: &Node, names: &mut Names) -> Self {
        let word = |name: &str| node.get(name).and_then(text).filter(|text| !text.is_empty());
        Self {
            options: word("options").map(|name| names.read(name)).filter(|name| name.local() != DEFAULT_OPTIONS),
            cert_resolver: word("certResolver").map(Into::into),
            domains: items(node.get("domains")).map(Domain::read).collect(),
        }
    }

    /// The options as routers of `provider` mean them, if they are not the default ones.
    pub fn options_within(&self, provider: &str) -> Option<Name> {
        self.options.as_ref().filter(|name| name.local() != DEFAULT_OPTIONS).map(|name| name.within(provider))
    }
}

impl Domain {
    fn read(node: &Node) -> Self {
        Self {
            main: node.get("main").and_then(text).unwrap_or_default().into(),
            sans: items(node.get("sans")).filter_map(text).map(Into::into).collect(),
        }
    }
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Str(text) => Some(text),
        _ => None,
    }
}

fn items(node: Option<&Node>) -> impl Iterator<Item = &Node> {
    let items = match node.map(|node| &node.value) {
        Some(Value::List(items)) => &items[..],
        _ => &[],
    };
    items.iter()
}
