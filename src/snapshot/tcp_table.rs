//! The TCP routers of one entry point, found by what a connection says of itself.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;

use super::door::{Match, Terms};
use crate::exchange::ConnectionView;
use crate::middleware::tcp::Middleware;
use crate::observe::connections::ConnectionMeters;
use crate::rule::ConnectionRule;
use crate::rule::connection::Asked;
use crate::rule::matcher::host::parent_domain;
use crate::service::tcp::Service;
use crate::units::Name;

/// A TCP router as built.
#[derive(Debug)]
pub struct TcpRoute {
    /// Qualified name of the router.
    pub name: Name,
    /// When it takes a connection.
    pub rule: ConnectionRule,
    /// Larger wins.
    pub priority: i64,
    /// What it does with TLS.
    pub tls: TcpTls,
    /// Where its connections go.
    pub target: TcpTarget,
    /// What is counted of its connections.
    pub meters: Arc<ConnectionMeters>,
}

/// What a TCP router does with TLS.
#[derive(Clone, Debug)]
pub enum TcpTls {
    /// It takes connections without TLS only.
    Without,
    /// It passes TLS on as it is.
    Passthrough,
    /// It ends TLS here, on these terms.
    Terminate(Terms),
}

/// Where a TCP router's connections go.
#[derive(Clone, Debug)]
pub enum TcpTarget {
    /// Past the middlewares to the service.
    Service {
        /// In order.
        middlewares: Box<[Arc<Middleware>]>,
        /// Name of the service, for logs and metrics.
        name: Name,
        /// The service.
        service: Arc<Service>,
    },
    /// Nowhere: a part of it is broken. It keeps its place, because a router behind it must not get connections that were meant
    /// for it.
    Disabled,
}

/// The TCP routers of one entry point.
#[derive(Debug, Default)]
pub struct TcpTable {
    /// Those without TLS, the first that matches counts.
    plain: Box<[Arc<TcpRoute>]>,
    /// Those with TLS, the first that matches counts.
    tls: Box<[Arc<TcpRoute>]>,
    /// Places in `tls` by exact name.
    named: HashMap<Box<str>, Vec<u32>, RandomState>,
    /// Places in `tls` by the domain below which any one label stands.
    under: HashMap<Box<str>, Vec<u32>, RandomState>,
    /// Places in `tls` of those that must be asked in any case.
    others: Vec<u32>,
}

impl TcpTable {
    /// Indexes routes, which come in the order of their rank.
    pub fn build(routes: Vec<Arc<TcpRoute>>) -> Self {
        let (plain, tls): (Vec<_>, Vec<_>) = routes.into_iter().partition(|route| matches!(route.tls, TcpTls::Without));
        let mut table = Self { plain: plain.into(), ..Self::default() };
        for (place, route) in (0..).zip(&tls) {
            match route.rule.asked() {
                Asked::For(names) => {
                    for name in names {
                        let list = match name.strip_prefix("*.") {
                            Some(domain) => table.under.entry_ref(domain).or_default(),
                            None => table.named.entry_ref(name).or_default(),
                        };
                        if list.last() != Some(&place) {
                            list.push(place);
                        }
                    }
                }
                Asked::Anything => table.others.push(place),
            }
        }
        table.tls = tls.into();
        table
    }

    /// The router of a connection without TLS.
    pub fn find_plain(&self, connection: &ConnectionView<'_>) -> Option<&Arc<TcpRoute>> {
        self.plain.iter().find(|route| route.rule.matches(connection))
    }

    /// The router of a connection with TLS, and whether it asks for its name.
    pub fn find_tls(&self, connection: &ConnectionView<'_>) -> Option<(&Arc<TcpRoute>, Match)> {
        let name = connection.server_name;
        let named = name.and_then(|name| self.named.get(name));
        let under = name.and_then(parent_domain).and_then(|parent| self.under.get(parent));
        let lists = [named.map(Vec::as_slice), under.map(Vec::as_slice), Some(&self.others[..])];
        let first =
            |list: &[u32]| list.iter().copied().find(|place| self.tls[*place as usize].rule.matches(connection));
        let place = lists.into_iter().flatten().filter_map(first).min()?;
        let route = &self.tls[place as usize];
        Some((route, if route.rule.is_catch_all() { Match::CatchAll } else { Match::Specific }))
    }

    /// Whether there are routers without TLS.
    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Whether there are routers with TLS.
    pub fn has_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// All of them: those without TLS first, each by rank.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<TcpRoute>> {
        self.plain.iter().chain(&self.tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Syntax;

    fn table(rules: &[(&str, bool)]) -> TcpTable {
        let route = |(at, (rule, tls)): (usize, &(&str, bool))| {
            Arc::new(TcpRoute {
                name: format!("{at}").into(),
                rule: ConnectionRule::parse(rule, Syntax::V3).unwrap(),
                priority: 0,
                tls: if *tls { TcpTls::Passthrough } else { TcpTls::Without },
                target: TcpTarget::Disabled,
                meters: Arc::default(),
            })
        };
        TcpTable::build(rules.iter().enumerate().map(route).collect())
    }

    #[test]
    fn the_first_in_rank_is_found_by_any_list() {
        let table = table(&[
            ("HostSNI(`a.b`) && ALPN(`x`)", true),
            ("HostSNI(`*.b`)", true),
            ("HostSNIRegexp(`^a`)", true),
            ("HostSNI(`a.b`)", true),
            ("HostSNI(`*`)", true),
            ("ClientIP(`10.0.0.0/8`)", false),
            ("HostSNI(`*`)", false),
        ]);
        let find = |name: Option<&str>, protocols: &[Box<[u8]>]| {
            let view = ConnectionView { server_name: name, protocols, client: [127, 0, 0, 1].into() };
            table.find_tls(&view).map(|(route, found)| (route.name.as_str().to_owned(), found))
        };
        let x: [Box<[u8]>; 1] = [(*b"x").into()];
        for (name, protocols, expected) in [
            (Some("a.b"), &x[..], ("0", Match::Specific)),
            (Some("a.b"), &[], ("1", Match::Specific)),
            (Some("c.b"), &[], ("1", Match::Specific)),
            (Some("a"), &[], ("2", Match::Specific)),
            (Some("z"), &[], ("4", Match::CatchAll)),
            (None, &[], ("4", Match::CatchAll)),
        ] {
            assert_eq!(find(name, protocols), Some((expected.0.to_owned(), expected.1)), "{name:?}");
        }
        for (client, expected) in [("10.1.1.1", "5"), ("11.1.1.1", "6")] {
            let view = ConnectionView { server_name: None, protocols: &[], client: client.parse().unwrap() };
            assert_eq!(table.find_plain(&view).unwrap().name.as_str(), expected);
        }
    }
}
