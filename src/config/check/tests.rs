use proptest::prelude::*;

use super::*;
use crate::config::format::{Format, parse};
use crate::config::schema::{DYNAMIC, STATIC};

fn walk(yaml: &str, shape: &Shape) -> (serde_json::Value, Vec<String>, Vec<String>) {
    let mut sources = Sources::default();
    let mut root = parse(yaml, Format::Yaml, "f", &mut sources).unwrap();
    let found = check(&mut root, shape, &sources, Some("file"), &|_| Unknown::Warned);
    let problems = found.problems.iter().map(|problem| problem.to_string().split_off(2)).collect();
    let broken = found.broken.iter().map(|object| format!("{}.{}", object.kind, object.name)).collect();
    (root.to_json(), problems, broken)
}

fn accepts(yaml: &str, shape: &Shape, expected: &serde_json::Value) {
    assert_eq!(walk(yaml, shape), (expected.clone(), Vec::new(), Vec::new()), "{yaml}");
}

/// One mistake in a router, a service or a middleware: the problem, and what is disabled by it.
fn rejects(yaml: &str, problem: &str, disabled: &str) {
    let (_, problems, broken) = walk(yaml, &DYNAMIC);
    assert_eq!((problems, broken), (vec![problem.to_owned()], vec![disabled.to_owned()]), "{yaml}");
}

#[test]
fn values_become_what_their_keys_ask_for() {
    for (yaml, expected) in [
        ("API: {Insecure: 'yes'}", serde_json::json!({"api": {"insecure": true}})),
        ("api: {insecure: on}", serde_json::json!({"api": {"insecure": true}})),
        ("threads: '4'", serde_json::json!({"threads": 4})),
        ("threads: 0x10", serde_json::json!({"threads": 16})),
        ("log: {filePath: 1.10, maxSize: '3'}", serde_json::json!({"log": {"filePath": "1.10", "maxSize": 3}})),
        (
            "metrics: {prometheus: {buckets: '0.1,2'}}",
            serde_json::json!({"metrics": {"prometheus": {"buckets": [0.1, 2.0]}}}),
        ),
        (
            "entryPoints: {a: {http: {middlewares: x}}}",
            serde_json::json!({"entryPoints": {"a": {"http": {"middlewares": ["x"]}}}}),
        ),
        ("drain: {timeout: 30, lameDuck: 1m}", serde_json::json!({"drain": {"timeout": 30, "lameDuck": "1m"}})),
        ("log: {level: }", serde_json::json!({"log": {}})),
    ] {
        accepts(yaml, &STATIC, &expected);
    }
}

#[test]
fn a_section_that_may_stand_alone_is_switched_by_true_and_by_nothing_else() {
    for (yaml, expected) in [
        ("api: true", serde_json::json!({"api": {}})),
        ("api: 'TRUE'", serde_json::json!({"api": {}})),
        ("api:", serde_json::json!({"api": {}})),
        ("api: {}", serde_json::json!({"api": {}})),
        ("api: false", serde_json::json!({})),
    ] {
        accepts(yaml, &STATIC, &expected);
    }
    let (root, problems, _) = walk("api: ture", &STATIC);
    assert_eq!(root, serde_json::json!({}));
    let expected = "1:6: warning: api: is switched off, because it is neither keys nor `true` but the text `ture`";
    assert_eq!(problems, [expected]);
}

#[test]
fn references_stay_within_their_provider() {
    let yaml = "http: {routers: {a: {service: s, middlewares: [m, 'n@docker']}}, services: {w: {weighted: {services: [{name: s}]}}}}";
    let expected = serde_json::json!({"http": {
        "routers": {"a": {"service": "s@file", "middlewares": ["m@file", "n@docker"]}},
        "services": {"w": {"weighted": {"services": [{"name": "s@file"}]}}}
    }});
    accepts(yaml, &DYNAMIC, &expected);
}

