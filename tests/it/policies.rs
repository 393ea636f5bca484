//! What middlewares promise holds from outside: one path for all, forwarding headers of ours alone, no secret in a log.

use crate::harness::gateway::Gateway;
use crate::harness::server::{Received, Server, answer};

/// `u:p`, and what a client sends for it.
const USERS: &str = "'u:$apr1$kRLiXXsO$8zDCUsW8biB.XZD3cY2TM/'";

/// The path as a server reads it that knows RFC 3986 §6: unreserved characters decoded, dots and slashes resolved.
fn as_specified(path: &str) -> String {
    resolve(&decode(path, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)))
}

/// The path as the most careless server reads it: everything decoded before anything else, again and again.
fn as_careless(path: &str) -> String {
    let mut path = path.to_owned();
    for _ in 0..3 {
        path = decode(&path, |_| true);
    }
    let path = path.replace('\\', "/");
    resolve(path.split(['?', '#', '\0']).next().unwrap_or_default())
}

fn decode(path: &str, which: impl Fn(u8) -> bool) -> String {
    let bytes = path.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match byte.filter(|byte| which(*byte)) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Ways to write `/admin/x` behind a prefix.
const SPELLINGS: [&str; 52] = [
    "/admin",
    "/admin/",
    "/admin/x",
    "//admin/x",
    "///admin",
    "/./admin",
    "/x/../admin",
    "/x/..//admin",
    "/x/./../admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/%61%64%6D%69%6E/x",
    "/a%64min",
    "/%2e/admin",
    "/%2E/admin",
    "/x/%2e%2e/admin",
    "/x/%2E%2E/admin",
    "/x/.%2e/admin",
    "/x/%2e./admin",
    "/..//admin",
    "/../admin",
    "/../../admin",
    "/%2e%2e/admin",
    "/%2fadmin",
    "/%2Fadmin",
    "/x%2f..%2fadmin",
    "/x/..%2fadmin",
    "/x/..%2Fadmin",
    "/x/%2e%2e%2fadmin",
    "/.%2fadmin",
    "/x/..%5cadmin",
    "/x/..%5Cadmin",
    "/%5cadmin",
    "/\\admin",
    "/x/..\\admin",
    "/x\\..\\admin",
    "/%252e%252e/admin",
    "/x/%252e%252e/admin",
    "/%2561dmin",
    "/x/..%252fadmin",
    "/admin%2fx",
    "/admin%2f..%2fadmin",
    "/admin%00",
    "/admin%3fx",
    "/admin%23x",
    "/admin%3bx",
    "/admin/..;/admin",
    "/x/%2e%2e/%61dmin",
    "/admin?x=/y",
    "/?/../admin",
    "/admin/.",
    "/admin/x/..",
];

/// Rewrites, each with the prefix that it answers to.
const REWRITES: [(&str, &str, &str); 6] = [
    ("none", "", ""),
    ("strip", "/strip", "stripPrefix: {prefixes: ['/strip']}"),
    ("strip-regex", "/re", "stripPrefixRegex: {regex: ['^/re']}"),
    ("replace-regex", "/rx", "replacePathRegex: {regex: '^/rx/(.*)$', replacement: '/$1'}"),
    ("replace-tail", "/rt", "replacePathRegex: {regex: '^/rt(.*)$', replacement: '/y/..$1'}"),
    ("add", "/add", "addPrefix: {prefix: '/added'}"),
];

/// A router for each rewrite, and one in front of it that asks for a password on what leads to `/admin`.
fn guarded(server: &Server) -> String {
    let (mut routers, mut middlewares) = (String::new(), String::new());
    for (name, prefix, rewrite) in REWRITES {
        let last = if rewrite.is_empty() { String::new() } else { format!(", {name}") };
        routers += &format!(
            "    {name}-guarded: {{rule: 'PathPrefix(`{prefix}/admin`)', priority: 200, service: s, middlewares: [login{last}]}}\n\
             \x20   {name}-open: {{rule: 'PathPrefix(`{prefix}/`)', priority: {}, service: s, middlewares: [open{last}]}}\n",
            prefix.len() + 1,
        );
        if !rewrite.is_empty() {
            middlewares += &format!("    {name}: {{{rewrite}}}\n");
        }
    }
    format!(
        "http:
  routers:
{routers}
  middlewares:
    login: {{basicAuth: {{users: [{USERS}]}}}}
    open: {{headers: {{customRequestHeaders: {{X-Open: 'yes'}}}}}}
{middlewares}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
",
        server.url()
    )
}

async fn admin_is_guarded(gateway: &Gateway, server: &Server, meaning: impl Fn(&str) -> String) {
    let mut asked = 0;
    for (name, prefix, _) in REWRITES {
        for spelling in SPELLINGS {
            let before = server.count();
            let got = gateway.connect().await.get(&format!("{prefix}{spelling}"), "").await;
            asked += usize::from(got.status == 401);
            for received in server.received().split_off(before) {
                let meant = meaning(received.path());
                assert!(!format!("{meant}/").starts_with("/admin/"), "{name} {spelling}: {}", received.line());
                // Nor anything that leads out of what is added.
                assert!(name != "add" || meant.starts_with("/added"), "{spelling}: {}", received.line());
            }
        }
    }
    // The guard was asked for a good part of them, and what has a password gets through.
    assert!(asked > 50, "{asked}");
    let got = gateway.connect().await.get("/strip/admin/x", "Authorization: Basic dTpw\r\n").await;
    assert_eq!((got.status, server.last().path()), (200, "/admin/x"));
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_past_its_guard() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let gateway = Gateway::with(guarded(&server)).await;
    admin_is_guarded(&gateway, &server, as_specified).await;
}

/// With encoded characters denied, also servers that decode too much are safe.
#[tokio::test]
async fn not_even_for_a_careless_server() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let mut setup = Gateway::setup().dynamic(guarded(&server));
    for name in ["Slash", "BackSlash", "NullCharacter", "Semicolon", "Percent", "QuestionMark", "Hash"] {
        setup = setup.flag(format!("entryPoints.web.http.encodedCharacters.allowEncoded{name}=false"));
    }
    let gateway = setup.start().await;
    admin_is_guarded(&gateway, &server, as_careless).await;
}

