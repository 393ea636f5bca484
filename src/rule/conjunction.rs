//! What an index may know of a rule: a request that meets the rule meets at least one conjunction of a host and a path.

use smallvec::{SmallVec, smallvec};

use super::matcher::{AnyMatcher, Hint};
use super::predicate::Predicate;

/// Most conjunctions that a product of alternatives may have; beyond, a factor is left to the predicate.
const PRODUCT_LIMIT: usize = 64;

/// Alternatives; never empty for a rule.
pub type Conjunctions<'r> = SmallVec<[Conjunction<'r>; 1]>;

/// A condition on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostCondition<'r> {
    /// None.
    #[default]
    Any,
    /// It is this.
    Exact(&'r str),
    /// It is one label before this.
    Under(&'r str),
}

/// A condition on the routing path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathCondition<'r> {
    /// None.
    #[default]
    Any,
    /// It is this.
    Exact(&'r str),
    /// It begins with this.
    Prefix(&'r str),
}

/// One way to meet a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conjunction<'r> {
    /// The host.
    pub host: HostCondition<'r>,
    /// The path.
    pub path: PathCondition<'r>,
    /// Whether host and path are all there is: who meets them meets the rule.
    pub decided: bool,
}

impl<'r> Conjunction<'r> {
    /// No condition that an index could use, but some condition.
    const UNKNOWN: Self = Self { host: HostCondition::Any, path: PathCondition::Any, decided: false };

    fn of(hint: Hint<'r>) -> Self {
        let known = Self { decided: true, ..Self::UNKNOWN };
        match hint {
            Hint::None => Self::UNKNOWN,
            Hint::Host(domain) => Self { host: HostCondition::Exact(domain), ..known },
            Hint::HostUnder(domain) => Self { host: HostCondition::Under(domain), ..known },
            Hint::Path(path) => Self { path: PathCondition::Exact(path), ..known },
            Hint::PathPrefix(path) => Self { path: PathCondition::Prefix(path), ..known },
            Hint::PathBegins(path) => Self { path: PathCondition::Prefix(path), ..Self::UNKNOWN },
        }
    }

    /// Both at once. Where one condition has no room for both, the stricter stays and the predicate decides.
    fn and(self, other: Self) -> Self {
        let (host, host_is_all) = both_hosts(self.host, other.host);
        let (path, path_is_all) = both_paths(self.path, other.path);
        Self { host, path, decided: self.decided && other.decided && host_is_all && path_is_all }
    }

    fn is_unknown(&self) -> bool {
        self.host == HostCondition::Any && self.path == PathCondition::Any
    }
}

/// The conjunctions of a predicate.
pub(super) fn conjunctions(predicate: &Predicate<AnyMatcher>) -> Conjunctions<'_> {
    match predicate {
        Predicate::Is(matcher) => smallvec![Conjunction::of(matcher.hint())],
        Predicate::Not(_) => smallvec![Conjunction::UNKNOWN],
        Predicate::Any(terms) => {
            let mut all = Conjunctions::new();
            for term in terms {
                all.extend(conjunctions(term));
            }
            all
        }
        Predicate::All(terms) => {
            let mut product: Conjunctions<'_> = smallvec![Conjunction { decided: true, ..Conjunction::UNKNOWN }];
            for term in terms {
                product = multiply(product, conjunctions(term));
            }
            product
        }
    }
}

fn multiply<'r>(left: Conjunctions<'r>, right: Conjunctions<'r>) -> Conjunctions<'r> {
    if left.len() == 1 || right.len() == 1 || left.len() * right.len() <= PRODUCT_LIMIT {
        return left.iter().flat_map(|one| right.iter().map(|other| one.and(*other))).collect();
    }
    // Each factor alone is a necessary condition; the one that narrows more stays.
    let breadth = |factor: &Conjunctions<'_>| (factor.iter().filter(|one| one.is_unknown()).count(), factor.len());
    let mut kept = if breadth(&left) <= breadth(&right) { left } else { right };
    for one in &mut kept {
        one.decided = false;
    }
    kept
}

