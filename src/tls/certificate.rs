//! A certificate with its key: read, checked, and asked which names it is for and who says whether it is still good.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use x509_parser::der_parser::{Oid, oid};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::problem::{Problem, Problems, all};
use crate::units::{Secret, pem};

/// `id-ad-ocsp` (RFC 5280 §4.2.2.1).
const OCSP: Oid<'static> = oid!(1.3.6.1.5.5.7.48.1);
/// `id-pe-tlsfeature` (RFC 7633 §6).
const TLS_FEATURE: Oid<'static> = oid!(1.3.6.1.5.5.7.1.24);
/// The extension of handshakes with which clients ask for an answer (RFC 6066 §8).
const STATUS_REQUEST: u32 = 5;

/// A certificate and its key as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Path of a PEM file, or PEM text: the certificate first, then its issuers.
    pub cert_file: String,
    /// Path of a PEM file, or PEM text.
    pub key_file: Secret,
    /// Stores that it belongs to. Only `default` is used, as in Traefik.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
}

/// A certificate with its key.
pub struct Certificate {
    /// What the library signs with.
    pub(super) key: Arc<CertifiedKey>,
    /// The same with an answer of its authority, while there is one.
    stapled: ArcSwapOption<Stapled>,
    /// Names that it is for, lower case; `*.` stands for one label.
    names: Box<[Box<str>]>,
    addresses: Box<[IpAddr]>,
    subject: Box<str>,
    common_name: Box<str>,
    serial: Box<str>,
    not_after: i64,
    responders: Box<[Box<str>]>,
    must_staple: bool,
}

/// A certificate with an answer of its authority (OCSP).
struct Stapled {
    key: Arc<CertifiedKey>,
    /// Until when the answer holds, in seconds of Unix time.
    until: i64,
}

impl Certificate {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// Each file that cannot be read or holds no such thing, and a key that does not fit.
    pub fn read(settings: &Settings) -> Result<Self, Problems> {
        let chain = pem::read(&settings.cert_file).and_then(|text| chain(&text));
        let key = pem::read(settings.key_file.reveal()).and_then(|text| {
            PrivateKeyDer::from_pem_slice(&text).map_err(|error| format!("holds no private key: {error}"))
        });
        let (chain, key) = all((
            chain.map_err(|message| Problem::at("certFile", message)),
            key.map_err(|message| Problem::at("keyFile", message)),
        ))?;
        Ok(Self::new(chain, key)?)
    }

    /// A certificate, the first of `chain`, with its key.
    ///
    /// # Errors
    /// If the two do not fit, or the certificate cannot be read.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Problem> {
        let wrong = |message: String| Problem::at("certFile", message);
        let leaf = chain.first().ok_or_else(|| wrong("holds no certificate".to_owned()))?.clone();
        let (_, leaf) = X509Certificate::from_der(&leaf)
            .map_err(|error| wrong(format!("holds an invalid certificate: {error}")))?;
        let (names, addresses) = names(&leaf);
        let (subject, serial) = (leaf.subject().to_string().into(), leaf.serial.to_string().into());
        let common_name = leaf.subject().iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
        let common_name = common_name.into();
        let not_after = leaf.validity().not_after.timestamp();
        let (responders, must_staple) = (responders(&leaf), must_staple(&leaf));
        let key = CertifiedKey::from_der(chain, key, &super::provider())
            .map_err(|error| Problem::at("keyFile", format!("does not fit the certificate: {error}")))?;
        Ok(Self {
            key: Arc::new(key),
            stapled: ArcSwapOption::empty(),
            names,
            addresses,
            subject,
            common_name,
            serial,
            not_after,
            responders,
            must_staple,
        })
    }

    /// Names that it is for, lower case; `*.` stands for one label.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Addresses that it is for.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Until when it is valid, in seconds of Unix time.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whom it was made for, as its issuer wrote it.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The common name of whom it was made for; empty if there is none.
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// Its serial number, in decimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// It and its issuers, each in DER.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// URLs of those who say whether it is still good, in the order in which it names them (RFC 5280 §4.2.2.1).
    pub fn responders(&self) -> &[Box<str>] {
        &self.responders
    }

    /// Whether it tells clients to insist on an answer of theirs in the handshake (RFC 7633).
    pub fn must_staple(&self) -> bool {
        self.must_staple
    }

    /// Shows clients that ask for it this answer of a responder from now on, as long as it holds: until `until`, in seconds of Unix
    /// time. `None` ends that.
    pub fn staple(&self, answer: Option<(&[u8], i64)>) {
        self.stapled.store(answer.map(|(answer, until)| {
            let key = CertifiedKey { ocsp: Some(answer.into()), ..CertifiedKey::clone(&self.key) };
            Arc::new(Stapled { key: Arc::new(key), until })
        }));
    }

    /// What clients are shown now.
    pub(super) fn shown(&self) -> Arc<CertifiedKey> {
        match &*self.stapled.load() {
            Some(stapled) if now() < stapled.until => stapled.key.clone(),
            _ => self.key.clone(),
        }
    }

    /// Whether its key is an RSA one. Others are shorter and faster, and so are preferred.
    pub(super) fn is_rsa(&self) -> bool {
        self.key.key.algorithm() == rustls::SignatureAlgorithm::RSA
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).field("not_after", &self.not_after).finish()
    }
}

