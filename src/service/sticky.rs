//! Sticky sessions: a cookie that names the server (or service) a client was sent to, compatible with Traefik's.

use hashbrown::HashMap;
use http::HeaderValue;
use http::header::COOKIE;
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::exchange::Exchange;
use crate::problem::{Problem, Problems, all};

/// `sticky` as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The cookie. Without it, nothing sticks.
    pub cookie: Option<Cookie>,
}

/// `sticky.cookie` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cookie {
    /// Default: `_` and five hexadecimal digits made of the service's name.
    pub name: String,
    /// Sent over TLS only.
    pub secure: bool,
    /// Hidden from scripts.
    pub http_only: bool,
    /// `none`, `lax` or `strict`. Default: not said.
    pub same_site: String,
    /// Seconds. 0: until the browser closes. Below 0: at once.
    pub max_age: i64,
    /// Path.
    pub path: Option<String>,
    /// Domain.
    pub domain: String,
}

impl Default for Cookie {
    fn default() -> Self {
        Self {
            name: String::new(),
            secure: false,
            http_only: false,
            same_site: String::new(),
            max_age: 0,
            path: Some("/".to_owned()),
            domain: String::new(),
        }
    }
}

/// Who a cookie's value stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Index of the server or service.
    pub index: usize,
    /// Whether the value is the one that is given out today. If not, the cookie should be written anew.
    pub is_current: bool,
}

/// The cookie of one service, with a ready value for each of its members.
#[derive(Debug)]
pub struct Sticky {
    name: Box<str>,
    by_value: HashMap<Box<[u8]>, Bound, ahash::RandomState>,
    set: Box<[HeaderValue]>,
}

