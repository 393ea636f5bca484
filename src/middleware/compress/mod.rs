//! `compress`: encodes responses for clients that can decode them.

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, TRANSFER_ENCODING, VARY,
};
use http::{Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use serde::{Deserialize, Serialize};

use super::{Flow, Kit, Middleware};
use crate::exchange::Exchange;
use crate::problem::{Problem, Problems, all, each, refuse};

mod encoder;
mod negotiate;

use encoder::{Encoding, Pace};
use negotiate::{Coding, accepted, choose};

/// Responses whose length is known and below this are not worth the trouble, in bytes.
const DEFAULT_MINIMUM_BYTES: u64 = 1024;
/// Sums over the content as it is sent; encoding would make them wrong (RFC 9530, RFC 1864).
const INTEGRITY: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// `compress` as written.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Media types that are not encoded. Not together with `includedContentTypes`. gRPC never is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_content_types: Vec<String>,
    /// The only media types that are encoded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub included_content_types: Vec<String>,
    /// Smallest response that is encoded, in bytes. A response that does not tell its length counts as large enough.
    /// 0: 1024.
    pub min_response_body_bytes: i64,
    /// Content codings on offer, the preferred one first: `gzip`, `br`, `zstd`.
    pub encodings: Vec<String>,
    /// Content coding for clients that send no `Accept-Encoding`, or `*`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub default_encoding: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            excluded_content_types: Vec::new(),
            included_content_types: Vec::new(),
            min_response_body_bytes: DEFAULT_MINIMUM_BYTES as i64,
            encodings: Coding::ALL.map(|coding| coding.name().to_owned()).into(),
            default_encoding: String::new(),
        }
    }
}

/// Encodes responses for clients that can decode them.
#[derive(Debug)]
pub struct Compress {
    offered: Box<[Coding]>,
    default: Option<Coding>,
    types: Types,
    minimum_bytes: u64,
}

/// Media types, lower case and without parameters.
#[derive(Debug)]
enum Types {
    Only(Box<[Box<str>]>),
    AllBut(Box<[Box<str>]>),
}

impl Middleware for Compress {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let is_empty = refuse(settings.encodings.is_empty(), || {
            Problem::at("encodings", "is empty").with_help("name `gzip`, `br` or `zstd`")
        });
        let offered = settings.encodings.iter().enumerate();
        let offered = each(offered.map(|(index, name)| coding_of(&format!("encodings[{index}]"), name)));
        let default = match settings.default_encoding.as_str() {
            "" => Ok(None),
            name => coding_of("defaultEncoding", name).map(Some),
        };
        let minimum_bytes = match u64::try_from(settings.min_response_body_bytes) {
            Ok(0) => Ok(DEFAULT_MINIMUM_BYTES),
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(Problem::at("minResponseBodyBytes", "is negative")),
        };
        let parts = all((is_empty, offered, default, minimum_bytes, Types::build(settings)));
        let ((), offered, default, minimum_bytes, types): (_, Box<[_]>, _, _, _) = parts?;
        if default.is_some_and(|default| !offered.contains(&default)) {
            return Err(Problem::at("defaultEncoding", "is not one of `encodings`").into());
        }
        Ok(Self { offered, default, types, minimum_bytes })
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        let is_grpc = media_type(&request.headers).is_some_and(is_grpc);
        exchange.accept_encoding =
            if is_grpc { Some(HeaderValue::from_static("identity")) } else { accepted(&request.headers) };
        Flow::Continue
    }

    fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
        if !self.types.cover(media_type(&response.headers)) || has_no_content(response.status) {
            return;
        }
        vary(response);
        let Some(coding) = choose(exchange.accept_encoding.as_ref(), &self.offered, self.default) else { return };
        let length = content_length(&response.headers);
        if exchange.original.method == Method::HEAD
            || length.is_some_and(|length| length < self.minimum_bytes)
            || !may_be_encoded(response)
        {
            return;
        }
        let streams = media_type(&response.headers).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"));
        let pace = if streams || length.is_none() { Pace::EachChunk } else { Pace::Full };
        let Some(encoding) = Encoding::begin(coding, pace) else { return };
        mark_encoded(response, coding, exchange.original.version);
        exchange.response_body.install(Box::new(encoding));
    }
}

