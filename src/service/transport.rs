//! How servers are spoken to: timeouts, TLS, idle connections.

use std::fmt;
use std::sync::Arc;
use std::time::Duration as Span;

use pingora::protocols::{ALPN, TcpKeepalive};
use pingora::upstreams::peer::PeerOptions;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::judge::AlternativeName;
use super::secure::{self, Demands};
use super::server::fnv1a;
use super::url::Protocol;
use crate::problem::{Problem, Problems, all, each, refuse};
use crate::units::{Duration, Secret, pem};

/// What a TLS handshake may take on top of `dialTimeout`.
const HANDSHAKE_LIMIT: Span = Span::from_secs(10);
/// A connection attempt without a limit of its own ends here, like the kernel's own patience.
const DIAL_LIMIT: Span = Span::from_secs(130);
/// A server that takes no byte for so long is stuck.
const WRITE_LIMIT: Span = Span::from_secs(300);
/// Streams that one HTTP/2 connection to a server may carry at a time.
const H2_STREAMS: usize = 128;

/// `serversTransports.<name>` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Name sent in TLS and looked for in the server's certificate. Default: the host of the server's URL.
    pub server_name: String,
    /// Takes any certificate. For tests only: whoever sits between can read along.
    pub insecure_skip_verify: bool,
    /// Authorities to trust instead of the system's: paths of PEM files, or PEM text.
    #[serde(rename = "rootCAs")]
    pub root_cas: Vec<String>,
    /// Certificate shown to servers that ask for one. At most one.
    pub certificates: Vec<Certificate>,
    /// Suites of TLS 1.2, by their IANA names; all that are considered safe if none are listed. Those of 1.3 are always offered.
    pub cipher_suites: Vec<String>,
    /// Oldest version: `VersionTLS12` or `VersionTLS13`.
    pub min_version: String,
    /// Newest version.
    pub max_version: String,
    /// Idle connections kept per server. 0: only the pool as a whole is bounded. Below 0: none is kept.
    pub max_idle_conns_per_host: i64,
    /// Patience.
    pub forwarding_timeouts: ForwardingTimeouts,
    /// `true`: never HTTP/2. `false`: HTTP/2 with `https` servers that offer it. Unset: HTTP/1.1.
    #[serde(rename = "disableHTTP2", skip_serializing_if = "Option::is_none")]
    pub disable_http2: Option<bool>,
    /// A URI that the server's certificate must be for. Its chain is then verified also with `insecureSkipVerify`.
    #[serde(rename = "peerCertURI")]
    pub peer_cert_uri: String,
    /// Names of which the server's certificate must be for at least one, besides what is verified anyway.
    #[serde(rename = "peerCertSANs")]
    pub peer_cert_sans: Vec<AlternativeName>,
    /// Refused: there is no SPIFFE agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<serde_json::Value>,
}

/// A client certificate and its key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Certificate {
    /// Path of a PEM file, or PEM text: the leaf first, then its issuers.
    pub cert_file: String,
    /// Path of a PEM file, or PEM text.
    pub key_file: Secret,
}

/// How long each step towards a server may take. Zero or less: no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ForwardingTimeouts {
    /// To connect.
    pub dial_timeout: Duration,
    /// From the end of the request to the head of the answer. Where the server may speak HTTP/2, between any two reads of the answer.
    pub response_header_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_conn_timeout: Duration,
    /// HTTP/2: a ping is sent this often.
    pub read_idle_timeout: Duration,
    /// HTTP/2: refused unless it is the default; an unanswered ping closes the connection after 5 s.
    pub ping_timeout: Duration,
}

impl Default for ForwardingTimeouts {
    fn default() -> Self {
        Self {
            dial_timeout: Duration::from_secs(30),
            response_header_timeout: Duration::ZERO,
            idle_conn_timeout: Duration::from_secs(90),
            read_idle_timeout: Duration::ZERO,
            ping_timeout: Duration::from_secs(15),
        }
    }
}

/// A way to speak to servers, with everything read and checked.
pub struct Transport {
    pub(super) server_name: Option<Box<str>>,
    pub(super) client_certificate: Option<Arc<CertKey>>,
    /// What connections are made with of which more is asked than Pingora can.
    pub(super) secure: Option<Arc<ClientConfig>>,
    /// Whether `https` servers may be spoken to in HTTP/2.
    pub(super) offers_h2: bool,
    /// Idle connections kept per server.
    pub(super) idle_limit: Option<usize>,
    options: PeerOptions,
    identity: u64,
    /// Keys for Pingora's pool: with HTTP/1, with HTTP/2 if TLS offers it, with HTTP/2.
    group_keys: [u64; 3],
}

