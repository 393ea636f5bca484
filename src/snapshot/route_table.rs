//! Which route takes a request: host → path → candidates by rank → predicate. The index is an accelerator, the rule is the truth.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::exchange::RequestView;
use crate::rule::matcher::host::parent_domain;
use crate::rule::{Conjunction, HostCondition, PathCondition, Rule};

use super::path_index::{Candidate, Key, PathIndex};

/// Longest text of all hosts, or of all paths, in the index; what comes after is found by its predicate alone.
const TEXT_LIMIT_BYTES: usize = u32::MAX as usize;
/// Runs of candidates that a search holds at once.
const RUNS: usize = 24;
/// The tree of routes whose host is not known.
const ANY_HOST: u32 = 0;

/// What a route table needs to know of a route.
pub trait Routed {
    /// When it takes a request. It need not be at hand: it is asked for when the table is built, when people ask why, and for a
    /// request only if the index cannot decide.
    fn rule(&self) -> Cow<'_, Rule>;
}

/// The routes of an entry point, in rank order: of those that match a request, the first takes it.
pub struct RouteTable<R> {
    routes: Box<[Arc<R>]>,
    hosts: Hosts,
    parents: Hosts,
    paths: PathIndex,
}

impl<R: Routed> RouteTable<R> {
    /// Builds the index over routes that are in rank order, the strongest first.
    pub fn build(mut routes: Vec<Arc<R>>) -> Self {
        routes.truncate(Candidate::MAX_RANK as usize);
        let (mut hosts, mut parents) = (Hosts::default(), Hosts::default());
        let mut roots = ANY_HOST + 1;
        // Rules may be gone after this, so the paths are kept in one text until the index stands.
        let mut keys = Vec::with_capacity(routes.len());
        let mut paths = String::new();
        for (rank, route) in (0_u32..).zip(&routes) {
            for Conjunction { host, path, decided } in route.rule().conjunctions() {
                let root = match host {
                    HostCondition::Any => Some(ANY_HOST),
                    HostCondition::Exact(host) => hosts.root_or_insert(host, &mut roots),
                    HostCondition::Under(parent) => parents.root_or_insert(parent, &mut roots),
                };
                let (path, exact) = match path {
                    PathCondition::Any => ("", false),
                    PathCondition::Exact(path) => (path, true),
                    PathCondition::Prefix(path) => (path, false),
                };
                keys.push(match root {
                    Some(root) if paths.len() + path.len() < TEXT_LIMIT_BYTES => {
                        let start = paths.len();
                        paths.push_str(path);
                        Key {
                            root,
                            path: (start as u32, paths.len() as u32),
                            exact,
                            candidate: Candidate::new(rank, decided),
                        }
                    }
                    _ => Key { root: ANY_HOST, path: (0, 0), exact: false, candidate: Candidate::new(rank, false) },
                });
            }
        }
        let paths = PathIndex::build(roots, &paths, keys);
        hosts.shrink();
        parents.shrink();
        Self { routes: routes.into(), hosts, parents, paths }
    }

    /// The first route, in rank order, whose rule the request meets. Allocates nothing and locks nothing.
    pub fn find(&self, request: &RequestView<'_>) -> Option<&Arc<R>> {
        self.routes.get(self.winner(request) as usize)
    }

