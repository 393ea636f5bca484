//! `contentType`: guesses the media type of responses for which the server names none.

use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::{Flow, Kit, Middleware};
use crate::exchange::Exchange;
use crate::problem::{Problem, Problems};

/// Settings of `contentType`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Whether the type is guessed. Deprecated: the middleware is there to guess; without it nothing is guessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_detect: Option<bool>,
}

/// Wishes that the media type be guessed.
#[derive(Debug)]
pub struct ContentType {
    detects: bool,
}

impl Middleware for ContentType {
    type Settings = Settings;

    fn warnings(settings: &Settings) -> Vec<Problem> {
        let deprecated = settings.auto_detect.map(|_| {
            Problem::warning("autoDetect", "`autoDetect` is deprecated")
                .with_help("use the middleware where types are to be guessed")
        });
        deprecated.into_iter().collect()
    }

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        Ok(Self { detects: settings.auto_detect.unwrap_or(true) })
    }

    async fn on_request(&self, _: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        exchange.detect_content_type = self.detects;
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build};

    #[test]
    fn wishes_for_a_guess() {
        for (settings, before, after) in
            [("{}", false, true), (r#"{"autoDetect":false}"#, true, false), (r#"{"autoDetect":true}"#, false, true)]
        {
            let middleware: ContentType = build(settings).unwrap();
            let mut call = Call::new("GET http://h/");
            call.exchange.detect_content_type = before;
            assert!(matches!(call.down(&middleware), Flow::Continue));
            assert_eq!(call.exchange.detect_content_type, after, "{settings}");
        }
    }
}
