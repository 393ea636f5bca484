//! What is wrong with a configuration, and where.

use std::fmt;
use std::sync::Arc;

mod gather;

pub use gather::{Results, all, each, refuse};

/// A position in a configuration source: a file, a flag or an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// File path, `flag --x.y`, or `environment TRAEFIK_X_Y`.
    pub source: Arc<str>,
    /// Line, from 1; 0 where the source has no lines.
    pub line: u32,
    /// Column in characters, from 1; 0 where the source has no columns.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        Ok(())
    }
}

/// How much a problem takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The thing works, but probably not as its author meant.
    Warning,
    /// The thing named by the path is disabled; everything else runs.
    Error,
}

/// One thing that is wrong, for people: where it stands, what is wrong, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// How much it takes away.
    pub severity: Severity,
    /// Path in the configuration, dotted: `http.routers.web.rule`.
    pub path: String,
    /// Where it is written, if the source says.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// An error at `path` (dotted, relative to whatever the caller knows; see [`Problem::under`]).
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, path: path.into(), place: None, message: message.into(), help: None }
    }

    /// A warning at `path`.
    pub fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::at(path, message) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds where it is written, unless that is known already.
    #[must_use]
    pub fn placed(mut self, place: Option<Place>) -> Self {
        self.place = self.place.or(place);
        self
    }

    /// Puts `prefix` before the path: a part reports paths relative to its own settings, its owner knows where those stand.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        self.path = match (prefix.is_empty(), self.path.is_empty()) {
            (true, _) => self.path,
            (false, true) => prefix.to_owned(),
            (false, false) if self.path.starts_with('[') => format!("{prefix}{}", self.path),
            (false, false) => format!("{prefix}.{}", self.path),
        };
        self
    }

    /// Whether the thing it names is disabled.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        let kind = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{kind}: ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// All that is wrong, in the order it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Nothing is wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: impl IntoIterator<Item = Problem>) {
        self.0.extend(other);
    }

    /// Each of them once, where it came first.
    #[must_use]
    pub fn once_each(self) -> Self {
        let mut seen = hashbrown::HashSet::with_capacity(self.len());
        let is_first: Vec<bool> = self.iter().map(|problem| seen.insert(problem)).collect();
        drop(seen);
        self.0.into_iter().zip(is_first).filter_map(|(problem, is_first)| is_first.then_some(problem)).collect()
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The one that there is.
    #[cfg(test)]
    pub(crate) fn only(self) -> Problem {
        match <[Problem; 1]>::try_from(self.0) {
            Ok([problem]) => problem,
            Err(several) => panic!("{several:?}"),
        }
    }

    /// Whether any of them disables something.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(Problem::is_error)
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl FromIterator<Problem> for Problems {
    fn from_iter<T: IntoIterator<Item = Problem>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_place_kind_path_message_help() {
        let place = Place { source: "a.yaml".into(), line: 3, column: 7 };
        let problem = Problem::at("rule", "unknown matcher `Hots`")
            .with_help("did you mean `Host`?")
            .under("http.routers.web")
            .placed(Some(place));
        assert_eq!(
            problem.to_string(),
            "a.yaml:3:7: error: http.routers.web.rule: unknown matcher `Hots` (did you mean `Host`?)"
        );
    }

    #[test]
    fn what_is_told_twice_stays_once() {
        let problems: Problems = ["b", "a", "b"].map(|path| Problem::at(path, "x")).into_iter().collect();
        let paths: Vec<_> = problems.once_each().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["b", "a"]);
    }

    #[test]
    fn list_items_join_without_a_dot() {
        assert_eq!(Problem::at("[0].url", "x").under("servers").path, "servers[0].url");
    }
}
