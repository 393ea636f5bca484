//! Regular expressions with a bounded size, in the syntax that Go's RE2 and Rust's `regex` share.

use std::fmt;

use regex::Regex;

/// Largest compiled program, in bytes. A tenant's pattern cannot take more.
const PROGRAM_LIMIT_BYTES: usize = 1 << 20;
/// Longest pattern, in bytes.
const TEXT_LIMIT_BYTES: usize = 4096;

/// A compiled pattern. Equal when its text is.
#[derive(Clone)]
pub struct Pattern {
    text: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_LIMIT_BYTES {
            return Err(format!("the pattern is longer than {TEXT_LIMIT_BYTES} bytes"));
        }
        regex::RegexBuilder::new(&Translation::of(text))
            .size_limit(PROGRAM_LIMIT_BYTES)
            .dfa_size_limit(PROGRAM_LIMIT_BYTES)
            .build()
            .map(|regex| Self { text: text.into(), regex })
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => format!("the pattern `{text}` needs too much memory"),
                other => {
                    let message = other.to_string();
                    let reason = message.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    format!("`{text}` is not a regular expression: {reason}")
                }
            })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The compiled expression.
    pub fn regex(&self) -> &Regex {
        &self.regex
    }

    /// Whether it matches anywhere in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

/// RE2's syntax, as Go reads it, written so that Rust's engine reads the same: `\Q…\E` is literal text, `\d`, `\w`, `\s`
/// and `\b` know ASCII only, a brace that counts nothing is a brace, and classes have no operators.
struct Translation<'t> {
    rest: &'t str,
    out: String,
}

impl<'t> Translation<'t> {
    fn of(text: &'t str) -> String {
        let mut translation = Self { rest: text, out: String::with_capacity(text.len() + 8) };
        while let Some(next) = translation.bump() {
            match next {
                '\\' => translation.escape(),
                '[' => translation.class(),
                '{' if !counts(translation.rest) => translation.out.push_str(r"\{"),
                other => translation.out.push(other),
            }
        }
        translation.out
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    /// What stands after a backslash outside a class.
    fn escape(&mut self) {
        if let Some(quoted) = self.rest.strip_prefix('Q') {
            let (literal, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
            self.out.push_str(&regex::escape(literal));
            self.rest = after;
        } else if let Some(after) = self.rest.strip_prefix('b') {
            self.out.push_str(r"(?-u:\b)");
            self.rest = after;
        } else {
            self.class_escape();
        }
    }

    /// What stands after a backslash anywhere.
    fn class_escape(&mut self) {
        match self.bump() {
            Some('d') => self.out.push_str("[0-9]"),
            Some('D') => self.out.push_str("[^0-9]"),
            Some('w') => self.out.push_str("[0-9A-Za-z_]"),
            Some('W') => self.out.push_str("[^0-9A-Za-z_]"),
            Some('s') => self.out.push_str(r"[\t\n\f\r ]"),
            Some('S') => self.out.push_str(r"[^\t\n\f\r ]"),
            Some(angle @ ('<' | '>')) => self.out.push(angle),
            Some(named @ ('p' | 'P' | 'x')) => {
                self.out.extend(['\\', named]);
                if self.rest.starts_with('{')
                    && let Some(end) = self.rest.find('}')
                {
                    self.out.push_str(&self.rest[..=end]);
                    self.rest = &self.rest[end + 1..];
                }
            }
            Some(other) => self.out.extend(['\\', other]),
            None => self.out.push('\\'),
        }
    }

    /// The rest of `[…]`.
    fn class(&mut self) {
        self.out.push('[');
        let mut first = true;
        if let Some(after) = self.rest.strip_prefix('^') {
            self.out.push('^');
            self.rest = after;
        }
        while let Some(next) = self.bump() {
            match next {
                ']' if !first => {
                    self.out.push(']');
                    return;
                }
                '\\' => self.class_escape(),
                '[' => match self.rest.strip_prefix(':').and_then(|rest| rest.find(":]")) {
                    Some(end) => {
                        let named = &self.rest[..end + 3];
                        self.out.push('[');
                        self.out.push_str(named);
                        self.rest = &self.rest[named.len()..];
                    }
                    None => self.out.push_str(r"\["),
                },
                sign @ (']' | '&' | '~') => self.out.extend(['\\', sign]),
                other => self.out.push(other),
            }
            first = false;
        }
    }
}

/// Whether what stands after a brace makes it a repetition: `3}`, `3,}` or `3,5}`.
fn counts(rest: &str) -> bool {
    let Some((inner, _)) = rest.split_once('}') else { return false };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && is_number(least) && is_number(most)
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
    fn reads_what_go_reads() {
        for (pattern, text, expected) in [
            (r"^{a}$", "{a}", true),
            (r"^a{2}$", "aa", true),
            (r"^a{1,2}$", "aa", true),
            (r"^a{1,}$", "aaa", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^{x:[a-z]+}$", "{x:abc}", true),
            (r"^\d+$", "12", true),
            (r"^\d+$", "٣", false),
            (r"^[\d.]+$", "1.2", true),
            (r"^[^\W]+$", "a_1", true),
            (r"^\w$", "é", false),
            (r"^\s\S$", " x", true),
            (r"a\b", "aé", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[[a]+$", "[a", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]+$", "b", true),
            (r"^[[:alpha:]-]+$", "a-b", true),
            (r"^\p{Greek}\pN\x{41}\x41$", "α7AA", true),
            (r"^\<\/\>$", "</>", true),
            (r"^\Q[{\E$", "[{", true),
            (r"(?i)^É$", "é", true),
        ] {
            let compiled = Pattern::new(pattern).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(compiled.is_match(text), expected, "{pattern} on {text}");
            assert_eq!(compiled.as_str(), pattern);
        }
        for pattern in [r"\", "[", "[a", r"[\", "a{2", "x{1001}{1001}"] {
            let _ = Pattern::new(pattern);
        }
    }

    #[test]
    fn refuses_bombs_and_nonsense() {
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new(r"(?=a)").is_err());
        assert!(Pattern::new(r"((\w{100}){100}){100}").unwrap_err().contains("memory"));
        assert!(Pattern::new(&"a".repeat(5000)).is_err());
    }
}
