use std::fmt::Write;

use crate::config::format::Format;
use crate::config::load::{dynamic, install};
use crate::config::schema::{DYNAMIC, Kind, STATIC, Scalar, Shape, Status};
use crate::units::Name;

/// Every key that acts, as a text that writes it alone.
fn samples(shape: &Shape, status: Status, before: &str, after: &str, out: &mut Vec<String>) {
    for field in &shape.fields {
        let status = field.status.unwrap_or(status);
        if status == Status::Acts {
            sample(field, status, &format!("{before}{{\"{}\": ", field.name), &format!("}}{after}"), out);
        }
    }
}

fn sample(shape: &Shape, status: Status, before: &str, after: &str, out: &mut Vec<String>) {
    let value = |scalar| match scalar {
        Scalar::Bool => "true",
        Scalar::Int | Scalar::Int32 | Scalar::Float => "1",
        Scalar::Duration => "\"1s\"",
        Scalar::Text | Scalar::Name => "\"x\"",
    };
    let mut leaf = |text: String| out.push(format!("{before}{text}{after}"));
    match (shape.kind, &shape.each) {
        (Kind::One(scalar), _) => leaf(value(scalar).to_owned()),
        (Kind::Many(scalar), _) => leaf(format!("[{}]", value(scalar))),
        (Kind::Each(scalar), _) => leaf(format!("{{\"y\": {}}}", value(scalar))),
        (Kind::Names, Some(each)) if each.status.unwrap_or(status) == Status::Acts => {
            samples(each, status, &format!("{before}{{\"x\": "), &format!("}}{after}"), out);
        }
        (Kind::Items, Some(each)) if each.status.unwrap_or(status) == Status::Acts => {
            samples(each, status, &format!("{before}["), &format!("]{after}"), out);
        }
        (Kind::Section | Kind::Switch, _) => samples(shape, status, before, after, out),
        _ => {}
    }
}

#[test]
fn every_routing_key_that_acts_is_known_to_the_part_that_reads_it() {
    let mut all = Vec::new();
    samples(&DYNAMIC, Status::Acts, "", "", &mut all);
    assert!(all.len() > 150, "{}", all.len());
    let mut unknown = String::new();
    for text in all {
        let (_, problems) = dynamic(&text, Format::Json, "f", "file");
        for problem in problems.iter().filter(|problem| problem.message.starts_with("unknown")) {
            let _ = writeln!(unknown, "{text}: {problem}");
        }
    }
    assert_eq!(unknown, "");
}

#[test]
fn every_key_that_is_read_at_start_is_known_to_the_part_that_reads_it() {
    let mut all = Vec::new();
    samples(&STATIC, Status::Acts, "", "", &mut all);
    assert!(all.len() > 80, "{}", all.len());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    let mut unknown = String::new();
    for text in all {
        std::fs::write(&path, &text).unwrap();
        let loaded = install(&[format!("--configFile={}", path.display())], std::iter::empty());
        for problem in loaded.problems.iter().filter(|problem| problem.message.starts_with("unknown key")) {
            let _ = writeln!(unknown, "{text}: {problem}");
        }
    }
    assert_eq!(unknown, "");
}

#[test]
fn each_object_is_read_alone() {
    let text = "
http:
  routers: {a: {rule: Path(`/`), service: s}}
  services:
    s: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}], strategy: nonsense}}
    t: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}
  middlewares:
    m: {addPrefix: {prefix: /x}}
    n: {addPrefix: {prefix: /x}, stripPrefix: {prefixes: [/y]}}
";
    let (routing, problems) = dynamic(text, Format::Yaml, "f", "file");
    let paths = problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>();
    assert_eq!(paths, ["http.middlewares.n", "http.services.s.loadBalancer.strategy"], "{problems}");
    assert!(problems.iter().all(|problem| problem.place.is_some()), "{problems}");
    let http = &routing.http;
    assert!(http.services.contains_key(&Name::from("t@file")) && http.broken.services.contains_key("s@file"));
    assert!(http.middlewares.contains_key("m@file") && http.broken.middlewares.contains_key("n@file"));
}

