//! Requests of the gateway itself: to ACME servers, webhooks and OCSP responders. One connection each, HTTP/1.1, everything
//! bounded. Redirections are not followed.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::tls::Authorities;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// How servers are asked.
pub struct Web {
    /// Who vouches for servers of `https` URLs.
    pub authorities: Authorities,
    /// Name that certificates must be for, if not that of the URL.
    pub server_name: Option<Box<str>>,
    /// For a whole request.
    pub whole: Option<Duration>,
    /// Until the answer begins.
    pub head: Option<Duration>,
    /// Largest answer that is read, in bytes.
    pub limit_bytes: usize,
}

/// What a server has answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// All of its body.
    pub body: Bytes,
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Web {
    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// A sentence: nobody was reached, or did not answer in time or as it must.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Answer, String> {
        let uri = request.uri().clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let authority = uri.authority().ok_or_else(|| format!("`{uri}` names no host"))?;
        // A user and a password, if there are any, are none of a host.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        headers.insert(HOST, HeaderValue::from_str(host).map_err(|error| error.to_string())?);
        *request.uri_mut() = uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| path.clone().into());
        let exchange = async {
            let stream = tokio::time::timeout(CONNECT_WITHIN, connect(&uri))
                .await
                .unwrap_or_else(|_| Err(format!("cannot connect within {CONNECT_WITHIN:?}")))?;
            if uri.scheme_str() == Some("http") {
                return self.exchange(stream, request).await;
            }
            let name = self.server_name.as_deref().unwrap_or_else(|| bare(uri.host().unwrap_or_default()));
            let stream = self.authorities.connect(name, stream).await.map_err(|error| error.to_string())?;
            self.exchange(stream, request).await
        };
        let answer = within(self.whole, "its answer is not complete", exchange).await;
        answer.map_err(|error| format!("{host}: {error}"))
    }

    async fn exchange<S>(&self, stream: S, request: Request<Bytes>) -> Result<Answer, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // It ends with the sender.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                log::debug!("a connection of ours has ended: {error}");
            }
        });
        let response = within(self.head, "it does not begin to answer", async {
            sender.send_request(request.map(Full::new)).await.map_err(|error| error.to_string())
        })
        .await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, self.limit_bytes).collect().await.map_err(|error| error.to_string())?;
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    }
}

async fn within<T>(
    limit: Option<Duration>,
    otherwise: &str,
    task: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let Some(limit) = limit else { return task.await };
    tokio::time::timeout(limit, task).await.unwrap_or_else(|_| Err(format!("{otherwise} within {limit:?}")))
}

async fn connect(uri: &Uri) -> Result<TcpStream, String> {
    let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    let host = bare(uri.host().unwrap_or_default());
    TcpStream::connect((host, uri.port_u16().unwrap_or(default))).await.map_err(|error| error.to_string())
}

/// An address of IPv6 without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Authorities that the system trusts.
pub fn system_authorities() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs()
        .inspect_err(|error| log::warn!("the authorities of the system cannot be read: {error}"))
        .unwrap_or_default()
}
