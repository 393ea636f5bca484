//! An ACME server: its directory, nonces, signed requests and its refusals (RFC 8555 §6, §7.1).

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LINK, LOCATION, RETRY_AFTER};
use http::{Method, Request};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::key::AccountKey;
use crate::web::{Answer, Web};

/// How often a request is sent again because the server does not know its nonce. Half of them refused, one in a million fails.
const NONCE_ATTEMPTS: usize = 20;
/// Most nonces that are kept for later.
const NONCES: usize = 16;

/// Longest wait that a server may ask for, in seconds.
const LONGEST_WAIT_SECONDS: u64 = super::plan::LONGEST_WAIT_SECONDS.unsigned_abs();

/// Where a server takes what (RFC 8555 §7.1.1).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Directory {
    pub(super) new_nonce: String,
    pub(super) new_account: String,
    pub(super) new_order: String,
    /// RFC 9773.
    pub(super) renewal_info: Option<String>,
    #[serde(default)]
    pub(super) meta: Meta,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) external_account_required: bool,
    pub(super) profiles: serde_json::Map<String, Value>,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody was reached, or what was reached does not work.
    Unreachable(String),
    /// The server refuses, with the last part of the problem's type (RFC 8555 §6.7), and the name that it is about if that is known.
    Refused { kind: String, detail: String, about: Option<Box<str>>, retry_after: Option<Duration> },
    /// What we are told to do cannot be done.
    Ours(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(message) | Self::Ours(message) => f.write_str(message),
            Self::Refused { kind, detail, .. } => write!(f, "the server refuses: {detail} ({kind})"),
        }
    }
}

/// Who signs a request.
#[derive(Clone, Copy)]
pub(super) enum Signer<'a> {
    /// Nobody knows the key yet.
    Key(&'a AccountKey),
    /// An account with this name.
    Account(&'a AccountKey, &'a str),
}

pub(super) struct Server {
    web: Web,
    pub(super) directory: Directory,
    nonces: Mutex<Vec<String>>,
}

impl Server {
    /// Asks for the directory.
    pub(super) async fn find(web: Web, url: &str) -> Result<Self, Failure> {
        let answer = get(&web, url).await?;
        let directory = read::<Directory>(&answer, url)?;
        Ok(Self { web, directory, nonces: Mutex::default() })
    }

    /// Sends a signed request; `None` only reads (RFC 8555 §6.3).
    pub(super) async fn post(&self, signer: Signer<'_>, url: &str, payload: Option<&Value>) -> Result<Answer, Failure> {
        let payload = payload.map(Value::to_string).unwrap_or_default();
        for _ in 0..NONCE_ATTEMPTS {
            let nonce = self.nonce().await?;
            let (key, header) = match signer {
                Signer::Key(key) => (key, json!({"jwk": key.jwk(), "nonce": nonce, "url": url})),
                Signer::Account(key, name) => (key, json!({"kid": name, "nonce": nonce, "url": url})),
            };
            let body = key.sign(header, &payload).map_err(Failure::Ours)?.to_string();
            let request = Request::builder()
                .method(Method::POST)
                .uri(url)
                .header(CONTENT_TYPE, "application/jose+json")
                .body(Bytes::from(body))
                .map_err(|error| Failure::Unreachable(format!("`{url}` is no URL: {error}")))?;
            let answer = self.web.send(request).await.map_err(Failure::Unreachable)?;
            self.keep_nonce(&answer);
            match refusal(&answer, url) {
                None => return Ok(answer),
                Some(Failure::Refused { kind, .. }) if kind == "badNonce" => {}
                Some(failure) => return Err(failure),
            }
        }
        Err(Failure::Unreachable(format!("the server has taken none of {NONCE_ATTEMPTS} nonces")))
    }

    /// Reads a resource of an account.
    pub(super) async fn fetch<T: for<'de> Deserialize<'de>>(
        &self,
        signer: Signer<'_>,
        url: &str,
    ) -> Result<(T, Answer), Failure> {
        let answer = self.post(signer, url, None).await?;
        Ok((read(&answer, url)?, answer))
    }

    /// Reads what everybody may read.
    pub(super) async fn get(&self, url: &str) -> Result<Answer, Failure> {
        get(&self.web, url).await
    }

    async fn nonce(&self) -> Result<String, Failure> {
        let kept = self.nonces.lock().pop();
        if let Some(nonce) = kept {
            return Ok(nonce);
        }
        let url = &self.directory.new_nonce;
        let request = Request::builder().method(Method::HEAD).uri(url).body(Bytes::new());
        let request = request.map_err(|error| Failure::Unreachable(format!("`{url}` is no URL: {error}")))?;
        let answer = self.web.send(request).await.map_err(Failure::Unreachable)?;
        let nonce = answer.header("replay-nonce").map(ToOwned::to_owned);
        nonce.ok_or_else(|| {
            refusal(&answer, url).unwrap_or_else(|| Failure::Unreachable("there is no nonce".to_owned()))
        })
    }

    fn keep_nonce(&self, answer: &Answer) {
        let mut nonces = self.nonces.lock();
        if let Some(nonce) = answer.header("replay-nonce").filter(|_| nonces.len() < NONCES) {
            nonces.push(nonce.to_owned());
        }
    }
}

async fn get(web: &Web, url: &str) -> Result<Answer, Failure> {
    let request = Request::builder().uri(url).body(Bytes::new());
    let request = request.map_err(|error| Failure::Unreachable(format!("`{url}` is no URL: {error}")))?;
    let answer = web.send(request).await.map_err(Failure::Unreachable)?;
    refusal(&answer, url).map_or(Ok(answer), Err)
}

