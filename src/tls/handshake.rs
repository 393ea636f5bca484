//! The handshake, and what it says of the client.

use std::io;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::exchange::TlsFacts;

/// Bytes that may wait for a client: one of the largest records (RFC 8446 §5.2). With the library's 64 KiB, who does not read would
/// hold four.
const HELD_BYTES: usize = 5 + (16 << 10) + 256;

/// Makes the handshake of a connection whose ClientHello is still to be read. It takes as long as the client does: set a limit.
///
/// # Errors
/// If the two cannot agree; the client has been told why.
pub async fn accept<S>(config: Arc<ServerConfig>, stream: S) -> io::Result<(TlsStream<S>, TlsFacts)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
    stream.get_mut().1.set_buffer_limit(Some(HELD_BYTES));
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    let facts = TlsFacts {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            _ => "1.2",
        },
        cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).map_or("", iana_name),
        server_name: session.server_name().map(|name| name.strip_suffix('.').unwrap_or(name).into()),
        options: None,
        client_demands: [0; 32],
        protocol: session.alpn_protocol().map(Into::into),
        client_subject: chain.first().and_then(subject),
        certificates: chain.iter().map(|certificate| certificate.as_ref().into()).collect(),
        is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    };
    Ok((stream, facts))
}

/// Makes the handshake of an ACME server that looks for a proof, and ends the connection.
///
/// # Errors
/// If the two cannot agree, or the other has gone.
pub async fn prove<S>(config: Arc<ServerConfig>, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    TlsAcceptor::from(config).accept(stream).await?.shutdown().await
}

/// Whom a certificate was made for.
fn subject(certificate: &CertificateDer<'static>) -> Option<Box<str>> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    Some(read.subject().to_string().into())
}

/// The library calls suites of TLS 1.3 `TLS13_…`, IANA `TLS_…`.
fn iana_name(name: &'static str) -> &'static str {
    match name {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        other => other,
    }
}
