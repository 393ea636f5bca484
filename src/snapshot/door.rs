//! What an entry point does with a connection before there is a request: which TLS it speaks under which name.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;

use crate::exchange::ConnectionView;
use crate::rule::matcher::host::parent_domain;
use crate::tls::Options;
use crate::units::Name;

use super::tcp_table::{TcpRoute, TcpTable};

/// What an entry point does with a connection.
#[derive(Debug)]
pub struct Door {
    /// What holds where no name says otherwise.
    default: Terms,
    /// By name.
    named: Names,
    /// By the domain below which any one label stands.
    under: Names,
    https: Https,
    demands: Demands,
    tcp: TcpTable,
}

/// Which way a connection with TLS goes.
#[derive(Clone, Copy, Debug)]
pub enum Way<'d> {
    /// TLS ends here, on these terms, and requests follow.
    Http(&'d Terms),
    /// A TCP router takes it.
    Tcp(&'d Arc<TcpRoute>),
}

/// The terms that hold under some names.
pub type Names = HashMap<Box<str>, Terms, RandomState>;

/// What clients of some HTTP routers must prove, by the names of these, as a digest. `None`: nobody knows.
pub type Demands = HashMap<Name, Option<[u8; 32]>, RandomState>;

/// Whether there are routers for requests over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Https {
    /// There are none.
    Absent,
    /// All of them name their hosts.
    Named,
    /// Some of them take any host.
    CatchAll,
}

/// How TLS is spoken.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Name of the TLS options. Two hosts with the same name may share a connection.
    pub name: Name,
    /// `None`: they do not exist, or a part of them is broken. Then the handshake is refused, because any other options might
    /// ask for less.
    pub options: Option<Arc<Options>>,
}

/// How well a name is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// No router takes it.
    Nothing,
    /// A router takes any.
    CatchAll,
    /// A router asks for it.
    Specific,
}

impl Door {
    /// A door with these terms. `named` and `under` have every host of a router for TLS, or nothing if nobody needs to know.
    pub fn new(default: Terms, (named, under): (Names, Names), https: Https, demands: Demands, tcp: TcpTable) -> Self {
        Self { default, named, under, https, demands, tcp }
    }

    /// The router of a connection whose first byte nobody need wait for: where there are only TCP routers without TLS, the server
    /// may be the one who speaks first.
    pub fn tcp_unread(&self, client: IpAddr) -> Option<&Arc<TcpRoute>> {
        if !self.tcp.has_plain() || self.tcp.has_tls() || self.https != Https::Absent {
            return None;
        }
        self.tcp_plain(client)
    }

    /// The TCP router of a connection without TLS. If there is none, it speaks HTTP.
    pub fn tcp_plain(&self, client: IpAddr) -> Option<&Arc<TcpRoute>> {
        self.tcp.find_plain(&ConnectionView { server_name: None, protocols: &[], client })
    }

    /// Which way a connection with TLS goes: who asks for its name comes before who takes any, and HTTP before TCP.
    pub fn over_tls(&self, connection: &ConnectionView<'_>) -> Way<'_> {
        let http = self.https(connection.server_name);
        match self.tcp.find_tls(connection) {
            Some((route, found)) if found > http => Way::Tcp(route),
            _ => Way::Http(self.terms(connection.server_name)),
        }
    }

    /// Whether PostgreSQL's way to ask for TLS is understood: some TCP router wants TLS.
    pub fn has_tcp_over_tls(&self) -> bool {
        self.tcp.has_tls()
    }

    /// The TCP routers.
    pub fn tcp(&self) -> &TcpTable {
        &self.tcp
    }

    /// The terms of a server name, or of a request's host; both in canonical form.
    pub fn terms(&self, host: Option<&str>) -> &Terms {
        self.find(host).unwrap_or(&self.default)
    }

    /// How well the routers for requests over TLS know a server name.
    pub fn https(&self, host: Option<&str>) -> Match {
        match self.https {
            _ if self.find(host).is_some() => Match::Specific,
            Https::CatchAll => Match::CatchAll,
            Https::Absent | Https::Named => Match::Nothing,
        }
    }

    /// Whether an HTTP router may answer a client of which its handshake has asked this. Terms go by the host, and other routers of
    /// the host, or of a part of it, may have asked for less.
    pub fn may_answer(&self, router: &Name, asked: &[u8; 32]) -> bool {
        self.demands.is_empty() || self.demands.get(router).is_none_or(|demand| demand.as_ref() == Some(asked))
    }

    /// Whether the same terms hold under every name.
    pub fn is_uniform(&self) -> bool {
        self.named.is_empty() && self.under.is_empty()
    }

    fn find(&self, host: Option<&str>) -> Option<&Terms> {
        let host = host.filter(|_| !self.is_uniform())?;
        self.named.get(host).or_else(|| self.under.get(parent_domain(host)?))
    }
}