/// A gateway in front of one server, with these middlewares on its only router.
fn with_middlewares(server: &Server, middlewares: &[(&str, &str)]) -> String {
    let names = middlewares.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let written: String = middlewares.iter().map(|(name, text)| format!("    {name}: {{{text}}}\n")).collect();
    let written = if written.is_empty() { String::new() } else { format!("  middlewares:\n{written}") };
    format!(
        "http:
  routers: {{all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{names}]}}}}
{written}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
",
        server.url()
    )
}

/// Header names that say who forwarded a request.
const FORWARDING: [&str; 14] = [
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "X-Forwarded-Tls-Client-Cert",
    "X-Forwarded-Tls-Client-Cert-Info",
    "X-Real-Ip",
    "Forwarded",
    "X-Forwarded-Scheme",
    "X-Scheme",
];

/// Spellings that servers take for the same name.
fn spellings(name: &str) -> Vec<String> {
    vec![
        name.to_owned(),
        name.to_lowercase(),
        name.to_uppercase(),
        name.replace('-', "_"),
        name.replace('-', "_").to_uppercase(),
        name.replace('-', "."),
        name.replacen('-', "_", 1),
    ]
}

/// Every value of a field, whichever way its name is spelled.
fn in_any_spelling(received: &Received, name: &str) -> Vec<String> {
    let plain = |name: &str| name.to_lowercase().replace(['_', '.'], "-");
    let fields = received.head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| plain(key) == plain(name)).map(|(_, value)| value.trim().to_owned()).collect()
}

