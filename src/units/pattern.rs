//! Regular expressions with a bounded size, in the syntax that Go's RE2 and Rust's `regex` share.

use std::fmt;

use regex::Regex;

/// Largest compiled program, in bytes. A tenant's pattern cannot take more.
const PROGRAM_LIMIT_BYTES: usize = 1 << 20;
/// Longest pattern, in bytes.
const TEXT_LIMIT_BYTES: usize = 4096;

/// A compiled pattern. Equal when its text is.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_LIMIT_BYTES {
            return Err(format!("the pattern is longer than {TEXT_LIMIT_BYTES} bytes"));
        }
        regex::RegexBuilder::new(&literal_quotes(text))
            .size_limit(PROGRAM_LIMIT_BYTES)
            .dfa_size_limit(PROGRAM_LIMIT_BYTES)
            .build()
            .map(Self)
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => format!("the pattern `{text}` needs too much memory"),
                other => {
                    let message = other.to_string();
                    let reason = message.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    format!("`{text}` is not a regular expression: {reason}")
                }
            })
    }

    /// The compiled expression.
    pub fn regex(&self) -> &Regex {
        &self.0
    }

    /// Whether it matches anywhere in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// Go's `\Q…\E` (literal text), which Rust's engine does not have.
fn literal_quotes(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(r"\Q") {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(start) = rest.find(r"\Q") {
        out.push_str(&rest[..start]);
        let quoted = &rest[start + 2..];
        let (literal, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
        out.push_str(&regex::escape(literal));
        rest = after;
    }
    out.push_str(rest);
    out.into()
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_anywhere_and_knows_literal_quotes() {
        assert!(Pattern::new("b+").unwrap().is_match("abba"));
        assert!(Pattern::new(r"^\Qa.b\E$").unwrap().is_match("a.b"));
        assert!(!Pattern::new(r"^\Qa.b\E$").unwrap().is_match("axb"));
    }

    #[test]
    fn refuses_bombs_and_nonsense() {
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new(r"(?=a)").is_err());
        assert!(Pattern::new(r"((\w{100}){100}){100}").unwrap_err().contains("memory"));
        assert!(Pattern::new(&"a".repeat(5000)).is_err());
    }
}
