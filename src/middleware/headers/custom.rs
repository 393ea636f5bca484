//! Fields that the configuration sets or removes.

use http::Uri;
use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::uri::Authority;
use pingora::http::{RequestHeader, ResponseHeader};

use super::Settings;
use crate::middleware::field;
use crate::problem::{Problem, Problems, all, each};

/// Fields to set and remove, in the order of their names.
#[derive(Debug)]
pub(super) struct Custom {
    host: Option<(HeaderValue, Authority)>,
    request: Box<[Edit]>,
    response: Box<[Edit]>,
}

/// What happens to one field: it gets this value, or goes.
#[derive(Debug)]
struct Edit {
    name: HeaderName,
    value: Option<HeaderValue>,
}

impl Custom {
    pub(super) fn build(settings: &Settings) -> Result<Self, Problems> {
        let is_host = |name: &str| name.eq_ignore_ascii_case(HOST.as_str());
        // Without a value Traefik removes a field that is not there: the host stays.
        let hosts = settings.custom_request_headers.iter().filter(|(name, value)| is_host(name) && !value.is_empty());
        let fields = settings.custom_request_headers.iter().filter(|(name, _)| !is_host(name));
        let (hosts, request, response) = all((
            each::<_, _, Vec<_>>(hosts.map(|(name, value)| host(name, value))),
            each(fields.map(|(name, value)| edit("customRequestHeaders", name, value))),
            each(
                settings.custom_response_headers.iter().map(|(name, value)| edit("customResponseHeaders", name, value)),
            ),
        ))?;
        Ok(Self { host: hosts.into_iter().next(), request, response })
    }

    /// Whether it changes nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.host.is_none() && self.request.is_empty() && self.response.is_empty()
    }

    pub(super) fn on_request(&self, request: &mut RequestHeader) {
        for edit in &self.request {
            match &edit.value {
                Some(value) => field::set(request, &edit.name, value.clone()),
                None => field::remove(request, &edit.name),
            }
        }
        if let Some((value, authority)) = &self.host {
            let _ = request.insert_header(HOST, value.clone());
            if request.uri.authority().is_some() {
                let mut parts = request.uri.clone().into_parts();
                parts.authority = Some(authority.clone());
                if let Ok(uri) = Uri::from_parts(parts) {
                    request.set_uri(uri);
                }
            }
        }
    }

    pub(super) fn on_response(&self, response: &mut ResponseHeader) {
        for edit in &self.response {
            match &edit.value {
                Some(value) => drop(response.insert_header(edit.name.clone(), value.clone())),
                None => drop(response.remove_header(&edit.name)),
            }
        }
    }
}

/// The host that servers are asked for, maybe with a port.
fn host(name: &str, text: &str) -> Result<(HeaderValue, Authority), Problem> {
    let value = HeaderValue::from_str(text).ok();
    let authority = Authority::try_from(text).ok().filter(|authority| !authority.as_str().contains('@'));
    value.zip(authority).ok_or_else(|| Problem::at(format!("customRequestHeaders.{name}"), "this is not a host"))
}

fn edit(path: &str, name: &str, value: &str) -> Result<Edit, Problem> {
    let here = |message: String| Problem::at(format!("{path}.{name}"), message);
    let field = field::name(name).map_err(here)?;
    if field == CONTENT_LENGTH || field == TRANSFER_ENCODING {
        return Err(here(format!("`{field}` says where a message ends; the gateway alone writes it")));
    }
    let value = Some(value).filter(|value| !value.is_empty()).map(field::value).transpose().map_err(here)?;
    Ok(Edit { name: field, value })
}

#[cfg(test)]
mod tests {
    use crate::middleware::headers::Headers;
    use crate::middleware::testing::{Call, build, joined};

    #[test]
    fn sets_and_removes_request_fields() {
        let middleware: Headers =
            build(r#"{"customRequestHeaders":{"X-Set":"new","x-gone":"","X-Added":"é","Host":"inner:81"}}"#).unwrap();
        let mut call = Call::new("GET http://h/\nX-Set: a\nX-Set: b\nX_Set: evil\nX-Gone: c\nX.gone: d\nX-Kept: e");
        let _ = call.down(&middleware);
        for (name, expected) in [
            ("X-Set", "new"),
            ("X_Set", ""),
            ("X-Gone", ""),
            ("X.gone", ""),
            ("X-Kept", "e"),
            ("X-Added", "é"),
            ("Host", "inner:81"),
        ] {
            assert_eq!(call.field(name), expected, "{name}");
        }
        assert_eq!(call.exchange.original.host, "h");
    }

    #[test]
    fn the_host_of_a_whole_target_changes_too() {
        let middleware: Headers = build(r#"{"customRequestHeaders":{"Host":"inner"}}"#).unwrap();
        let mut call = Call::new("GET https://h/a?b");
        call.request.set_uri("https://h/a?b".parse().unwrap());
        let _ = call.down(&middleware);
        assert_eq!(call.request.uri, "https://inner/a?b");
        assert_eq!(call.field("Host"), "inner");
    }

    #[test]
    fn sets_and_removes_response_fields() {
        let middleware: Headers = build(r#"{"customResponseHeaders":{"X-Set":"new","Server":""}}"#).unwrap();
        let response = Call::new("GET http://h/").up(&middleware, "X-Set: a\nX-Set: b\nServer: nginx\nX-Kept: c");
        for (name, expected) in [("X-Set", "new"), ("Server", ""), ("X-Kept", "c")] {
            assert_eq!(joined(&response.headers, name), expected, "{name}");
        }
    }

    #[test]
    fn refuses_what_no_header_can_be() {
        for (settings, path) in [
            (r#"{"customRequestHeaders":{"X A":"b"}}"#, "customRequestHeaders.X A"),
            (r#"{"customRequestHeaders":{"X-A":"b\r\nc"}}"#, "customRequestHeaders.X-A"),
            (r#"{"customRequestHeaders":{"Host":"a/b"}}"#, "customRequestHeaders.Host"),
            (r#"{"customRequestHeaders":{"Host":"a@b"}}"#, "customRequestHeaders.Host"),
            (r#"{"customRequestHeaders":{"Content-Length":""}}"#, "customRequestHeaders.Content-Length"),
            (r#"{"customResponseHeaders":{"transfer-encoding":"chunked"}}"#, "customResponseHeaders.transfer-encoding"),
        ] {
            assert_eq!(build::<Headers>(settings).unwrap_err().path, path, "{settings}");
        }
    }
}