/// All certificates of a PEM text, at least one.
fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not valid PEM: {error}"))?;
    if found.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(found) }
}

/// The names and addresses in a certificate's subject alternative names; its common name only if it has none (RFC 6125 §6.4.4).
fn names(leaf: &X509Certificate<'_>) -> (Box<[Box<str>]>, Box<[IpAddr]>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    if let Ok(Some(found)) = leaf.subject_alternative_name() {
        for name in &found.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(canonical(name)),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
    }
    if names.is_empty() && addresses.is_empty() {
        let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.filter(|name| !name.contains(' ')).map(canonical));
    }
    (names.into(), addresses.into())
}

/// URLs of its OCSP responders.
fn responders(leaf: &X509Certificate<'_>) -> Box<[Box<str>]> {
    let access = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => Some(access),
        _ => None,
    });
    let named = access.into_iter().flat_map(|access| &access.accessdescs);
    let ocsp = named.filter(|described| described.access_method == OCSP);
    ocsp.filter_map(|described| match described.access_location {
        GeneralName::URI(url) => Some(url.into()),
        _ => None,
    })
    .collect()
}

fn must_staple(leaf: &X509Certificate<'_>) -> bool {
    let features = leaf.extensions().iter().find(|extension| extension.oid == TLS_FEATURE);
    let features = features.and_then(|extension| Vec::<u32>::from_der(extension.value).ok());
    features.is_some_and(|(_, features)| features.contains(&STATUS_REQUEST))
}

/// Now, in seconds of Unix time.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn canonical(name: &str) -> Box<str> {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A self-signed pair for these names.
    pub(in crate::tls) fn pair(names: &[&str]) -> Settings {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key_file = Secret::new(made.signing_key.serialize_pem());
        Settings { cert_file: made.cert.pem(), key_file, stores: Vec::new() }
    }

    #[test]
    fn names_and_addresses_are_told() {
        let found = Certificate::read(&pair(&["A.example", "*.b.example", "192.0.2.7", "2001:db8::1"])).unwrap();
        assert_eq!(found.names().iter().map(|name| &**name).collect::<Vec<_>>(), ["a.example", "*.b.example"]);
        assert_eq!(found.addresses(), ["192.0.2.7".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert!(!found.is_rsa());
        assert!(found.not_after() > 0);
    }

    #[test]
    fn mistakes_name_the_field() {
        let (one, other) = (pair(&["a"]), pair(&["b"]));
        let mixed = Settings { key_file: other.key_file, ..one.clone() };
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        for (settings, expected) in [
            (mixed, "keyFile"),
            (Settings { cert_file: "/no/such/file".into(), ..one.clone() }, "certFile"),
            (Settings { cert_file: garbage, ..one.clone() }, "certFile"),
            (Settings { cert_file: one.key_file.reveal().to_owned(), ..one.clone() }, "certFile"),
            (Settings { key_file: Secret::new(one.cert_file.clone()), ..one.clone() }, "keyFile"),
            (Settings::default(), "certFile keyFile"),
        ] {
            let found = Certificate::read(&settings).unwrap_err();
            let paths: Vec<_> = found.iter().map(|problem| &*problem.path).collect();
            assert_eq!(paths.join(" "), expected);
        }
    }
}