    /// Every route whose rule the request meets or nearly meets, in rank order, with what it fails at; `None`: it matches.
    ///
    /// The nearest `limit` routes, the one that matches among them: those whose host and path fit, then those whose host
    /// fits, then any. For people: it looks at all routes.
    pub fn candidates(&self, request: &RequestView<'_>, limit: usize) -> Vec<(&Arc<R>, Option<String>)> {
        let fits = |route: &Arc<R>| route.rule().conjunctions().iter().any(|one| fits(one, request));
        let near: Vec<usize> = (0..).zip(&self.routes).filter(|(_, route)| fits(route)).map(|(rank, _)| rank).collect();
        let winner = self.winner(request) as usize;
        let taken = near.iter().position(|rank| *rank == winner);
        let from = taken.unwrap_or(0).saturating_sub(limit / 2).min(near.len().saturating_sub(limit));
        let mut chosen: Vec<usize> = near.iter().copied().skip(from).take(limit).collect();
        for needs_host in [true, false] {
            for rank in 0..self.routes.len() {
                if chosen.len() >= limit {
                    break;
                }
                let fits = !needs_host || self.routes.get(rank).is_some_and(|route| knows_host(&route.rule(), request));
                if fits && near.binary_search(&rank).is_err() && !chosen.contains(&rank) {
                    chosen.push(rank);
                }
            }
        }
        chosen.sort_unstable();
        let routes = chosen.into_iter().filter_map(|rank| self.routes.get(rank));
        routes.map(|route| (route, route.rule().first_failure(request))).collect()
    }

    /// All routes, in rank order.
    pub fn routes(&self) -> &[Arc<R>] {
        &self.routes
    }

    /// Memory held by the index itself, in bytes; not that of the routes.
    pub fn index_bytes(&self) -> usize {
        self.paths.size_bytes() + self.hosts.size_bytes() + self.parents.size_bytes()
    }

    /// The rank of the route that takes the request; beyond all ranks if none does.
    fn winner(&self, request: &RequestView<'_>) -> u32 {
        let mut search = Search { table: self, request, runs: SmallVec::new(), best: u32::MAX };
        self.walk(request, &mut |run| search.add(run));
        search.settle();
        search.best
    }

    /// Calls `found` with each run of candidates that the request's host and path reach.
    fn walk<'t>(&'t self, request: &RequestView<'_>, found: &mut impl FnMut(&'t [Candidate])) {
        let path = request.path.as_bytes();
        self.paths.walk(ANY_HOST, path, found);
        if let Some(root) = self.parents.root_of(|| parent_domain(&request.host)) {
            self.paths.walk(root, path, found);
        }
        if let Some(root) = self.hosts.root_of(|| Some(&*request.host).filter(|host| !host.is_empty())) {
            self.paths.walk(root, path, found);
        }
    }
}

impl<R: Routed> Default for RouteTable<R> {
    fn default() -> Self {
        Self::build(Vec::new())
    }
}

impl<R> fmt::Debug for RouteTable<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable").field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

/// Runs of candidates being merged by rank.
struct Search<'s, R> {
    table: &'s RouteTable<R>,
    request: &'s RequestView<'s>,
    /// None of them is empty, and none begins with a candidate that is decided.
    runs: SmallVec<[&'s [Candidate]; RUNS]>,
    best: u32,
}

impl<'s, R: Routed> Search<'s, R> {
    fn add(&mut self, run: &'s [Candidate]) {
        match run.first() {
            Some(first) if first.rank() >= self.best => {}
            // Mostly it is as simple as that, and nothing has to be merged.
            Some(first) if first.is_decided() => self.best = first.rank(),
            Some(_) => {
                if self.runs.len() == RUNS {
                    self.settle();
                }
                self.runs.push(run);
            }
            None => {}
        }
    }

    /// Asks the candidates of all runs in rank order, up to the first that matches; then no run is left.
    fn settle(&mut self) {
        while let Some((slot, candidate)) = self.strongest() {
            let rank = candidate.rank();
            if rank >= self.best {
                break;
            }
            if candidate.is_decided() || self.matches(rank) {
                self.best = rank;
                break;
            }
            self.advance(slot);
        }
        self.runs.clear();
    }

    /// The run whose next candidate has the smallest rank, and that candidate.
    fn strongest(&self) -> Option<(usize, Candidate)> {
        let next = self.runs.iter().enumerate().filter_map(|(slot, run)| Some((slot, *run.first()?)));
        next.min_by_key(|(_, candidate)| *candidate)
    }

    fn advance(&mut self, slot: usize) {
        match self.runs.get_mut(slot) {
            Some([_, rest @ ..]) if !rest.is_empty() => self.runs[slot] = rest,
            _ => {
                self.runs.swap_remove(slot);
            }
        }
    }

