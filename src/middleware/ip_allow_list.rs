//! `ipAllowList`: lets only some addresses through.

use http::StatusCode;
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::source::{IpStrategy, IpStrategySettings, networks};
use super::{Flow, Kit, Middleware};
use crate::exchange::{Exchange, Fault, Reply};
use crate::problem::{Problem, Problems, all, refuse};
use crate::units::Networks;

/// `ipAllowList` as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Addresses and networks that are let through. Must not be empty.
    pub source_range: Vec<String>,
    /// Which address is the client's; without it, the address of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_strategy: Option<IpStrategySettings>,
    /// Status of the answer to everybody else. Without it, or 0: 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject_status_code: Option<u16>,
}

/// Lets only some addresses through. Who has no address that can be told is not let through.
#[derive(Debug)]
pub struct IpAllowList {
    allowed: Networks,
    strategy: IpStrategy,
    status: StatusCode,
}

impl Middleware for IpAllowList {
    type Settings = Settings;

    fn warnings(settings: &Settings) -> Vec<Problem> {
        let found = settings.ip_strategy.as_ref().and_then(IpStrategySettings::warning);
        found.map(|problem| problem.under("ipStrategy")).into_iter().collect()
    }

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let is_empty = refuse(settings.source_range.is_empty(), || {
            Problem::at("sourceRange", "is empty, so nobody would be let through")
        });
        let allowed = networks("sourceRange", &settings.source_range);
        let strategy = match &settings.ip_strategy {
            None => Ok(IpStrategy::PEER),
            Some(strategy) => IpStrategy::build(strategy).map_err(|problems| problems.under("ipStrategy")),
        };
        let parts = all((is_empty, allowed, strategy, status_of(settings.reject_status_code)));
        let ((), allowed, strategy, status) = parts?;
        Ok(Self { allowed, strategy, status })
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        match self.strategy.address(request, &exchange.client) {
            Some(address) if self.allowed.contains(address) => Flow::Continue,
            _ => Flow::Reply(Box::new(self.refusal())),
        }
    }
}

impl IpAllowList {
    fn refusal(&self) -> Reply {
        let mut reply = match self.status {
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => Reply::status(self.status),
            status => Reply::text(status, status.canonical_reason().unwrap_or_default()),
        };
        reply.fault = Some(Fault::AddressRefused);
        reply
    }
}

/// A status that ends an exchange and that has a name, as Traefik asks for.
fn status_of(code: Option<u16>) -> Result<StatusCode, Problem> {
    let code = match code {
        None | Some(0) => return Ok(StatusCode::FORBIDDEN),
        Some(code) => code,
    };
    match StatusCode::from_u16(code) {
        Ok(status) if code >= 200 && status.canonical_reason().is_some() => Ok(status),
        _ => Err(Problem::at("rejectStatusCode", format!("{code} is not an HTTP status of a final answer"))),
    }
}

/// `ipWhiteList` as written: the older name of `ipAllowList`, without its newer key.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IpWhiteListSettings {
    /// Addresses and networks that are let through. Must not be empty.
    pub source_range: Vec<String>,
    /// Which address is the client's; without it, the address of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_strategy: Option<IpStrategySettings>,
}

/// `ipAllowList` under its older name.
#[derive(Debug)]
pub struct IpWhiteList(IpAllowList);

impl Middleware for IpWhiteList {
    type Settings = IpWhiteListSettings;

    fn warnings(settings: &IpWhiteListSettings) -> Vec<Problem> {
        let mut warnings = vec![Problem::warning("", "is deprecated").with_help("write `ipAllowList`")];
        warnings.extend(IpAllowList::warnings(&settings.renamed()));
        warnings
    }

    fn build(settings: &IpWhiteListSettings, kit: &Kit<'_>) -> Result<Self, Problems> {
        IpAllowList::build(&settings.renamed(), kit).map(Self)
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        self.0.on_request(request, exchange).await
    }
}

impl IpWhiteListSettings {
    fn renamed(&self) -> Settings {
        let Self { source_range, ip_strategy } = self.clone();
        Settings { source_range, ip_strategy, reject_status_code: None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::exchange::sample;
    use crate::units::Name;

    fn build(json: &str) -> Result<IpAllowList, String> {
        let name = Name::from("a@file");
        IpAllowList::build(&serde_json::from_str(json).unwrap(), &Kit { name: &name })
            .map_err(|problem| problem.to_string())
    }

    /// The status of the refusal; 0 for none.
    async fn status(list: &IpAllowList, peer: &str, forwarded: Option<&str>) -> u16 {
        let mut exchange = sample::exchange();
        exchange.client = Arc::new(crate::exchange::Client { trusted: forwarded.is_some(), ..sample::client(peer) });
        let mut request = sample::request("GET", "/");
        if let Some(forwarded) = forwarded {
            request.insert_header("X-Forwarded-For", forwarded).unwrap();
        }
        match list.on_request(&mut request, &mut exchange).await {
            Flow::Continue => 0,
            Flow::Reply(reply) => reply.header.status.as_u16(),
        }
    }

    #[tokio::test]
    async fn lets_only_the_listed_through() {
        let plain = r#"{"sourceRange":["10.0.0.0/8","::1"]}"#;
        let deep = r#"{"sourceRange":["10.0.0.0/8"],"ipStrategy":{"depth":1},"rejectStatusCode":404}"#;
        for (json, peer, forwarded, expected) in [
            (plain, "10.1.2.3:1", None, 0),
            (plain, "[::ffff:10.1.2.3]:1", None, 0),
            (plain, "[::1]:1", None, 0),
            (plain, "[fe80::1%2]:1", None, 403),
            (plain, "192.0.2.1:1", None, 403),
            (plain, "192.0.2.1:1", Some("10.1.1.1"), 403),
            (deep, "192.0.2.1:1", Some("192.0.2.9, 10.1.1.1"), 0),
            (deep, "10.0.0.1:1", Some("10.1.1.1, 192.0.2.9"), 404),
            (deep, "10.0.0.1:1", Some(""), 404),
            (deep, "10.0.0.1:1", None, 404),
        ] {
            assert_eq!(status(&build(json).unwrap(), peer, forwarded).await, expected, "{json} {peer} {forwarded:?}");
        }
    }

    #[test]
    fn refuses_what_would_not_protect() {
        for (json, part) in [
            ("{}", "sourceRange: is empty"),
            (r#"{"sourceRange":["10.0.0.0/8","10.0.0.0/40"]}"#, "sourceRange[1]"),
            (r#"{"sourceRange":["::1"],"rejectStatusCode":100}"#, "rejectStatusCode: 100"),
            (r#"{"sourceRange":["::1"],"rejectStatusCode":799}"#, "rejectStatusCode: 799"),
            (r#"{"sourceRange":["::1"],"ipStrategy":{"depth":-1}}"#, "ipStrategy.depth"),
        ] {
            let problem = build(json).unwrap_err();
            assert!(problem.contains(part), "{json}: {problem}");
        }
    }

    #[test]
    fn the_older_name_warns_and_has_no_newer_key() {
        let settings: IpWhiteListSettings = serde_json::from_str(r#"{"sourceRange":["::1"]}"#).unwrap();
        assert_eq!(IpWhiteList::warnings(&settings).len(), 1);
        assert!(serde_json::from_str::<IpWhiteListSettings>(r#"{"rejectStatusCode":404}"#).is_err());
    }
}
