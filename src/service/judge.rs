//! Whether a server is who it must be: its chain, its host, and the names that its certificate must have.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::transport::PLACEHOLDER_AUTHORITY;
use crate::problem::{Problem, Problems, each};

/// `peerCertSANs` as written: a name that the certificate of a server may be for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AlternativeName {
    /// `DNS` or `URI`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name.
    pub value: String,
}

/// Whose certificate a server must show.
#[derive(Debug)]
pub(super) struct Wanted {
    uri: Option<Box<str>>,
    /// One of these, if there are any.
    names: Box<[Named]>,
}

#[derive(Debug)]
enum Named {
    Uri(Box<str>),
    Host(ServerName<'static>),
}

impl Wanted {
    /// From `peerCertURI` and `peerCertSANs`.
    ///
    /// # Errors
    /// Names of no known type, and names that are none.
    pub(super) fn read(uri: &str, names: &[AlternativeName]) -> Result<Self, Problems> {
        let names = each(names.iter().enumerate().map(|(at, AlternativeName { kind, value })| {
            let here = |field: &str, message: String| Problem::at(format!("peerCertSANs[{at}].{field}"), message);
            if value.is_empty() {
                return Err(here("value", "is missing".to_owned()));
            }
            match &*kind.to_ascii_lowercase() {
                "uri" => Ok(Named::Uri(value.as_str().into())),
                "dns" | "hostname" => ServerName::try_from(value.clone())
                    .map(Named::Host)
                    .map_err(|_| here("value", format!("`{value}` is not a host name"))),
                _ => Err(here("type", format!("`{kind}` is not known")).with_help("expected `DNS` or `URI`")),
            }
        }))?;
        let names: Vec<Named> = names;
        let uri = Some(uri).filter(|uri| !uri.is_empty()).map(Box::from);
        Ok(Self { uri, names: names.into() })
    }

    fn is_nothing(&self) -> bool {
        self.uri.is_none() && self.names.is_empty()
    }

    /// Whether the certificate is for whom it must be.
    fn is_met_by(&self, certificate: &CertificateDer<'_>) -> bool {
        let has_uri = |wanted: &str| {
            let Ok((_, read)) = X509Certificate::from_der(certificate) else { return false };
            let Ok(Some(found)) = read.subject_alternative_name() else { return false };
            let is_it =
                |name: &GeneralName<'_>| matches!(name, GeneralName::URI(uri) if uri.eq_ignore_ascii_case(wanted));
            found.value.general_names.iter().any(is_it)
        };
        let has_host = |wanted: &ServerName<'_>| {
            ParsedCertificate::try_from(certificate).is_ok_and(|read| verify_server_name(&read, wanted).is_ok())
        };
        let has = |named: &Named| match named {
            Named::Uri(uri) => has_uri(uri),
            Named::Host(host) => has_host(host),
        };
        self.uri.as_deref().is_none_or(has_uri) && (self.names.is_empty() || self.names.iter().any(has))
    }
}

/// Judges the certificates of servers.
#[derive(Debug)]
pub(super) struct Judge {
    /// `None`: any certificate is taken.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Whether the certificate must be for the host that is asked for.
    checks_host: bool,
    wanted: Wanted,
    provider: Arc<CryptoProvider>,
}

impl Judge {
    /// One that trusts `roots`, or the system's authorities if there are none.
    ///
    /// # Errors
    /// If an authority cannot be used.
    pub(super) fn new(
        roots: &[CertificateDer<'static>],
        checks_host: bool,
        wanted: Wanted,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        // Whoever asks for a certificate of a certain owner asks for a true one, also where its host name may be another.
        let chain = match !checks_host && wanted.is_nothing() {
            true => None,
            false => Some(chain_verifier(roots, provider)?),
        };
        Ok(Self { chain, checks_host, wanted, provider: provider.clone() })
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        if let Some(chain) = &self.chain {
            match chain.verify_server_cert(certificate, issuers, host, ocsp, now) {
                // The name is looked at last: everything else is right.
                Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                    if !self.checks_host => {}
                judged => {
                    judged?;
                }
            }
        }
        if self.wanted.is_met_by(certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        let why = io::Error::other("it is for none of those that `peerCertURI` and `peerCertSANs` name");
        Err(CertificateError::Other(OtherError(Arc::new(why))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn chain_verifier(
    roots: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| format!("cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().unwrap_or_default());
    }
    if store.is_empty() {
        // The library wants some authority, and a minimal image has none: this one vouches for nothing.
        store.add_parsable_certificates(CertificateDer::from_pem_slice(PLACEHOLDER_AUTHORITY.as_bytes()));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .map_err(|error| format!("cannot be used: {error}"))
}
