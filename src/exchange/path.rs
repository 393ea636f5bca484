//! The one spelling of a request path, so that routers, middlewares and servers all see the same.

use std::borrow::Cow;

use smallvec::SmallVec;

/// Why a text cannot be a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `%` without two hexadecimal digits behind it.
    #[error("a percent sign is not followed by two hexadecimal digits")]
    Escape,
    /// A control character.
    #[error("it holds a control character")]
    Control,
    /// `?` or `#`, which end a path.
    #[error("it holds `?` or `#`, which end a path")]
    End,
}

/// Spells `path` canonically: unreserved characters decoded, other escapes in upper case (RFC 3986 §6.2.2), and everything escaped
/// that may not stand bare, `\` included. Borrows when nothing changes; doing it twice changes nothing more.
///
/// # Errors
/// If the text cannot be a path.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, PathError> {
    let bytes = path.as_bytes();
    let mut changed: Option<String> = None;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let (meant, width) =
            if byte == b'%' { (escaped(&bytes[at..]).ok_or(PathError::Escape)?, 3) } else { (byte, 1) };
        let bare = if width == 3 { is_unreserved(meant) } else { is_bare(meant) };
        if width == 1 && !bare {
            match byte {
                b'?' | b'#' => return Err(PathError::End),
                0..=0x1f | 0x7f => return Err(PathError::Control),
                _ => {}
            }
        }
        let same = if width == 1 { bare } else { !bare && !bytes[at..at + 3].iter().any(u8::is_ascii_lowercase) };
        if !same && changed.is_none() {
            let mut start = String::with_capacity(path.len() + 8);
            start.push_str(&path[..at]);
            changed = Some(start);
        }
        if let Some(out) = &mut changed {
            if bare { out.push(char::from(meant)) } else { push_escaped(out, meant) }
        }
        at += width;
    }
    Ok(changed.map_or(Cow::Borrowed(path), Cow::Owned))
}

/// Resolves `.` and `..` segments, also those spelled with `%2e`, and merges slashes. Borrows when nothing changes.
///
/// A trailing `.` or `..` leaves no slash behind, as in Traefik. What does not start with `/` stays as it is (`OPTIONS *`).
pub fn sanitize(path: &str) -> Cow<'_, str> {
    let Some(rest) = path.strip_prefix('/') else { return Cow::Borrowed(path) };
    if is_sanitary(rest) {
        return Cow::Borrowed(path);
    }
    let mut kept: SmallVec<[&str; 16]> = SmallVec::new();
    for segment in rest.split('/') {
        match dots(segment) {
            Some(2) => drop(kept.pop()),
            Some(_) => {}
            None if segment.is_empty() => {}
            None => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if kept.is_empty() || path.ends_with('/') {
        out.push('/');
    }
    Cow::Owned(out)
}

/// Whether `path` holds a `.` or `..` segment, in any spelling.
pub fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| dots(segment).is_some())
}

/// Escapes that mean something to servers and are often refused for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Escapes(u8);

impl Escapes {
    /// `%2F`
    pub const SLASH: Self = Self(1);
    /// `%5C`
    pub const BACKSLASH: Self = Self(1 << 1);
    /// `%00`
    pub const NULL: Self = Self(1 << 2);
    /// `%3B`
    pub const SEMICOLON: Self = Self(1 << 3);
    /// `%25`
    pub const PERCENT: Self = Self(1 << 4);
    /// `%3F`
    pub const QUESTION_MARK: Self = Self(1 << 5);
    /// `%23`
    pub const HASH: Self = Self(1 << 6);

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of them stands in `path`.
    pub fn occur_in(self, path: &str) -> bool {
        if self.0 == 0 {
            return false;
        }
        let bytes = path.as_bytes();
        let mut from = 0;
        while let Some(offset) = bytes[from..].iter().position(|byte| *byte == b'%') {
            from += offset;
            if escaped(&bytes[from..]).is_some_and(|byte| self.0 & Self::of(byte).0 != 0) {
                return true;
            }
            from += 1;
        }
        false
    }

    const fn of(byte: u8) -> Self {
        match byte {
            b'/' => Self::SLASH,
            b'\\' => Self::BACKSLASH,
            0 => Self::NULL,
            b';' => Self::SEMICOLON,
            b'%' => Self::PERCENT,
            b'?' => Self::QUESTION_MARK,
            b'#' => Self::HASH,
            _ => Self(0),
        }
    }
}

