//! The boolean tree of a rule. Negations stand at its leaves only.

use std::fmt;

/// What has to hold, over matchers of kind `M`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate<M> {
    /// The matcher holds.
    Is(M),
    /// The matcher does not hold.
    Not(M),
    /// Each holds.
    All(Box<[Self]>),
    /// At least one holds.
    Any(Box<[Self]>),
}

impl<M> Predicate<M> {
    /// Each of `terms`; conjunctions among them are taken apart.
    pub fn all(terms: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(terms.len());
        for term in terms {
            match term {
                Self::All(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        if flat.len() == 1
            && let Some(only) = flat.pop()
        {
            return only;
        }
        Self::All(flat.into())
    }

    /// At least one of `terms`; alternatives among them are taken apart.
    pub fn any(terms: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(terms.len());
        for term in terms {
            match term {
                Self::Any(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        if flat.len() == 1
            && let Some(only) = flat.pop()
        {
            return only;
        }
        Self::Any(flat.into())
    }

    /// The opposite, by De Morgan.
    #[must_use]
    pub fn negated(self) -> Self {
        match self {
            Self::Is(matcher) => Self::Not(matcher),
            Self::Not(matcher) => Self::Is(matcher),
            Self::All(terms) => Self::any(terms.into_iter().map(Self::negated).collect()),
            Self::Any(terms) => Self::all(terms.into_iter().map(Self::negated).collect()),
        }
    }

    /// Whether it holds if `holds` says so of each matcher.
    pub fn test(&self, holds: &impl Fn(&M) -> bool) -> bool {
        match self {
            Self::Is(matcher) => holds(matcher),
            Self::Not(matcher) => !holds(matcher),
            Self::All(terms) => terms.iter().all(|term| term.test(holds)),
            Self::Any(terms) => terms.iter().any(|term| term.test(holds)),
        }
    }

    /// The first part, in the order it is written, that does not hold; of alternatives, all of them together.
    pub fn first_failure(&self, holds: &impl Fn(&M) -> bool) -> Option<&Self> {
        match self {
            Self::All(terms) => terms.iter().find_map(|term| term.first_failure(holds)),
            _ if self.test(holds) => None,
            failed => Some(failed),
        }
    }

    /// Each matcher from left to right, and whether it has to hold (`true`) or must not.
    pub fn matchers(&self) -> impl Iterator<Item = (&M, bool)> {
        let mut open = vec![self];
        std::iter::from_fn(move || {
            loop {
                match open.pop()? {
                    Self::Is(matcher) => return Some((matcher, true)),
                    Self::Not(matcher) => return Some((matcher, false)),
                    Self::All(terms) | Self::Any(terms) => open.extend(terms.iter().rev()),
                }
            }
        })
    }
}

/// As a rule; parentheses only where they are needed.
impl<M: fmt::Display> fmt::Display for Predicate<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (terms, operator) = match self {
            Self::Is(matcher) => return write!(f, "{matcher}"),
            Self::Not(matcher) => return write!(f, "!{matcher}"),
            Self::All(terms) => (terms, " && "),
            Self::Any(terms) => (terms, " || "),
        };
        for (index, term) in terms.iter().enumerate() {
            if index > 0 {
                f.write_str(operator)?;
            }
            match (self, term) {
                (Self::All(_), Self::Any(_)) => write!(f, "({term})")?,
                _ => write!(f, "{term}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Predicate::{Is, Not};
    use super::*;

    #[test]
    fn tests_and_names_what_fails() {
        let rule = Predicate::all(vec![Is(1), Predicate::any(vec![Is(2), Not(3)]), Not(4)]);
        for (holding, expected) in [
            (&[1, 2][..], None),
            (&[1], None),
            (&[1, 3], Some("2 || !3")),
            (&[2, 4], Some("1")),
            (&[1, 2, 4], Some("!4")),
        ] {
            let holds = |matcher: &i32| holding.contains(matcher);
            assert_eq!(rule.test(&holds), expected.is_none(), "{holding:?}");
            assert_eq!(rule.first_failure(&holds).map(ToString::to_string).as_deref(), expected, "{holding:?}");
        }
    }

    #[test]
    fn negation_turns_the_tree_over() {
        let rule = Predicate::all(vec![Is(1), Predicate::any(vec![Is(2), Not(3)])]);
        assert_eq!(rule.negated().to_string(), "!1 || !2 && 3");
    }
}
