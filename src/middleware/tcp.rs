//! Middlewares for TCP connections: who is let through, and how many of one address at a time.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::source::networks;
use crate::problem::{Problem, Problems, all, refuse};
use crate::units::Networks;

/// `tcp.middlewares.<name>` as written. Exactly one of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Who is let through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_allow_list: Option<AllowList>,
    /// The older name of the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_white_list: Option<AllowList>,
    /// How many connections of one address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_conn: Option<InFlight>,
}

/// `ipAllowList` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AllowList {
    /// Addresses and networks that are let through. Must not be empty.
    pub source_range: Vec<String>,
}

/// `inFlightConn` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InFlight {
    /// Connections that each address may have at a time. 0 lets none through.
    pub amount: i64,
}

/// A middleware for connections.
#[derive(Debug)]
pub enum Middleware {
    /// Lets only some addresses through.
    AllowList(Networks),
    /// So many connections of one address at a time.
    InFlight {
        /// How many.
        amount: u32,
        /// Those that there are.
        counts: Arc<Counts>,
    },
}

/// Connections by address. An address without any has no entry.
#[derive(Debug, Default)]
pub struct Counts(Mutex<HashMap<IpAddr, u32, RandomState>>);

/// A connection that is counted, until it drops.
#[derive(Debug)]
pub struct Permit {
    counts: Arc<Counts>,
    address: IpAddr,
}

/// Why a connection is closed before a server was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its address is not on the list.
    Address,
    /// Its address has as many as it may have.
    TooMany,
}

impl Middleware {
    /// Reads the settings. Warnings come along.
    ///
    /// # Errors
    /// Whatever is wrong with them.
    pub fn build(settings: &Settings) -> Result<(Self, Problems), Problems> {
        let mut warnings = Problems::new();
        let Settings { ip_allow_list, ip_white_list, in_flight_conn } = settings;
        let built = match (ip_allow_list, ip_white_list, in_flight_conn) {
            (Some(list), None, None) => allow(list).map_err(|problems| problems.under("ipAllowList"))?,
            (None, Some(list), None) => {
                warnings.push(Problem::warning("ipWhiteList", "is deprecated").with_help("write `ipAllowList`"));
                allow(list).map_err(|problems| problems.under("ipWhiteList"))?
            }
            (None, None, Some(InFlight { amount })) => {
                let is_negative = || Problem::at("inFlightConn.amount", format!("{amount} is negative"));
                refuse(*amount < 0, is_negative)?;
                if *amount == 0 {
                    let message = "is 0, so every connection is refused";
                    warnings.push(Problem::warning("inFlightConn.amount", message));
                }
                Self::InFlight { amount: u32::try_from(*amount).unwrap_or(u32::MAX), counts: Arc::default() }
            }
            (None, None, None) => return Err(Problem::at("", "has no type").into()),
            _ => return Err(Problem::at("", "has more than one type: write one middleware for each").into()),
        };
        Ok((built, warnings))
    }

    /// Whether a connection from `address` goes on; what has to be held for as long as it does.
    ///
    /// # Errors
    /// Why it does not.
    pub fn admit(&self, address: IpAddr) -> Result<Option<Permit>, Refused> {
        match self {
            Self::AllowList(networks) if networks.contains(address) => Ok(None),
            Self::AllowList(_) => Err(Refused::Address),
            Self::InFlight { amount, counts } => counts.enter(address, *amount).map(Some).ok_or(Refused::TooMany),
        }
    }
}

fn allow(list: &AllowList) -> Result<Middleware, Problems> {
    let is_empty =
        refuse(list.source_range.is_empty(), || Problem::at("sourceRange", "is empty, so nobody would be let through"));
    let ((), networks) = all((is_empty, networks("sourceRange", &list.source_range)))?;
    Ok(Middleware::AllowList(networks))
}

impl Counts {
    fn enter(self: &Arc<Self>, address: IpAddr, amount: u32) -> Option<Permit> {
        let mut counts = self.0.lock();
        let count = counts.get(&address).copied().unwrap_or_default();
        if count >= amount {
            return None;
        }
        counts.insert(address, count + 1);
        Some(Permit { counts: self.clone(), address })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        match counts.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(json: &str) -> Middleware {
        Middleware::build(&serde_json::from_str(json).unwrap()).unwrap().0
    }

    #[test]
    fn addresses_are_let_through_or_not() {
        let list = build(r#"{"ipAllowList": {"sourceRange": ["10.0.0.0/8", "::1"]}}"#);
        assert!(list.admit([10, 1, 1, 1].into()).is_ok());
        assert_eq!(list.admit([11, 1, 1, 1].into()).unwrap_err(), Refused::Address);
    }

    #[test]
    fn connections_are_counted_for_as_long_as_they_live() {
        let limit = build(r#"{"inFlightConn": {"amount": 2}}"#);
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held = [limit.admit(one).unwrap(), limit.admit(one).unwrap()];
        assert_eq!(limit.admit(one).unwrap_err(), Refused::TooMany);
        assert!(limit.admit(two).is_ok());
        drop(held);
        assert!(limit.admit(one).is_ok());
        let Middleware::InFlight { counts, .. } = &limit else { panic!() };
        assert!(counts.0.lock().is_empty());
    }

    #[test]
    fn mistakes_name_the_key() {
        for (json, expected) in [
            ("{}", ""),
            (r#"{"ipAllowList": {}}"#, "ipAllowList.sourceRange"),
            (r#"{"ipAllowList": {"sourceRange": ["x"]}}"#, "ipAllowList.sourceRange[0]"),
            (r#"{"inFlightConn": {"amount": -1}}"#, "inFlightConn.amount"),
            (r#"{"inFlightConn": {}, "ipAllowList": {}}"#, ""),
        ] {
            let found = Middleware::build(&serde_json::from_str(json).unwrap()).unwrap_err();
            assert_eq!(found.only().path, expected, "{json}");
        }
    }
}
