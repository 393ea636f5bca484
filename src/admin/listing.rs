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

    /// Whether they are routers, which can be asked for by what they use.
    fn are_routers(&self) -> bool {
        false
    }
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
    /// Reads the query of a URL.
    ///
    /// # Errors
    /// The message for a page or a number of entries that is none.
    pub(super) fn read(query: &str) -> Result<Self, String> {
        let value = |wanted: &str| {
            query.split('&').find_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (key == wanted && !value.is_empty()).then(|| decode(value))
            })
        };
        let number = |wanted: &str, default: usize| match value(wanted).map(|text| text.parse::<i64>()) {
            None => Ok(default),
            Some(Ok(number)) if number > 0 => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
            Some(wrong) => Err(format!("invalid request: {wanted}: {}", wrong.unwrap_or(0))),
        };
        Ok(Self {
            page: number("page", 1)?,
            per_page: number("per_page", 100)?.min(PAGE_LIMIT),
            search: value("search").map(|text| text.to_lowercase()),
            status: value("status"),
            service: value("serviceName"),
            middleware: value("middlewareName"),
            sort_by: value("sortBy"),
            descending: value("direction").is_some_and(|direction| direction == "desc"),
        })
    }

    /// The answer to `query`: the page of `objects` that it asks for.
    pub(super) fn answer(query: &str, objects: &(impl Listed + ?Sized)) -> Reply {
        Self::read(query).map_or_else(|message| bad_request(&message), |listing| listing.reply(objects))
    }

    /// The page of `objects` that was asked for. Only one object at a time is held besides those of the page.
    fn reply(&self, objects: &(impl Listed + ?Sized)) -> Reply {
        let chosen = self.choose(objects);
        let start = (self.page - 1).saturating_mul(self.per_page);
        if start > 0 && start >= chosen.len() {
            let message = format!("invalid request: page: {}, per_page: {}", self.page, self.per_page);
            return bad_request(&message);
        }
        let end = start.saturating_add(self.per_page).min(chosen.len());
        let next = if end < chosen.len() { self.page + 1 } else { 1 };
        let page = chosen.get(start..end).unwrap_or_default().iter().filter_map(|index| objects.object(*index));
        Reply::json(StatusCode::OK, Value::Array(page.collect()).to_string())
            .with(HeaderName::from_static("x-next-page"), HeaderValue::from(next))
    }

    /// The objects that are wanted, in the order that is wanted.
    fn choose(&self, objects: &(impl Listed + ?Sized)) -> Vec<usize> {
        let by_use = objects.are_routers() && (self.service.is_some() || self.middleware.is_some());
        let mut chosen: Vec<usize> = (0..objects.len()).collect();
        if self.search.is_some() || self.status.is_some() || by_use {
            let wants = |object: &Value| self.wants(object) && (!by_use || self.wants_user(object));
            chosen.retain(|index| objects.object(*index).is_some_and(|object| wants(&object)));
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
        searched && status
    }

    fn wants_user(&self, object: &Value) -> bool {
        let service = self.service.as_ref().is_none_or(|wanted| is_meant(&object["service"], wanted));
        let middleware = self.middleware.as_ref().is_none_or(|wanted| {
            object["middlewares"].as_array().is_some_and(|list| list.iter().any(|name| is_meant(name, wanted)))
        });
        service && middleware
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

/// Whether `wanted` is the name, or what stands before the provider in it.
fn is_meant(name: &Value, wanted: &str) -> bool {
    let name = name.as_str().unwrap_or_default();
    name == wanted || name.rsplit_once('@').is_some_and(|(local, _)| local == wanted)
}

fn bad_request(message: &str) -> Reply {
    Reply::json(StatusCode::BAD_REQUEST, serde_json::json!({ "message": message }).to_string())
}

/// Percent-decodes one value of a query.
fn decode(text: &str) -> String {
    decode_segment(&text.replace('+', " "))
}

/// Percent-decodes one segment of a path.
pub(super) fn decode_segment(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, names: &[&str], next: &str) {
        let objects = ["a", "b", "c"].map(|name| serde_json::json!({ "name": name, "status": "enabled" }));
        let reply = Listing::answer(query, &objects[..]);
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
        // Only routers use services and middlewares.
        check("serviceName=x&middlewareName=y", &["a", "b", "c"], "1");
        for (query, message) in [
            ("page=5&per_page=1", "page: 5, per_page: 1"),
            ("page=x", "page: 0"),
            ("page=0", "page: 0"),
            ("per_page=-3", "per_page: -3"),
        ] {
            let reply = Listing::answer(query, &[serde_json::json!({})][..]);
            assert_eq!(reply.body, format!(r#"{{"message":"invalid request: {message}"}}"#), "{query}");
        }
    }
}
