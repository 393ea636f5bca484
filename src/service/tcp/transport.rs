//! How TCP servers are spoken to: patience, TLS, and what they are told of the client.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration as Span;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::problem::{Problem, Problems, all, each, refuse};
use crate::service::judge::{AlternativeName, Judge, Wanted};
use crate::service::transport::Certificate;
use crate::units::{Duration, pem};

/// A connection attempt without a limit of its own ends here, like the kernel's own patience.
const DIAL_LIMIT: Span = Span::from_secs(130);

/// `tcp.serversTransports.<name>` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Between two signs of life on a quiet connection. Zero: 15 s. Below zero: none are sent.
    pub dial_keep_alive: Duration,
    /// To connect, with the TLS handshake. Zero: as long as the system tries.
    pub dial_timeout: Duration,
    /// Tells servers who the client is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How long one direction goes on when the other has ended. Below zero: for ever.
    pub termination_delay: Duration,
    /// TLS towards servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dial_keep_alive: Duration::from_secs(15),
            dial_timeout: Duration::from_secs(30),
            proxy_protocol: None,
            termination_delay: Duration::from_millis(100),
            tls: None,
        }
    }
}

/// `proxyProtocol` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyProtocol {
    /// 1 (text) or 2 (binary).
    pub version: i64,
}

impl Default for ProxyProtocol {
    fn default() -> Self {
        Self { version: 2 }
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    /// Checks what is written.
    ///
    /// # Errors
    /// If there is no such version.
    pub fn read(settings: &ProxyProtocol) -> Result<Self, Problem> {
        match settings.version {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            other => Err(Problem::at("version", format!("{other} is not known, expected 1 or 2"))),
        }
    }
}

/// `tls` of a transport as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsSettings {
    /// Name sent and looked for in the server's certificate. Default: the host of the server's address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    /// Takes any certificate. For tests only: whoever sits between can read along.
    pub insecure_skip_verify: bool,
    /// Authorities to trust instead of the system's: paths of PEM files, or PEM text.
    #[serde(rename = "rootCAs", skip_serializing_if = "Vec::is_empty")]
    pub root_cas: Vec<String>,
    /// Certificate shown to servers that ask for one. At most one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// A URI that the server's certificate must be for. Its chain is then verified also with `insecureSkipVerify`.
    #[serde(rename = "peerCertURI", skip_serializing_if = "String::is_empty")]
    pub peer_cert_uri: String,
    /// Names of which the server's certificate must be for at least one, besides what is verified anyway.
    #[serde(rename = "peerCertSANs", skip_serializing_if = "Vec::is_empty")]
    pub peer_cert_sans: Vec<AlternativeName>,
    /// Refused: there is no SPIFFE agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<serde_json::Value>,
}

/// A way to speak to TCP servers, with everything read and checked.
pub struct Transport {
    /// For connection and handshake together.
    pub dial_timeout: Span,
    /// Between two signs of life; `None` sends none.
    pub keep_alive: Option<Span>,
    /// Whether servers are told who the client is.
    pub proxy_protocol: Option<Version>,
    /// How long one direction goes on when the other has ended; `None` is for ever.
    pub termination_delay: Option<Span>,
    /// What handshakes are made with.
    pub tls: Arc<ClientConfig>,
    /// Instead of the host of the server's address.
    pub server_name: Option<Box<str>>,
    identity: [u8; 32],
}

impl Transport {
    /// Reads the certificates that `settings` name.
    ///
    /// # Errors
    /// Each file that cannot be read or holds no certificate, a key that does not fit, and each setting that cannot act.
    pub fn build(settings: &Settings) -> Result<Arc<Self>, Problems> {
        let version = settings.proxy_protocol.as_ref().map(Version::read).transpose();
        let version = version.map_err(|problem| problem.under("proxyProtocol"));
        let written = settings.tls.clone().unwrap_or_default();
        let mut identity = Sha256::new();
        identity.update(format!("{settings:?}"));
        let tls = client_config(&written, &mut identity).map_err(|problems| problems.under("tls"));
        let (proxy_protocol, tls) = all((version, tls))?;
        Ok(Arc::new(Self {
            dial_timeout: settings.dial_timeout.positive().unwrap_or(DIAL_LIMIT),
            keep_alive: keep_alive(settings.dial_keep_alive),
            proxy_protocol,
            termination_delay: (!settings.termination_delay.is_negative())
                .then(|| settings.termination_delay.or_zero()),
            tls,
            server_name: Some(written.server_name.as_str()).filter(|name| !name.is_empty()).map(Box::from),
            identity: identity.finalize().into(),
        }))
    }

    /// Makes the handshake with a server that is called `host`, if the settings have no other name for it.
    ///
    /// # Errors
    /// What is wrong with the name, the certificate or the connection.
    pub async fn shake_hands(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        TlsConnector::from(self.tls.clone()).connect(name, stream).await
    }