impl Types {
    fn build(settings: &Settings) -> Result<Self, Problems> {
        let (included, excluded) = (&settings.included_content_types, &settings.excluded_content_types);
        match (included.is_empty(), excluded.is_empty()) {
            (false, false) => Err(Problem::at("", "excludedContentTypes and includedContentTypes are both set")
                .with_help("keep one of them")
                .into()),
            (false, true) => media_types("includedContentTypes", included).map(Self::Only),
            (true, _) => media_types("excludedContentTypes", excluded).map(Self::AllBut),
        }
    }

    fn cover(&self, kind: Option<&[u8]>) -> bool {
        let is_listed = |list: &[Box<str>]| {
            kind.is_some_and(|kind| list.iter().any(|listed| kind.eq_ignore_ascii_case(listed.as_bytes())))
        };
        let is_eligible = match self {
            Self::Only(list) => is_listed(list),
            Self::AllBut(list) => !is_listed(list),
        };
        is_eligible && !kind.is_some_and(is_grpc)
    }
}

fn coding_of(path: &str, name: &str) -> Result<Coding, Problem> {
    Coding::named(name).ok_or_else(|| {
        Problem::at(path, format!("`{name}` is not a content coding")).with_help("`gzip`, `br` or `zstd`")
    })
}

fn media_types(path: &str, list: &[String]) -> Result<Box<[Box<str>]>, Problems> {
    let read = |(index, text): (usize, &String)| {
        let kind = text.split(';').next().unwrap_or_default().trim();
        match kind.split_once('/') {
            Some((main, sub)) if is_token(main) && is_token(sub) => Ok(kind.to_ascii_lowercase().into()),
            _ => Err(Problem::at(format!("{path}[{index}]"), format!("`{text}` is not a media type like `text/html`"))),
        }
    };
    each(list.iter().enumerate().map(read))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The media type without its parameters.
fn media_type(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    value.split(|byte| *byte == b';').next().map(<[u8]>::trim_ascii)
}

/// gRPC frames and compresses its messages itself, and ends them with trailers.
fn is_grpc(kind: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    kind.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
}

fn has_no_content(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT)
}

/// Whether nothing speaks against encoding this response as it is.
fn may_be_encoded(response: &ResponseHeader) -> bool {
    let headers = &response.headers;
    let is_encoded =
        headers.get_all(CONTENT_ENCODING).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    let is_part = response.status == StatusCode::PARTIAL_CONTENT || headers.contains_key(CONTENT_RANGE);
    !is_encoded
        && !is_part
        && response.status != StatusCode::NOT_MODIFIED
        && !has_directive(headers, b"no-transform")
        && !INTEGRITY.iter().any(|name| headers.contains_key(name))
}

fn has_directive(headers: &HeaderMap, directive: &[u8]) -> bool {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|entry| entry.trim_ascii().eq_ignore_ascii_case(directive))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Tells caches that the response depends on what the client accepts, also where this one went out as it was.
fn vary(response: &mut ResponseHeader) {
    let is_said = response
        .headers
        .get_all(VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"));
    if !is_said {
        let _ = response.append_header(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Makes the head tell what the body will be.
fn mark_encoded(response: &mut ResponseHeader, coding: Coding, version: Version) {
    let _ = response.insert_header(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    response.remove_header(&CONTENT_LENGTH);
    response.remove_header(&ACCEPT_RANGES);
    if version == Version::HTTP_11 {
        // Without a length, HTTP/1.1 needs chunks to keep the connection; HTTP/2 frames by itself.
        let _ = response.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // RFC 9110 §8.8.3.3: other bytes must not have the same strong validator.
    let strong = response.headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    if let Some(tag) = strong {
        let weak = [b"W/", tag.as_bytes()].concat();
        if let Ok(weak) = HeaderValue::from_bytes(&weak) {
            let _ = response.insert_header(ETAG, weak);
        }
    }
}

#[cfg(test)]
mod tests;
