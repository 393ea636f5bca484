//! `hashKey`: what the hashing strategies tell clients apart by.

use std::fmt::{self, Write as _};

use http::HeaderName;
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::server::{FNV_START, fnv1a};
use super::sticky::cookies;
use crate::exchange::Exchange;
use crate::problem::Problem;

/// `hashKey` as written: what clients are told apart by. A request without it is told by its client's address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Where it is taken from.
    pub source: Source,
    /// Name of the header field or cookie.
    #[serde(default)]
    pub name: String,
}

/// Where a hash key is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The client's address.
    #[default]
    #[serde(rename = "clientIP")]
    ClientIp,
    /// A header field.
    #[serde(rename = "header")]
    Header,
    /// A cookie.
    #[serde(rename = "cookie")]
    Cookie,
}

/// What clients are told apart by, ready for use.
#[derive(Debug)]
pub enum HashKey {
    /// The client's address.
    ClientIp,
    /// This header field.
    Header(HeaderName),
    /// This cookie.
    Cookie(Box<str>),
}

impl HashKey {
    /// Checks what is written.
    ///
    /// # Errors
    /// If a name is missing, or is none.
    pub fn build(written: &Settings) -> Result<Self, Problem> {
        let is_named = !written.name.is_empty();
        match written.source {
            Source::ClientIp if is_named => Err(Problem::at("name", "has no meaning for `clientIP`")),
            Source::ClientIp => Ok(Self::ClientIp),
            Source::Header => HeaderName::from_bytes(written.name.as_bytes())
                .map(Self::Header)
                .map_err(|_| Problem::at("name", "is not the name of a header field")),
            Source::Cookie if is_named => Ok(Self::Cookie(written.name.as_str().into())),
            Source::Cookie => Err(Problem::at("name", "must name a cookie")),
        }
    }

    /// FNV-1a state after the text that stands for the client.
    pub fn hash(&self, request: &RequestHeader, exchange: &Exchange) -> u64 {
        let found = match self {
            Self::ClientIp => None,
            Self::Header(name) => request.headers.get(name).map(|value| value.as_bytes()),
            Self::Cookie(name) => cookies(request).find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value),
        };
        match found {
            Some(bytes) => fnv1a(FNV_START, bytes),
            None => {
                let mut hash = Hashed(FNV_START);
                // Writing to a hash cannot fail.
                let _ = write!(hash, "{}", exchange.client.address());
                hash.0
            }
        }
    }
}

/// Hashes text as it is written, so that none is allocated.
struct Hashed(u64);

impl fmt::Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = fnv1a(self.0, text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{exchange_of, request};
    use super::*;

    fn key(json: &str) -> HashKey {
        HashKey::build(&serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn keys_come_from_where_they_are_said_to() {
        let sent = request(&[("x-user", "ann"), ("cookie", "a=b; id=7")]);
        let of = |text: &str| fnv1a(FNV_START, text.as_bytes());
        for (json, expected) in [
            (r#"{"source": "clientIP"}"#, "192.0.2.9"),
            (r#"{"source": "header", "name": "X-User"}"#, "ann"),
            (r#"{"source": "header", "name": "X-Absent"}"#, "192.0.2.9"),
            (r#"{"source": "cookie", "name": "id"}"#, "7"),
            (r#"{"source": "cookie", "name": "absent"}"#, "192.0.2.9"),
        ] {
            assert_eq!(key(json).hash(&sent, &exchange_of(9)), of(expected), "{json}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for json in [
            r#"{"source": "header"}"#,
            r#"{"source": "header", "name": "a b"}"#,
            r#"{"source": "cookie"}"#,
            r#"{"source": "clientIP", "name": "x"}"#,
        ] {
            assert_eq!(
                HashKey::build(&serde_json::from_str(json).unwrap()).map(|_| ()).unwrap_err().path,
                "name",
                "{json}"
            );
        }
        assert!(serde_json::from_str::<Settings>("{}").is_err());
    }
}
