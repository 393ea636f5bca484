//! Which router gets a request, and in which form its server sees it.

use std::fmt::Write as _;

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Answer, Peer};
use crate::harness::server::Server;

/// Routers with these fields (of YAML's flow style), all to the server at `url`; each says its name in `X-Router`.
fn routers<'a>(routers: impl IntoIterator<Item = (&'a str, &'a str)>, url: &str) -> String {
    let mut routes = String::from("http:\n  routers:\n");
    let mut marks = String::from("  middlewares:\n");
    for (name, fields) in routers {
        let _ = writeln!(routes, "    {name}: {{{fields}, service: echo, middlewares: [{name}]}}");
        let _ = writeln!(marks, "    {name}: {{headers: {{customResponseHeaders: {{X-Router: '{name}'}}}}}}");
    }
    format!("{routes}{marks}  services:\n    echo: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n")
}

fn router(answer: &Answer) -> &str {
    answer.header("x-router").unwrap_or("none")
}

/// What a server sees of the request for this target.
async fn seen_as(peer: &mut Peer, server: &Server, target: &str, fields: &str) -> String {
    let answer = peer.get(target, fields).await;
    if answer.status == 200 { server.last().target().to_owned() } else { answer.status.to_string() }
}

#[tokio::test]
async fn every_matcher_reads_the_wire() {
    const CASES: &[(&str, &str, bool)] = &[
        ("Host(`a.test`)", "GET / HTTP/1.1\r\nHost: a.test", true),
        ("Host(`a.test`)", "GET / HTTP/1.1\r\nHost: A.TEST:81", true),
        ("Host(`a.test`)", "GET / HTTP/1.1\r\nHost: a.test.", true),
        ("Host(`a.test`)", "GET / HTTP/1.1\r\nHost: b.a.test", false),
        ("Host(`a.test`)", "GET http://a.test/ HTTP/1.1\r\nHost: a.test", true),
        ("Host(`*.a.test`)", "GET / HTTP/1.1\r\nHost: b.a.test", true),
        ("HostRegexp(`^[a-z]+\\.a\\.test$`)", "GET / HTTP/1.1\r\nHost: b.a.test", true),
        ("HostRegexp(`^[a-z]+\\.a\\.test$`)", "GET / HTTP/1.1\r\nHost: 1.a.test", false),
        ("Path(`/a`)", "GET /a?x HTTP/1.1\r\nHost: a", true),
        ("Path(`/a`)", "GET /a/ HTTP/1.1\r\nHost: a", false),
        ("PathPrefix(`/a`)", "GET /ab HTTP/1.1\r\nHost: a", true),
        ("PathPrefix(`/a/`)", "GET /a HTTP/1.1\r\nHost: a", false),
        ("PathRegexp(`\\.(png|jpg)$`)", "GET /x.png HTTP/1.1\r\nHost: a", true),
        ("PathRegexp(`\\.(png|jpg)$`)", "GET /x.png/y HTTP/1.1\r\nHost: a", false),
        ("Method(`PUT`)", "PUT / HTTP/1.1\r\nHost: a", true),
        ("Method(`PUT`)", "POST / HTTP/1.1\r\nHost: a", false),
        ("Header(`X-A`, `1`)", "GET / HTTP/1.1\r\nHost: a\r\nx-a: 0\r\nX-A: 1", true),
        ("Header(`X-A`, `1`)", "GET / HTTP/1.1\r\nHost: a\r\nX-A: 11", false),
        ("HeaderRegexp(`X-A`, `^1+$`)", "GET / HTTP/1.1\r\nHost: a\r\nX-A: 111", true),
        ("Query(`q`, `1`)", "GET /?p=2&q=1 HTTP/1.1\r\nHost: a", true),
        ("Query(`q`, `1`)", "GET /?q=12 HTTP/1.1\r\nHost: a", false),
        ("Query(`q`)", "GET /?q HTTP/1.1\r\nHost: a", true),
        ("QueryRegexp(`q`, `^[0-9]$`)", "GET /?q=7 HTTP/1.1\r\nHost: a", true),
        ("ClientIP(`127.0.0.0/8`)", "GET / HTTP/1.1\r\nHost: a", true),
        ("ClientIP(`10.0.0.0/8`)", "GET / HTTP/1.1\r\nHost: a", false),
        ("ClientIP(`10.0.0.0/8`)", "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1", false),
        ("Path(`/a`) || Path(`/b`) && !Method(`GET`)", "GET /a HTTP/1.1\r\nHost: a", true),
        ("Path(`/a`) || Path(`/b`) && !Method(`GET`)", "GET /b HTTP/1.1\r\nHost: a", false),
        ("(Path(`/a`) || Path(`/b`)) && !Method(`GET`)", "GET /a HTTP/1.1\r\nHost: a", false),
    ];
    let server = Server::echo().await;
    let written: Vec<_> = CASES
        .iter()
        .enumerate()
        .map(|(at, (rule, ..))| (format!("r{at}"), format!("rule: 'Header(`X-Case`, `{at}`) && ({rule})'")))
        .collect();
    let all = written.iter().map(|(name, fields)| (name.as_str(), fields.as_str()));
    let gateway = Gateway::with(routers(all, &server.url())).await;
    let mut peer = gateway.connect().await;
    for (at, (rule, request, matches)) in CASES.iter().enumerate() {
        let answer = peer.request(&format!("{request}\r\nX-Case: {at}\r\nContent-Length: 0\r\n\r\n")).await;
        let expected = if *matches { (200, format!("r{at}")) } else { (404, "none".to_owned()) };
        assert_eq!((answer.status, router(&answer).to_owned()), expected, "{rule} {request}");
    }
}

