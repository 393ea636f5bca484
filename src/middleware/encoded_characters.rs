//! `encodedCharacters`: refuses paths with escapes that servers may decode into something else.

use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::{Flow, Kit, Middleware};
use crate::exchange::path::Escapes;
use crate::exchange::{Exchange, Fault, Reply};
use crate::problem::Problems;

/// Settings of `encodedCharacters`: whatever is not allowed is refused.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Allows `%2F`.
    pub allow_encoded_slash: bool,
    /// Allows `%5C`.
    pub allow_encoded_back_slash: bool,
    /// Allows `%00`.
    pub allow_encoded_null_character: bool,
    /// Allows `%3B`.
    pub allow_encoded_semicolon: bool,
    /// Allows `%25`.
    pub allow_encoded_percent: bool,
    /// Allows `%3F`.
    pub allow_encoded_question_mark: bool,
    /// Allows `%23`.
    pub allow_encoded_hash: bool,
}

impl Settings {
    /// The escapes that are refused.
    pub fn refused(&self) -> Escapes {
        [
            (self.allow_encoded_slash, Escapes::SLASH),
            (self.allow_encoded_back_slash, Escapes::BACKSLASH),
            (self.allow_encoded_null_character, Escapes::NULL),
            (self.allow_encoded_semicolon, Escapes::SEMICOLON),
            (self.allow_encoded_percent, Escapes::PERCENT),
            (self.allow_encoded_question_mark, Escapes::QUESTION_MARK),
            (self.allow_encoded_hash, Escapes::HASH),
        ]
        .into_iter()
        .filter(|(allowed, _)| !allowed)
        .fold(Escapes::default(), |refused, (_, escape)| refused.and(escape))
    }
}

/// Refuses paths with certain escapes.
#[derive(Debug)]
pub struct EncodedCharacters {
    refused: Escapes,
}

impl Middleware for EncodedCharacters {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        Ok(Self { refused: settings.refused() })
    }

    async fn on_request(&self, request: &mut RequestHeader, _: &mut Exchange) -> Flow {
        if self.refused.occur_in(request.uri.path()) {
            return Flow::reply(Reply::fault(Fault::EncodedCharacter));
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build, verdict};

    #[test]
    fn refuses_what_is_not_allowed() {
        for (settings, url, expected) in [
            ("{}", "/a/b?c=%2F", "continue"),
            ("{}", "/a%20b", "continue"),
            ("{}", "/a%2Fb", "400 encoded-character"),
            ("{}", "/a%5cb", "400 encoded-character"),
            ("{}", "/a%00", "400 encoded-character"),
            ("{}", "/a%3B", "400 encoded-character"),
            ("{}", "/a%252F", "400 encoded-character"),
            ("{}", "/a%3f", "400 encoded-character"),
            ("{}", "/a%23", "400 encoded-character"),
            (r#"{"allowEncodedSlash":true}"#, "/a%2Fb", "continue"),
            (r#"{"allowEncodedSlash":true}"#, "/a%2F%5Cb", "400 encoded-character"),
        ] {
            let middleware: EncodedCharacters = build(settings).unwrap();
            let flow = Call::new(&format!("GET http://h{url}")).down(&middleware);
            assert_eq!(verdict(&flow), expected, "{settings} {url}");
        }
    }
}
