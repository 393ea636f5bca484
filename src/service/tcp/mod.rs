//! Services for TCP connections: servers in turn, or services in weighted turns.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::strategy::wheel::Wheel;
use super::weighted::HealthCheck;
use super::{clamp_weight, server};
use crate::problem::{Problem, Problems, all, each};
use crate::units::Name;

pub mod health;
pub mod pool;
pub mod transport;

pub use pool::{Pool, Server};
pub use transport::Transport;

/// `tcp.services.<name>` as written. Exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Servers in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<pool::Settings>,
    /// Services in weighted turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighted: Option<WeightedSettings>,
}

/// `weighted` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WeightedSettings {
    /// The services and their weights.
    pub services: Vec<Share>,
    /// `{}`. A service of which no server is up is always passed over, so it changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// One of `weighted.services` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Share {
    /// A service.
    pub name: Name,
    /// Its share of the connections. Zero or less: none.
    pub weight: i64,
}

impl Default for Share {
    fn default() -> Self {
        Self { name: "".into(), weight: 1 }
    }
}

/// A service for TCP connections.
#[derive(Debug)]
pub enum Service {
    /// Servers in turn.
    Servers(Arc<Pool>),
    /// Services in weighted turns.
    Weighted(Box<Weighted>),
}

/// Services in weighted turns.
#[derive(Debug)]
pub struct Weighted {
    shares: Box<[(Arc<Service>, u32)]>,
    wheel: Wheel,
}

/// The server for one attempt.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The pool it was picked from.
    pub pool: Arc<Pool>,
    /// The server.
    pub server: Arc<Server>,
}

impl Service {
    /// Picks the server for one attempt; those in `tried` only if there is no other. `None`: none is up.
    pub fn select(&self, tried: &[Arc<Server>]) -> Option<Selection> {
        match self {
            Self::Servers(pool) => pool.select(tried),
            Self::Weighted(weighted) => {
                let Weighted { shares, wheel } = &**weighted;
                let index = wheel.pick(|index| shares[index].0.offers_beyond(tried));
                let index = index.or_else(|| wheel.pick(|index| shares[index].0.offers_beyond(&[])))?;
                shares[index].0.select(tried)
            }
        }
    }

    /// Whether a server is up.
    pub fn is_up(&self) -> bool {
        self.offers_beyond(&[])
    }

    fn offers_beyond(&self, tried: &[Arc<Server>]) -> bool {
        match self {
            Self::Servers(pool) => pool.offers_beyond(tried),
            Self::Weighted(weighted) => {
                weighted.shares.iter().any(|(service, weight)| *weight > 0 && service.offers_beyond(tried))
            }
        }
    }
}

impl Weighted {
    /// Builds it; `child` finds the services it is made of.
    ///
    /// # Errors
    /// Each child that cannot be had, and weights that are none.
    pub fn build(
        settings: &WeightedSettings,
        mut child: impl FnMut(&Name) -> Result<Arc<Service>, Problem>,
    ) -> Result<Self, Problems> {
        let shares = settings.services.iter().enumerate().map(|(at, share)| {
            let service = child(&share.name).map_err(|problem| problem.under("name"));
            let ((), service) = all((server::check_weight(share.weight), service))
                .map_err(|problems| problems.under(&format!("services[{at}]")))?;
            Ok::<_, Problems>((service, clamp_weight(share.weight)))
        });
        let shares: Vec<_> = each(shares)?;
        Ok(Self { wheel: Wheel::new(shares.iter().map(|(_, weight)| *weight).collect()), shares: shares.into() })
    }

    /// The services and their weights.
    pub fn shares(&self) -> &[(Arc<Service>, u32)] {
        &self.shares
    }
}