/// Whether what follows the first slash has neither dot segments nor empty segments, but for a trailing slash.
fn is_sanitary(rest: &str) -> bool {
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        if dots(segment).is_some() || (segment.is_empty() && segments.peek().is_some()) {
            return false;
        }
    }
    true
}

/// How many dots a segment consists of, if it is `.` or `..` in some spelling.
fn dots(segment: &str) -> Option<usize> {
    let mut rest = segment.as_bytes();
    let mut count = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
        if count > 2 {
            return None;
        }
    }
    (count > 0).then_some(count)
}

/// The byte that a leading `%XX` stands for.
fn escaped(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn push_escaped(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand in a path as it is: RFC 3986 `pchar`, the slash, and the brackets that common servers leave alone.
const fn is_bare(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b':'
                | b'@'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b'['
                | b']'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normalizes() {
        for (path, expected) in [
            ("", Ok("")),
            ("/a/b;c=d", Ok("/a/b;c=d")),
            ("/%77ith", Ok("/with")),
            ("/a%2fb", Ok("/a%2Fb")),
            ("/%2e%2E/a", Ok("/../a")),
            ("/%7Ea", Ok("/~a")),
            ("/a%20b", Ok("/a%20b")),
            ("/a b", Ok("/a%20b")),
            ("/é", Ok("/%C3%A9")),
            ("/%c3%a9", Ok("/%C3%A9")),
            (r"/a\b", Ok("/a%5Cb")),
            ("/%2541", Ok("/%2541")),
            ("/a\"<>^`{|}", Ok("/a%22%3C%3E%5E%60%7B%7C%7D")),
            ("/[x]", Ok("/[x]")),
            ("/%", Err(PathError::Escape)),
            ("/%4", Err(PathError::Escape)),
            ("/%zz", Err(PathError::Escape)),
            ("/%%41", Err(PathError::Escape)),
            ("/a#b", Err(PathError::End)),
            ("/a?b", Err(PathError::End)),
            ("/a\r\nb", Err(PathError::Control)),
            ("/\u{7f}", Err(PathError::Control)),
        ] {
            assert_eq!(normalize(path).as_deref(), expected.as_deref(), "{path:?}");
        }
        assert!(matches!(normalize("/a%2Fb"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn sanitizes() {
        for (path, expected) in [
            ("", ""),
            ("*", "*"),
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a//", "/a/"),
            ("//", "/"),
            ("/./a", "/a"),
            ("/a/.", "/a"),
            ("/a/./", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a"),
            ("/a/b/../", "/a/"),
            ("/../../a", "/a"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/a../b", "/a../b"),
            ("/.../a", "/.../a"),
            ("/a/..;/b", "/a/..;/b"),
            ("/a/%2e%2e%2fb", "/a/%2e%2e%2fb"),
        ] {
            assert_eq!(sanitize(path), expected, "{path:?}");
            assert_eq!(matches!(sanitize(path), Cow::Borrowed(_)), path == expected, "{path:?}");
        }
    }

    #[test]
    fn finds_escapes() {
        let some = Escapes::SLASH.and(Escapes::NULL);
        for (path, found) in [
            ("/a%2Fb", true),
            ("/a%2fb", true),
            ("/%00", true),
            ("/%5C", false),
            ("/a/b", false),
            ("/%252F", false),
            ("/%", false),
        ] {
            assert_eq!(some.occur_in(path), found, "{path}");
        }
        assert!(!Escapes::default().occur_in("/%2F"));
        assert!(Escapes::PERCENT.occur_in("/%252F"));
    }

    proptest! {
        #[test]
        fn one_spelling_is_final(path in r"/([a-zA-Z./;%~é\\ -]|%2[eEfF]|%[0-9a-fA-F]{2}|\.\.|//){0,24}") {
            if let Ok(normal) = normalize(&path) {
                prop_assert_eq!(normalize(&normal), Ok(Cow::Borrowed(&*normal)));
                let clean = sanitize(&normal);
                prop_assert_eq!(sanitize(&clean), &*clean);
                prop_assert_eq!(normalize(&clean), Ok(Cow::Borrowed(&*clean)));
                prop_assert!(clean.starts_with('/') && !clean.contains("//") && !has_dot_segment(&clean));
            }
            let clean = sanitize(&path);
            prop_assert_eq!(sanitize(&clean), &*clean);
        }

        #[test]
        fn no_text_panics(path in ".*") {
            let _ = (normalize(&path), sanitize(&path), Escapes::SLASH.occur_in(&path));
        }
    }
}