#[test]
fn mistakes_are_named_and_disable_their_object() {
    for (yaml, problem, disabled) in [
        (
            "http: {routers: {a: {rul: x}}}",
            "1:22: error: http.routers.a.rul: unknown key (did you mean `rule`?)",
            "http.routers.a",
        ),
        (
            "http: {routers: {a: {Rule: x, rule: y}}}",
            "1:31: error: http.routers.a.rule: is written twice, as keys have no case: `rule`",
            "http.routers.a",
        ),
        (
            "http: {routers: {a: {priority: high}}}",
            "1:32: error: http.routers.a.priority: expected a whole number, found the text `high`",
            "http.routers.a",
        ),
        (
            "http: {routers: {a: {rule: [x]}}}",
            "1:28: error: http.routers.a.rule: expected text, found a list",
            "http.routers.a",
        ),
        (
            "http: {routers: {a: 3}}",
            "1:21: error: http.routers.a: expected keys and values, found the number 3",
            "http.routers.a",
        ),
        (
            "http: {routers: {a: {parentRefs: [x]}}}",
            "1:22: error: http.routers.a.parentRefs: this key is not supported yet (the router is disabled, because it would answer without its parents)",
            "http.routers.a",
        ),
        (
            "http: {services: {s: {loadBalancer: {servers: [{url: x}, {uri: y}]}}}}",
            "1:59: error: http.services.s.loadBalancer.servers[1].uri: unknown key (did you mean `url`?)",
            "http.services.s",
        ),
        (
            "http: {services: {s: {mirroring: {service: x}}}}",
            "1:23: error: http.services.s.mirroring: this key is not supported yet (the service is disabled; there are `loadBalancer` and `weighted`)",
            "http.services.s",
        ),
        (
            "http: {middlewares: {m: {retry: {initialInterval: soon}}}}",
            "1:51: error: http.middlewares.m.retry.initialInterval: `soon` is not a duration: expected seconds or a form like `1m30s`, `500ms`",
            "http.middlewares.m",
        ),
        (
            "http: {middlewares: {m: {headers: {customRequestHeaders: x}}}}",
            "1:58: error: http.middlewares.m.headers.customRequestHeaders: expected names and values, found the text `x`",
            "http.middlewares.m",
        ),
    ] {
        rejects(yaml, problem, disabled);
    }
}

#[test]
fn what_asks_for_nothing_is_no_problem_though_it_is_refused() {
    for yaml in [
        "http: {routers: {a: {tls: false}}}",
        "http: {routers: {a: {tls: false, parentRefs: }}}",
        "http: {serversTransports: {a: {minVersion: }}}",
    ] {
        let (_, problems, _) = walk(yaml, &DYNAMIC);
        assert_eq!(problems, Vec::<String>::new(), "{yaml}");
    }
    accepts(
        "entryPoints: {a: {http2: {maxEncoderHeaderTableSize: 4096}}}",
        &STATIC,
        &serde_json::json!({"entryPoints": {"a": {"http2": {}}}}),
    );
    accepts("api: {debug: false}", &STATIC, &serde_json::json!({"api": {}}));
}

#[test]
fn what_is_ignored_leaves_its_entry_point_open_and_what_is_refused_does_not() {
    let (root, problems, broken) =
        walk("entryPoints: {a: {address: ':1', http3: {}}}\ncertificatesResolvers: {b: {tailscale: {}}}", &STATIC);
    assert_eq!(root, serde_json::json!({"entryPoints": {"a": {"address": ":1"}}, "certificatesResolvers": {}}));
    assert_eq!(broken, ["certificatesResolvers.b"]);
    assert_eq!(
        problems,
        [
            "1:34: warning: entryPoints.a.http3: this key is not supported yet (clients use HTTP/2 or HTTP/1.1)",
            "2:29: error: certificatesResolvers.b.tailscale: this key is not supported yet (certificates come from ACME servers only)",
        ]
    );
}

#[test]
fn options_of_traefik_2_are_named() {
    let (_, problems, _) = walk("pilot: {token: x}\nproviders: {docker: {swarmMode: true}}\nmarathon: {}", &STATIC);
    assert_eq!(
        problems,
        [
            "3:1: warning: marathon: unknown key, it is ignored",
            "1:1: error: pilot: Traefik 3 does not have this key any more (Pilot is gone; delete this section)",
            "2:13: error: providers.docker: this key is not supported yet (nothing is read from this provider; `providers.file` is there)",
        ]
    );
}

#[test]
fn ten_mistakes_are_ten_problems() {
    let yaml = "
http:
  routers:
    a: {rul: x, priority: y, parentRefs: [b]}
    b: {entryPoints: {x: y}}
    c: {rule: 'Host(`c`)', service: s}
  services:
    s: {loadBalancer: {servers: 3, passHostHeader: maybe}}
    t: {failover: {}}
  middlewares:
    m: {addPrefix: /x, retri: {}}
  serversTransports:
    u: {spiffe: true}
";
    let (root, problems, broken) = walk(yaml, &DYNAMIC);
    assert_eq!(problems.len(), 10, "{problems:#?}");
    assert_eq!(broken.len(), 6, "{broken:?}");
    assert_eq!(root["http"]["routers"].as_object().unwrap().len(), 1);
}

proptest! {
    #[test]
    fn no_tree_panics(words in proptest::collection::vec("[a-z]{1,12}|entryPoints|http|routers|services|loadBalancer|servers|true|-?[0-9]{1,20}|\\PC{0,4}", 1..9)) {
        for shape in [&*STATIC, &*DYNAMIC] {
            let mut sources = Sources::default();
            let text = words.iter().rev().fold(String::from("1"), |inner, word| format!("{{{word:?}: {inner}}}"));
            if let Ok(mut root) = parse(&text, Format::Json, "f", &mut sources) {
                let _ = check(&mut root, shape, &sources, Some("file"), &|_| Unknown::Passed);
            }
        }
    }
}