impl Transport {
    /// Reads the certificates that `settings` name.
    ///
    /// # Errors
    /// Each file that cannot be read or holds no certificate, a key that does not fit, and each setting that cannot act.
    pub fn build(settings: &Settings) -> Result<Arc<Self>, Problems> {
        let ((), demands, roots, client_certificate) = all((
            refuse_what_cannot_act(settings),
            Demands::read(settings),
            read_roots(settings),
            client_certificate(settings),
        ))?;
        let secure = demands.map(|demands| secure::build(settings, demands, &roots, client_certificate.as_ref()));
        let secure = secure.transpose()?;
        let mut identity = Sha256::new();
        identity.update(format!("{settings:?}"));

        let mut options = PeerOptions::new();
        set_timeouts(&mut options, &settings.forwarding_timeouts);
        options.max_h2_streams = H2_STREAMS;
        options.verify_cert = !settings.insecure_skip_verify;
        options.verify_hostname = !settings.insecure_skip_verify;
        roots.iter().for_each(|root| identity.update(root));
        if !roots.is_empty() {
            options.ca = Some(roots.into_iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect());
        }
        if let Some(certificate) = &client_certificate {
            identity.update(certificate.leaf().borrow_raw_cert());
            identity.update(certificate.key());
        }
        if settings.max_idle_conns_per_host < 0 {
            options.idle_timeout = Some(Span::ZERO);
        }
        let identity = first_word(&identity.finalize());
        Ok(Arc::new(Self {
            server_name: Some(settings.server_name.as_str()).filter(|name| !name.is_empty()).map(Box::from),
            client_certificate: client_certificate.map(Arc::new),
            secure,
            offers_h2: settings.disable_http2 == Some(false),
            idle_limit: usize::try_from(settings.max_idle_conns_per_host).ok().filter(|limit| *limit > 0),
            options,
            group_keys: [ALPN::H1, ALPN::H2H1, ALPN::H2].map(|alpn| fnv1a(identity, format!("{alpn:?}").as_bytes())),
            identity,
        }))
    }

    /// A number that differs whenever trust, names or timeouts differ: connections are never shared across it.
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// What is spoken with a server of this protocol, and the key that such connections have in Pingora's pool: it looks neither at
    /// authorities nor at protocols, so what must not be shared must differ there.
    pub(super) fn manner(&self, protocol: Protocol) -> (ALPN, u64) {
        let [h1, h2_or_h1, h2] = self.group_keys;
        match protocol {
            Protocol::H2c => (ALPN::H2, h2),
            Protocol::Https if self.offers_h2 => (ALPN::H2H1, h2_or_h1),
            Protocol::Http | Protocol::Https => (ALPN::H1, h1),
        }
    }

    /// How long an idle connection is kept.
    pub(super) fn idle_timeout(&self) -> Option<Span> {
        self.options.idle_timeout
    }

    pub(super) fn connection_timeout(&self) -> Option<Span> {
        self.options.connection_timeout
    }

    /// What every connection starts from.
    pub(super) fn options(&self) -> PeerOptions {
        self.options.clone()
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({:016x})", self.identity)
    }
}

fn refuse_what_cannot_act(settings: &Settings) -> Result<(), Problems> {
    let spiffe = refuse(settings.spiffe.is_some(), || {
        Problem::at("spiffe", "is not supported: there is no agent to ask").with_help(
            "for servers of a known SPIFFE ID, write `rootCAs`, `peerCertURI` and `insecureSkipVerify: true`",
        )
    });
    let ping_timeout = settings.forwarding_timeouts.ping_timeout;
    let ping = refuse(ping_timeout != ForwardingTimeouts::default().ping_timeout, || {
        Problem::at("forwardingTimeouts.pingTimeout", "is fixed: an unanswered ping counts after 5 s")
            .with_help("leave it out")
    });
    each([spiffe, ping])
}

fn set_timeouts(options: &mut PeerOptions, timeouts: &ForwardingTimeouts) {
    let dial = timeouts.dial_timeout.positive().unwrap_or(DIAL_LIMIT);
    options.connection_timeout = Some(dial);
    options.total_connection_timeout = Some(dial + HANDSHAKE_LIMIT);
    options.read_timeout = timeouts.response_header_timeout.positive();
    options.write_timeout = Some(WRITE_LIMIT);
    options.idle_timeout = timeouts.idle_conn_timeout.positive();
    options.h2_ping_interval = timeouts.read_idle_timeout.positive();
    // Without a read timeout, only this notices a server that vanished without a word while it owes an answer.
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Span::from_secs(30),
        interval: Span::from_secs(15),
        count: 4,
        #[cfg(target_os = "linux")]
        user_timeout: WRITE_LIMIT,
    });
}