    /// Whether both speak to servers in the same way, certificates included.
    pub fn is_same(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("dial_timeout", &self.dial_timeout).finish_non_exhaustive()
    }
}

fn keep_alive(written: Duration) -> Option<Span> {
    if written.is_negative() { None } else { Some(written.positive().unwrap_or(Span::from_secs(15))) }
}

fn client_config(settings: &TlsSettings, identity: &mut Sha256) -> Result<Arc<ClientConfig>, Problems> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let spiffe = refuse(settings.spiffe.is_some(), || {
        Problem::at("spiffe", "is not supported: there is no SPIFFE agent").with_help(
            "for servers of a known SPIFFE ID, write `rootCAs`, `peerCertURI` and `insecureSkipVerify: true`",
        )
    });
    let name = refuse(
        !settings.server_name.is_empty() && ServerName::try_from(settings.server_name.as_str()).is_err(),
        || Problem::at("serverName", format!("`{}` is not a name", settings.server_name)),
    );
    let wanted = Wanted::read(&settings.peer_cert_uri, &settings.peer_cert_sans);
    let (roots, wanted, own, (), ()) =
        all((roots(&settings.root_cas), wanted, client_certificate(&settings.certificates), spiffe, name))?;
    roots.iter().for_each(|root| identity.update(root));
    let judge = Judge::new(&roots, !settings.insecure_skip_verify, wanted, &provider)
        .map_err(|message| Problem::at("rootCAs", message))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Problem::at("", format!("cannot be spoken: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge));
    let config = match own {
        Some((chain, key)) => {
            identity.update(chain.first().map(|leaf| leaf.as_ref()).unwrap_or_default());
            identity.update(key.secret_der());
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                Problem::at("certificates[0].keyFile", format!("does not fit the certificate: {error}"))
            })?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(written: &[String]) -> Result<Vec<CertificateDer<'static>>, Problems> {
    let read = |(at, written): (usize, &String)| {
        let here = |message: String| Problem::at(format!("rootCAs[{at}]"), message);
        let found = certificates(&pem::read(written).map_err(here)?).map_err(here)?;
        let mut store = RootCertStore::empty();
        for root in &found {
            store.add(root.clone()).map_err(|error| here(format!("is not an authority's certificate: {error}")))?;
        }
        Ok::<_, Problem>(found)
    };
    let files: Vec<_> = each(written.iter().enumerate().map(read))?;
    Ok(files.into_iter().flatten().collect())
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not valid PEM: {error}"))?;
    if found.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(found) }
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(written: &[Certificate]) -> Result<Option<Pair>, Problems> {
    match written {
        [] => Ok(None),
        [certificate] => {
            let chain = pem::read(&certificate.cert_file).and_then(|text| certificates(&text));
            let chain = chain.map_err(|message| Problem::at("certificates[0].certFile", message));
            let key = pem::read(certificate.key_file.reveal()).and_then(|text| {
                PrivateKeyDer::from_pem_slice(&text).map_err(|error| format!("holds no private key: {error}"))
            });
            let key = key.map_err(|message| Problem::at("certificates[0].keyFile", message));
            all((chain, key)).map(Some)
        }
        _ => Err(Problem::at("certificates", "only one client certificate can be shown").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_act_is_refused() {
        for (json, expected) in [
            (r#"{"proxyProtocol": {"version": 3}}"#, "proxyProtocol.version"),
            (r#"{"tls": {"spiffe": {}}}"#, "tls.spiffe"),
            (r#"{"tls": {"rootCAs": ["/no/such"]}}"#, "tls.rootCAs[0]"),
            (r#"{"tls": {"serverName": "a b"}}"#, "tls.serverName"),
            (r#"{"tls": {"peerCertSANs": [{"type": "IP", "value": "a"}]}}"#, "tls.peerCertSANs[0].type"),
            (r#"{"tls": {"certificates": [{}]}}"#, "tls.certificates[0].certFile tls.certificates[0].keyFile"),
        ] {
            let settings: Settings = serde_json::from_str(json).unwrap();
            let found = Transport::build(&settings).unwrap_err();
            let paths: Vec<_> = found.iter().map(|problem| &*problem.path).collect();
            assert_eq!(paths.join(" "), expected, "{json}");
        }
    }

    #[test]
    fn zero_and_less_have_a_meaning() {
        let of = |json| Transport::build(&serde_json::from_str(json).unwrap()).unwrap();
        let plain = of("{}");
        assert_eq!(plain.termination_delay, Some(Span::from_millis(100)));
        assert_eq!(plain.keep_alive, Some(Span::from_secs(15)));
        let endless = of(r#"{"terminationDelay": "-1s", "dialKeepAlive": "-1s", "dialTimeout": 0}"#);
        assert_eq!((endless.termination_delay, endless.keep_alive), (None, None));
        assert_eq!(endless.dial_timeout, DIAL_LIMIT);
        assert!(!plain.is_same(&endless) && plain.is_same(&of("{}")));
    }
}