#[test]
fn a_broken_router_keeps_its_place_if_its_rule_can_be_read() {
    let text = "
http:
  routers:
    slip: {rule: Path(`/a`), service: s, midlewares: [m]}
    refused: {rule: Path(`/b`), service: s, parentRefs: [slip]}
    lost: {rul: Path(`/c`), service: s, priority: x}
    secure: {rule: Path(`/d`), service: s, tls: {certResolver: [x]}}
    whole: {rule: Path(`/e`), service: s}
";
    let (routing, problems) = dynamic(text, Format::Yaml, "f", "file");
    let paths = problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>();
    let wrong = ["slip.midlewares", "refused.parentRefs", "lost.rul", "lost.priority", "secure.tls.certResolver"];
    assert_eq!(paths, wrong.map(|path| format!("http.routers.{path}")), "{problems}");
    let names = |keys: Vec<&Name>| keys.iter().map(|name| name.local().to_owned()).collect::<Vec<_>>();
    let http = &routing.http;
    assert_eq!(names(http.routers.keys().collect()), ["refused", "secure", "slip", "whole"]);
    assert_eq!(names(http.broken.routers.keys().collect()), ["lost", "refused", "secure", "slip"]);
}

#[test]
fn what_is_written_back_reads_the_same() {
    let text = "
http:
  routers: {a: {rule: Path(`/`), service: s, middlewares: [m], entryPoints: [web], priority: 3}}
  services: {s: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1', weight: 2}], healthCheck: {path: /h, interval: 5}}}}
  middlewares: {m: {stripPrefix: {prefixes: [/x]}}}
  serversTransports: {t: {insecureSkipVerify: true, forwardingTimeouts: {dialTimeout: 1m30s}}}
";
    let (routing, problems) = dynamic(text, Format::Yaml, "f", "file");
    assert!(problems.is_empty(), "{problems}");
    let json = serde_json::to_string(&routing).unwrap().replace("@file", "");
    let (again, problems) = dynamic(&json, Format::Json, "g", "file");
    assert!(problems.is_empty(), "{problems}: {json}");
    assert_eq!(again, routing);
}

#[test]
fn two_providers_add_up() {
    let read =
        |provider| dynamic("http: {routers: {a: {rule: Path(`/`), service: s}, b: 1}}", Format::Yaml, "f", provider).0;
    let mut all = read("file");
    all.merge(read("http"));
    assert_eq!(all.http.routers.keys().map(Name::as_str).collect::<Vec<_>>(), ["a@file", "a@http"]);
    assert_eq!(all.http.broken.routers.len(), 2);
    assert_eq!(all.http.routers["a@http"].service.as_ref().map(Name::as_str), Some("s@http"));
}

/// A guard against work that grows faster than the text; the limit is far above what it takes.
#[test]
fn ten_thousand_routers_are_read_in_no_time() {
    let (mut yaml, mut toml) = ("http:\n  routers:\n".to_owned(), String::new());
    for index in 0..10_000 {
        let _ = write!(
            yaml,
            "    router-{index}:\n      rule: \"Host(`host-{index}.example.com`) && PathPrefix(`/api/v{index}`)\"\n      service: service-{}\n      entryPoints: [web]\n",
            index % 100
        );
        let _ = write!(
            toml,
            "[http.routers.router-{index}]\nrule = \"Host(`host-{index}.example.com`) && PathPrefix(`/api/v{index}`)\"\nservice = \"service-{}\"\nentryPoints = [\"web\"]\n",
            index % 100
        );
    }
    for (format, text) in [(Format::Yaml, &yaml), (Format::Toml, &toml)] {
        let start = std::time::Instant::now();
        let (routing, problems) = dynamic(text, format, "f", "file");
        assert!(problems.is_empty() && routing.http.routers.len() == 10_000);
        eprintln!("{format:?}: {} bytes in {:?}", text.len(), start.elapsed());
        assert!(start.elapsed().as_secs() < 20);
    }
}