fn read_roots(settings: &Settings) -> Result<Vec<CertificateDer<'static>>, Problems> {
    let read = |(at, written): (usize, &String)| {
        let here = |message: String| Problem::at(format!("rootCAs[{at}]"), message);
        let found = certificates(&pem::read(written).map_err(here)?).map_err(here)?;
        let mut store = RootCertStore::empty();
        for root in &found {
            store.add(root.clone()).map_err(|error| here(format!("is not an authority's certificate: {error}")))?;
        }
        Ok::<_, Problem>(found)
    };
    let files: Vec<_> = each(settings.root_cas.iter().enumerate().map(read))?;
    let mut roots: Vec<_> = files.into_iter().flatten().collect();
    if roots.is_empty() && settings.insecure_skip_verify {
        // rustls wants some authority even when it is not asked, and a minimal image has none.
        roots.extend(certificates(PLACEHOLDER_AUTHORITY.as_bytes()).map_err(|m| Problem::at("insecureSkipVerify", m))?);
    }
    Ok(roots)
}

fn client_certificate(settings: &Settings) -> Result<Option<CertKey>, Problems> {
    match settings.certificates.as_slice() {
        [] => Ok(None),
        [certificate] => {
            read_client_certificate(certificate).map(Some).map_err(|problems| problems.under("certificates[0]"))
        }
        _ => Err(Problem::at("certificates", "only one client certificate can be shown").into()),
    }
}

fn read_client_certificate(written: &Certificate) -> Result<CertKey, Problems> {
    let chain = pem::read(&written.cert_file)
        .and_then(|pem| certificates(&pem))
        .map_err(|message| Problem::at("certFile", message));
    let key = pem::read(written.key_file.reveal())
        .and_then(|pem| PrivateKeyDer::from_pem_slice(&pem).map_err(|error| format!("holds no private key: {error}")))
        .map_err(|message| Problem::at("keyFile", message));
    let (chain, key) = all((chain, key))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider)
        .map_err(|error| Problem::at("keyFile", format!("does not fit the certificate: {error}")))?;
    // Pingora guesses the key's form from its bytes for each connection; a guess that fails would panic there.
    let der = key.secret_der().to_vec();
    if PrivateKeyDer::try_from(der.clone()).is_err() {
        let problem = Problem::at("keyFile", "is in a form that is not understood");
        return Err(problem.with_help("convert it to PKCS#8").into());
    }
    Ok(CertKey::new(chain.into_iter().map(|der| der.to_vec()).collect(), der))
}

/// All certificates of a PEM text, at least one, each of which Pingora's parser takes too: it panics on what it does not.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not valid PEM: {error}"))?;
    if found.is_empty() {
        return Err("holds no certificate".to_owned());
    }
    for certificate in &found {
        X509Certificate::from_der(certificate).map_err(|error| format!("holds an invalid certificate: {error}"))?;
    }
    Ok(found)
}

