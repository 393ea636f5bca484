//! URLs of servers: scheme, host, port, and a path that only `preservePath` looks at.

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Https,
    /// HTTP/2 without TLS.
    H2c,
}

/// The parts of a server's URL.
#[derive(Debug, PartialEq)]
pub(super) struct Url<'a> {
    pub(super) protocol: Protocol,
    /// Host and port as written.
    pub(super) authority: &'a str,
    /// Without brackets.
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// Without a trailing slash; `None` if nothing is left.
    pub(super) path: Option<&'a str>,
}

impl<'a> Url<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| format!("`{text}` is not a URL like `http://10.0.0.1:8080`"))?;
        let protocol = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => Protocol::Http,
            _ if scheme.eq_ignore_ascii_case("https") => Protocol::Https,
            _ if scheme.eq_ignore_ascii_case("h2c") => Protocol::H2c,
            _ => return Err(format!("the scheme `{scheme}` is not one of `http`, `https`, `h2c`")),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err("user and password in a server's URL are not sent".to_owned());
        }
        if let Some(odd) =
            rest.chars().find(|c| matches!(c, '?' | '#' | '\\') || c.is_whitespace() || !c.is_ascii_graphic())
        {
            return Err(format!("`{}` has no place in a server's URL", odd.escape_default()));
        }
        let (host, port) = split_authority(authority)?;
        let port = match port {
            Some(port) => port,
            None if protocol == Protocol::Https => 443,
            None => 80,
        };
        let path = path.trim_end_matches('/');
        Ok(Self { protocol, authority, host, port, path: Some(path).filter(|path| !path.is_empty()) })
    }
}

fn split_authority(authority: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("`[` is never closed")?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| format!("`{host}` is not an IPv6 address"))?;
            (host, port.strip_prefix(':').or(if port.is_empty() { None } else { Some("?") }))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(is_name) {
        return Err(format!("`{authority}` names no valid host"));
    }
    match port {
        None | Some("") => Ok((host, None)),
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => Err(format!("`{authority}` has no valid port")),
            Ok(port) => Ok((host, Some(port))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        use Protocol::{H2c, Http, Https};
        for (text, protocol, host, port, path) in [
            ("http://10.0.0.1:8080", Http, "10.0.0.1", 8080, None),
            ("HTTPS://a.example/", Https, "a.example", 443, None),
            ("h2c://[::1]:50051", H2c, "::1", 50051, None),
            ("http://[::1]", Http, "::1", 80, None),
            ("http://my_app:80/a/b/", Http, "my_app", 80, Some("/a/b")),
            ("http://a:", Http, "a", 80, None),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.protocol, url.host, url.port, url.path), (protocol, host, port, path), "{text}");
        }
    }

    #[test]
    fn urls_that_name_no_server_are_refused() {
        for text in [
            "",
            "a:80",
            "ftp://a",
            "http://",
            "http://:80",
            "http://u:p@a",
            "http://a:0",
            "http://a:70000",
            "http://a:x",
            "http://[::1",
            "http://[::1]80",
            "http://[zz]:80",
            "http://a b",
            "http://a/?q",
            "http://a#f",
            "http://é",
            "http://a\\b",
            "http://a:80:80",
            "unix:///run/a.sock",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_url_brings_it_down(text in "(http|https|h2c|x)?(://)?[\\[\\]:/@.a-z0-9é?#%-]{0,30}") {
            if let Ok(url) = Url::parse(&text) {
                proptest::prop_assert!(!url.host.is_empty() && url.port != 0);
            }
        }
    }
}
