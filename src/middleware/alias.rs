//! Spellings of one header name that a server may take for another.

use http::header::HeaderName;
use pingora::http::RequestHeader;
use smallvec::SmallVec;

/// Removes the header `name` in every spelling that CGI-like servers fold into one: `X-User`, `x_user`, `X.User`.
///
/// A header by which a middleware tells the server who is calling must never come from the client.
pub(crate) fn remove_all_spellings(request: &mut RequestHeader, name: &HeaderName) {
    if !request.headers.keys().any(|key| is_spelling_of(key.as_str(), name.as_str())) {
        return;
    }
    let spellings: SmallVec<[HeaderName; 4]> =
        request.headers.keys().filter(|key| is_spelling_of(key.as_str(), name.as_str())).cloned().collect();
    for spelling in &spellings {
        request.remove_header(spelling);
    }
}

/// Whether two lower-case header names are the same once `-`, `_` and `.` are.
pub(crate) fn is_spelling_of(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(one, other)| folded(one) == folded(other))
}

const fn folded(byte: u8) -> u8 {
    match byte {
        b'_' | b'.' => b'-',
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_goes_and_the_rest_stays() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in ["X-User", "x-user", "X_User", "x.user", "x-user_", "X-Users", "xuser"] {
            request.append_header(name, "mallory").unwrap();
        }
        remove_all_spellings(&mut request, &HeaderName::from_static("x-user"));
        let mut left: Vec<_> = request.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-user_", "x-users", "xuser"]);
    }
}