/// What an answer is, as JSON.
pub(super) fn read<T: for<'de> Deserialize<'de>>(answer: &Answer, url: &str) -> Result<T, Failure> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::Unreachable(format!("{url} does not answer as an ACME server: {error}")))
}

/// Where something new is.
pub(super) fn location(answer: &Answer) -> Result<String, Failure> {
    let found = answer.header(LOCATION.as_str()).map(ToOwned::to_owned);
    found.ok_or_else(|| Failure::Unreachable("the server does not say where it is".to_owned()))
}

/// Other forms of the same (RFC 8555 §7.4.2).
pub(super) fn alternates(answer: &Answer) -> Vec<String> {
    let links = answer.headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
    let each = links.flat_map(|line| line.split(','));
    each.filter_map(|link| {
        let (url, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_alternate = rest.split(';').any(|part| matches!(part.trim(), "rel=\"alternate\"" | "rel=alternate"));
        is_alternate.then(|| url.to_owned())
    })
    .collect()
}

/// How long the server wants us to wait (RFC 9110 §10.2.3), within reason.
pub(super) fn retry_after(answer: &Answer, now: SystemTime) -> Option<Duration> {
    let written = answer.header(RETRY_AFTER.as_str())?.trim();
    if let Ok(seconds) = written.parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(LONGEST_WAIT_SECONDS)));
    }
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = time::PrimitiveDateTime::parse(written, &format).ok()?.assume_utc();
    let wait = SystemTime::from(at).duration_since(now).ok()?;
    Some(wait.min(Duration::from_secs(LONGEST_WAIT_SECONDS)))
}

#[derive(Deserialize)]
#[serde(default)]
struct Written {
    r#type: String,
    detail: String,
    subproblems: Vec<Sub>,
}

impl Default for Written {
    fn default() -> Self {
        Self { r#type: "about:blank".to_owned(), detail: String::new(), subproblems: Vec::new() }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Sub {
    detail: String,
}

/// How much of a server's words is told, in characters: they go to the log, the status and the API.
const DETAIL_LIMIT: usize = 1000;

/// Reads a problem (RFC 9457), as it stands in answers, orders and challenges.
pub(super) fn refused(problem: &Value, retry_after: Option<Duration>) -> Failure {
    let Written { r#type, mut detail, subproblems } = Written::deserialize(problem).unwrap_or_default();
    for sub in subproblems.iter().take(8).filter(|sub| !sub.detail.is_empty()) {
        detail = format!("{detail}; {}", sub.detail);
    }
    if let Some((end, _)) = detail.char_indices().nth(DETAIL_LIMIT) {
        detail.truncate(end);
        detail.push('…');
    }
    let kind = r#type.rsplit(':').next().unwrap_or_default().chars().take(DETAIL_LIMIT).collect();
    Failure::Refused { kind, detail, about: None, retry_after }
}

fn refusal(answer: &Answer, url: &str) -> Option<Failure> {
    if answer.status.is_success() {
        return None;
    }
    let retry_after = retry_after(answer, SystemTime::now());
    Some(match serde_json::from_slice::<Value>(&answer.body).ok().filter(|body| body["type"].is_string()) {
        Some(problem) => refused(&problem, retry_after),
        None if answer.status.as_u16() == 429 => {
            let (kind, detail) = ("rateLimited".to_owned(), format!("{url} answers 429"));
            Failure::Refused { kind, detail, about: None, retry_after }
        }
        None => Failure::Unreachable(format!("{url} answers {}", answer.status)),
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: map, body: Bytes::from(body.to_owned()) }
    }

    #[test]
    fn waits_are_seconds_or_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_470);
        for (written, expected) in [
            ("120", Some(120)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(10)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", None),
            ("Fri, 21 Oct 2016 07:28:00 GMT", Some(7 * 24 * 3600)),
            ("soon", None),
            ("18446744073709551615", Some(7 * 24 * 3600)),
        ] {
            let found = retry_after(&answer(503, &[("retry-after", written)], ""), now);
            assert_eq!(found, expected.map(Duration::from_secs), "{written}");
        }
    }

    #[test]
    fn other_forms_are_found() {
        let found = answer(
            200,
            &[
                ("link", "<https://a/dir>;rel=\"index\", <https://a/1>;rel=\"alternate\""),
                ("link", "<https://a/2>; rel=alternate"),
            ],
            "",
        );
        assert_eq!(alternates(&found), ["https://a/1", "https://a/2"]);
    }

    #[test]
    fn refusals_are_told_from_failures() {
        let limited =
            r#"{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "slow", "subproblems": [{"detail": "x"}]}"#;
        let refused = |kind: &str, detail: &str, after: Option<u64>| Failure::Refused {
            kind: kind.to_owned(),
            detail: detail.to_owned(),
            about: None,
            retry_after: after.map(Duration::from_secs),
        };
        for (status, body, expected) in [
            (200, "", None),
            (429, limited, Some(refused("rateLimited", "slow; x", Some(9)))),
            (429, "<html>", Some(refused("rateLimited", "u answers 429", Some(9)))),
            (502, "<html>", Some(Failure::Unreachable("u answers 502 Bad Gateway".to_owned()))),
            (500, "{}", Some(Failure::Unreachable("u answers 500 Internal Server Error".to_owned()))),
        ] {
            assert_eq!(refusal(&answer(status, &[("retry-after", "9")], body), "u"), expected);
        }
    }
}
