//! `grpcWeb`: lets pages in browsers call gRPC servers. A browser can neither read trailers nor make sure of HTTP/2, so its clients
//! speak gRPC-Web; the server sees gRPC. Protocol: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md>.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use serde::{Deserialize, Serialize};

use super::{Flow, Kit, Middleware};
use crate::exchange::Exchange;
use crate::problem::{Problem, Problems};

mod body;
mod cors;

use body::{FromText, ToWeb};
use cors::Origins;

/// The media type of gRPC, without what may follow it: `+proto`, or parameters.
const GRPC: &str = "application/grpc";

/// Settings of `grpcWeb`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Origins whose pages may call, like `https://app.example.com`; `*` is any. Such pages may send credentials, and `*` means
    /// those of every page that a user has open. Empty: only pages of the same origin, and clients that are no browsers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
}

/// Turns gRPC-Web into gRPC on the way down, and back on the way up. What is no gRPC-Web passes untouched.
#[derive(Debug)]
pub struct GrpcWeb {
    origins: Origins,
}

/// How bodies look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// gRPC's frames as they are.
    Binary,
    /// The same in base64, for clients that read text only.
    Text,
}

/// What the way up has to know of a request in gRPC-Web.
struct Asked {
    form: Form,
    /// The page's origin, if it may call.
    origin: Option<HeaderValue>,
}

impl Middleware for GrpcWeb {
    type Settings = Settings;

    fn warnings(settings: &Settings) -> Vec<Problem> {
        cors::warnings("allowOrigins", &settings.allow_origins)
    }

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        Ok(Self { origins: Origins::new(&settings.allow_origins) })
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        if let Some(reply) = self.origins.answer_preflight(request) {
            return Flow::reply(reply);
        }
        let Some((form, kind)) = asked_in(request) else { return Flow::Continue };
        let _ = request.insert_header(CONTENT_TYPE, kind);
        if form == Form::Text {
            exchange.request_body.install(Box::<FromText>::default());
        }
        exchange.is_grpc_web = true;
        exchange.note(self, Asked { form, origin: self.origins.allowed(request) });
        Flow::Continue
    }

    fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
        let Some(Asked { form, origin }) = exchange.take_note(self) else { return };
        // What is not gRPC, like an answer of the gateway's own, is read by its status and stays as it is.
        if let Some(kind) = told_in(form, &response.headers) {
            let _ = response.insert_header(CONTENT_TYPE, kind);
            response.remove_header(&TRAILER);
            response.remove_header(&CONTENT_LENGTH);
            if exchange.original.version == Version::HTTP_11 {
                let _ = response.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            exchange.response_body.install(Box::new(ToWeb::new(form)));
        }
        cors::tell(response, origin);
    }
}

impl Form {
    /// Its media type, in the same sense as [`GRPC`].
    const fn media_type(self) -> &'static str {
        match self {
            Self::Binary => "application/grpc-web",
            Self::Text => "application/grpc-web-text",
        }
    }
}

/// The form of a request in gRPC-Web, and the media type that it has as gRPC.
fn asked_in(request: &RequestHeader) -> Option<(Form, HeaderValue)> {
    // One that asks for another protocol is none, whatever it says.
    if request.method != Method::POST || request.headers.contains_key(UPGRADE) {
        return None;
    }
    let kind = request.headers.get(CONTENT_TYPE)?;
    let named = |form: Form| renamed(kind, form.media_type(), GRPC).map(|kind| (form, kind));
    named(Form::Binary).or_else(|| named(Form::Text))
}

/// The media type that an answer in gRPC has as gRPC-Web.
fn told_in(form: Form, headers: &HeaderMap) -> Option<HeaderValue> {
    renamed(headers.get(CONTENT_TYPE)?, GRPC, form.media_type())
}

/// `kind` with another name before its suffix and parameters, if it has this one.
fn renamed(kind: &HeaderValue, from: &str, to: &str) -> Option<HeaderValue> {
    let (name, rest) = kind.as_bytes().split_at_checked(from.len())?;
    let ends_here = rest.first().is_none_or(|byte| matches!(byte, b'+' | b';' | b' ' | b'\t'));
    if !ends_here || !name.eq_ignore_ascii_case(from.as_bytes()) {
        return None;
    }
    HeaderValue::from_bytes(&[to.as_bytes(), rest].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{Call, build, joined, verdict};

    /// The media types that the server is asked with, and the client is told with when the server says `told`.
    #[track_caller]
    fn check(method: &str, asked: &str, told: &str, expected: (&str, &str)) {
        let middleware: GrpcWeb = build("{}").unwrap();
        let mut call = Call::new(&format!("{method} http://h/p.S/M\nContent-Type: {asked}"));
        assert_eq!(verdict(&call.down(&middleware)), "continue");
        let sent = call.field("content-type");
        let response = call.up(&middleware, &format!("Content-Type: {told}\nContent-Length: 0\nTrailer: grpc-status"));
        let is_other = joined(&response.headers, "content-type") != told;
        assert_eq!((&*sent, &*joined(&response.headers, "content-type")), expected);
        assert_eq!(call.exchange.response_body.is_empty(), !is_other);
        assert_eq!(response.headers.contains_key("trailer"), !is_other);
        assert_eq!(response.headers.contains_key("content-length"), !is_other);
        assert_eq!(call.exchange.request_body.is_empty(), !asked.contains("text") || !call.exchange.is_grpc_web);
    }

    #[test]
    fn media_types_are_those_of_the_other_side() {
        let grpc = "application/grpc";
        check("POST", "application/grpc-web", grpc, (grpc, "application/grpc-web"));
        check("POST", "application/grpc-web+proto", grpc, ("application/grpc+proto", "application/grpc-web"));
        check(
            "POST",
            "Application/gRPC-Web; a=b",
            "application/grpc+proto",
            ("application/grpc; a=b", "application/grpc-web+proto"),
        );
        check("POST", "application/grpc-web-text", grpc, (grpc, "application/grpc-web-text"));
        check(
            "POST",
            "application/grpc-web-text+proto",
            "application/grpc+proto",
            ("application/grpc+proto", "application/grpc-web-text+proto"),
        );
        // An answer that is no gRPC.
        check("POST", "application/grpc-web-text", "text/plain", (grpc, "text/plain"));
        // What is no gRPC-Web.
        check("PUT", "application/grpc-web", grpc, ("application/grpc-web", grpc));
        for asked in ["application/grpc", "application/grpc-websocket", "application/grpc-web-texts", "text/plain"] {
            check("POST", asked, grpc, (asked, grpc));
        }
        check("POST", "application/grpc-web\nUpgrade: h2c", grpc, ("application/grpc-web", grpc));
    }
}
