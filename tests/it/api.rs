//! What operators read: Traefik's API, the dashboard, ping; and that strangers do not.

use serde_json::{Value, json};

use crate::harness::gateway::Gateway;
use crate::harness::peer::Peer;

const ROUTING: &str = "http:
  routers:
    shop: {rule: 'Host(`shop.test`)', service: pages, middlewares: [cut]}
    api: {rule: 'Host(`shop.test`) && PathPrefix(`/api`)', service: pages, priority: 7, entryPoints: [web]}
    broken: {rule: 'Path(`/broken`)', service: nowhere}
    typo: {rule: 'Pth(`/typo`)', service: pages}
  middlewares:
    cut: {stripPrefix: {prefixes: [/x]}}
    bad: {addPrefix: {prefix: ''}}
  services:
    pages: {loadBalancer: {servers: [{url: 'http://127.0.0.1:9'}]}}
    shares: {weighted: {services: [{name: pages, weight: 3}]}}
    worse: {loadBalancer: {servers: [{url: 'ftp://a'}]}}
";

async fn gateway() -> Gateway {
    Gateway::setup().entry_point("traefik").flag("api.insecure=true").flag("ping").dynamic(ROUTING).start().await
}

async fn get(gateway: &Gateway, path: &str) -> (u16, Option<String>, Value) {
    let answer = Peer::connect(gateway.address_of("traefik")).await.get(path, "").await;
    let next = answer.header("x-next-page").map(str::to_owned);
    (answer.status, next, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
}

/// Whether every field of `part` is in `whole`.
fn assert_holds(whole: &Value, part: &Value) {
    for (key, value) in part.as_object().unwrap() {
        assert_eq!(whole[key], *value, "{key} in {whole:#}");
    }
}

#[tokio::test]
async fn objects_are_shown_as_traefik_does() {
    let gateway = gateway().await;
    for (path, part) in [
        (
            "/api/http/routers/shop@file",
            json!({
                "name": "shop@file", "provider": "file", "status": "enabled", "rule": "Host(`shop.test`)",
                "service": "pages@file", "middlewares": ["cut@file"], "priority": 17, "using": ["web"], "entryPoints": ["web"],
            }),
        ),
        ("/api/http/routers/api%40file", json!({"name": "api@file", "priority": 7, "using": ["web"]})),
        ("/api/http/routers/broken@file", json!({"status": "disabled", "service": "nowhere@file"})),
        (
            "/api/http/routers/ping@internal",
            json!({"provider": "internal", "service": "ping@internal", "using": ["traefik"]}),
        ),
        (
            "/api/http/services/pages@file",
            json!({
                "name": "pages@file", "type": "loadbalancer", "status": "enabled",
                "usedBy": ["api@file", "shop@file", "typo@file"],
                "serverStatus": {"http://127.0.0.1:9": "UP"},
            }),
        ),
        ("/api/http/services/shares@file", json!({"type": "weighted", "status": "enabled"})),
        ("/api/http/services/worse@file", json!({"status": "disabled"})),
        (
            "/api/http/middlewares/cut@file",
            json!({"type": "stripprefix", "stripPrefix": {"prefixes": ["/x"]}, "usedBy": ["shop@file"]}),
        ),
        ("/api/http/middlewares/bad@file", json!({"type": "addprefix", "status": "disabled"})),
        ("/api/entrypoints/web", json!({"name": "web", "address": "127.0.0.1:0"})),
        ("/api/version", json!({"Version": env!("CARGO_PKG_VERSION")})),
    ] {
        let (status, _, found) = get(&gateway, path).await;
        assert_eq!(status, 200, "{path}");
        assert_holds(&found, &part);
    }
    let (_, _, broken) = get(&gateway, "/api/http/routers/broken@file").await;
    let error = broken["error"][0].as_str().unwrap();
    assert!(error.contains("dynamic.yaml:5:") && error.contains("\"nowhere@file\" does not exist"), "{error}");
    let (_, _, servers) = get(&gateway, "/api/http/services/pages@file").await;
    assert_eq!(servers["loadBalancer"]["servers"], json!([{"url": "http://127.0.0.1:9"}]));
}

#[tokio::test]
async fn what_is_not_there_is_a_message() {
    let gateway = gateway().await;
    for (path, status, message) in [
        ("/api/http/routers/x@file", 404, "router not found: x@file"),
        ("/api/http/services/x@file", 404, "service not found: x@file"),
        ("/api/http/middlewares/x@file", 404, "middleware not found: x@file"),
        ("/api/entrypoints/x", 404, "entry point not found: x"),
        ("/api/http/routers?page=5&per_page=10", 400, "invalid request: page: 5, per_page: 10"),
    ] {
        let (found, _, body) = get(&gateway, path).await;
        assert_eq!((found, &body["message"]), (status, &message.into()), "{path}");
    }
    assert_eq!(get(&gateway, "/api/nonsense").await.0, 404);
    let mut peer = Peer::connect(gateway.address_of("traefik")).await;
    let answer = peer.request("POST /api/version HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let gateway = gateway().await;
    let names = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|object| object["name"].as_str().unwrap().to_owned()).collect()
    };
    let (_, next, all) = get(&gateway, "/api/http/routers").await;
    assert_eq!(next.as_deref(), Some("1"));
    let all = names(&all);
    assert!(all.len() >= 6 && all.contains(&"typo@file".to_owned()), "{all:?}");
    let mut paged = Vec::new();
    let mut page = "1".to_owned();
    loop {
        let (_, next, found) = get(&gateway, &format!("/api/http/routers?per_page=2&page={page}")).await;
        paged.extend(names(&found));
        page = next.unwrap();
        if page == "1" {
            break;
        }
    }
    assert_eq!(paged, all);
    for (query, expected) in [
        ("search=SHOP.test", vec!["api@file", "shop@file"]),
        ("status=disabled", vec!["broken@file", "typo@file"]),
        ("serviceName=pages@file", vec!["api@file", "shop@file", "typo@file"]),
        ("serviceName=pages&status=enabled", vec!["api@file", "shop@file"]),
        ("middlewareName=cut@file", vec!["shop@file"]),
        ("middlewareName=cut", vec!["shop@file"]),
        ("search=shop.test&sortBy=name&direction=desc", vec!["shop@file", "api@file"]),
        ("search=shop.test&sortBy=priority&direction=asc", vec!["api@file", "shop@file"]),
    ] {
        let (_, _, found) = get(&gateway, &format!("/api/http/routers?{query}")).await;
        assert_eq!(names(&found), expected, "{query}");
    }
}

