//! TLS: an authority and a certificate for the gateway, and clients that trust it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The name that the gateway has a certificate for.
const NAME: &str = "drill.test";

/// Makes an authority and a certificate: `ca.pem`, `cert.pem` and `key.pem` in that folder.
pub(crate) fn certify(folder: &Path) -> io::Result<()> {
    let made = || {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&authority_key)?.pem();
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(authority, authority_key);
        let certificate = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &issuer)?.pem();
        Ok::<_, rcgen::Error>([("ca.pem", ca), ("cert.pem", certificate), ("key.pem", key.serialize_pem())])
    };
    for (name, text) in made().map_err(io::Error::other)? {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// How clients greet.
pub(crate) struct Greeter {
    /// One that remembers sessions, and one that does not.
    http1: [Arc<ClientConfig>; 2],
    http2: Arc<ClientConfig>,
}

/// Whether a session of before may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    Resumed,
    Fresh,
}

impl Greeter {
    /// For servers that this authority vouches for.
    pub(crate) fn new(authority: &Path) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).map_err(io::Error::other)?).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut forgetful = config.clone();
        forgetful.resumption = Resumption::disabled();
        let mut http2 = forgetful.clone();
        http2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { http1: [config.into(), forgetful.into()], http2: http2.into() })
    }

    pub(crate) async fn http1(&self, stream: TcpStream, session: Session) -> io::Result<TlsStream<TcpStream>> {
        let [remembering, forgetful] = &self.http1;
        greet(if session == Session::Resumed { remembering } else { forgetful }, stream).await
    }

    pub(crate) async fn http2(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        greet(&self.http2, stream).await
    }
}

/// Whether the connection goes on with a session of before.
pub(crate) fn is_resumed(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

async fn greet(config: &Arc<ClientConfig>, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}