#[tokio::test]
async fn strangers_say_nothing_of_their_forwarding() {
    let server = Server::echo().await;
    let gateway = Gateway::with(with_middlewares(&server, &[])).await;
    for name in FORWARDING {
        for spelling in spellings(name) {
            let fields = format!("{spelling}: forged\r\n{spelling}: forged too\r\n");
            assert_eq!(gateway.connect().await.get("/", &fields).await.status, 200, "{spelling}");
            let received = server.last();
            assert!(!received.head.contains("forged"), "{spelling}: {}", received.head);
        }
    }
    let all: Vec<String> = FORWARDING.iter().flat_map(|name| spellings(name)).collect();
    let all: String = all.iter().map(|name| format!("{name}: 10.0.0.1\r\n")).collect();
    assert_eq!(gateway.connect().await.get("/", &all).await.status, 200);
    let received = server.last();
    for (name, expected) in [
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Real-Ip", "127.0.0.1"),
        ("X-Forwarded-Host", "a.test"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Port", "80"),
    ] {
        assert_eq!(in_any_spelling(&received, name), [expected], "{name}: {}", received.head);
    }
    assert_eq!(in_any_spelling(&received, "X-Forwarded-Server").len(), 1);
}

#[tokio::test]
async fn friends_are_believed_and_appended() {
    let server = Server::echo().await;
    let gateway = Gateway::setup()
        .flag("entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.0/8")
        .dynamic(with_middlewares(&server, &[]))
        .start()
        .await;
    let fields = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\nX-Forwarded-Proto: https\r\n";
    gateway.connect().await.get("/", fields).await;
    let received = server.last();
    assert_eq!(received.all("x-forwarded-for"), ["192.0.2.1, 192.0.2.2, 127.0.0.1"]);
    assert_eq!((received.all("x-forwarded-proto"), received.all("x-forwarded-port")), (vec!["https"], vec!["443"]));
}

#[tokio::test]
async fn underscores_go_if_told_so() {
    let server = Server::echo().await;
    for (strategy, status) in [("delete", 200), ("reject", 400)] {
        let gateway = Gateway::setup()
            .flag(format!("entryPoints.web.http.underscoreHeadersStrategy={strategy}"))
            .dynamic(with_middlewares(&server, &[]))
            .start()
            .await;
        let got = gateway.connect().await.get("/", "X_Mine: 1\r\nAuth_User: root\r\n").await;
        assert_eq!(got.status, status, "{strategy}");
        assert!(server.received().iter().all(|it| !it.head.contains("root")));
    }
}

#[tokio::test]
async fn nobody_names_himself() {
    let server = Server::echo().await;
    let login = format!("basicAuth: {{users: [{USERS}], headerField: X-WebAuth-User, removeHeader: true}}");
    let gateway = Gateway::with(with_middlewares(&server, &[("login", &login)])).await;
    for spelling in spellings("X-WebAuth-User") {
        let fields = format!("{spelling}: root\r\nAuthorization: Basic dTpw\r\n{spelling}: admin\r\n");
        assert_eq!(gateway.connect().await.get("/", &fields).await.status, 200);
        let received = server.last();
        assert_eq!(in_any_spelling(&received, "X-WebAuth-User"), ["u"], "{spelling}");
        assert_eq!(received.header("authorization"), None);
    }
    // `Connection` does not take the name away either.
    gateway.connect().await.get("/", "Connection: X-WebAuth-User\r\nAuthorization: Basic dTpw\r\n").await;
    assert_eq!(in_any_spelling(&server.last(), "X-WebAuth-User"), ["u"]);
    let line = gateway.logged(|line| line["ClientUsername"] == "u").await;
    assert_eq!(line["DownstreamStatus"], 200);
}

#[tokio::test]
async fn nobody_writes_lines_into_the_log() {
    let server = Server::echo().await;
    for format in ["json", "common", "genericCLF"] {
        let gateway = Gateway::setup()
            .flag(format!("accessLog.format={format}"))
            .flag("accessLog.fields.headers.defaultMode=keep")
            .dynamic(with_middlewares(&server, &[]))
            .start()
            .await;
        let nasty: [&[u8]; 7] = [
            b"GET /a%0d%0aforged HTTP/1.1\r\nHost: a.test\r\n\r\n",
            b"GET /a?b=%0aforged HTTP/1.1\r\nHost: a.test\r\nReferer: \x80\xff\"\\\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: a.test\r\nUser-Agent: a\tb\xc2\x9bc\xe2\x80\xa8d\"e\\\r\n\r\n",
            b"GET /\"\\ HTTP/1.1\r\nHost: a.test\r\n\r\n",
            // Refused by the front door, and logged all the same.
            b"GET /\x1b[31m HTTP/1.1\r\nHost: a.test\r\n\r\n",
            b"G\x1bT /\xff HTTP/1.1\r\nHost: \x07\r\n\r\n",
            b"GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Basic G1sK\r\n\r\n",
        ];
        for request in nasty {
            let mut peer = gateway.connect().await;
            peer.send(request).await;
            let _ = peer.response_to("GET").await;
        }
        crate::harness::peer::until(|| gateway.read("access.log").lines().count() >= nasty.len()).await;
        let log = std::fs::read(gateway.folder().join("access.log")).unwrap();
        assert_eq!(log.iter().filter(|byte| **byte == b'\n').count(), nasty.len(), "{format}: {}", log.escape_ascii());
        let odd = |byte: &&u8| **byte != b'\n' && !(b' '..=b'~').contains(*byte);
        assert_eq!(log.iter().find(odd), None, "{format}: {}", log.escape_ascii());
        if format == "json" {
            assert_eq!(gateway.access_log().len(), nasty.len());
        }
    }
}

#[tokio::test]
async fn redirections_stay_with_the_host() {
    let server = Server::echo().await;
    for (name, text) in [
        ("scheme", "redirectScheme: {scheme: https}"),
        ("host", "redirectRegex: {regex: '^http://([^/]+)/(.*)$', replacement: 'https://$1/$2'}"),
        ("path", "redirectRegex: {regex: '^https?://[^/]+/(.*)$', replacement: '/$1'}"),
    ] {
        let gateway = Gateway::with(with_middlewares(&server, &[(name, text)])).await;
        for target in [
            "/",
            "//evil.test/",
            "///evil.test",
            "/\\evil.test",
            "/%2f%2fevil.test",
            "/%5cevil.test",
            "/.//evil.test",
            "/x/..//evil.test",
            "/@evil.test",
            "/:80@evil.test/",
            "/%0d%0aX-Injected:%20y",
            "/?x=%0d%0aX-Injected:%20y",
            "/%2e%2e//evil.test",
            "/a?//evil.test",
        ] {
            let fields =
                "X-Forwarded-Host: evil.test\r\nX-Forwarded-Prefix: //evil.test\r\nX-Forwarded-Proto: javascript\r\n";
            let got = gateway.connect().await.get(target, fields).await;
            assert_eq!(got.header("x-injected"), None, "{name} {target}: {}", got.head);
            let Some(location) = got.header("location") else {
                assert_eq!(got.status, 400, "{name} {target}: {}", got.head);
                continue;
            };
            let stays = location.starts_with("https://a.test/")
                || (location.starts_with('/') && !location.starts_with("//") && !location.starts_with("/\\"));
            assert!(stays, "{name} {target}: {location}");
        }
    }
}

#[tokio::test]
async fn secrets_stay_out_of_logs_and_answers() {
    let server = Server::start(|received| match received.path() {
        "/cookie" => answer(200, "Set-Cookie: session=canary-set-cookie\r\n", "ok"),
        _ => vec![crate::harness::server::Step::Reset],
    })
    .await;
    let login = format!("basicAuth: {{users: [{USERS}]}}");
    for format in ["json", "common"] {
        let gateway = Gateway::setup()
            .flag("log.level=TRACE")
            .flag(format!("accessLog.format={format}"))
            .flag("accessLog.fields.headers.defaultMode=keep")
            .dynamic(with_middlewares(&server, &[("login", &login)]))
            .start()
            .await;
        let secrets = "Cookie: session=canary-cookie\r\nProxy-Authorization: Basic canary-proxy\r\n";
        let mut answers = String::new();
        for (path, authorization) in [
            ("/cookie", "Basic dTpw"),
            ("/reset", "Basic dTpw"),
            ("/wrong", "Basic dTpjYW5hcnk="),
            ("/odd", "Bearer canary-bearer"),
        ] {
            let fields = format!("{secrets}Authorization: {authorization}\r\n");
            let got = gateway.connect().await.get(path, &fields).await;
            if path != "/cookie" {
                answers += &format!("{}{}", got.head, got.text());
            }
        }
        crate::harness::peer::until(|| gateway.read("access.log").lines().count() >= 4).await;
        let everything = [gateway.log(), gateway.read("access.log"), gateway.read("output"), answers].concat();
        for canary in ["canary", "dTpw", "Y2FuYXJ5", "$apr1$", "8zDCUsW8biB"] {
            let at =
                everything.find(canary).map(|at| &everything[at.saturating_sub(200)..(at + 100).min(everything.len())]);
            assert_eq!(at, None, "{format}: {canary}");
        }
    }
}
