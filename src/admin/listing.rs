//! Lists of the API: searched, filtered, sorted and cut into pages as Traefik's dashboard asks for them.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::exchange::Reply;

/// Most entries of one page.
const PAGE_LIMIT: usize = 10_000;

/// A list whose objects are made when they are looked at.
pub(super) trait Listed {
    /// How many there are.
    fn len(&self) -> usize;

    /// The one at `index`.
    fn object(&self, index: usize) -> Option<Value>;
}

impl Listed for [Value] {
    fn len(&self) -> usize {
        <[Value]>::len(self)
    }

    fn object(&self, index: usize) -> Option<Value> {
        self.get(index).cloned()
    }
}

/// What a list is asked for.
#[derive(Debug, PartialEq)]
pub(super) struct Listing {
    page: usize,
    per_page: usize,
    search: Option<String>,
    status: Option<String>,
    service: Option<String>,
    middleware: Option<String>,
    sort_by: Option<String>,
    descending: bool,
}

impl Listing {
    /// Reads the query of a URL. A page that is no number is the first one, as in Traefik.
    pub(super) fn read(query: &str) -> Self {
        let value = |wanted: &str| {
            query.split('&').find_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (key == wanted && !value.is_empty()).then(|| decode(value))
            })
        };
        let number =
            |wanted: &str, default: usize| value(wanted).and_then(|v| v.parse().ok()).unwrap_or(default).max(1);
        Self {
            page: number("page", 1),
            per_page: number("per_page", 100).min(PAGE_LIMIT),
            search: value("search").map(|text| text.to_lowercase()),
            status: value("status"),
            service: value("serviceName"),
            middleware: value("middlewareName"),
            sort_by: value("sortBy"),
            descending: value("direction").is_some_and(|direction| direction == "desc"),
        }
    }

    /// The page of `objects` that was asked for. Only one object at a time is held besides those of the page.
    pub(super) fn reply(&self, objects: &(impl Listed + ?Sized)) -> Reply {
        let chosen = self.choose(objects);
        let start = (self.page - 1).saturating_mul(self.per_page);
        if start > 0 && start >= chosen.len() {
            let message = format!("invalid request: page: {}, per_page: {}", self.page, self.per_page);
            return Reply::json(StatusCode::BAD_REQUEST, serde_json::json!({ "message": message }).to_string());
        }
        let end = start.saturating_add(self.per_page).min(chosen.len());
        let next = if end < chosen.len() { self.page + 1 } else { 1 };
        let page = chosen.get(start..end).unwrap_or_default().iter().filter_map(|index| objects.object(*index));
        Reply::json(StatusCode::OK, Value::Array(page.collect()).to_string())
            .with(HeaderName::from_static("x-next-page"), HeaderValue::from(next))
    }

    /// The objects that are wanted, in the order that is wanted.
    fn choose(&self, objects: &(impl Listed + ?Sized)) -> Vec<usize> {
        let filters = [&self.search, &self.status, &self.service, &self.middleware];
        let mut chosen: Vec<usize> = (0..objects.len()).collect();
        if filters.iter().any(|filter| filter.is_some()) {
            chosen.retain(|index| objects.object(*index).is_some_and(|object| self.wants(&object)));
        }
        if let Some(key) = &self.sort_by {
            chosen.sort_by_cached_key(|index| objects.object(*index).map(|object| sort_key(&object, key)));
        }
        if self.descending {
            chosen.reverse();
        }
        chosen
    }

    fn wants(&self, object: &Value) -> bool {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let searched = self.search.as_ref().is_none_or(|needle| {
            ["name", "rule", "service"].iter().any(|key| text(key).to_lowercase().contains(needle))
        });
        let status = self.status.as_ref().is_none_or(|status| text("status").eq_ignore_ascii_case(status));
        let service = self.service.as_ref().is_none_or(|service| text("service") == service);
        let middleware = self.middleware.as_ref().is_none_or(|wanted| {
            object["middlewares"].as_array().is_some_and(|list| list.iter().any(|name| name == wanted.as_str()))
        });
        searched && status && service && middleware
    }
}

/// Numbers by size, everything else by its text, the name last so that the order is always the same.
fn sort_key(object: &Value, key: &str) -> (i64, String, String) {
    let value = &object[key];
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    (value.as_i64().unwrap_or_default(), text, object["name"].as_str().unwrap_or_default().to_owned())
}

/// Percent-decodes one value of a query.
pub(super) fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, names: &[&str], next: &str) {
        let objects = ["a", "b", "c"].map(|name| serde_json::json!({ "name": name, "status": "enabled" }));
        let reply = Listing::read(query).reply(&objects[..]);
        let found: Vec<Value> = serde_json::from_slice(&reply.body).unwrap();
        let found: Vec<&str> = found.iter().map(|object| object["name"].as_str().unwrap()).collect();
        assert_eq!(found, names, "{query}");
        assert_eq!(reply.header.headers["x-next-page"], next, "{query}");
    }

    #[test]
    fn pages_searches_and_sorts() {
        check("", &["a", "b", "c"], "1");
        check("page=1&per_page=2", &["a", "b"], "2");
        check("page=2&per_page=2", &["c"], "1");
        check("search=B", &["b"], "1");
        check("status=disabled", &[], "1");
        check("sortBy=name&direction=desc", &["c", "b", "a"], "1");
        let reply = Listing::read("page=5&per_page=1").reply(&[serde_json::json!({})][..]);
        assert_eq!(reply.body, r#"{"message":"invalid request: page: 5, per_page: 1"}"#);
    }
}
