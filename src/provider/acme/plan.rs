//! What is to be got, and when: decided from what is wanted, what is kept, and what went wrong. Touches neither clock nor network.

use std::time::Duration;

use super::server::Failure;
use crate::config::router_tls::Domain;
use crate::tls::Chain;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Least time between two orders for the same names. A clock that is wrong must not make hundreds.
const ORDERS_EVERY: i64 = HOUR;

/// Least time until the next order at a server that has had too many. One that asks for no time at all is not besieged.
const LEAST_REST: Duration = Duration::from_secs(10);

/// The longest wait that anybody is asked for, in seconds: a week, as long as the longest of servers' limits count.
pub(super) const LONGEST_WAIT_SECONDS: i64 = 7 * 24 * 3600;

/// All names of a certificate, in their order.
pub(super) fn names(domain: &Domain) -> Vec<Box<str>> {
    std::iter::once(&domain.main)
        .chain(&domain.sans)
        .map(|name| canonical(name))
        .filter(|name| !name.is_empty())
        .collect()
}

fn canonical(name: &str) -> Box<str> {
    name.trim_end_matches('.').to_ascii_lowercase().into()
}

/// Whether a certificate with these names is for `name`. A wildcard stands for one label.
pub(super) fn covers<T: AsRef<str>>(names: &[T], name: &str) -> bool {
    let under = name.split_once('.').filter(|(label, _)| *label != "*").map(|(_, parent)| parent);
    names
        .iter()
        .map(AsRef::as_ref)
        .any(|known| known == name || under.is_some_and(|it| known.strip_prefix("*.") == Some(it)))
}

/// What is missing of each certificate that is wanted: one certificate for the names that nothing covers, and each name once.
pub(super) fn missing(wanted: &[Domain], is_covered: &dyn Fn(&str) -> bool) -> Vec<Vec<Box<str>>> {
    let mut found: Vec<Vec<Box<str>>> = Vec::new();
    // Wildcards first: they may cover what others want.
    let mut ordered: Vec<_> = wanted.iter().map(names).collect();
    ordered.sort_by_key(|names| !names.iter().any(|name| name.starts_with("*.")));
    for wanted in ordered {
        let mut open: Vec<Box<str>> = Vec::new();
        for name in wanted {
            let is_found = found.iter().any(|names| covers(names, &name));
            if !is_covered(&name) && !is_found && !covers(&open, &name) {
                open.push(name);
            }
        }
        if !open.is_empty() {
            found.push(open);
        }
    }
    found
}

/// Why a name cannot be ordered, if so.
pub(super) fn objection(name: &str, by_dns: bool) -> Option<&'static str> {
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    let plain = name.strip_prefix("*.").unwrap_or(name);
    let labels = |name: &str| {
        name.len() < 254
            && name.split('.').all(|label| {
                (1..64).contains(&label.len())
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            })
    };
    if name.starts_with("*.") && !by_dns {
        Some("only the DNS challenge proves wildcards")
    } else if is_address && by_dns {
        Some("the DNS challenge proves no addresses")
    } else if !is_address && !labels(plain) {
        Some("it is no name of DNS")
    } else {
        None
    }
}

/// When a certificate is renewed, in seconds of Unix time: as early as Traefik does for certificates of so many hours, but not
/// before two thirds of its life are over.
pub(super) fn renew_at(chain: &Chain, hours: i64) -> i64 {
    let before = match hours {
        8760.. => 4 * 30 * DAY,
        2160.. => 30 * DAY,
        720.. => 10 * DAY,
        144.. => 2 * DAY,
        24.. => 6 * HOUR,
        _ => 20 * 60,
    };
    let third = chain.not_after.saturating_sub(chain.not_before) / 3;
    chain.not_after.saturating_sub(third.min(before))
}

/// How long no other order for the same names is made after one that went well.
pub(super) fn rest(chain: &Chain) -> Duration {
    let third = chain.not_after.saturating_sub(chain.not_before) / 3;
    Duration::from_secs(third.clamp(1, ORDERS_EVERY).unsigned_abs())
}