#[tokio::test]
async fn what_is_odd_is_shown_as_it_is() {
    let routing = "http:
  routers:
    a+b%: {rule: 'Path(`/a`)', service: pages, entryPoints: [web, elsewhere]}
  services:
    pages: {loadBalancer: {servers: [{url: 'http://127.0.0.1:9'}]}}
    zebra: {loadBalancer: {servers: [{url: 'ftp://a'}]}}
    yak: {loadBalancer: {servers: 7}}
";
    let setup = Gateway::setup().entry_point("traefik").flag("api.insecure=true").dynamic(routing);
    let gateway = setup.start().await;
    let (status, _, router) = get(&gateway, "/api/http/routers/a+b%25@file").await;
    assert_eq!((status, &router["name"]), (200, &json!("a+b%@file")), "{router:#}");
    assert_holds(&router, &json!({ "entryPoints": ["web", "elsewhere"], "using": ["web"], "status": "disabled" }));
    let (_, _, services) = get(&gateway, "/api/http/services?serviceName=none").await;
    let names: Vec<&str> = services.as_array().unwrap().iter().map(|object| object["name"].as_str().unwrap()).collect();
    assert!(names.is_sorted() && names.contains(&"api@internal") && names.contains(&"zebra@file"), "{names:?}");
    assert_eq!(get(&gateway, "/api/http/routers?page=x").await.0, 400);
}

#[tokio::test]
async fn the_overview_counts() {
    let gateway = gateway().await;
    let (_, _, overview) = get(&gateway, "/api/overview").await;
    let routers = &overview["http"]["routers"];
    assert_eq!((&routers["errors"], &routers["warnings"]), (&json!(2), &json!(0)), "{overview:#}");
    assert_eq!(overview["http"]["middlewares"]["errors"], 1, "{overview:#}");
    assert_eq!(overview["http"]["services"]["errors"], 1, "{overview:#}");
    assert_eq!(overview["providers"], json!(["File"]));
    for part in ["tcp", "udp"] {
        assert_eq!(overview[part]["routers"]["total"], 0);
    }
    let (_, _, raw) = get(&gateway, "/api/rawdata").await;
    assert!(raw["routers"]["shop@file"].is_object() && raw["services"]["pages@file"].is_object(), "{raw:#}");
    assert!(raw["problems"].as_array().is_some_and(|problems| problems.len() >= 4), "{raw:#}");
    let (_, _, changed) = {
        gateway.apply(&ROUTING.replace("nowhere", "pages")).await;
        get(&gateway, "/api/overview").await
    };
    assert_eq!(changed["http"]["routers"]["errors"], 1, "what is shown follows what runs");
}

#[tokio::test]
async fn the_dashboard_is_a_page() {
    let gateway = gateway().await;
    let mut peer = Peer::connect(gateway.address_of("traefik")).await;
    let page = peer.get("/dashboard/", "").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    for name in ["shop@file", "pages@file", "cut@file"] {
        assert!(page.text().contains(name), "{name}");
    }
    let root = peer.get("/", "").await;
    assert!(matches!(root.status, 301 | 302 | 307 | 308), "{}", root.head);
    assert!(root.header("location").is_some_and(|to| to.ends_with("/dashboard/")), "{}", root.head);
}

/// Nothing of the gateway itself is on an entry point that nobody asked for.
#[tokio::test]
async fn nothing_is_public_by_default() {
    let gateway = Gateway::with("http: {}").await;
    for path in ["/api/version", "/api/rawdata", "/dashboard/", "/ping", "/metrics", "/"] {
        let answer = gateway.connect().await.get(path, "").await;
        assert_eq!((answer.status, answer.text()), (404, "404 page not found\n"), "{path}");
    }
    let inside = gateway_with_everything().await;
    for path in ["/api/version", "/dashboard/", "/ping", "/metrics"] {
        assert_eq!(inside.connect().await.get(path, "").await.status, 404, "{path} at web");
        let answer = Peer::connect(inside.address_of("traefik")).await.get(path, "").await;
        assert_eq!(answer.status, 200, "{path} at traefik");
    }
}

async fn gateway_with_everything() -> Gateway {
    let setup = Gateway::setup().entry_point("traefik").flag("api.insecure=true").flag("ping");
    setup.flag("metrics.prometheus=true").start().await
}
