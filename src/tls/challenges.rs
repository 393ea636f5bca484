//! Certificates that prove to an ACME server that a name is ours (TLS-ALPN-01, RFC 8737).

use std::fmt;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::problem::Problem;

/// The protocol that an ACME server asks for, and no other (RFC 8737 §6.2).
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// Proofs that are awaited, by the name they are for.
#[derive(Default)]
pub struct Challenges(RwLock<HashMap<Box<str>, Arc<ServerConfig>, RandomState>>);

impl Challenges {
    /// Shows a certificate to whoever asks for the proof of `name`, until [`Challenges::remove`].
    ///
    /// # Errors
    /// If the key cannot be used.
    pub fn insert(
        &self,
        name: &str,
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), Problem> {
        let wrong = |error: rustls::Error| Problem::at("tlsChallenge", format!("cannot prove {name}: {error}"));
        let provider = Arc::new(super::provider());
        // Not compared with the certificate, as in others: the extension that proves is one that the library refuses to read.
        let key = CertifiedKey::new(vec![certificate], provider.key_provider.load_private_key(key).map_err(wrong)?);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        self.0.write().insert(name.to_ascii_lowercase().into(), Arc::new(config));
        Ok(())
    }

    /// Ends the proof of `name`.
    pub fn remove(&self, name: &str) {
        self.0.write().remove(&*name.to_ascii_lowercase());
    }

    /// What the handshake for the proof of `name` is made with, if one is awaited.
    pub fn find(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.0.read().get(name).cloned()
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.read().keys()).finish()
    }
}
