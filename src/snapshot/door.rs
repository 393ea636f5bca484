//! What an entry point does with a connection before there is a request: which TLS it speaks under which name.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;

use crate::rule::matcher::host::parent_domain;
use crate::tls::Options;
use crate::units::Name;

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
}

/// The terms that hold under some names.
pub type Names = HashMap<Box<str>, Terms, RandomState>;

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
    pub fn new(default: Terms, named: Names, under: Names, https: Https) -> Self {
        Self { default, named, under, https }
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

    /// Whether the same terms hold under every name.
    pub fn is_uniform(&self) -> bool {
        self.named.is_empty() && self.under.is_empty()
    }

    fn find(&self, host: Option<&str>) -> Option<&Terms> {
        let host = host.filter(|_| !self.is_uniform())?;
        self.named.get(host).or_else(|| self.under.get(parent_domain(host)?))
    }
}
