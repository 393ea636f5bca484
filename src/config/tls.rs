//! `tls`: certificates, options and stores as a provider publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::http::Remains;
use super::router_tls::Domain;
use super::tree::{Node, Value};
use crate::problem::{Problem, Problems};
use crate::tls::{certificate, options};
use crate::units::Name;

/// The one name of options and stores that belongs to no provider.
pub const DEFAULT: &str = "default";

/// TLS objects by their names; those called `default` belong to no provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Certificates, in the order they are written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// Terms of connections.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<Name, Arc<options::Settings>>,
    /// Default certificates.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stores: BTreeMap<Name, Arc<Store>>,
    /// What is written, but cannot be used.
    #[serde(skip)]
    pub broken: Broken,
}

/// Objects that cannot be used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Broken {
    /// Options: whoever asks for them gets no connection, because others might ask for less.
    pub options: BTreeMap<Name, Remains<options::Settings>>,
    /// Stores.
    pub stores: BTreeMap<Name, Remains<Store>>,
    /// Names that several providers have given.
    pub contested: Vec<Contested>,
}

/// A name that belongs to no provider, and that several have given.
#[derive(Clone, Debug, PartialEq)]
pub enum Contested {
    /// The default options.
    Options,
    /// The default store.
    Store,
}

/// A certificate, and where it is written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Certificate {
    /// Its path, from the root: `tls.certificates@file[0]`.
    #[serde(skip)]
    pub path: Box<str>,
    /// The files.
    #[serde(flatten)]
    pub settings: Arc<certificate::Settings>,
}

/// `tls.stores.<name>`: what is shown to clients for whose name there is no certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Store {
    /// One that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_certificate: Option<certificate::Settings>,
    /// One that a resolver gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_generated_cert: Option<GeneratedCert>,
}

/// A certificate that a resolver gets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GeneratedCert {
    /// Who gets it.
    pub resolver: Box<str>,
    /// Its names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Domain>,
}

impl Tls {
    /// Adds what another provider has published.
    pub(super) fn merge(&mut self, other: Self) {
        let Self { certificates, options, stores, broken } = other;
        self.certificates.extend(certificates);
        let has_options = |tls: &Self| tls.options.contains_key(DEFAULT) || tls.broken.options.contains_key(DEFAULT);
        let has_store = |tls: &Self| tls.stores.contains_key(DEFAULT) || tls.broken.stores.contains_key(DEFAULT);
        let other = Self { certificates: Vec::new(), options, stores, broken };
        if has_options(self) && has_options(&other) {
            self.broken.contested.push(Contested::Options);
        }
        if has_store(self) && has_store(&other) {
            self.broken.contested.push(Contested::Store);
        }
        self.options.extend(other.options);
        self.stores.extend(other.stores);
        self.broken.options.extend(other.broken.options);
        self.broken.stores.extend(other.broken.stores);
        self.broken.contested.extend(other.broken.contested);
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The name of options or a store: qualified, unless it is the one that belongs to nobody.
pub(super) fn named(name: Name) -> Name {
    if name.local() == DEFAULT { DEFAULT.into() } else { name }
}

/// Reads the list of certificates, each alone.
pub(super) fn certificates(
    tls: &Node,
    provider: &str,
    read: impl Fn(&Node) -> super::deserialize::Read<certificate::Settings>,
) -> (Vec<Certificate>, Problems) {
    let mut problems = Problems::new();
    let mut found = Vec::new();
    let Some(Value::List(items)) = tls.get("certificates").map(|node| &node.value) else { return (found, problems) };
    for (at, node) in items.iter().enumerate() {
        let super::deserialize::Read { object, problems: wrong } = read(node);
        problems.extend(wrong.into_iter().map(|problem: Problem| problem.under(&format!("tls.certificates[{at}]"))));
        if let Some(settings) = object {
            let path = format!("tls.certificates@{provider}[{at}]").into();
            found.push(Certificate { path, settings: Arc::new(settings) });
        }
    }
    (found, problems)
}