    fn matches(&self, rank: u32) -> bool {
        self.table.routes.get(rank as usize).is_some_and(|route| route.rule().matches(self.request))
    }
}

/// Host → tree of paths. The texts stand in one piece.
#[derive(Default)]
struct Hosts {
    hasher: RandomState,
    table: HashTable<Host>,
    text: String,
}

#[derive(Clone, Copy)]
struct Host {
    start: u32,
    end: u32,
    root: u32,
}

impl Hosts {
    /// The tree of the host that `host` gives; it is not asked if there is no host at all.
    fn root_of<'h>(&self, host: impl FnOnce() -> Option<&'h str>) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        let host = host()?;
        let found = self.table.find(self.hasher.hash_one(host), |entry| text_of(&self.text, entry) == host);
        found.map(|entry| entry.root)
    }

    /// The tree of `host`; a new one takes the number `roots`. `None`: there is no room.
    fn root_or_insert(&mut self, host: &str, roots: &mut u32) -> Option<u32> {
        if let Some(root) = self.root_of(|| Some(host)) {
            return Some(root);
        }
        let start = u32::try_from(self.text.len()).ok()?;
        let end = u32::try_from(self.text.len() + host.len()).ok()?;
        let root = *roots;
        *roots = roots.checked_add(1)?;
        self.text.push_str(host);
        let (hasher, text) = (&self.hasher, &self.text);
        let hash = |entry: &Host| hasher.hash_one(text_of(text, entry));
        self.table.insert_unique(hasher.hash_one(host), Host { start, end, root }, hash);
        Some(root)
    }

    fn shrink(&mut self) {
        let (hasher, text) = (&self.hasher, &self.text);
        self.table.shrink_to_fit(|entry| hasher.hash_one(text_of(text, entry)));
        self.text.shrink_to_fit();
    }

    fn size_bytes(&self) -> usize {
        self.table.allocation_size() + self.text.capacity()
    }
}

fn text_of<'t>(text: &'t str, entry: &Host) -> &'t str {
    text.get(entry.start as usize..entry.end as usize).unwrap_or_default()
}

/// Whether the rule has a way for the request's host.
fn knows_host(rule: &Rule, request: &RequestView<'_>) -> bool {
    rule.conjunctions().iter().any(|one| fits_host(one, request))
}

/// Whether the request meets what the index knows of a way.
fn fits(way: &Conjunction<'_>, request: &RequestView<'_>) -> bool {
    let fits_path = match way.path {
        PathCondition::Any => true,
        PathCondition::Exact(path) => request.path == path,
        PathCondition::Prefix(path) => request.path.starts_with(path),
    };
    fits_path && fits_host(way, request)
}

