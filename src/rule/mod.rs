//! The rule language of routers: text → predicate → what an index may know of it.

use std::fmt;

use crate::exchange::RequestView;

pub mod conjunction;
pub mod connection;
pub mod lexer;
pub mod matcher;
pub mod parser;
pub mod predicate;

pub use conjunction::{Conjunction, Conjunctions, HostCondition, PathCondition};
pub use connection::ConnectionRule;
use matcher::{AnyMatcher, template};
use parser::Call;
use predicate::Predicate;

/// Which matchers a rule may use, and what their parameters mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Syntax {
    /// Lists as parameters, templates with braces.
    V2,
    /// One value per matcher.
    #[default]
    V3,
}

/// When a router takes a request.
#[derive(Clone, Debug)]
pub struct Rule {
    predicate: Predicate<AnyMatcher>,
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// What is wrong and where, in order; at least one.
    pub fn parse(text: &str, syntax: Syntax) -> Result<Self, Vec<RuleError>> {
        let build = |call: Call| {
            let names = names(syntax);
            let Some(name) = names.iter().find(|name| is_spelling_of(&call.name, name)) else {
                return Err(unknown(&call, syntax));
            };
            let built = match syntax {
                Syntax::V2 => template::build(name, &call.arguments),
                Syntax::V3 => AnyMatcher::build(name, &call.arguments),
            };
            built.map_err(|message| {
                let error = RuleError::new(call.column, message);
                match (syntax, *name) {
                    (Syntax::V3, "Host" | "HostRegexp" | "Path" | "PathPrefix" | "Method" | "ClientIP")
                        if call.arguments.len() > 1 =>
                    {
                        error.with_help(format!("write {name}(`…`) || {name}(`…`)"))
                    }
                    _ => error,
                }
            })
        };
        parser::parse(text, &build).map(|predicate| Self { predicate })
    }

    /// A rule that no request meets.
    pub fn never() -> Self {
        Self { predicate: Predicate::Any(Box::default()) }
    }

    /// Whether the request meets the rule.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.predicate.test(&|matcher| matcher.matches(request))
    }

    /// What of the rule the request does not meet, and what it has instead; for people. `None`: it matches.
    pub fn first_failure(&self, request: &RequestView<'_>) -> Option<String> {
        let failed = self.predicate.first_failure(&|matcher| matcher.matches(request))?;
        let mut seen: Vec<String> = Vec::new();
        for (matcher, _) in failed.matchers() {
            let sees = matcher.sees(request);
            if !seen.contains(&sees) {
                seen.push(sees);
            }
        }
        Some(format!("{failed}: {}", seen.join(", ")))
    }

    /// The domains that the rule names, in canonical form and in the order they are written; not those it excludes.
    pub fn hosts(&self) -> Vec<&str> {
        let mut hosts = Vec::new();
        for (matcher, wanted) in self.predicate.matchers() {
            if let AnyMatcher::Host(host) = matcher
                && wanted
                && !hosts.contains(&host.domain())
            {
                hosts.push(host.domain());
            }
        }
        hosts
    }

    /// What an index may know: a request that meets the rule meets at least one of these.
    pub fn conjunctions(&self) -> Conjunctions<'_> {
        conjunction::conjunctions(&self.predicate)
    }

    /// Where the author probably meant something else: sentences for warnings.
    pub fn doubts(&self) -> Vec<String> {
        self.predicate.matchers().filter_map(|(matcher, _)| matcher.doubt()).collect()
    }
}

/// As it would be written, in the current syntax wherever that can say it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.predicate.fmt(f)
    }
}

/// Why a rule cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct RuleError {
    /// Where, in characters of the rule, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl RuleError {
    /// An error at `column`.
    pub fn new(column: usize, message: impl Into<String>) -> Self {
        Self { column, message: message.into(), help: None }
    }

    /// Adds what to do about it, unless that is known already.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help.get_or_insert_with(|| help.into());
        self
    }
}

/// Whether `written` is one of the four spellings of a matcher: `HostRegexp`, `hostregexp`, `HOSTREGEXP`, `Hostregexp`.
pub fn is_spelling_of(written: &str, name: &str) -> bool {
    written == name
        || (written.eq_ignore_ascii_case(name)
            && (written.bytes().skip(1).all(|byte| !byte.is_ascii_uppercase())
                || written.bytes().all(|byte| !byte.is_ascii_lowercase())))
}

/// Names the matcher in `names` that `written` was probably meant to be.
pub fn nearest<'n>(written: &str, names: &[&'n str]) -> Option<&'n str> {
    let written = written.to_ascii_lowercase();
    names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&written, &name.to_ascii_lowercase()), *name))
        .filter(|(distance, name)| *distance <= name.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn names(syntax: Syntax) -> &'static [&'static str] {
    match syntax {
        Syntax::V2 => template::NAMES,
        Syntax::V3 => matcher::NAMES,
    }
}

