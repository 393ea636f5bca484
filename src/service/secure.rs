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
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, SupportedCipherSuite, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::judge::{Judge, Wanted};
use super::server::Purpose;
use super::transport::Settings;
use super::upgrade::{self, Paused};
use crate::problem::{Problem, Problems, all, each, refuse};

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
        let read = all((
            http2,
            versions(settings),
            suites(settings),
            Wanted::read(&settings.peer_cert_uri, &settings.peer_cert_sans),
        ))?;
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
    // With `insecureSkipVerify` there may be one that stands for nothing.
    let roots = if settings.root_cas.is_empty() { &[] } else { roots };
    let checks_host = !settings.insecure_skip_verify;
    let judge = Judge::new(roots, checks_host, wanted, &provider).map_err(|message| Problem::at("rootCAs", message))?;
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
