//! Request fields that the gateway vouches for: one value, and no look-alike of the name beside it.

use http::header::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use smallvec::SmallVec;

use super::alias;

/// A field name from settings.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not a header name"))
}

/// A field value from settings.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| "a header value cannot hold control characters".to_owned())
}

/// Sets a field; whatever the client sent under its name or an alias of it is gone.
pub fn set(request: &mut RequestHeader, name: &HeaderName, value: HeaderValue) {
    remove_aliases(request, name);
    // `http` has accepted both parts, so Pingora can only refuse for too many fields, which the head reader has limited.
    let _ = request.insert_header(name.clone(), value);
}

/// Removes a field and all aliases of its name. (`alias` also removes the plain name when an alias of it is asked for; an author of
/// a configuration who removes `X_A` wants to keep `X-A`.)
pub fn remove(request: &mut RequestHeader, name: &HeaderName) {
    remove_aliases(request, name);
    request.remove_header(name);
}

/// Removes fields that servers behind CGI-like interfaces take for `name`: there `-`, `_` and `.` are one character.
pub fn remove_aliases(request: &mut RequestHeader, name: &HeaderName) {
    let aliases: SmallVec<[HeaderName; 2]> =
        request.headers.keys().filter(|key| is_alias(key.as_str(), name.as_str())).cloned().collect();
    for alias in &aliases {
        request.remove_header(alias);
    }
}

/// Whether `key` is another spelling of `name`, one that only CGI-like servers take for it.
fn is_alias(key: &str, name: &str) -> bool {
    key != name && alias::is_spelling_of(key, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_an_underscore_has_aliases_too() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.append_header("X-User", "root").unwrap();
        set(&mut request, &HeaderName::from_static("x_user"), HeaderValue::from_static("ann"));
        let fields: Vec<_> = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("x_user", &b"ann"[..])]);
    }

    #[test]
    fn aliases_go_with_the_field() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for field in ["X-Auth-User", "X_Auth_User", "x-auth_user", "X.Auth-User", "X-Auth-Users"] {
            request.append_header(field, "evil").unwrap();
        }
        let user = HeaderName::from_static("x-auth-user");
        set(&mut request, &user, HeaderValue::from_static("good"));
        let left: Vec<_> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(left, [("x-auth-user", "good"), ("x-auth-users", "evil")]);
        remove(&mut request, &user);
        assert_eq!(request.headers.len(), 1);
    }

    #[test]
    fn names_and_values_are_checked() {
        assert!(name("X-A").is_ok() && value("é, b").is_ok());
        assert!(name("X A").is_err() && name("").is_err() && value("a\r\nb").is_err());
    }
}