fn first_word(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

/// A self-signed certificate whose key was thrown away: it vouches for nothing.
pub(super) const PLACEHOLDER_AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBgjCCASmgAwIBAgIUUnK9OBILdgx+ZnTHqTSAOramgXAwCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLcGxhY2Vob2xkZXIwIBcNMjYxMTIxMDkyMDE5WhgPMjEyNjEw
MjgwOTIwMTlaMBYxFDASBgNVBAMMC3BsYWNlaG9sZGVyMFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEHnr94oW0FKDJ2gUOiivxB5DMmCgW5/2JKltgBtGwdjvEZJMD
VqXrJwNc2zi/mdXMm3XMlWDAkDxygFC4lA+MLaNTMFEwHQYDVR0OBBYEFDDgXNwG
4vauzGWv7e58K6f0VbE2MB8GA1UdIwQYMBaAFDDgXNwG4vauzGWv7e58K6f0VbE2
MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgCrJInRTi2KEkX1M2
iosuFs4+oz4BXt4OCeszY1etBWkCIDSgQaFIRcyWlp5BAUck+3TXwquSeEc0lk4J
qsCE0Y0k
-----END CERTIFICATE-----
";

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str) -> Settings {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_cannot_act_is_refused() {
        for (json, path) in [
            (r#"{"rootCAs": ["/no/such/file"]}"#, "rootCAs[0]"),
            (r#"{"rootCAs": ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]}"#, "rootCAs[0]"),
            (r#"{"rootCAs": ["-----BEGIN CERTIFICATE-----\n"]}"#, "rootCAs[0]"),
            (
                r#"{"certificates": [{"certFile": "/no/such", "keyFile": "/no/such"}]}"#,
                "certificates[0].certFile certificates[0].keyFile",
            ),
            (r#"{"certificates": [{}]}"#, "certificates[0].certFile certificates[0].keyFile"),
            (r#"{"certificates": [{}, {}]}"#, "certificates"),
            (r#"{"minVersion": "VersionTLS11", "maxVersion": "VersionTLS9"}"#, "minVersion maxVersion"),
            (r#"{"minVersion": "VersionTLS13", "maxVersion": "VersionTLS12"}"#, "maxVersion"),
            (r#"{"cipherSuites": ["TLS_AES_128_GCM_SHA256", "TLS_RSA_WITH_RC4_128_SHA"]}"#, "cipherSuites[1]"),
            (r#"{"maxVersion": "VersionTLS12", "cipherSuites": ["TLS_AES_128_GCM_SHA256"]}"#, "cipherSuites"),
            (
                r#"{"peerCertSANs": [{"type": "IP", "value": "::1"}, {"type": "URI"}]}"#,
                "peerCertSANs[0].type peerCertSANs[1].value",
            ),
            (r#"{"peerCertURI": "spiffe://a", "disableHTTP2": false}"#, "disableHTTP2"),
            (r#"{"spiffe": {}}"#, "spiffe"),
            (r#"{"forwardingTimeouts": {"pingTimeout": "3s"}}"#, "forwardingTimeouts.pingTimeout"),
            (
                r#"{"minVersion": "VersionTLS9", "rootCAs": ["", "/no/such"], "spiffe": {}}"#,
                "spiffe minVersion rootCAs[0] rootCAs[1]",
            ),
        ] {
            let found = Transport::build(&written(json)).map(|_| ()).unwrap_err();
            let paths: Vec<_> = found.iter().map(|problem| &*problem.path).collect();
            assert_eq!(paths.join(" "), path, "{json}");
        }
        assert!(serde_json::from_str::<Settings>(r#"{"rootCA": []}"#).is_err());
    }

    #[test]
    fn certificates_are_read_and_checked() {
        let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["b.example".to_owned()]).unwrap();
        let mut settings = Settings { root_cas: vec![own.cert.pem()], ..Settings::default() };
        settings.certificates =
            vec![Certificate { cert_file: own.cert.pem(), key_file: Secret::new(own.signing_key.serialize_pem()) }];
        let transport = Transport::build(&settings).unwrap();
        assert_eq!(transport.options().ca.map(|roots| roots.len()), Some(1));
        assert!(transport.client_certificate.is_some());

        settings.certificates[0].key_file = Secret::new(other.signing_key.serialize_pem());
        assert_eq!(Transport::build(&settings).map(|_| ()).unwrap_err().only().path, "certificates[0].keyFile");
    }

    #[test]
    fn identity_follows_what_is_trusted() {
        let of = |json| Transport::build(&written(json)).unwrap().identity();
        assert_eq!(of("{}"), of("{}"));
        let all = [of("{}"), of(r#"{"insecureSkipVerify": true}"#), of(r#"{"serverName": "a"}"#)];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 3);

        let file = tempfile::NamedTempFile::new().unwrap();
        let mut settings = Settings { root_cas: vec![file.path().display().to_string()], ..Settings::default() };
        settings.server_name = "x".to_owned();
        let mut identities = Vec::new();
        for name in ["a.example", "b.example"] {
            let root = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            std::fs::write(file.path(), root.cert.pem()).unwrap();
            identities.push(Transport::build(&settings).unwrap().identity());
        }
        assert_ne!(identities[0], identities[1], "same path, other content");
    }

    #[test]
    fn nothing_waits_for_ever_to_connect() {
        let defaults = Transport::build(&Settings::default()).unwrap().options();
        assert_eq!(defaults.connection_timeout, Some(Span::from_secs(30)));
        assert_eq!(defaults.idle_timeout, Some(Span::from_secs(90)));
        assert!(defaults.verify_cert && defaults.verify_hostname && defaults.tcp_keepalive.is_some());
        let endless = written(r#"{"forwardingTimeouts": {"dialTimeout": 0, "responseHeaderTimeout": "5s"}}"#);
        let endless = Transport::build(&endless).unwrap().options();
        assert_eq!(endless.connection_timeout, Some(DIAL_LIMIT));
        assert_eq!(endless.read_timeout, Some(Span::from_secs(5)));
    }

    #[test]
    fn no_verification_needs_no_authorities() {
        let lax = Transport::build(&written(r#"{"insecureSkipVerify": true}"#)).unwrap().options();
        assert!(!lax.verify_cert && lax.ca.is_some_and(|roots| roots.len() == 1));
    }
}
