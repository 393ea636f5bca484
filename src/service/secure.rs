//! TLS to servers of which more is asked than Pingora's connector can: versions, suites, and whose certificate it must be.
//!
//! For Pingora such a connection is a plain one that we make ourselves, so that nothing of a request is written before the server
//! has proved who it is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::utils::tls::CertKey;
use pingora::{Error, ErrorType, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    SupportedCipherSuite, SupportedProtocolVersion,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::server::Purpose;
use super::transport::{PLACEHOLDER_AUTHORITY, Settings};
use super::upgrade::{self, Paused};
use crate::problem::{Problem, Problems, all, each, refuse};

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

/// What a transport asks for that Pingora's connector cannot do.
pub(super) struct Demands {
    versions: Vec<&'static SupportedProtocolVersion>,
    suites: Vec<SupportedCipherSuite>,
    wanted: Wanted,
}

impl Demands {
    /// `None`: nothing.
    ///
    /// # Errors
    /// Whatever is not known, or cannot be spoken.
    pub(super) fn read(settings: &Settings) -> Result<Option<Self>, Problems> {
        let is_plain = settings.cipher_suites.is_empty()
            && matches!(&*settings.min_version, "" | OLDEST)
            && matches!(&*settings.max_version, "" | NEWEST)
            && settings.peer_cert_uri.is_empty()
            && settings.peer_cert_sans.is_empty();
        if is_plain {
            return Ok(None);
        }
        let http2 = refuse(settings.disable_http2 == Some(false), || {
            let message = "cannot be `false` with `minVersion`, `maxVersion`, `cipherSuites`, `peerCertURI` or \
                           `peerCertSANs`: such connections speak HTTP/1.1";
            Problem::at("disableHTTP2", message).with_help("leave it out")
        });
        let read = all((http2, versions(settings), suites(settings), Wanted::read(settings)))?;
        let ((), versions, suites, wanted) = read;
        Ok(Some(Self { versions, suites, wanted }))
    }
}

/// What such connections are made with.
///
/// # Errors
/// If there are no authorities, or the demands cannot be met together.
pub(super) fn build(
    settings: &Settings,
    demands: Demands,
    roots: &[CertificateDer<'static>],
    own: Option<&CertKey>,
) -> Result<Arc<ClientConfig>, Problem> {
    let Demands { versions, suites, wanted } = demands;
    let provider = Arc::new(CryptoProvider { cipher_suites: suites, ..aws_lc_rs::default_provider() });
    // Whoever asks for a certificate of a certain owner asks for a true one, also where its host name may be another.
    let chain = match settings.insecure_skip_verify && wanted.is_nothing() {
        true => None,
        false => Some(chain_verifier(settings, roots, &provider)?),
    };
    let judge = Judge { chain, checks_host: !settings.insecure_skip_verify, wanted, provider: provider.clone() };
    let wrong = |error: rustls::Error| Problem::at("cipherSuites", format!("cannot be spoken: {error}"));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(wrong)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let wrong = |error: String| Problem::at("certificates[0]", format!("cannot be shown: {error}"));
            let others = own.intermediates();
            let chain = std::iter::once(own.leaf()).chain(others);
            let chain = chain.map(|certificate| CertificateDer::from(certificate.borrow_raw_cert().clone())).collect();
            let key = PrivateKeyDer::try_from(own.key().clone()).map_err(|error| wrong(error.to_owned()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn chain_verifier(
    settings: &Settings,
    roots: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Problem> {
    let wrong = |message: String| Problem::at("rootCAs", message);
    let mut store = RootCertStore::empty();
    if settings.root_cas.is_empty() {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().unwrap_or_default());
        if store.is_empty() {
            // The library wants some authority, and a minimal image has none: this one vouches for nothing.
            store.add_parsable_certificates(CertificateDer::from_pem_slice(PLACEHOLDER_AUTHORITY.as_bytes()));
        }
    } else {
        for root in roots {
            store.add(root.clone()).map_err(|error| wrong(format!("cannot be used: {error}")))?;
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .map_err(|error| wrong(format!("cannot be used: {error}")))
}

const OLDEST: &str = "VersionTLS12";
const NEWEST: &str = "VersionTLS13";

fn versions(settings: &Settings) -> Result<Vec<&'static SupportedProtocolVersion>, Problems> {
    let read = |path: &str, written: &str, default: u8| match written {
        "" => Ok(default),
        OLDEST => Ok(2),
        NEWEST => Ok(3),
        "VersionTLS10" | "VersionTLS11" => {
            let message = format!("`{written}` cannot be spoken: it is no longer safe (RFC 8996)");
            Err(Problem::at(path, message).with_help(format!("write `{OLDEST}`")))
        }
        other => Err(Problem::at(path, format!("`{other}` is not known"))
            .with_help(format!("expected `{OLDEST}` or `{NEWEST}`"))),
    };
    let (least, most) =
        all((read("minVersion", &settings.min_version, 2), read("maxVersion", &settings.max_version, 3)))?;
    if least > most {
        return Err(Problem::at("maxVersion", "is older than `minVersion`").into());
    }
    let known = [(3, &rustls::version::TLS13), (2, &rustls::version::TLS12)];
    Ok(known.into_iter().filter(|(version, _)| (least..=most).contains(version)).map(|(_, version)| version).collect())
}

/// Suites of TLS 1.2 that are listed; those of 1.3 are always offered, as Go has it.
fn suites(settings: &Settings) -> Result<Vec<SupportedCipherSuite>, Problems> {
    let known = aws_lc_rs::ALL_CIPHER_SUITES;
    if settings.cipher_suites.is_empty() {
        return Ok(known.to_vec());
    }
    let listed: Vec<SupportedCipherSuite> = each(settings.cipher_suites.iter().enumerate().map(|(at, written)| {
        known.iter().copied().find(|suite| is_called(*suite, written)).ok_or_else(|| {
            let offered: Vec<_> =
                known.iter().filter(|suite| suite.tls13().is_none()).map(|suite| name(*suite)).collect();
            Problem::at(format!("cipherSuites[{at}]"), format!("`{written}` is not known, or cannot be spoken"))
                .with_help(format!("there are: {}", offered.join(", ")))
        })
    }))?;
    let always = known.iter().filter(|suite| suite.tls13().is_some());
    Ok(always.chain(listed.iter().filter(|suite| suite.tls13().is_none())).copied().collect())
}

fn name(suite: SupportedCipherSuite) -> String {
    // The library calls suites of TLS 1.3 `TLS13_…`, IANA `TLS_…`.
    suite.suite().as_str().unwrap_or_default().replacen("TLS13_", "TLS_", 1)
}

/// Go leaves the hash of ChaCha20 suites out.
fn is_called(suite: SupportedCipherSuite, written: &str) -> bool {
    let name = name(suite);
    name == written || (written.ends_with("CHACHA20_POLY1305") && name.strip_suffix("_SHA256") == Some(written))
}

/// Whose certificate a server must show.
#[derive(Debug)]
struct Wanted {
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
    fn read(settings: &Settings) -> Result<Self, Problems> {
        let names = each(settings.peer_cert_sans.iter().enumerate().map(|(at, AlternativeName { kind, value })| {
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
        let uri = Some(settings.peer_cert_uri.as_str()).filter(|uri| !uri.is_empty()).map(Box::from);
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
struct Judge {
    /// `None`: any certificate is taken.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Whether the certificate must be for the host that is asked for.
    checks_host: bool,
    wanted: Wanted,
    provider: Arc<CryptoProvider>,
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

/// Makes such connections to one server.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) config: Arc<ClientConfig>,
    /// The host that is asked for.
    pub(super) host: Box<str>,
    /// How long connecting may take, without the handshake.
    pub(super) timeout: Option<Duration>,
    pub(super) purpose: Purpose,
}

#[async_trait]
impl L4Connect for Connector {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Ok(host) = ServerName::try_from(self.host.to_string()) else {
            return Error::e_explain(ErrorType::InvalidCert, format!("{} is not a host name", self.host));
        };
        let stream = upgrade::dial(address, self.timeout).await?;
        let stream = match self.purpose {
            Purpose::Request => Paused::never(stream),
            Purpose::Upgrade => Paused::new(stream),
        };
        let shaken = TlsConnector::from(self.config.clone()).connect(host, stream).await;
        let stream = shaken.map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            let kind = match cause {
                Some(rustls::Error::InvalidCertificate(_)) => ErrorType::InvalidCert,
                _ => ErrorType::TLSHandshakeFailure,
            };
            Error::because(kind, format!("handshake with {address}"), error)
        })?;
        Ok(VirtualSocketStream::new(Box::new(Secured(stream))).into())
    }
}

/// A connection over which TLS is spoken.
#[derive(Debug)]
struct Secured(TlsStream<Paused<TcpStream>>);

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl VirtualSocket for Secured {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        self.0.get_ref().0.set_socket_option(option)
    }
}