impl Sticky {
    /// The cookie of `service` (its qualified name), for members with these names: URLs or service names.
    ///
    /// # Errors
    /// Each attribute that has no meaning.
    pub fn build(cookie: &Cookie, service: &str, members: &[&str]) -> Result<Self, Problems> {
        let name = cookie_name(&cookie.name, service);
        let attributes = attributes(cookie)?;
        let mut by_value = HashMap::with_capacity_and_hasher(members.len() * 5, ahash::RandomState::new());
        let mut set = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            let value = today(member);
            let whole = HeaderValue::from_str(&format!("{name}={value}{attributes}"))
                .map_err(|_| Problem::at("cookie", "has an attribute that no header field can carry"))?;
            set.push(whole);
            for old in before(member) {
                by_value.entry(old.into_bytes().into()).or_insert(Bound { index, is_current: false });
            }
            by_value.entry(value.into_bytes().into()).or_insert(Bound { index, is_current: true });
        }
        Ok(Self { name: name.into(), by_value, set: set.into() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom the request's cookie names.
    pub fn bound(&self, request: &RequestHeader) -> Option<Bound> {
        cookies(request)
            .filter(|(name, _)| *name == self.name.as_bytes())
            .find_map(|(_, value)| self.by_value.get(value).copied())
    }

    /// Has the client told to come back to the member at `index`. Says so once, also after several attempts.
    pub fn bind(&self, index: usize, exchange: &mut Exchange) {
        let is_ours = |cookie: &HeaderValue| {
            cookie.as_bytes().strip_prefix(self.name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='))
        };
        exchange.cookies.retain(|cookie| !is_ours(cookie));
        if let Some(cookie) = self.set.get(index) {
            exchange.cookies.push(cookie.clone());
        }
    }
}

/// All cookies of a request, in order. Values lose the quotes they may stand in. Bytes and not text: a browser sends what it was
/// given, and one cookie in another script must not hide its neighbours.
pub fn cookies(request: &RequestHeader) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    lines.flat_map(|line| line.split(|byte| *byte == b';')).filter_map(|pair| {
        let pair = pair.trim_ascii();
        let (name, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        let value = &value[1..];
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some((name, quoted.unwrap_or(value)))
    })
}

/// The name as written, with what no cookie's name may hold replaced; or one made of the service's name.
fn cookie_name(written: &str, service: &str) -> String {
    if written.is_empty() {
        let digest = Sha1::digest(format!("_TRAEFIK_BACKEND_{service}"));
        return format!("_{}", &hex(&digest)[..5]);
    }
    // RFC 6265 §4.1.1: a name is a token.
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    written.chars().map(|c| if is_token(c) { c } else { '_' }).collect()
}

fn attributes(cookie: &Cookie) -> Result<String, Problems> {
    let carried = |path: &str, text: &str| {
        let is_clean = text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b';');
        if is_clean { Ok(()) } else { Err(Problem::at(path, "holds characters that no cookie can carry")) }
    };
    let path = cookie.path.as_deref().unwrap_or_default();
    let same_site = match cookie.same_site.to_ascii_lowercase().as_str() {
        "" => Ok(""),
        "none" => Ok("; SameSite=None"),
        "lax" => Ok("; SameSite=Lax"),
        "strict" => Ok("; SameSite=Strict"),
        _ => {
            let message = format!("`{}` is not one of `none`, `lax`, `strict`", cookie.same_site);
            Err(Problem::at("cookie.sameSite", message))
        }
    };
    let ((), (), same_site) = all((carried("cookie.path", path), carried("cookie.domain", &cookie.domain), same_site))?;
    let mut text = String::new();
    if !path.is_empty() {
        text += &format!("; Path={path}");
    }
    if !cookie.domain.is_empty() {
        // RFC 6265 §5.2.3: a leading dot means nothing.
        text += &format!("; Domain={}", cookie.domain.strip_prefix('.').unwrap_or(&cookie.domain));
    }
    match cookie.max_age {
        0 => {}
        age => text += &format!("; Max-Age={}", age.max(0)),
    }
    if cookie.http_only {
        text += "; HttpOnly";
    }
    if cookie.secure {
        text += "; Secure";
    }
    Ok(text + same_site)
}

/// The value that is given out: 16 hexadecimal digits of SHA-256.
fn today(member: &str) -> String {
    hex(&Sha256::digest(member))[..16].to_owned()
}

/// Values that earlier versions gave out: the name itself, its FNV-1 hash, and the hash of that hash.
fn before(member: &str) -> Vec<String> {
    let unpadded = |text: &str| format!("{:x}", fnv1(text.as_bytes()));
    let padded = |text: &str| format!("{:016x}", fnv1(text.as_bytes()));
    let once = [unpadded(member), padded(member)];
    let twice: Vec<_> = once.iter().flat_map(|hash| [unpadded(hash), padded(hash)]).collect();
    [member.to_owned()].into_iter().chain(once).chain(twice).collect()
}

/// FNV-1 (not 1a), 64 bits.
fn fnv1(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{exchange, request};
    use super::*;

    const URLS: [&str; 2] = ["http://10.0.0.1:80", "http://10.0.0.2:80"];

    fn sticky(json: &str) -> Sticky {
        Sticky::build(&serde_json::from_str(json).unwrap(), "web@file", &URLS).unwrap()
    }

    fn bound(cookie: &str) -> Option<(usize, bool)> {
        let request = request(&[("cookie", cookie)]);
        sticky(r#"{"name": "s"}"#).bound(&request).map(|bound| (bound.index, bound.is_current))
    }

    #[test]
    fn hashes_are_the_known_ones() {
        // Published test vectors of each function.
        assert_eq!(fnv1(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1(b"a"), 0xaf63_bd4c_8601_b7be);
        assert_eq!(today("abc"), "ba7816bf8f01cfea");
        assert_eq!(hex(&Sha1::digest("abc"))[..5], *"a9993");
    }

    #[test]
    fn default_names_are_made_of_the_service() {
        let name = sticky("{}").name;
        assert_eq!(*name, format!("_{}", &hex(&Sha1::digest("_TRAEFIK_BACKEND_web@file"))[..5]));
        assert_eq!(cookie_name("my cookie;é!", "x"), "my_cookie__!");
    }

    #[test]
    fn values_of_every_age_are_understood() {
        let now = today(URLS[1]);
        let once = format!("{:x}", fnv1(URLS[1].as_bytes()));
        let twice = format!("{:x}", fnv1(once.as_bytes()));
        for (cookie, expected) in [
            (format!("s={now}"), Some((1, true))),
            (format!("a=b; s={now} ;c=d"), Some((1, true))),
            (format!("s=\"{now}\""), Some((1, true))),
            (format!("s={}", URLS[1]), Some((1, false))),
            (format!("s={once}"), Some((1, false))),
            (format!("s={twice}"), Some((1, false))),
            (format!("s=gone; s={now}"), Some((1, true))),
            (format!("S={now}"), None),
            ("s=".to_owned(), None),
            ("s".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(bound(&cookie), expected, "{cookie}");
        }
    }

    #[test]
    fn a_neighbour_in_another_script_does_not_hide_the_cookie() {
        let mut sent = request(&[]);
        let line = format!("name=Jörg; s={}", today(URLS[1]));
        sent.append_header("cookie", line.as_bytes()).unwrap();
        assert_eq!(sticky(r#"{"name": "s"}"#).bound(&sent), Some(Bound { index: 1, is_current: true }));
    }

    #[test]
    fn attributes_are_as_written() {
        for (json, expected) in [
            ("{}", "; Path=/"),
            (r#"{"path": ""}"#, ""),
            (r#"{"path": "/a", "domain": ".b.example", "maxAge": 60}"#, "; Path=/a; Domain=b.example; Max-Age=60"),
            (r#"{"maxAge": -1, "secure": true, "httpOnly": true}"#, "; Path=/; Max-Age=0; HttpOnly; Secure"),
            (r#"{"sameSite": "Lax"}"#, "; Path=/; SameSite=Lax"),
        ] {
            assert_eq!(attributes(&serde_json::from_str(json).unwrap()).as_deref(), Ok(expected), "{json}");
        }
        for json in [r#"{"sameSite": "x"}"#, r#"{"path": "/a;b"}"#, r#"{"domain": "a\r\nb"}"#] {
            assert!(attributes(&serde_json::from_str(json).unwrap()).is_err(), "{json}");
        }
    }

    #[test]
    fn the_last_binding_stands_alone() {
        let sticky = sticky(r#"{"name": "s"}"#);
        let mut exchange = exchange();
        exchange.cookies.push(HeaderValue::from_static("session=1"));
        sticky.bind(0, &mut exchange);
        sticky.bind(1, &mut exchange);
        let cookies: Vec<_> = exchange.cookies.iter().map(|cookie| cookie.to_str().unwrap().to_owned()).collect();
        assert_eq!(cookies, ["session=1".to_owned(), format!("s={}; Path=/", today(URLS[1]))]);
    }
}
