//! Questions to name servers: aliases, zones, and whether a record is seen.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::config::resolvers::Propagation;
use crate::problem::Problem;

/// Most name servers of a zone that are asked.
const SERVERS: usize = 16;

pub(super) struct LookUp {
    /// Those that are configured, each alone.
    each: Vec<(SocketAddr, TokioResolver)>,
    /// All of them, or those of the system.
    any: Result<TokioResolver, String>,
}

impl LookUp {
    pub(super) fn new(resolvers: &[Box<str>]) -> Result<Self, Problem> {
        let mut each = Vec::new();
        for (at, written) in resolvers.iter().enumerate() {
            let wrong = |message: String| Problem::at(format!("dnsChallenge.resolvers[{at}]"), message);
            let address =
                address(written).ok_or_else(|| wrong(format!("`{written}` is no address of a name server")))?;
            each.push((address, resolver(&[address]).map_err(wrong)?));
        }
        let any = if each.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| error.to_string()).and_then(|mut builder| {
                // What was not there a moment ago is what we wait for.
                builder.options_mut().cache_size = 0;
                builder.build().map_err(|error| error.to_string())
            })
        } else {
            resolver(&each.iter().map(|(address, _)| *address).collect::<Vec<_>>())
        };
        Ok(Self { each, any })
    }

    /// Where `name` leads to, if it is an alias.
    pub(super) async fn canonical(&self, name: &str) -> String {
        let Ok(any) = &self.any else { return name.to_owned() };
        let Ok(found) = any.lookup(name, RecordType::CNAME).await else { return name.to_owned() };
        let alias = found.answers().iter().find_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.0.to_ascii()),
            _ => None,
        });
        alias.unwrap_or_else(|| name.to_owned())
    }

    /// The zone that `name` is in: the nearest name above it with an SOA record. With a dot at the end.
    pub(super) async fn zone(&self, name: &str) -> Result<String, String> {
        let any = self.any.as_ref().map_err(Clone::clone)?;
        let mut rest = name;
        while let Some((_, above)) = rest.split_once('.').filter(|(_, above)| !above.is_empty()) {
            if let Ok(found) = any.lookup(above, RecordType::SOA).await
                && found.answers().iter().any(|record| matches!(record.data, RData::SOA(_)))
            {
                return Ok(above.to_owned());
            }
            rest = above;
        }
        Err(format!("the zone of {name} is not found"))
    }

    /// Whether everybody who must see it sees this record.
    ///
    /// # Errors
    /// Who does not.
    pub(super) async fn sees(&self, name: &str, text: &str, wanted: &Propagation) -> Result<(), String> {
        if wanted.require_all_rns {
            if self.each.is_empty() {
                has(self.any.as_ref().map_err(Clone::clone)?, name, text).await?;
            }
            for (address, resolver) in &self.each {
                has(resolver, name, text).await.map_err(|error| format!("{address}: {error}"))?;
            }
        }
        if wanted.disable_ans_checks {
            return Ok(());
        }
        for address in self.servers(name).await? {
            let resolver = resolver(&[address])?;
            has(&resolver, name, text).await.map_err(|error| format!("{address}: {error}"))?;
        }
        Ok(())
    }

    /// The name servers of the zone.
    async fn servers(&self, name: &str) -> Result<Vec<SocketAddr>, String> {
        let any = self.any.as_ref().map_err(Clone::clone)?;
        let zone = self.zone(name).await?;
        let found = any.lookup(zone.as_str(), RecordType::NS).await.map_err(|error| error.to_string())?;
        let names = found.answers().iter().filter_map(|record| match &record.data {
            RData::NS(name) => Some(name.0.clone()),
            _ => None,
        });
        let mut addresses = Vec::new();
        for name in names.take(SERVERS) {
            // One address of each: they are the same server.
            if let Ok(found) = any.lookup_ip(name).await {
                addresses.extend(found.iter().next().map(|ip| SocketAddr::new(ip, 53)));
            }
        }
        if addresses.is_empty() { Err(format!("the name servers of {zone} are not found")) } else { Ok(addresses) }
    }
}

async fn has(resolver: &TokioResolver, name: &str, text: &str) -> Result<(), String> {
    let found = resolver.lookup(name, RecordType::TXT).await.map_err(|error| error.to_string())?;
    let is_there = found.answers().iter().any(|record| match &record.data {
        RData::TXT(found) => found.txt_data.concat() == text.as_bytes(),
        _ => false,
    });
    if is_there { Ok(()) } else { Err("another text is there".to_owned()) }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let each = servers.iter().map(|server| {
        let at_port = |mut connection: ConnectionConfig| {
            connection.port = server.port();
            connection
        };
        NameServerConfig::new(
            server.ip(),
            true,
            vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())],
        )
    });
    let config = ResolverConfig::from_name_servers(each.collect());
    let mut builder = TokioResolver::builder_with_config(config, Default::default());
    let options = builder.options_mut();
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(|error| error.to_string())
}

/// An address with or without a port.
fn address(written: &str) -> Option<SocketAddr> {
    written.parse().ok().or_else(|| written.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_addresses() {
        for (written, expected) in [
            ("1.1.1.1", Some("1.1.1.1:53")),
            ("1.1.1.1:5353", Some("1.1.1.1:5353")),
            ("::1", Some("[::1]:53")),
            ("a", None),
        ] {
            assert_eq!(address(written).map(|found| found.to_string()).as_deref(), expected);
        }
        let problem = LookUp::new(&["1.1.1.1".into(), "dns".into()]).err().unwrap();
        assert_eq!(problem.path, "dnsChallenge.resolvers[1]");
    }
}
