//! Whom we believe when the gateway itself asks somebody: ACME servers, webhooks.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::problem::Problem;
use crate::units::pem;

/// Those who may vouch for a server.
#[derive(Clone)]
pub struct Authorities(Arc<ClientConfig>);

impl Authorities {
    /// Those in `written`, PEM files or text, and those that the system trusts if `and_system`.
    ///
    /// # Errors
    /// What cannot be read, by its place in the list.
    pub fn new(written: &[String], and_system: &[CertificateDer<'static>]) -> Result<Self, Problem> {
        let mut roots = RootCertStore::empty();
        for (at, written) in written.iter().enumerate() {
            let wrong = |message: String| Problem::at(format!("[{at}]"), message);
            let text = pem::read(written).map_err(wrong)?;
            let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
                .collect::<Result<_, _>>()
                .map_err(|error| wrong(format!("is not valid PEM: {error}")))?;
            if found.is_empty() {
                return Err(wrong("holds no certificate".to_owned()));
            }
            for certificate in found {
                roots.add(certificate).map_err(|error| wrong(format!("holds no authority: {error}")))?;
            }
        }
        // Systems have some that nobody can read.
        roots.add_parsable_certificates(and_system.iter().cloned());
        let mut config = ClientConfig::builder_with_provider(Arc::new(super::provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Problem::at("", error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Makes the handshake with a server that must prove to be `name`.
    ///
    /// # Errors
    /// If it does not, or the two cannot agree.
    pub async fn connect(&self, name: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is no name of a server")))?;
        TlsConnector::from(self.0.clone()).connect(name, stream).await
    }
}