#[tokio::test]
async fn ranks_are_priority_then_name() {
    let server = Server::echo().await;
    let gateway = Gateway::with(routers(
        [
            ("short", "rule: 'PathPrefix(`/`)'"),
            ("long", "rule: 'PathPrefix(`/`) && Method(`GET`)'"),
            ("low", "rule: 'PathPrefix(`/low`) && Method(`GET`)', priority: 1"),
            ("high", "rule: 'PathPrefix(`/h`)', priority: 1000"),
            ("tie-b", "rule: 'PathPrefix(`/tie`) || Path(`/1`)', priority: 500"),
            ("tie-a", "rule: 'PathPrefix(`/tie`) || Path(`/22`)', priority: 500"),
            ("zero", "rule: 'PathPrefix(`/zero/and/longer/than/the/others`)', priority: 0"),
        ],
        &server.url(),
    ))
    .await;
    let mut peer = gateway.connect().await;
    for (target, expected) in [
        ("/", "long"),
        ("/low", "long"),
        ("/h", "high"),
        ("/tie", "tie-a"),
        ("/zero/and/longer/than/the/others", "zero"),
    ] {
        assert_eq!(router(&peer.get(target, "").await), expected, "{target}");
    }
    let answer = peer.request("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(router(&answer), "short");
}

#[tokio::test]
async fn entry_points_have_their_own_routers() {
    let server = Server::echo().await;
    let routers = routers(
        [
            ("everywhere", "rule: 'Path(`/everywhere`)', entryPoints: [web, other, last]"),
            ("default", "rule: 'Path(`/default`)'"),
            ("last", "rule: 'Path(`/last`)', entryPoints: [last]"),
        ],
        &server.url(),
    );
    let setup = || Gateway::setup().entry_point("other").entry_point("last").dynamic(&*routers);
    let gateway = setup().flag("entryPoints.other.asDefault=true").start().await;
    for (entry_point, target, status) in [
        ("web", "/everywhere", 200),
        ("other", "/everywhere", 200),
        ("last", "/everywhere", 200),
        ("web", "/default", 404),
        ("other", "/default", 200),
        ("last", "/default", 404),
        ("web", "/last", 404),
        ("last", "/last", 200),
    ] {
        let answer = Peer::connect(gateway.address_of(entry_point)).await.get(target, "").await;
        assert_eq!(answer.status, status, "{entry_point} {target}");
    }
    // Nobody is the default: everybody is.
    let gateway = setup().start().await;
    for entry_point in ["web", "other", "last"] {
        let answer = Peer::connect(gateway.address_of(entry_point)).await.get("/default", "").await;
        assert_eq!(answer.status, 200, "{entry_point}");
    }
}

#[tokio::test]
async fn entry_points_redirect_to_each_other() {
    let server = Server::echo().await;
    let gateway = Gateway::setup()
        .entry_point("safe")
        .flag("entryPoints.old.address=127.0.0.1:0")
        .flag("entryPoints.old.http.redirections.entryPoint.to=:8443")
        .flag("entryPoints.temporary.address=127.0.0.1:0")
        .flag("entryPoints.temporary.http.redirections.entryPoint.to=:8080")
        .flag("entryPoints.temporary.http.redirections.entryPoint.scheme=http")
        .flag("entryPoints.temporary.http.redirections.entryPoint.permanent=false")
        .flag("entryPoints.weak.address=127.0.0.1:0")
        .flag("entryPoints.weak.http.redirections.entryPoint.to=:8443")
        .flag("entryPoints.weak.http.redirections.entryPoint.priority=10")
        .dynamic(routers([("all", "rule: 'PathPrefix(`/kept`)', priority: 11")], &server.url()))
        .start()
        .await;
    for (entry_point, method, target, status, location) in [
        ("old", "GET", "/a?b=c", 301, Some("https://a.test:8443/a?b=c")),
        ("old", "POST", "/a", 308, Some("https://a.test:8443/a")),
        ("temporary", "GET", "/", 302, Some("http://a.test:8080/")),
        ("temporary", "POST", "/", 307, Some("http://a.test:8080/")),
        ("weak", "GET", "/", 301, Some("https://a.test:8443/")),
        ("weak", "GET", "/kept", 200, None),
        ("safe", "GET", "/kept", 200, None),
    ] {
        let mut peer = Peer::connect(gateway.address_of(entry_point)).await;
        let request = format!("{method} {target} HTTP/1.1\r\nHost: a.test:81\r\nContent-Length: 0\r\n\r\n");
        let answer = peer.request(&request).await;
        assert_eq!((answer.status, answer.header("location")), (status, location), "{entry_point} {method} {target}");
    }
}

#[tokio::test]
async fn the_gateway_has_services_of_its_own() {
    let gateway = Gateway::setup()
        .flag("api")
        .flag("ping.manualRouting=true")
        .flag("metrics.prometheus.manualRouting=true")
        .dynamic(
            "http:
  routers:
    api: {rule: 'PathPrefix(`/api`)', service: api@internal}
    dashboard: {rule: 'PathPrefix(`/dashboard`)', service: dashboard@internal}
    ping: {rule: 'Path(`/alive`)', service: ping@internal}
    metrics: {rule: 'Path(`/numbers`)', service: prometheus@internal}
    noop: {rule: 'Path(`/teapot`)', service: noop@internal}
    typo: {rule: 'Path(`/typo`)', service: pong@internal}
",
        )
        .start()
        .await;
    let mut peer = gateway.connect().await;
    for (target, status, part) in [
        ("/api/version", 200, "\"Version\""),
        ("/dashboard/", 200, "<html"),
        ("/alive", 200, "OK"),
        ("/numbers", 200, "traefik_config_reloads_total"),
        ("/teapot", 418, ""),
        ("/typo", 503, "Service Unavailable"),
        ("/ping", 404, "404 page not found"),
        ("/metrics", 404, "404 page not found"),
    ] {
        let answer = peer.get(target, "").await;
        assert_eq!(answer.status, status, "{target}: {}", answer.text());
        assert!(answer.text().contains(part), "{target}: {}", answer.text());
    }
    // Switched off, they do not exist.
    let gateway = Gateway::with("http: {routers: {api: {rule: 'PathPrefix(`/`)', service: api@internal}}}").await;
    assert_eq!(gateway.connect().await.get("/api/version", "").await.status, 503);
}

#[tokio::test]
async fn paths_are_made_canonical_before_anybody_looks() {
    let server = Server::echo().await;
    let all =
        || routers([("all", "rule: 'PathPrefix(`/`)'"), ("admin", "rule: 'PathPrefix(`/admin`)'")], &server.url());
    let gateway = Gateway::with(all()).await;
    let mut peer = gateway.connect().await;
    for (target, seen, router_name) in [
        ("/a/../admin//x/./y", "/admin/x/y", "admin"),
        ("/%61dmin", "/admin", "admin"),
        ("//admin", "/admin", "admin"),
        ("/a%2Fb%2e%2e?x=%41", "/a%2Fb..?x=%41", "all"),
        ("/?a=1;b=2", "/?a=1&b=2", "all"),
        ("/../../etc", "/etc", "all"),
        ("http://a.test/admin?x", "/admin?x", "admin"),
    ] {
        let answer = peer.get(target, "").await;
        assert_eq!((server.last().target(), router(&answer)), (seen, router_name), "{target}");
    }
    let gateway = Gateway::setup()
        .flag("entryPoints.web.http.sanitizePath=false")
        .flag("entryPoints.web.http.encodeQuerySemicolons=true")
        .dynamic(all())
        .start()
        .await;
    let mut peer = gateway.connect().await;
    for (target, seen) in [("/a//b/../c", "/a//b/../c"), ("/?a=1;b=2", "/?a=1%3Bb=2")] {
        assert_eq!(seen_as(&mut peer, &server, target, "").await, seen, "{target}");
    }
}

#[tokio::test]
async fn encoded_characters_are_denied_one_by_one() {
    let server = Server::echo().await;
    let mut setup = Gateway::setup().dynamic(routers([("all", "rule: 'PathPrefix(`/`)'")], &server.url()));
    for name in ["Slash", "BackSlash", "NullCharacter", "Semicolon", "Percent", "QuestionMark", "Hash"] {
        setup = setup
            .flag(format!("entryPoints.{name}.address=127.0.0.1:0"))
            .flag(format!("entryPoints.{name}.http.encodedCharacters.allowEncoded{name}=false"));
    }
    let gateway = setup.start().await;
    for (entry_point, code) in [
        ("Slash", "%2f"),
        ("BackSlash", "%5C"),
        ("NullCharacter", "%00"),
        ("Semicolon", "%3b"),
        ("Percent", "%25"),
        ("QuestionMark", "%3F"),
        ("Hash", "%23"),
    ] {
        let mut peer = Peer::connect(gateway.address_of(entry_point)).await;
        let answer = peer.get(&format!("/a{code}b"), "").await;
        let told = (answer.status, answer.header("x-portcullis-error"));
        assert_eq!(told, (400, Some("encoded-character")), "{entry_point}");
        assert_eq!(peer.get("/a%20b", "").await.status, 200, "{entry_point}");
        let mut web = gateway.connect().await;
        assert_eq!(
            seen_as(&mut web, &server, &format!("/a{}b", code.to_uppercase()), "").await,
            format!("/a{}b", code.to_uppercase())
        );
    }
}

#[tokio::test]
async fn names_with_underscores_are_treated_as_asked() {
    let server = Server::echo().await;
    let mut setup = Gateway::setup().dynamic(routers([("all", "rule: 'PathPrefix(`/`)'")], &server.url()));
    for strategy in ["keep", "delete", "reject"] {
        setup = setup
            .flag(format!("entryPoints.{strategy}.address=127.0.0.1:0"))
            .flag(format!("entryPoints.{strategy}.http.underscoreHeadersStrategy={strategy}"));
    }
    let gateway = setup.start().await;
    for (entry_point, status, seen) in
        [("web", 200, Some("1")), ("keep", 200, Some("1")), ("delete", 200, None), ("reject", 400, None)]
    {
        let mut peer = Peer::connect(gateway.address_of(entry_point)).await;
        assert_eq!(peer.get("/", "my_header: 1\r\n").await.status, status, "{entry_point}");
        if status == 200 {
            assert_eq!(server.last().header("my_header"), seen, "{entry_point}");
        }
    }
}

/// Middlewares stand before the router's, at entry points, and after them, at services.
#[tokio::test]
async fn middlewares_come_from_three_places_in_order() {
    let server = Server::echo().await;
    let url = server.url();
    let gateway = Gateway::setup()
        .entry_point("plain")
        .flag("entryPoints.web.http.middlewares=first@file")
        .dynamic(format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/all`)', service: echo, middlewares: [second]}}
    bare: {{rule: 'PathPrefix(`/bare`)', service: echo}}
    shared: {{rule: 'PathPrefix(`/shared`)', service: shares}}
    wrong: {{rule: 'PathPrefix(`/wrong`)', service: wrong}}
  middlewares:
    first: {{addPrefix: {{prefix: /1}}}}
    second: {{addPrefix: {{prefix: /2}}}}
    third: {{addPrefix: {{prefix: /3}}}}
  services:
    echo: {{middlewares: [third], loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
    inner: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
    shares: {{middlewares: [third], weighted: {{services: [{{name: inner}}]}}}}
    wrong: {{weighted: {{services: [{{name: echo}}]}}}}
"
        ))
        .start()
        .await;
    let (mut web, mut plain) = (gateway.connect().await, Peer::connect(gateway.address_of("plain")).await);
    for (target, at_web, at_plain) in [
        ("/all", "/3/2/1/all", "/3/2/all"),
        ("/bare", "/3/1/bare", "/3/bare"),
        ("/shared", "/3/1/shared", "/3/shared"),
        ("/wrong", "503", "503"),
    ] {
        assert_eq!(seen_as(&mut web, &server, target, "").await, at_web, "{target}");
        assert_eq!(seen_as(&mut plain, &server, target, "").await, at_plain, "{target}");
    }
    assert!(gateway.log().contains("would not run here"), "{}", gateway.log());
}

#[tokio::test]
async fn one_bad_router_leaves_the_rest() {
    let server = Server::echo().await;
    let mut text = routers(
        [
            ("good", "rule: 'PathPrefix(`/`)', priority: 1"),
            ("rule", "rule: 'Hots(`a`)'"),
            ("entry", "rule: 'Path(`/entry`)', entryPoints: [nowhere]"),
            ("typo", "rule: 'Path(`/typo`)', prioritty: 3"),
        ],
        &server.url(),
    );
    text = text.replace("  middlewares:\n", "    gone: {rule: 'Path(`/gone`)', service: gone}\n  middlewares:\n");
    let gateway = Gateway::with(text).await;
    let mut peer = gateway.connect().await;
    // What is broken keeps its place: a request for it must not fall to a router that asks for less.
    for (target, status) in [("/", 200), ("/entry", 200), ("/typo", 503), ("/gone", 503)] {
        assert_eq!(peer.get(target, "").await.status, status, "{target}");
    }
}