/// The stricter of two conditions, and whether it implies the other.
fn both_hosts<'r>(left: HostCondition<'r>, right: HostCondition<'r>) -> (HostCondition<'r>, bool) {
    use HostCondition::{Any, Exact};
    match (left, right) {
        (Any, other) | (other, Any) => (other, true),
        (left, right) if left == right => (left, true),
        (Exact(_), _) => (left, false),
        _ => (right, false),
    }
}

/// The stricter of two conditions, and whether it implies the other.
fn both_paths<'r>(left: PathCondition<'r>, right: PathCondition<'r>) -> (PathCondition<'r>, bool) {
    use PathCondition::{Any, Exact, Prefix};
    match (left, right) {
        (Any, other) | (other, Any) => (other, true),
        (Exact(one), Exact(other)) => (left, one == other),
        (Exact(path), Prefix(prefix)) => (left, path.starts_with(prefix)),
        (Prefix(prefix), Exact(path)) => (right, path.starts_with(prefix)),
        (Prefix(one), Prefix(other)) if one.len() < other.len() => (right, other.starts_with(one)),
        (Prefix(one), Prefix(other)) => (left, one.starts_with(other)),
    }
}

#[cfg(test)]
mod tests {
    use crate::rule::{Rule, Syntax};

    use super::*;

    fn check(rule: &str, expected: &[&str]) {
        let rule = Rule::parse(rule, Syntax::V3).unwrap();
        let written: Vec<String> = rule
            .conjunctions()
            .iter()
            .map(|one| {
                let host = match one.host {
                    HostCondition::Any => String::new(),
                    HostCondition::Exact(host) => host.to_owned(),
                    HostCondition::Under(host) => format!("*.{host}"),
                };
                let path = match one.path {
                    PathCondition::Any => String::new(),
                    PathCondition::Exact(path) => format!("={path}"),
                    PathCondition::Prefix(path) => path.to_owned(),
                };
                format!("{host}{path}{}", if one.decided { "" } else { "?" })
            })
            .collect();
        assert_eq!(written, expected, "{rule}");
    }

    #[test]
    fn hosts_and_paths_are_known_and_the_rest_is_not() {
        check("Host(`a`) && PathPrefix(`/x`)", &["a/x"]);
        check("Host(`*.a`) && Path(`/x`)", &["*.a=/x"]);
        check("Host(`a`) && Method(`GET`)", &["a?"]);
        check("Host(`*`) && Path(`/x`)", &["=/x?"]);
        check("!Host(`a`)", &["?"]);
        check("Host(`a`) && !Path(`/x`)", &["a?"]);
        check("(Host(`a`) || Host(`b`)) && (Path(`/x`) || PathPrefix(`/y`))", &["a=/x", "a/y", "b=/x", "b/y"]);
        check("Host(`a`) || Method(`GET`)", &["a", "?"]);
        check("PathRegexp(`^/x/[0-9]`) && Host(`a`)", &["a/x/?"]);
    }

    #[test]
    fn conditions_on_the_same_thing_keep_the_stricter() {
        check("PathPrefix(`/a`) && PathPrefix(`/ab`)", &["/ab"]);
        check("PathPrefix(`/b`) && PathPrefix(`/ab`)", &["/ab?"]);
        check("Path(`/ab`) && PathPrefix(`/a`)", &["=/ab"]);
        check("PathPrefix(`/c`) && Path(`/ab`)", &["=/ab?"]);
        check("Host(`a`) && Host(`a`)", &["a"]);
        check("Host(`*.b`) && Host(`a.b`)", &["a.b?"]);
        check("Host(`a.b`) && Host(`*.b`)", &["a.b?"]);
    }

    #[test]
    fn wide_products_keep_one_factor() {
        let hosts: Vec<String> = (0..100).map(|index| format!("Host(`h{index}`)")).collect();
        let rule = format!("({}) && (Path(`/a`) || Path(`/b`))", hosts.join(" || "));
        let rule = Rule::parse(&rule, Syntax::V3).unwrap();
        assert_eq!(rule.conjunctions().len(), 2);
        assert!(rule.conjunctions().iter().all(|one| !one.decided));
        let rule = format!("({}) && (Path(`/a`) || Method(`GET`))", hosts.join(" || "));
        assert_eq!(Rule::parse(&rule, Syntax::V3).unwrap().conjunctions().len(), 100);
    }
}
