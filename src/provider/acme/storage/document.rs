//! What is in the file: accounts, keys and certificates by resolver, in Traefik's layout.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::router_tls::Domain;

/// Everything in the file, by resolver.
pub(super) type Document = Map<String, Value>;

/// What one resolver keeps. Members that are not known here stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(in crate::provider::acme) struct Kept {
    pub(in crate::provider::acme) account: Option<Account>,
    #[serde(deserialize_with = "null_is_none")]
    pub(in crate::provider::acme) certificates: Vec<Stored>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// An account at an ACME server.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(in crate::provider::acme) struct Account {
    pub(in crate::provider::acme) email: String,
    pub(in crate::provider::acme) registration: Option<Registration>,
    /// PKCS#1 in base64.
    pub(in crate::provider::acme) private_key: String,
    pub(in crate::provider::acme) key_type: String,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// What the server has said of an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::provider::acme) struct Registration {
    pub(in crate::provider::acme) body: Value,
    /// Its name at the server.
    pub(in crate::provider::acme) uri: String,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// A certificate.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::provider::acme) struct Stored {
    pub(in crate::provider::acme) domain: Domain,
    /// PEM in base64: it, then its issuers.
    pub(in crate::provider::acme) certificate: String,
    /// PEM in base64.
    pub(in crate::provider::acme) key: String,
    #[serde(rename = "Store")]
    pub(in crate::provider::acme) store: String,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// Without the key.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("email", &self.email).field("key_type", &self.key_type).finish_non_exhaustive()
    }
}

/// Without the key.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl Account {
    pub(in crate::provider::acme) fn new(email: &str, registration: Registration, private_key: &[u8]) -> Self {
        Self {
            email: email.to_owned(),
            registration: Some(registration),
            private_key: BASE64_STANDARD.encode(private_key),
            // As lego calls RSA with 4096 bits.
            key_type: "4096".to_owned(),
            other: Map::new(),
        }
    }

    /// The key as it is stored.
    pub(in crate::provider::acme) fn key(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(&self.private_key).ok()
    }
}

impl Registration {
    pub(in crate::provider::acme) fn new(uri: String, body: Value) -> Self {
        Self { body, uri, other: Map::new() }
    }
}

impl Stored {
    pub(in crate::provider::acme) fn new(domain: Domain, chain: &str, key: &str) -> Self {
        Self {
            domain,
            certificate: BASE64_STANDARD.encode(chain),
            key: BASE64_STANDARD.encode(key),
            store: "default".to_owned(),
            other: Map::new(),
        }
    }

    /// Certificate and key in PEM.
    pub(in crate::provider::acme) fn pem(&self) -> Option<(String, String)> {
        let text = |written: &str| String::from_utf8(BASE64_STANDARD.decode(written).ok()?).ok();
        Some((text(&self.certificate)?, text(&self.key)?))
    }
}

impl Kept {
    /// Puts a certificate in the place of the one for the same names.
    pub(in crate::provider::acme) fn put(&mut self, new: Stored) {
        match self.certificates.iter_mut().find(|stored| stored.domain == new.domain) {
            Some(stored) => *stored = new,
            None => self.certificates.push(new),
        }
    }
}

fn null_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Stored>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The part of one resolver.
///
/// # Errors
/// A sentence without a subject, if it is none.
pub(super) fn part(document: &Document, resolver: &str) -> Result<Kept, String> {
    match document.get(resolver) {
        None | Some(Value::Null) => Ok(Kept::default()),
        Some(written) => Kept::deserialize(written).map_err(|error| format!("is not valid at `{resolver}`: {error}")),
    }
}