fn fits_host(way: &Conjunction<'_>, request: &RequestView<'_>) -> bool {
    match way.host {
        HostCondition::Any => true,
        HostCondition::Exact(host) => host == request.host,
        HostCondition::Under(parent) => parent_domain(&request.host) == Some(parent),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::rule::Syntax;
    use crate::rule::tests::Sample;

    struct Only {
        text: String,
        rule: Rule,
    }

    impl Routed for Only {
        fn rule(&self) -> Cow<'_, Rule> {
            Cow::Borrowed(&self.rule)
        }
    }

    fn table(rules: &[String], syntax: Syntax) -> RouteTable<Only> {
        let route = |text: &String| {
            let rule = Rule::parse(text, syntax).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
            Arc::new(Only { text: text.clone(), rule })
        };
        RouteTable::build(rules.iter().map(route).collect())
    }

    fn owned(rules: &[&str]) -> Vec<String> {
        rules.iter().map(|rule| (*rule).to_owned()).collect()
    }

    fn found(table: &RouteTable<Only>, request: &str) -> Option<String> {
        table.find(&Sample::new(request).view()).map(|route| route.text.clone())
    }

    #[test]
    fn the_strongest_match_wins() {
        let rules = owned(&[
            "Host(`a.com`) && PathPrefix(`/api`) && Method(`POST`)",
            "Host(`a.com`) && Path(`/api`)",
            "PathPrefix(`/api`)",
            "Host(`*.com`) && PathPrefix(`/`)",
            "Host(`a.com`) || Host(`b.org`)",
            "HostRegexp(`^c`)",
        ]);
        let table = table(&rules, Syntax::V3);
        for (request, expected) in [
            ("POST a.com /api", Some(0)),
            ("GET a.com /api", Some(1)),
            ("GET a.com /apis", Some(2)),
            ("GET z.org /api/x", Some(2)),
            ("GET A.com:80 /", Some(3)),
            ("GET a.b.com /", None),
            ("GET b.org. /x", Some(4)),
            ("GET c.org /", Some(5)),
            ("GET d.org /", None),
        ] {
            assert_eq!(found(&table, request), expected.map(|rank: usize| rules[rank].clone()), "{request}");
        }
    }

    #[test]
    fn more_runs_than_fit_are_settled_in_parts() {
        let rules: Vec<String> = (0..100)
            .rev()
            .map(|length| format!("PathPrefix(`/{}`) && Header(`x`, `{length}`)", "a".repeat(length)))
            .collect();
        let table = table(&rules, Syntax::V3);
        let path = "a".repeat(120);
        for length in [0, 1, 50, 98, 99] {
            let expected = Some(&rules[99 - length]);
            assert_eq!(found(&table, &format!("GET h /{path} x:{length}")).as_ref(), expected);
            assert_eq!(found(&table, &format!("GET h /{path} x:{length} x:0")).as_ref(), expected);
        }
        assert_eq!(found(&table, &format!("GET h /{path} x:100")), None);
    }

    #[test]
    fn candidates_tell_why_not() {
        let rules = owned(&[
            "Host(`z.com`) && PathPrefix(`/`)",
            "Host(`a.com`) && PathPrefix(`/api`) && Method(`POST`)",
            "Host(`a.com`) && Path(`/other`)",
            "Host(`a.com`)",
            "Host(`y.com`)",
        ]);
        let table = table(&rules, Syntax::V3);
        let sample = Sample::new("GET a.com /api");
        let told = |limit| -> Vec<(String, Option<String>)> {
            let candidates = table.candidates(&sample.view(), limit);
            candidates.into_iter().map(|(route, failure)| (route.text.clone(), failure)).collect()
        };
        let method = (rules[1].clone(), Some("Method(`POST`): method is `GET`".to_owned()));
        let path = (rules[2].clone(), Some("Path(`/other`): path is `/api`".to_owned()));
        let host = (rules[0].clone(), Some("Host(`z.com`): host is `a.com`".to_owned()));
        let taken = (rules[3].clone(), None);
        assert_eq!(told(1), std::slice::from_ref(&taken));
        assert_eq!(told(2), [method.clone(), taken.clone()]);
        assert_eq!(told(3), [method.clone(), path.clone(), taken.clone()]);
        assert_eq!(told(4), [host, method, path, taken]);
        assert_eq!(told(100).len(), 5);
    }

    #[test]
    fn the_index_is_small() {
        let rules: Vec<String> =
            (0..10_000).map(|n| format!("Host(`host-{n}.example.com`) && PathPrefix(`/api/v1/{n}`)")).collect();
        let table = table(&rules, Syntax::V3);
        assert!(table.index_bytes() < 10_000 * 100, "{}", table.index_bytes());
    }

    fn matcher() -> impl Strategy<Value = String> {
        let host = select(vec!["a.com", "b.com", "x.a.com", "*.a.com", "*.com", "*", "A.com.", "com"]);
        let path = select(vec!["/", "/a", "/ab", "/abc", "/a/b", "/a/", "/é", "/è", "/b"]);
        let expression = select(vec!["^/a", "^/ab?", "^/a/.+$", "b", "^/a|/b", "^/(a|b)"]);
        prop_oneof![
            5 => host.prop_map(|host| format!("Host(`{host}`)")),
            5 => path.clone().prop_map(|path| format!("PathPrefix(`{path}`)")),
            3 => path.prop_map(|path| format!("Path(`{path}`)")),
            1 => expression.prop_map(|expression| format!("PathRegexp(`{expression}`)")),
            1 => Just(r"HostRegexp(`^.\.`)".to_owned()),
            1 => select(vec!["GET", "POST"]).prop_map(|method| format!("Method(`{method}`)")),
            1 => select(vec!["1", "2"]).prop_map(|value| format!("Header(`k`, `{value}`)")),
            1 => select(vec!["1", "2"]).prop_map(|value| format!("Query(`k`, `{value}`)")),
        ]
    }

    fn rule() -> impl Strategy<Value = String> {
        matcher().prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                4 => prop::collection::vec(inner.clone(), 2..4).prop_map(|terms| format!("({})", terms.join(" && "))),
                2 => prop::collection::vec(inner.clone(), 2..5).prop_map(|terms| format!("({})", terms.join(" || "))),
                1 => inner.prop_map(|term| format!("!({term})")),
            ]
        })
    }

    fn v2_rule() -> impl Strategy<Value = String> {
        let matcher = select(vec![
            "Host(`a.com`, `b.com`)",
            "HostRegexp(`{x}.com`)",
            "Path(`/a`, `/{x}/b`)",
            "PathPrefix(`/a`, `/b`)",
            "PathPrefix(`/a{x:b?}`)",
            "Method(`GET`)",
            "Headers(`k`, `1`)",
            "Query(`k={x:[12]}`)",
        ]);
        prop::collection::vec(matcher, 1..4).prop_map(|terms| terms.join(" && "))
    }

    fn request() -> impl Strategy<Value = String> {
        let host = select(vec!["a.com", "B.com:80", "x.a.com", "y.x.a.com", "com", "", ".com", "c.org", "A.COM."]);
        let path = select(vec![
            "/", "/a", "/ab", "/abc", "/abcd", "/a/b", "/a/", "/a/c/d", "/%C3%A9", "/%C3%A8x", "/%c3", "/b", "*",
        ]);
        let query = select(vec!["", "?k=1", "?k=2", "?k=3&k=1"]);
        let header = select(vec!["", "k:1", "k:2", "k:3 k:1"]);
        let method = select(vec!["GET", "POST", "PUT"]);
        (method, host, path, query, header)
            .prop_map(|(method, host, path, query, header)| format!("{method} {host} {path}{query} {header}"))
    }

    fn check_against_scan(rules: &[String], syntax: Syntax, requests: &[String]) -> Result<(), TestCaseError> {
        let table = table(rules, syntax);
        for request in requests {
            let sample = Sample::new(request);
            let view = sample.view();
            let scanned = table.routes().iter().find(|route| route.rule.matches(&view));
            let found = table.find(&view);
            prop_assert_eq!(found.map(Arc::as_ptr), scanned.map(Arc::as_ptr), "{}: {:?}", request, rules);
            for limit in [1, 3, 100] {
                let candidates = table.candidates(&view, limit);
                prop_assert_eq!(candidates.len(), limit.min(rules.len()));
                let first = candidates.iter().find(|(_, failure)| failure.is_none());
                prop_assert_eq!(first.map(|(route, _)| Arc::as_ptr(route)), scanned.map(Arc::as_ptr), "{}", request);
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_scan(
            rules in prop::collection::vec(rule(), 0..30),
            requests in prop::collection::vec(request(), 1..20),
        ) {
            check_against_scan(&rules, Syntax::V3, &requests)?;
        }

        #[test]
        fn the_index_agrees_with_a_scan_in_the_older_syntax(
            rules in prop::collection::vec(v2_rule(), 0..12),
            requests in prop::collection::vec(request(), 1..20),
        ) {
            check_against_scan(&rules, Syntax::V2, &requests)?;
        }
    }
}
