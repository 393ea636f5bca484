//! Durations as Traefik writes them: a bare integer is seconds, text is Go's form (`1m30s`, `500ms`).

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A signed length of time, in nanoseconds, as Go's `time.Duration`.
///
/// Some settings give zero or a negative value a meaning of its own ("no limit", "at once"), so the sign is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    nanos: i64,
}

const NANOS_PER_SECOND: i64 = 1_000_000_000;

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self { nanos: 0 };

    /// A whole number of seconds.
    pub const fn from_secs(seconds: i64) -> Self {
        Self { nanos: seconds.saturating_mul(NANOS_PER_SECOND) }
    }

    /// A whole number of milliseconds.
    pub const fn from_millis(millis: i64) -> Self {
        Self { nanos: millis.saturating_mul(1_000_000) }
    }

    /// The time, if it is above zero. Traefik reads zero and less as "no limit" nearly everywhere.
    pub const fn positive(self) -> Option<std::time::Duration> {
        if self.nanos > 0 { Some(std::time::Duration::from_nanos(self.nanos.unsigned_abs())) } else { None }
    }

    /// The time; zero if it is negative.
    pub const fn or_zero(self) -> std::time::Duration {
        match self.positive() {
            Some(duration) => duration,
            None => std::time::Duration::ZERO,
        }
    }

    /// Whether it is below zero.
    pub const fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Nanoseconds, signed.
    pub const fn as_nanos(self) -> i64 {
        self.nanos
    }

    /// Reads `90`, `1m30s`, `1.5h`, `-100ms`.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(seconds) = text.parse::<i64>() {
            return seconds
                .checked_mul(NANOS_PER_SECOND)
                .map(|nanos| Self { nanos })
                .ok_or_else(|| format!("`{text}` is too long a time"));
        }
        parse_go(text).map(|nanos| Self { nanos })
    }
}

/// Go's `time.ParseDuration`: an optional sign and a sequence of decimal numbers, each with a unit.
fn parse_go(text: &str) -> Result<i64, String> {
    let expected = || format!("`{text}` is not a duration: expected seconds or a form like `1m30s`, `500ms`");
    let too_long = || format!("`{text}` is too long a time");
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest.is_empty() {
        return Err(expected());
    }
    let mut total: f64 = 0.0;
    let mut exact: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let scale: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS_PER_SECOND,
            "m" => 60 * NANOS_PER_SECOND,
            "h" => 3_600 * NANOS_PER_SECOND,
            _ => return Err(expected()),
        };
        if let Ok(whole) = number.parse::<i64>() {
            exact = whole.checked_mul(scale).and_then(|n| exact.checked_add(n)).ok_or_else(too_long)?;
        } else {
            let value: f64 = number.parse().map_err(|_| expected())?;
            total += value * scale as f64;
        }
        rest = next;
    }
    if total >= i64::MAX as f64 {
        return Err(too_long());
    }
    let nanos = exact.checked_add(total.round() as i64).ok_or_else(too_long)?;
    Ok(if negative { -nanos } else { nanos })
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.nanos.unsigned_abs();
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in [("h", 3_600_000_000_000u64), ("m", 60_000_000_000), ("s", 1_000_000_000)] {
            if rest >= scale {
                write!(f, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        for (unit, scale) in [("ms", 1_000_000u64), ("us", 1_000), ("ns", 1)] {
            if rest >= scale {
                write!(f, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration: seconds, or a form like `1m30s`")
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Duration, E> {
                seconds
                    .checked_mul(NANOS_PER_SECOND)
                    .map(|nanos| Duration { nanos })
                    .ok_or_else(|| E::custom("too long a time"))
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Duration, E> {
                i64::try_from(seconds).map_err(|_| E::custom("too long a time")).and_then(|s| self.visit_i64(s))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                Duration::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_traefik_reads() {
        for (text, millis) in [
            ("90", 90_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("-100ms", -100),
            ("+2s", 2_000),
            ("0", 0),
            ("0s", 0),
            ("1h1m1s1ms", 3_661_001),
        ] {
            assert_eq!(Duration::parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "-", "s", "1x", "1.2.3s", "10 s", "99999999999999999999", "9999999999h", "1e9s"] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["1h30m", "1s500ms", "250us", "-3s", "0s"] {
            assert_eq!(Duration::parse(text).map(|d| d.to_string()), Ok(text.to_owned()));
        }
    }
}
