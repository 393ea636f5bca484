//! Ranges of HTTP statuses, as people write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A status, or an inclusive range of them: `404`, `500-599`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl StatusRange {
    /// Reads `404` or `500-599`.
    ///
    /// # Errors
    /// A sentence about what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |digits: &str| digits.trim().parse::<u16>().ok().filter(|status| (100..=999).contains(status));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is not a status or a range like `500-599`")),
        }
    }

    /// Whether `status` is in it.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.collect_str(&self.first)
        } else {
            serializer.collect_str(&format_args!("{}-{}", self.first, self.last))
        }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // YAML reads a bare `404` as a number.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_statuses_and_ranges() {
        let check = |text: &str, expected: Option<(u16, u16)>| {
            assert_eq!(StatusRange::parse(text).ok().map(|r| (r.first, r.last)), expected, "{text}");
        };
        check("404", Some((404, 404)));
        check("500-599", Some((500, 599)));
        check("599-500", None);
        check("abc", None);
        check("20", None);
        check("", None);
        check("500-99999", None);
        let written: Vec<StatusRange> = serde_json::from_str(r#"[200, "300-302"]"#).unwrap();
        assert_eq!(serde_json::to_string(&written).unwrap(), r#"["200","300-302"]"#);
    }
}