fn unknown(call: &Call, syntax: Syntax) -> RuleError {
    let error = RuleError::new(call.column, format!("unknown matcher `{}`", call.name));
    let lower = call.name.to_ascii_lowercase();
    let replaced = match (syntax, lower.as_str()) {
        (_, "hostsni" | "hostsniregexp" | "alpn") => Some("it is a matcher of TCP routers".to_owned()),
        (Syntax::V3, "headers") => Some("in the v3 syntax it is `Header`".to_owned()),
        (Syntax::V3, "headersregexp") => Some("in the v3 syntax it is `HeaderRegexp`".to_owned()),
        (Syntax::V3, "hostheader") => Some("in the v3 syntax it is `Host`".to_owned()),
        (Syntax::V2, "header") => Some("in the v2 syntax it is `Headers`".to_owned()),
        (Syntax::V2, "headerregexp") => Some("in the v2 syntax it is `HeadersRegexp`".to_owned()),
        (Syntax::V2, "pathregexp" | "queryregexp") => Some("it is a matcher of the v3 syntax".to_owned()),
        _ => nearest(&call.name, names(syntax)).map(|name| format!("did you mean `{name}`?")),
    };
    match replaced {
        Some(help) => error.with_help(help),
        None => error.with_help(format!("matchers are {}", names(syntax).join(", "))),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use proptest::prelude::*;

    use super::*;

    /// A request to test rules with, written as `METHOD authority /path?query name:value …`.
    pub(crate) struct Sample {
        method: Method,
        authority: String,
        path: String,
        query: String,
        headers: HeaderMap,
        client: IpAddr,
    }

    impl Sample {
        pub(crate) fn new(text: &str) -> Self {
            let mut parts = text.split(' ');
            let method = parts.next().unwrap().parse().unwrap();
            let authority = parts.next().unwrap().to_owned();
            let target = parts.next().unwrap();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let mut headers = HeaderMap::new();
            for field in parts.filter(|field| !field.is_empty()) {
                let (name, value) = field.split_once(':').unwrap();
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            let client = IpAddr::from([192, 0, 2, 1]);
            Self { method, authority, path: path.to_owned(), query: query.to_owned(), headers, client }
        }

        pub(crate) fn view(&self) -> RequestView<'_> {
            RequestView::new(&self.method, &self.authority, &self.path, &self.query, &self.headers, self.client)
        }
    }

    pub(crate) fn check(rule: &str, request: &str, expected: bool) {
        check_syntax(rule, Syntax::V3, &Sample::new(request), expected, request);
    }

    pub(crate) fn check_client(rule: &str, client: &str, expected: bool) {
        let sample = Sample { client: client.parse().unwrap(), ..Sample::new("GET h /") };
        check_syntax(rule, Syntax::V3, &sample, expected, client);
    }

    pub(crate) fn check_v2(rule: &str, request: &str, expected: bool) {
        check_syntax(rule, Syntax::V2, &Sample::new(request), expected, request);
    }

    fn check_syntax(rule: &str, syntax: Syntax, sample: &Sample, expected: bool, about: &str) {
        let rule = Rule::parse(rule, syntax).unwrap_or_else(|errors| panic!("{rule}: {errors:?}"));
        let view = sample.view();
        assert_eq!(rule.matches(&view), expected, "{rule} on {about}");
        assert_eq!(rule.first_failure(&view).is_none(), expected, "{rule} on {about}");
    }

    pub(crate) fn check_refused(rule: &str, part: &str) {
        let error = &Rule::parse(rule, Syntax::V3).expect_err(rule)[0];
        assert!(error.message.contains(part), "{rule}: {error}");
    }

    pub(crate) fn check_v2_refused(rule: &str, part: &str) {
        let error = &Rule::parse(rule, Syntax::V2).expect_err(rule)[0];
        assert!(error.message.contains(part), "{rule}: {error}");
    }

    #[test]
    fn names_have_four_spellings() {
        for (written, expected) in [
            ("HostRegexp", true),
            ("hostregexp", true),
            ("HOSTREGEXP", true),
            ("Hostregexp", true),
            ("hostRegexp", false),
            ("HostREGEXP", false),
            ("hOSTREGEXP", false),
            ("Host", false),
        ] {
            assert_eq!(is_spelling_of(written, "HostRegexp"), expected, "{written}");
        }
        check("host(`a`) && PATHPREFIX(`/`) && Clientip(`0.0.0.0/0`)", "GET a /", true);
    }

    #[test]
    fn errors_help() {
        for (rule, syntax, column, help) in [
            ("Hots(`a`)", Syntax::V3, 1, "did you mean `Host`?"),
            ("Host(`a`) && PathPrefx(`/`)", Syntax::V3, 14, "did you mean `PathPrefix`?"),
            ("Headers(`a`, `b`)", Syntax::V3, 1, "`Header`"),
            ("HostSNI(`a`)", Syntax::V3, 1, "TCP"),
            ("PathRegexp(`a`)", Syntax::V2, 1, "v3"),
            ("Host(`a`, `b`)", Syntax::V3, 1, "Host(`…`) || Host(`…`)"),
            ("Frobnicate(`a`)", Syntax::V3, 1, "matchers are Host, "),
        ] {
            let error = &Rule::parse(rule, syntax).unwrap_err()[0];
            assert_eq!(error.column, column, "{rule}");
            assert!(error.help.as_deref().is_some_and(|text| text.contains(help)), "{rule}: {error:?}");
        }
    }

    #[test]
    fn hosts_are_those_wanted() {
        for (rule, expected) in [
            ("Host(`B.com.`) && Path(`/`) || Host(`a.com`)", &["b.com", "a.com"][..]),
            ("Host(`a.com`) && !Host(`b.com`)", &["a.com"]),
            ("!(Host(`a.com`) || !Host(`*.b.com`))", &["*.b.com"]),
            ("Host(`a`) && Path(`/x`) || Host(`a`) && Path(`/y`)", &["a"]),
            ("HostRegexp(`a`)", &[]),
        ] {
            assert_eq!(Rule::parse(rule, Syntax::V3).unwrap().hosts(), expected, "{rule}");
        }
    }

    #[test]
    fn failures_are_told_in_the_words_of_the_rule() {
        let rule =
            Rule::parse("Host(`a.com`) && (PathPrefix(`/x`) || Path(`/y`)) && !Header(`K`, `v`)", Syntax::V3).unwrap();
        for (request, expected) in [
            ("GET a.com /x", None),
            ("GET b.com /x", Some("Host(`a.com`): host is `b.com`")),
            ("GET a.com /z", Some("PathPrefix(`/x`) || Path(`/y`): path is `/z`")),
            ("GET a.com /y k:v", Some("!Header(`k`, `v`): the request has a header `k`")),
        ] {
            assert_eq!(rule.first_failure(&Sample::new(request).view()).as_deref(), expected, "{request}");
        }
    }

    #[test]
    fn doubts_name_what_cannot_match() {
        for (rule, doubts) in [
            ("Host(`a.com:80`)", 1),
            ("Host(`http://a.com`) || Host(`a.*.com`)", 2),
            ("Path(`/a?b=c`) && PathPrefix(`/{id}`)", 2),
            ("HostRegexp(`{sub:[a-z]+}.a.com`)", 1),
            ("Host(`*`) && Host(`*.a`) && Host(`::1`) && PathPrefix(`/`) && HostRegexp(`^(?:a|b){2}$`)", 0),
        ] {
            assert_eq!(Rule::parse(rule, Syntax::V3).unwrap().doubts().len(), doubts, "{rule}");
        }
    }

    #[test]
    fn a_rule_is_small() {
        assert!(size_of::<Rule>() <= 32, "{}", size_of::<Rule>());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = Rule::parse(&text, Syntax::V3);
            let _ = Rule::parse(&text, Syntax::V2);
        }

        #[test]
        fn parsing_words_never_panics(words in prop::collection::vec(prop::sample::select(vec![
            "Host", "Path", "Query", "Headers", "HostRegexp", "(", ")", "&&", "||", "!", ",", "`a`", "`/{a:b}`",
            "\"\\x41\"", "\"\\", "`", "/*", "//", "\n", "'", "`(`", "é",
        ]), 0..30)) {
            let text = words.join(" ");
            let _ = Rule::parse(&text, Syntax::V3);
            let _ = Rule::parse(&text, Syntax::V2);
        }

        #[test]
        fn a_written_rule_reads_the_same(words in prop::collection::vec(prop::sample::select(vec![
            "Host(`a`)", "!Path(`/b`)", "Query(`a`)", "(Method(`GET`) || Header(`a`, \"`\"))", "ClientIP(`10.0.0.0/8`)",
        ]), 1..6), or in any::<bool>()) {
            let text = words.join(if or { " || " } else { " && " });
            let rule = Rule::parse(&text, Syntax::V3).unwrap();
            let again = Rule::parse(&rule.to_string(), Syntax::V3).unwrap();
            prop_assert_eq!(rule.to_string(), again.to_string());
        }
    }
}
