//! Which content coding a client gets (RFC 9110 §12.5.3).

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, HeaderValue};

/// A content coding that can be made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

/// Most entries of `Accept-Encoding` that are looked at.
const ENTRIES_LIMIT: usize = 64;

impl Coding {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Gzip, Self::Brotli, Self::Zstd];

    /// Its name in headers and settings.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// The coding with this name in settings.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|coding| coding.name() == name)
    }

    fn is_called(self, name: &[u8]) -> bool {
        // RFC 9110 §8.4.1.3: `x-gzip` is `gzip`.
        name.eq_ignore_ascii_case(self.name().as_bytes())
            || (self == Self::Gzip && name.eq_ignore_ascii_case(b"x-gzip"))
    }
}

/// All lines of `Accept-Encoding` as one; `None` if there is none. Copies only where there are several.
pub(super) fn accepted(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(ACCEPT_ENCODING).iter();
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first.clone()) };
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).ok()
}

/// The coding that the client weighs highest; of several, the one that is offered first. `None` means none.
///
/// `default` is for clients that say nothing, and goes first with those that take anything (`*`).
pub(super) fn choose(accepted: Option<&HeaderValue>, offered: &[Coding], default: Option<Coding>) -> Option<Coding> {
    let Some(accepted) = accepted else { return default };
    let (mut weights, mut identity, mut anything) = ([None; 3], None, None);
    for entry in accepted.as_bytes().split(|byte| *byte == b',').take(ENTRIES_LIMIT) {
        let Some((name, weight)) = parse_entry(entry) else { continue };
        if name == b"*" {
            anything = anything.or(Some(weight));
        } else if name.eq_ignore_ascii_case(b"identity") {
            identity = identity.or(Some(weight));
        } else if let Some(coding) = Coding::ALL.into_iter().find(|coding| coding.is_called(name)) {
            let slot = &mut weights[coding as usize];
            *slot = slot.or(Some(weight));
        }
    }
    let weight_of = |coding: Coding| weights[coding as usize].or(anything).unwrap_or(0);
    let highest = offered.iter().map(|coding| weight_of(*coding)).max().unwrap_or(0);
    if highest == 0 || identity.is_some_and(|identity| identity > highest) {
        return None;
    }
    let by_wildcard = |coding: &Coding| weights[*coding as usize].is_none() && weight_of(*coding) == highest;
    default.filter(by_wildcard).or_else(|| offered.iter().copied().find(|coding| weight_of(*coding) == highest))
}

/// Name and weight in thousandths; `None` for what is not an entry.
fn parse_entry(entry: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = entry.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let mut weight = 1_000;
    for parameter in parts {
        if let Some((b'q' | b'Q', rest)) = parameter.split_first() {
            weight = parse_weight(rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start())?;
        }
    }
    Some((name, weight))
}

/// RFC 9110 §12.4.2: 0 to 1 with up to three decimals; in thousandths.
fn parse_weight(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = match text {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut weight = u16::from(whole - b'0') * 1_000;
    for (digit, scale) in decimals.iter().zip([100, 10, 1]) {
        weight += u16::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?) * scale;
    }
    (weight <= 1_000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OFFERED: [Coding; 3] = [Coding::Gzip, Coding::Brotli, Coding::Zstd];

    fn check(accepted: Option<&str>, offered: &[Coding], default: Option<Coding>, expected: Option<&str>) {
        let accepted = accepted.map(|text| HeaderValue::from_str(text).unwrap());
        let chosen = choose(accepted.as_ref(), offered, default).map(Coding::name);
        assert_eq!(chosen, expected, "{accepted:?} of {offered:?}, default {default:?}");
    }

    #[test]
    fn weight_first_then_the_configured_order() {
        for (accepted, expected) in [
            ("gzip, br, zstd", Some("gzip")),
            ("zstd, br", Some("br")),
            ("gzip;q=0.5, br;q=0.8, zstd;q=0.8", Some("br")),
            ("gzip; q=0.123, br ; Q = 0.124", Some("br")),
            ("GZIP", Some("gzip")),
            ("x-gzip", Some("gzip")),
            ("*", Some("gzip")),
            ("*, gzip;q=0", Some("br")),
            ("*;q=0", None),
            ("gzip;q=0", None),
            ("gzip;q=0, *;q=0.1", Some("br")),
            ("identity", None),
            ("identity, gzip;q=0.9", None),
            ("identity;q=0.5, gzip;q=0.9", Some("gzip")),
            ("identity;q=0", None),
            ("deflate, compress", None),
            ("", None),
            (",,;q=1, gzip", Some("gzip")),
            ("gzip;q=2", None),
            ("gzip;q=1.001", None),
            ("gzip;q=0.0000", None),
            ("gzip;q=a, br", Some("br")),
            ("gzip;level=9", Some("gzip")),
            ("gzip;q=0, gzip", None),
        ] {
            check(Some(accepted), &OFFERED, None, expected);
        }
        check(Some("gzip, br, zstd"), &[Coding::Zstd, Coding::Gzip], None, Some("zstd"));
        check(Some("br"), &[Coding::Gzip], None, None);
    }

    #[test]
    fn the_default_is_for_who_says_nothing_or_anything() {
        check(None, &OFFERED, None, None);
        check(None, &OFFERED, Some(Coding::Zstd), Some("zstd"));
        check(Some("*"), &OFFERED, Some(Coding::Zstd), Some("zstd"));
        check(Some("zstd;q=0, *"), &OFFERED, Some(Coding::Zstd), Some("gzip"));
        check(Some("deflate"), &OFFERED, Some(Coding::Zstd), None);
        check(Some("gzip, *;q=0.5"), &OFFERED, Some(Coding::Zstd), Some("gzip"));
    }

    #[test]
    fn several_lines_are_one() {
        let mut headers = HeaderMap::new();
        assert_eq!(accepted(&headers), None);
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("gzip;q=0.1"));
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("br"));
        assert_eq!(accepted(&headers).unwrap(), "gzip;q=0.1, br");
    }

    proptest! {
        #[test]
        fn never_panics_and_never_gives_what_is_not_offered(text in "[ -~]{0,60}") {
            let accepted = HeaderValue::from_str(&text).unwrap();
            let chosen = choose(Some(&accepted), &[Coding::Brotli], None);
            prop_assert!(chosen.is_none_or(|coding| coding == Coding::Brotli));
        }
    }
}
