//! When the server wants a certificate to be renewed (RFC 9773).

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::server::{Failure, Server, read, retry_after};

/// How often is asked again: not more often than the first, even if the server wants it.
const ASKS: std::ops::RangeInclusive<Duration> = Duration::from_secs(3600)..=Duration::from_secs(24 * 3600);

/// From when to when the server wants it, in seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Window {
    /// A moment in it. `chance` is from 0 to 1.
    pub(super) fn moment(self, chance: f64) -> i64 {
        let length = self.end.saturating_sub(self.start).max(0);
        self.start.saturating_add((length as f64 * chance.clamp(0.0, 1.0)) as i64)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    suggested_window: Suggested,
}

#[derive(Deserialize)]
struct Suggested {
    start: String,
    end: String,
}

/// Asks for the window of the certificate that is called `name`, and after how long to ask again; `None` if the server has none.
pub(super) async fn ask(server: &Server, name: &str) -> Result<Option<(Window, Duration)>, Failure> {
    let Some(url) = &server.directory.renewal_info else { return Ok(None) };
    let url = format!("{}/{name}", url.trim_end_matches('/'));
    let answer = server.get(&url).await?;
    let again = retry_after(&answer, SystemTime::now()).unwrap_or(*ASKS.end()).clamp(*ASKS.start(), *ASKS.end());
    let Written { suggested_window: Suggested { start, end } } = read(&answer, &url)?;
    let seconds = |text: &str| OffsetDateTime::parse(text, &Rfc3339).map(OffsetDateTime::unix_timestamp);
    match (seconds(&start), seconds(&end)) {
        (Ok(start), Ok(end)) if start < end => Ok(Some((Window { start, end }, again))),
        _ => Err(Failure::Unreachable(format!("{url} tells no window: {start} to {end}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_lie_in_the_window() {
        let window = Window { start: 100, end: 200 };
        for (chance, expected) in [(0.0, 100), (0.5, 150), (1.0, 200), (7.0, 200)] {
            assert_eq!(window.moment(chance), expected);
        }
    }
}
