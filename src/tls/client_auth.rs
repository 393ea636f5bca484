//! What clients must prove of themselves.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};

use crate::problem::{Problem, Problems, each};
use crate::units::pem;

/// `clientAuth` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Authorities whose certificates are taken: paths of PEM files, or PEM text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_files: Vec<String>,
    /// `NoClientCert`, `RequestClientCert`, `RequireAnyClientCert`, `VerifyClientCertIfGiven` or `RequireAndVerifyClientCert`;
    /// the last one if there are authorities, else the first.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_auth_type: String,
}

/// What clients must prove, and what that was made of. By default, nothing.
#[derive(Clone, Default)]
pub(super) struct ClientAuth {
    /// `None`: nothing, and they are not asked.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Whether there is no handshake without a certificate of theirs.
    pub(super) is_required: bool,
    /// Equal for equal demands. A session must not go on under others.
    pub(super) identity: Vec<u8>,
}

/// Whether the certificate must be one of an authority's.
enum Proof {
    Any,
    FromAuthority,
}

/// Reads the authorities.
///
/// # Errors
/// Each file that cannot be read or holds no authority, and types that are not known or lack what they need.
pub(super) fn build(settings: &Settings, provider: &Arc<CryptoProvider>) -> Result<ClientAuth, Problems> {
    let read = |(at, written): (usize, &String)| {
        authorities(written).map_err(|message| Problem::at(format!("caFiles[{at}]"), message))
    };
    let authorities: Vec<_> = each(settings.ca_files.iter().enumerate().map(read))?;
    let roots: Vec<CertificateDer<'static>> = authorities.into_iter().flatten().collect();
    let (proof, is_required) = match &*settings.client_auth_type {
        "" if roots.is_empty() => return Ok(ClientAuth::default()),
        "NoClientCert" => return Ok(ClientAuth::default()),
        "RequestClientCert" => (Proof::Any, false),
        "RequireAnyClientCert" => (Proof::Any, true),
        "VerifyClientCertIfGiven" => (Proof::FromAuthority, false),
        "" | "RequireAndVerifyClientCert" => (Proof::FromAuthority, true),
        other => {
            let message = format!("`{other}` is not known");
            let help = "expected `NoClientCert`, `RequestClientCert`, `RequireAnyClientCert`, \
                        `VerifyClientCertIfGiven` or `RequireAndVerifyClientCert`";
            return Err(Problem::at("clientAuthType", message).with_help(help).into());
        }
    };
    let mut identity = vec![u8::from(is_required)];
    let verifier: Arc<dyn ClientCertVerifier> = match proof {
        Proof::Any => Arc::new(AnyCertificate { is_required, provider: provider.clone() }),
        Proof::FromAuthority if roots.is_empty() => {
            let message = format!("`{}` needs authorities in `caFiles`", settings.client_auth_type);
            return Err(Problem::at("clientAuthType", message).into());
        }
        Proof::FromAuthority => {
            let mut store = RootCertStore::empty();
            for root in roots {
                identity.extend_from_slice(&root);
                // Each was added to a store before.
                let _ = store.add(root);
            }
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider.clone());
            let builder = if is_required { builder } else { builder.allow_unauthenticated() };
            builder.build().map_err(|error| Problem::at("caFiles", format!("cannot be used: {error}")))?
        }
    };
    Ok(ClientAuth { verifier: Some(verifier), is_required, identity })
}

fn authorities(written: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = pem::read(written)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not valid PEM: {error}"))?;
    if found.is_empty() {
        return Err("holds no certificate".to_owned());
    }
    let mut store = RootCertStore::empty();
    for root in &found {
        store.add(root.clone()).map_err(|error| format!("is not an authority's certificate: {error}"))?;
    }
    Ok(found)
}

/// Takes any certificate, if the client proves that it has its key. Who it is has to be judged behind us.
#[derive(Debug)]
struct AnyCertificate {
    is_required: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
