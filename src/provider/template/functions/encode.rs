//! Texts for other languages, encodings and digests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Digest;

use super::{Call, Function, MANY, plain};
use crate::provider::template::json;
use crate::provider::template::value::{Misuse, Value};

pub(super) const TABLE: &[Function] = &[
    plain("html", 1, MANY, |call| escaped(call, html)),
    plain("js", 1, MANY, |call| escaped(call, js)),
    plain("urlquery", 1, MANY, |call| escaped(call, url_query)),
    plain("b64enc", 1, 1, |call| escaped(call, |text| STANDARD.encode(text))),
    plain("b64dec", 1, 1, decode_base64),
    plain("sha1sum", 1, 1, |call| escaped(call, |text| hex(&sha1::Sha1::digest(text)))),
    plain("sha256sum", 1, 1, |call| escaped(call, |text| hex(&sha2::Sha256::digest(text)))),
    plain("sha512sum", 1, 1, |call| escaped(call, |text| hex(&sha2::Sha512::digest(text)))),
    plain("toJson", 1, 1, |call| written(call, json::Style::Escaped)),
    plain("mustToJson", 1, 1, |call| written(call, json::Style::Escaped)),
    plain("toRawJson", 1, 1, |call| written(call, json::Style::Raw)),
    plain("toPrettyJson", 1, 1, |call| written(call, json::Style::Pretty)),
    plain("fromJson", 1, 1, from_json),
    plain("mustFromJson", 1, 1, from_json),
];

fn escaped(call: &mut Call<'_, '_>, escape: impl FnOnce(&str) -> String) -> Result<Value, Misuse> {
    let mut text = String::new();
    for value in call.arguments {
        text.push_str(&call.written(value)?);
    }
    let escaped = escape(&text);
    call.heap.text(escaped)
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str(r"\\"),
            '\'' => out.push_str(r"\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' | '\0'..='\x1f' => out.push_str(&format!("\\u{:04X}", u32::from(letter))),
            other => out.push(other),
        }
    }
    out
}

/// What Go's `QueryEscape` leaves as it is, besides letters and digits.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

fn url_query(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string().replace(' ', "+")
}

fn decode_base64(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    let bytes = STANDARD.decode(call.text(0)?).map_err(|error| format!("not base64: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "what is encoded is not UTF-8")?;
    call.heap.text(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn written(call: &mut Call<'_, '_>, style: json::Style) -> Result<Value, Misuse> {
    let text = json::write(call.heap, call.value(0), style)?;
    call.heap.text(text)
}

fn from_json(call: &mut Call<'_, '_>) -> Result<Value, Misuse> {
    json::read(call.heap, call.text(0)?)
}
