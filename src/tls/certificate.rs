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

/// How long another certificate may stand in for one that has no answer of its authority yet, in seconds. Responders take a while to know
/// what was just issued: five attempts fall into this time. Who replaces a certificate wants the old one gone, so it is no longer.
const STANDS_IN_FOR: i64 = 300;

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
    /// Another one with an answer, that is shown until there is one for this.
    stand_in: ArcSwapOption<Stapled>,
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
    /// Until when it may be shown, in seconds of Unix time.
    until: i64,
}

impl Stapled {
    fn holds(&self, now: i64) -> bool {
        now < self.until
    }
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
            stand_in: ArcSwapOption::empty(),
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
    /// time. `None` ends that. Either way nothing stands in for it any more.
    pub fn staple(&self, answer: Option<(&[u8], i64)>) {
        self.stapled.store(answer.map(|(answer, until)| {
            let key = CertifiedKey { ocsp: Some(answer.into()), ..CertifiedKey::clone(&self.key) };
            Arc::new(Stapled { key: Arc::new(key), until })
        }));
        self.stand_in.store(None);
    }

    /// Has `before` stand in for this one until [`Certificate::staple`] is called, or some minutes have passed. Whether it does: if clients
    /// were told to insist on an answer, somebody can be asked for one, there is one for `before`, and that is good for the same names and
    /// the same clients.
    pub(super) fn let_stand_in(&self, before: &Self) -> bool {
        self.let_stand_in_at(before, now())
    }

    fn let_stand_in_at(&self, before: &Self, now: i64) -> bool {
        let waits = self.must_staple && !self.responders.is_empty() && self.stapled.load().is_none();
        let stand_in = (waits && before.is_good_for(self)).then(|| before.answered(now)).flatten();
        let stands_in = stand_in.is_some();
        if stands_in {
            self.stand_in.store(stand_in);
        }
        stands_in
    }

    /// Whether whoever can be served with `other` can be with this one.
    fn is_good_for(&self, other: &Self) -> bool {
        let signs = |key: &CertifiedKey, scheme| key.key.choose_scheme(&[scheme]).is_some();
        let schemes = super::provider().signature_verification_algorithms.supported_schemes();
        other.names.iter().all(|name| self.names.contains(name))
            && other.addresses.iter().all(|address| self.addresses.contains(address))
            && schemes.into_iter().all(|scheme| signs(&self.key, scheme) || !signs(&other.key, scheme))
    }

    /// It with its answer, or what stands in for it: for another one, and no longer than it would here.
    fn answered(&self, now: i64) -> Option<Arc<Stapled>> {
        let until = self.not_after.min(now.saturating_add(STANDS_IN_FOR));
        match &*self.stapled.load() {
            Some(own) if own.holds(now) => {
                let it = Stapled { key: own.key.clone(), until: own.until.min(until) };
                Some(it).filter(|it| it.holds(now)).map(Arc::new)
            }
            _ => self.stand_in.load_full().filter(|other| other.holds(now)),
        }
    }

    /// What clients are shown now.
    pub(super) fn shown(&self) -> Arc<CertifiedKey> {
        match (&*self.stapled.load(), &*self.stand_in.load()) {
            (None, None) => self.key.clone(),
            (own, other) => self.shown_of([own, other], now()),
        }
    }

    /// The first of these that holds, or it without an answer.
    fn shown_of(&self, answered: [&Option<Arc<Stapled>>; 2], now: i64) -> Arc<CertifiedKey> {
        let found = answered.into_iter().flatten().find(|it| it.holds(now));
        found.map_or(&self.key, |found| &found.key).clone()
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
pub(super) mod tests;
