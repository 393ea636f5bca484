//! `dashboard@internal`: one page that lists what runs. Plain HTML: it needs no script and no other file.

use std::fmt::Write as _;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, LOCATION};
use pingora::http::RequestHeader;
use serde_json::Value;

use crate::control::Status;
use crate::exchange::{Exchange, Reply};
use crate::service::Internal;

use super::api::About;
use super::listing::Listed;
use super::model::{Class, Model};
use super::tcp;

/// Most rows of one table; the API has them all.
const ROW_LIMIT: usize = 1000;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color-scheme:light dark}\
table{border-collapse:collapse;width:100%;margin-bottom:2rem}td,th{border-bottom:1px solid #8884;padding:.3rem .6rem;text-align:left;\
vertical-align:top}.disabled{color:#c33}.warning{color:#b70}.enabled{color:#283}code{overflow-wrap:anywhere}";

/// A page that lists routers, services and middlewares.
#[derive(Debug)]
pub struct Dashboard {
    status: Arc<Status>,
    about: Arc<About>,
}

impl Dashboard {
    /// Shows what `status` says.
    pub fn new(status: Arc<Status>, about: Arc<About>) -> Self {
        Self { status, about }
    }

    fn answer(&self, request: &RequestHeader) -> Reply {
        let base = self.about.base_path.as_str();
        let path = request.uri.path();
        let rest = path.strip_prefix(base).unwrap_or(path);
        if rest.starts_with("/dashboard/") {
            return Reply::status(StatusCode::OK)
                .with(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))
                .with(
                    CONTENT_SECURITY_POLICY,
                    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
                )
                .with_body(self.page());
        }
        match (rest, HeaderValue::from_str(&format!("{base}/dashboard/"))) {
            ("/" | "" | "/dashboard", Ok(location)) => Reply::status(StatusCode::FOUND).with(LOCATION, location),
            _ => Reply::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn page(&self) -> String {
        let name = self.about.dashboard_name.as_str();
        let title = escape(if name.is_empty() { "Portcullis" } else { name });
        let mut page = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
             <title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        );
        let Some(applied) = self.status.applied() else {
            page.push_str("<p>No configuration has been applied yet.");
            return page;
        };
        let outcome = &applied.outcome;
        let base = escape(&self.about.base_path);
        let _ = write!(
            page,
            "<p>Configuration {}: {} routers, {} problems. The <a href='{base}/api/rawdata'>API</a> tells all of it.",
            outcome.generation,
            outcome.routers,
            outcome.problems.len(),
        );
        let model = Model::new(&applied);
        table(
            &mut page,
            "Routers",
            &["name", "rule", "service", "entryPoints", "middlewares"],
            &model.list(Class::Routers),
        );
        table(&mut page, "Services", &["name", "type", "serverStatus", "usedBy"], &model.list(Class::Services));
        table(&mut page, "Middlewares", &["name", "type", "usedBy"], &model.list(Class::Middlewares));
        let of_tcp = |class| tcp::list(&applied, class);
        let routers = of_tcp(tcp::Class::Routers);
        if !routers.is_empty() {
            table(&mut page, "TCP routers", &["name", "rule", "service", "entryPoints", "middlewares"], &routers[..]);
            let services = of_tcp(tcp::Class::Services);
            table(&mut page, "TCP services", &["name", "type", "serverStatus", "usedBy"], &services[..]);
            let middlewares = of_tcp(tcp::Class::Middlewares);
            table(&mut page, "TCP middlewares", &["name", "type", "usedBy"], &middlewares[..]);
        }
        let (routers, services) = (model.list(Class::UdpRouters), model.list(Class::UdpServices));
        if routers.len() + services.len() > 0 {
            table(&mut page, "UDP routers", &["name", "service", "entryPoints", "using"], &routers);
            table(&mut page, "UDP services", &["name", "type", "serverStatus", "usedBy"], &services);
        }
        page
    }
}

impl Internal for Dashboard {
    fn name(&self) -> &str {
        "dashboard"
    }

    fn reply<'a>(&'a self, request: &'a RequestHeader, _: &'a Exchange) -> BoxFuture<'a, Reply> {
        Box::pin(async move { self.answer(request) })
    }
}

fn table(page: &mut String, title: &str, columns: &[&str], objects: &(impl Listed + ?Sized)) {
    let _ = write!(page, "<h2>{title} ({})</h2><table><tr><th>status", objects.len());
    for column in columns {
        let _ = write!(page, "<th>{column}");
    }
    for object in (0..objects.len().min(ROW_LIMIT)).filter_map(|index| objects.object(index)) {
        let status = object["status"].as_str().unwrap_or_default();
        let _ = write!(page, "<tr><td class={status}>{status}");
        for column in columns {
            let _ = write!(page, "<td><code>{}</code>", escape(&cell(&object[*column])));
        }
        for error in object["error"].as_array().into_iter().flatten() {
            let _ = write!(page, "<br><span class={status}>{}</span>", escape(error.as_str().unwrap_or_default()));
        }
    }
    page.push_str("</table>");
    if objects.len() > ROW_LIMIT {
        let _ = write!(page, "<p>The first {ROW_LIMIT} of {}.", objects.len());
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key} {}", cell(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
