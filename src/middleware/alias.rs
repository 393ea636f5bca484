//! Spellings of one header name that a server may take for another.

/// Whether two lower-case header names are the same to servers behind CGI-like interfaces: there `-`, `_` and `.` are one
/// character.
pub(crate) fn is_spelling_of(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().map(folded).eq(other.bytes().map(folded))
}

const fn folded(byte: u8) -> u8 {
    match byte {
        b'_' | b'.' => b'-',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_underscores_and_dots_are_one() {
        for (name, expected) in
            [("x-user", true), ("x_user", true), ("x.user", true), ("x-user_", false), ("xuser", false)]
        {
            assert_eq!(is_spelling_of(name, "x-user"), expected, "{name}");
        }
    }
}
