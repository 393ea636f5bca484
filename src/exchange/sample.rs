//! Requests and exchanges for tests.

use std::sync::Arc;
use std::time::Instant;

use http::header::HeaderValue;
use http::{Method, Version};
use pingora::http::RequestHeader;

use super::{Client, Exchange, Original};

/// A client on entry point `web`, not trusted.
pub(crate) fn client(peer: &str) -> Client {
    let local = ([192, 0, 2, 254], 80).into();
    let peer = peer.parse().unwrap();
    Client { entry_point: "web".into(), entry_point_index: 0, peer, local, trusted: false, tls: None }
}

/// A request without header fields.
pub(crate) fn request(method: &str, target: &str) -> RequestHeader {
    RequestHeader::build(method, target.as_bytes(), None).unwrap()
}

/// The exchange of a `GET` for `example.com` by 192.0.2.1.
pub(crate) fn exchange() -> Exchange {
    exchange_for("GET", "example.com")
}

/// The exchange of a request by 192.0.2.1.
pub(crate) fn exchange_for(method: &str, host: &str) -> Exchange {
    let original = Original {
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        uri: "/".parse().unwrap(),
        version: Version::HTTP_11,
        host: HeaderValue::from_str(host).unwrap(),
    };
    Exchange::new(Arc::new(client("192.0.2.1:4000")), original, Instant::now())
}
