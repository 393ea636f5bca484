//! Where requests go.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use crate::exchange::{Exchange, Fault};
use crate::problem::Problem;
use crate::units::Name;

mod grpc_probe;
pub mod hash_key;
pub mod health;
pub mod idle;
pub mod internal;
pub mod judge;
pub mod passive_health;
pub mod pool;
mod probe;
pub mod resolve;
mod secure;
mod selection;
pub mod server;
pub mod sticky;
pub mod strategy;
pub mod tcp;
pub mod transport;
pub mod udp;
mod upgrade;
mod url;
pub mod weighted;

pub use internal::Internal;
pub use pool::ServerPool;
pub use selection::Selection;
pub use server::Server;
pub use transport::Transport;
pub use weighted::Weighted;

/// A service as written: exactly one kind, and middlewares that run for every router that uses it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<pool::Settings>,
    /// Services in weighted turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighted: Option<Box<weighted::Settings>>,
    /// Middlewares that run after those of the router.
    #[serde(skip_serializing_if = "<[Name]>::is_empty")]
    pub middlewares: Box<[Name]>,
}

/// The one kind that a service is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// Servers.
    LoadBalancer(&'a pool::Settings),
    /// Services in weighted turns.
    Weighted(&'a weighted::Settings),
}

impl Settings {
    /// The kind that is written.
    ///
    /// # Errors
    /// If none is, or more than one.
    pub fn kind(&self) -> Result<Kind<'_>, Problem> {
        match (&self.load_balancer, &self.weighted) {
            (Some(settings), None) => Ok(Kind::LoadBalancer(settings)),
            (None, Some(settings)) => Ok(Kind::Weighted(settings)),
            (None, None) => Err(Problem::at("", "is of no kind").with_help("add `loadBalancer` or `weighted`")),
            (Some(_), Some(_)) => {
                Err(Problem::at("", "is both `loadBalancer` and `weighted`").with_help("keep one of them"))
            }
        }
    }
}

/// A service as built.
#[derive(Clone)]
pub enum Service {
    /// Servers.
    Servers(Arc<ServerPool>),
    /// Services in weighted turns.
    Weighted(Arc<Weighted>),
    /// One that the gateway answers by itself.
    Internal(Arc<dyn Internal>),
}

impl Service {
    /// Picks the server for one attempt; its in-flight count holds until the selection is dropped.
    ///
    /// `tried` are the [ids](Server::id) of servers that failed this request; they are picked again only if no other is up.
    /// Stickiness may leave a `Set-Cookie` value in the exchange. Takes no lock and allocates nothing unless it does.
    ///
    /// # Errors
    /// [`Fault::NoServer`] if none is up; [`Fault::Internal`] for an internal service, which has no servers.
    pub fn select(&self, request: &RequestHeader, exchange: &mut Exchange, tried: &[u64]) -> Result<Selection, Fault> {
        match self {
            Self::Servers(pool) => pool.select(request, exchange, tried),
            Self::Weighted(weighted) => weighted.select(request, exchange, tried),
            Self::Internal(_) => Err(Fault::Internal),
        }
    }

    /// Whether a new request would find a server, or an answer.
    pub fn is_up(&self, now: Instant) -> bool {
        self.offers_beyond(&[], now)
    }

    /// Whether there is a server for new requests that is not among `tried`.
    fn offers_beyond(&self, tried: &[u64], now: Instant) -> bool {
        match self {
            Self::Servers(pool) => pool.offers_beyond(tried, now),
            Self::Weighted(weighted) => weighted.offers_beyond(tried, now),
            Self::Internal(_) => true,
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Servers(pool) => pool.fmt(f),
            Self::Weighted(weighted) => weighted.fmt(f),
            Self::Internal(internal) => write!(f, "Internal({})", internal.name()),
        }
    }
}

/// A weight as built: zero or less takes no new requests.
fn clamp_weight(written: i64) -> u32 {
    u32::try_from(written.clamp(0, server::WEIGHT_LIMIT)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Method, Uri, Version};

    use super::*;
    use crate::exchange::{Client, Original};
    use crate::observe::meters::ServiceMeters;
    use crate::problem::Problems;

    pub(super) fn request(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(Method::GET, b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()).unwrap();
        }
        request
    }

    /// Of a client at 192.0.2.`last`.
    pub(super) fn exchange_of(last: u8) -> Exchange {
        let client = Client {
            entry_point: "web".into(),
            entry_point_index: 0,
            peer: ([192, 0, 2, last], 1000).into(),
            local: ([127, 0, 0, 1], 80).into(),
            trusted: false,
            tls: None,
        };
        let original = Original {
            method: Method::GET,
            uri: Uri::from_static("/"),
            version: Version::HTTP_11,
            host: HeaderValue::from_static("a.example"),
        };
        Exchange::new(Arc::new(client), original, Instant::now())
    }

    pub(super) fn exchange() -> Exchange {
        exchange_of(1)
    }

    pub(super) fn build(json: &str, previous: Option<&Arc<ServerPool>>) -> Result<Arc<ServerPool>, Problems> {
        let transport = Transport::build(&transport::Settings::default()).unwrap();
        let meters = Arc::new(ServiceMeters::default());
        ServerPool::build(&Name::from("web@file"), &serde_json::from_str(json).unwrap(), transport, meters, previous)
    }

    pub(super) fn pool(json: &str) -> Arc<ServerPool> {
        build(json, None).unwrap()
    }

    #[test]
    fn what_there_is_of_each_is_small() {
        for (name, bytes, most) in [
            ("settings of a service", size_of::<Settings>(), 112),
            ("service", size_of::<Service>(), 24),
            ("pool", size_of::<ServerPool>(), 264),
            ("server", size_of::<Server>(), 216),
        ] {
            assert!(bytes <= most, "{name}: {bytes}");
        }
        assert!(align_of::<ServerPool>() <= 16, "what has to stand alone on its cache lines stands elsewhere");
    }

    #[test]
    fn a_service_is_of_one_kind() {
        let read = |json: &str| serde_json::from_str::<Settings>(json).unwrap();
        assert!(matches!(read(r#"{"loadBalancer": {}}"#).kind(), Ok(Kind::LoadBalancer(_))));
        assert!(matches!(read(r#"{"weighted": {}, "middlewares": ["a"]}"#).kind(), Ok(Kind::Weighted(_))));
        assert!(read("{}").kind().is_err() && read(r#"{"loadBalancer": {}, "weighted": {}}"#).kind().is_err());
        assert!(serde_json::from_str::<Settings>(r#"{"loadbalancer": {}}"#).is_err());
    }
}
