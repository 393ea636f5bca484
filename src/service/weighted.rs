//! `weighted`: services in weighted turns.

use std::sync::Arc;
use std::time::Instant;

use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::selection::Selection;
use super::server::check_weight;
use super::sticky::{self, Sticky};
use super::strategy::wheel::Wheel;
use super::{Service, clamp_weight};
use crate::exchange::{Exchange, Fault};
use crate::problem::{Problem, Problems, all, each};
use crate::units::Name;

/// `weighted` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The services and their weights.
    pub services: Vec<Share>,
    /// Keeps each client with the service it was first sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<sticky::Settings>,
    /// `{}`. A service of which no server is up is always passed over, so it changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// One of `weighted.services` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Share {
    /// A service.
    #[serde(default = "unnamed")]
    pub name: Name,
    /// Its share of the requests. Zero or less: none but those of its sticky clients.
    #[serde(default = "one")]
    pub weight: i64,
}

const fn one() -> i64 {
    1
}

fn unnamed() -> Name {
    Name::from("")
}

/// `healthCheck` of a service made of services: it has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {}

/// Services in weighted turns.
#[derive(Debug)]
pub struct Weighted {
    name: Name,
    shares: Box<[(Arc<Service>, u32)]>,
    wheel: Wheel,
    sticky: Option<Sticky>,
}

impl Weighted {
    /// Builds the service `name`; `child` finds the services it is made of.
    ///
    /// # Errors
    /// Each child that cannot be had, or answers by itself instead of having servers.
    pub fn build(
        name: &Name,
        settings: &Settings,
        mut child: impl FnMut(&Name) -> Result<Arc<Service>, Problem>,
    ) -> Result<Arc<Self>, Problems> {
        let shares = settings.services.iter().enumerate().map(|(at, share)| {
            let service = match child(&share.name) {
                _ if share.name.is_empty() => Err(Problem::at("", "is missing")),
                Ok(service) if matches!(*service, Service::Internal(_)) => {
                    Err(Problem::at("", "an internal service has no servers to share"))
                }
                found => found,
            };
            let service = service.map_err(|problem| problem.under("name"));
            let ((), service) = all((check_weight(share.weight), service))
                .map_err(|problems| problems.under(&format!("services[{at}]")))?;
            Ok::<_, Problems>((service, clamp_weight(share.weight)))
        });
        let cookie = settings.sticky.as_ref().and_then(|sticky| sticky.cookie.as_ref());
        // Cookies were made of names as their authors wrote them: without the provider, as a rule.
        let names: Vec<_> = settings.services.iter().map(|share| share.name.local()).collect();
        let sticky = cookie.map(|cookie| Sticky::build(cookie, name.as_str(), &names)).transpose();
        let sticky = sticky.map_err(|problems| problems.under("sticky"));
        let (shares, sticky) = all((each::<_, _, Vec<_>>(shares), sticky))?;
        Ok(Arc::new(Self {
            name: name.clone(),
            wheel: Wheel::new(shares.iter().map(|(_, weight)| *weight).collect()),
            shares: shares.into(),
            sticky,
        }))
    }

    /// Its qualified name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The services and their weights.
    pub fn shares(&self) -> &[(Arc<Service>, u32)] {
        &self.shares
    }

    /// Whether any of its services has a server for new requests.
    pub fn is_up(&self, now: Instant) -> bool {
        self.offers_beyond(&[], now)
    }

    pub(super) fn offers_beyond(&self, tried: &[u64], now: Instant) -> bool {
        self.shares.iter().any(|(service, weight)| *weight > 0 && service.offers_beyond(tried, now))
    }

    /// Picks a service, and one of its servers.
    ///
    /// # Errors
    /// [`Fault::NoServer`] if no service has a server.
    pub fn select(&self, request: &RequestHeader, exchange: &mut Exchange, tried: &[u64]) -> Result<Selection, Fault> {
        let now = exchange.started;
        let bound = self.sticky.as_ref().and_then(|sticky| sticky.bound(request));
        let bound = bound.filter(|bound| self.shares[bound.index].0.offers_beyond(&[], now));
        let index = match bound {
            Some(bound) if self.shares[bound.index].0.offers_beyond(tried, now) => bound.index,
            _ => self.pick(tried, now).ok_or(Fault::NoServer)?,
        };
        if let Some(sticky) = &self.sticky
            && !bound.is_some_and(|bound| bound.is_current)
        {
            sticky.bind(bound.map_or(index, |bound| bound.index), exchange);
        }
        self.shares[index].0.select(request, exchange, tried)
    }

