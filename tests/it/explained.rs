//! `explain` says what really happens: each request is explained, and then made.

use crate::harness::gateway::Gateway;
use crate::harness::server::Server;
use crate::harness::tool::Tool;

const ROUTES: &str = r#"
http:
  routers:
    plain: {rule: "Host(`a.test`) && PathPrefix(`/plain`)", service: echo, middlewares: [plain]}
    deeper: {rule: "Host(`a.test`) && PathPrefix(`/plain/deeper`)", service: echo, middlewares: [deeper, strip]}
    query: {rule: "Query(`q`, `1`)", service: echo, middlewares: [query]}
    header: {rule: "Header(`X-Wanted`, `yes`)", service: echo, middlewares: [header]}
    method: {rule: "Method(`DELETE`)", service: echo, middlewares: [method], priority: 1000}
    wild: {rule: "Host(`*.b.test`)", service: based, middlewares: [wild]}
    far: {rule: "Host(`far.test`)", service: echo, middlewares: [far, allow]}
    shut: {rule: "Host(`shut.test`)", service: nowhere}
    moved: {rule: "Host(`moved.test`)", service: echo, middlewares: [moved]}
  middlewares:
    plain: {headers: {customResponseHeaders: {X-Router: plain}}}
    deeper: {headers: {customResponseHeaders: {X-Router: deeper}}}
    query: {headers: {customResponseHeaders: {X-Router: query}}}
    header: {headers: {customResponseHeaders: {X-Router: header}}}
    method: {headers: {customResponseHeaders: {X-Router: method}}}
    wild: {headers: {customResponseHeaders: {X-Router: wild}}}
    far: {headers: {customResponseHeaders: {X-Router: far}}}
    strip: {stripPrefix: {prefixes: [/plain]}}
    allow: {ipAllowList: {sourceRange: [192.0.2.7], ipStrategy: {depth: 1}}}
    moved: {redirectScheme: {scheme: https}}
  services:
    echo: {loadBalancer: {servers: [{url: "URL"}]}}
    based: {loadBalancer: {servers: [{url: "URL/base", preservePath: true}]}}
"#;

/// What is told of one word at the start of a line.
fn of<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.trim_start().strip_prefix(word)?.trim().into())
}

#[tokio::test]
async fn what_is_explained_is_what_happens() {
    let server = Server::echo().await;
    let trusting = "entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.0/8";
    let gateway = Gateway::setup().flag(trusting).dynamic(ROUTES.replace("URL", &server.url())).start().await;
    let file = gateway.folder().join("dynamic.yaml");
    for (method, target, fields) in [
        ("GET", "/plain", &["Host: a.test"][..]),
        ("GET", "/plain/x?y=%20;z", &["Host: A.Test:81"]),
        ("GET", "/plain/deeper/x", &["Host: a.test."]),
        ("GET", "/plain/./deeper//x/../y", &["Host: a.test"]),
        ("GET", "/%70lain/%2e%2e/plain", &["Host: a.test"]),
        ("GET", "/plain%2Fdeeper", &["Host: a.test"]),
        ("GET", "/plain/%zz", &["Host: a.test"]),
        ("GET", "/PLAIN", &["Host: a.test"]),
        ("DELETE", "/plain", &["Host: a.test"]),
        ("GET", "/?q=1", &["Host: c.test"]),
        ("GET", "/?q=2", &["Host: c.test"]),
        ("GET", "/", &["Host: c.test", "x-wanted: no", "X-Wanted: yes"]),
        ("GET", "/x?y", &["Host: x.b.test"]),
        ("GET", "/", &["Host: x.y.b.test"]),
        ("GET", "/", &["Host: far.test"]),
        ("GET", "/", &["Host: far.test", "X-Forwarded-For: 192.0.2.7"]),
        ("GET", "/", &["Host: far.test", "X-Forwarded-For: 192.0.2.7, 192.0.2.8"]),
        ("GET", "/", &["Host: shut.test"]),
        ("GET", "/a?b", &["Host: moved.test:8080"]),
    ] {
        let url = format!("http://{}{target}", gateway.address());
        let mut arguments = vec!["explain", method, &*url];
        arguments.extend(fields.iter().flat_map(|field| ["-H", *field]));
        let file = file.display().to_string();
        let flag = format!("--{trusting}");
        arguments.extend(["-c", &*file, "--", "--entryPoints.web.address=127.0.0.1:0", &*flag]);
        let told = Tool::with(arguments).run_beside().await;
        assert_eq!(told.code, Some(0), "{told:?}");

        let head = format!("{method} {target} HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n"));
        let before = server.count();
        let answer = gateway.connect().await.request(&head).await;
        let about = format!("{head}{}\n{}", answer.head, told.out);
        if let Some(router) = answer.header("x-router") {
            let expected = format!("{router}@file");
            assert!(of(&told.out, "router").is_some_and(|told| told.starts_with(&expected)), "{about}");
        }
        let status = of(&told.out, "refused").or(of(&told.out, "answers")).or(of(&told.out, "answer "));
        let status = status.or(told.out.contains("none matches").then_some("404")).unwrap_or("200");
        assert!(status.starts_with(&answer.status.to_string()), "{about}");
        let target = (server.count() > before).then(|| format!("{method} {}", server.last().target()));
        assert_eq!(of(&told.out, "sends"), target.as_deref(), "{about}");
        assert_eq!(of(&told.out, "location"), answer.header("location"), "{about}");
    }
}