/// How long to wait after the `nth` failure in a row, before chance is added.
pub(super) fn pause(failure: &Failure, nth: u32) -> Duration {
    let growing = |first: u64, factor: u64, most: u64| {
        let pause = first.saturating_mul(factor.saturating_pow(nth.saturating_sub(1)));
        Duration::from_secs(pause.min(most))
    };
    match failure {
        Failure::Unreachable(_) => growing(2, 2, 1800),
        Failure::Ours(_) => growing(30, 2, 3600),
        // Their limits count failures per hour: better slow than shut out.
        Failure::Refused { kind, retry_after, .. } => {
            let own = if kind == "rateLimited" { growing(3600, 2, 86_400) } else { growing(60, 4, 86_400) };
            match retry_after {
                Some(asked) if kind == "rateLimited" => (*asked).max(LEAST_REST),
                Some(asked) => own.max(*asked),
                None => own,
            }
        }
    }
}

/// The same with up to a quarter more, so that many do not come at once. `chance` is from 0 to 1.
pub(super) fn spread(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(names: &[&str]) -> Domain {
        Domain { main: names[0].into(), sans: names[1..].iter().map(|name| (*name).into()).collect() }
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        for (names, name, expected) in [
            (&["a.test"][..], "a.test", true),
            (&["*.a.test"], "b.a.test", true),
            (&["*.a.test"], "a.test", false),
            (&["*.a.test"], "c.b.a.test", false),
            (&["*.a.test"], "*.a.test", true),
            (&["*.test"], "*.a.test", false),
            (&[], "a", false),
        ] {
            assert_eq!(covers(names, name), expected, "{names:?} {name}");
        }
    }

    #[test]
    fn only_what_nothing_covers_is_got_and_once() {
        let wanted = [
            domain(&["A.test", "b.test"]),
            domain(&["b.test", "c.test"]),
            domain(&["x.w.test"]),
            domain(&["*.w.test", "w.test"]),
            domain(&["there.test"]),
        ];
        let found = missing(&wanted, &|name| name == "there.test");
        let found: Vec<_> = found.iter().map(|names| names.join(" ")).collect();
        assert_eq!(found, ["*.w.test w.test", "a.test b.test", "c.test"]);
    }

    #[test]
    fn names_that_cannot_be_ordered_are_told() {
        for (name, by_dns, expected) in [
            ("a.test", false, true),
            ("*.a.test", false, false),
            ("*.a.test", true, true),
            ("192.0.2.1", false, true),
            ("::1", false, true),
            ("192.0.2.1", true, false),
            ("a..test", false, false),
            ("ä.test", false, false),
            ("*.*.test", true, false),
            ("", true, false),
        ] {
            assert_eq!(objection(name, by_dns).is_none(), expected, "{name}");
        }
    }

    #[test]
    fn renewal_is_at_a_third_of_the_life_or_by_traefiks_table() {
        for (life_days, hours, days_before) in [
            (90, 2160, 30),
            (365, 2160, 30),
            (365, 8760, 120),
            (6, 2160, 2),
            (6, 144, 2),
            (47, 2160, 15),
            (90, 720, 10),
            (90, 24, 0),
        ] {
            let chain = Chain { not_before: 0, not_after: life_days * DAY, ..Chain::default() };
            let before = chain.not_after - renew_at(&chain, hours);
            assert_eq!(before / DAY, days_before, "{life_days} {hours}");
        }
        let backwards = Chain { not_before: 10, not_after: 0, ..Chain::default() };
        assert!(rest(&backwards) >= Duration::from_secs(1) && renew_at(&backwards, 1) <= 3);
    }

    #[test]
    fn failures_are_answered_with_patience() {
        let refused = |kind: &str, after: Option<u64>| Failure::Refused {
            kind: kind.to_owned(),
            detail: String::new(),
            about: None,
            retry_after: after.map(Duration::from_secs),
        };
        for (failure, nth, seconds) in [
            (Failure::Unreachable(String::new()), 1, 2),
            (Failure::Unreachable(String::new()), 3, 8),
            (Failure::Unreachable(String::new()), 200, 1800),
            (Failure::Ours(String::new()), 2, 60),
            (refused("unauthorized", None), 1, 60),
            (refused("unauthorized", None), 3, 960),
            (refused("unauthorized", None), 99, 86_400),
            (refused("unauthorized", Some(100)), 1, 100),
            (refused("rateLimited", None), 1, 3600),
            (refused("rateLimited", Some(10)), 5, 10),
            (refused("rateLimited", Some(0)), 1, 10),
        ] {
            assert_eq!(pause(&failure, nth), Duration::from_secs(seconds), "{failure:?} {nth}");
        }
        assert_eq!(spread(Duration::from_secs(4), 1.0), Duration::from_secs(5));
    }
}