    fn pick(&self, tried: &[u64], now: Instant) -> Option<usize> {
        let fresh = self.wheel.pick(|index| self.shares[index].0.offers_beyond(tried, now));
        if fresh.is_some() || tried.is_empty() {
            return fresh;
        }
        self.wheel.pick(|index| self.shares[index].0.offers_beyond(&[], now))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{exchange, pool, request};
    use super::*;

    fn weighted(json: &str, children: &[(&str, &Arc<Service>)]) -> Result<Arc<Weighted>, Problems> {
        let child = |name: &Name| {
            let found = children.iter().find(|(known, _)| *known == name.as_str());
            found.map(|(_, service)| (*service).clone()).ok_or_else(|| Problem::at("", "no such service"))
        };
        Weighted::build(&Name::from("w@file"), &serde_json::from_str(json).unwrap(), child)
    }

    fn service(url: &str) -> Arc<Service> {
        Arc::new(Service::Servers(pool(&format!(r#"{{"servers": [{{"url": "{url}"}}]}}"#))))
    }

    fn picked(weighted: &Weighted, tried: &[u64]) -> String {
        weighted
            .select(&request(&[]), &mut exchange(), tried)
            .map_or_else(|_| "-".to_owned(), |s| s.server.url().to_owned())
    }

    const TWO: &str =
        r#"{"services": [{"name": "a", "weight": 3}, {"name": "b"}], "sticky": {"cookie": {"name": "s"}}}"#;

    #[test]
    fn children_get_their_share_unless_they_are_down() {
        let (a, b) = (service("http://10.0.0.1"), service("http://10.0.0.2"));
        let weighted = weighted(TWO, &[("a", &a), ("b", &b)]).unwrap();
        let count = |url: &str| (0..400).filter(|_| picked(&weighted, &[]) == url).count();
        assert_eq!(count("http://10.0.0.1"), 300);
        let Service::Servers(pool) = &*a else { unreachable!() };
        pool.members()[0].server.health.set(false);
        assert_eq!(count("http://10.0.0.2"), 400);
        pool.members()[0].server.health.set(true);
        let tried = [pool.members()[0].server.id()];
        assert_eq!((0..100).filter(|_| picked(&weighted, &tried) == "http://10.0.0.2").count(), 100);
    }

    #[test]
    fn clients_stay_with_their_child() {
        let (a, b) = (service("http://10.0.0.1"), service("http://10.0.0.2"));
        let weighted = weighted(TWO, &[("a", &a), ("b", &b)]).unwrap();
        let mut first = exchange();
        let url = weighted.select(&request(&[]), &mut first, &[]).unwrap().server.url().to_owned();
        let cookie = first.cookies[0].to_str().unwrap().split(';').next().unwrap().to_owned();
        for _ in 0..20 {
            let mut again = exchange();
            let selection = weighted.select(&request(&[("cookie", &cookie)]), &mut again, &[]).unwrap();
            assert!(selection.server.url() == url && again.cookies.is_empty());
        }
    }

    #[test]
    fn problems_name_the_child() {
        let a = service("http://10.0.0.1");
        let path = |json: &str| weighted(json, &[("a", &a)]).map(|_| ()).unwrap_err().only().path;
        assert_eq!(path(r#"{"services": [{"name": "a"}, {"name": "b"}]}"#), "services[1].name");
        assert_eq!(path(r#"{"services": [{"name": "a", "weight": 1000001}]}"#), "services[0].weight");
        assert_eq!(
            path(r#"{"services": [{"name": "a"}], "sticky": {"cookie": {"sameSite": "x"}}}"#),
            "sticky.cookie.sameSite"
        );
    }

    #[test]
    fn without_children_there_is_no_server() {
        assert_eq!(picked(&weighted("{}", &[]).unwrap(), &[]), "-");
    }
}
