use std::sync::Arc;

use super::*;
use crate::config::{Format, load};
use crate::control::UdpEntryPointModel;
use crate::observe::metrics;
use crate::service::{tcp, transport};
use crate::snapshot::{Target, TcpTls};
use crate::tls::fallback;

const TEXT: &str = r#"
http:
  routers:
    a: {rule: "Host(`a`)", service: one, middlewares: [chained, slow]}
    b: {rule: "Host(`b`)", service: both, middlewares: [prefix]}
    c: {rule: "Host(`c`) && Method(`GET`)", service: one, entryPoints: [web, outer, other]}
  services:
    one: {loadBalancer: {servers: [{url: "http://127.0.0.1:1"}]}}
    two: {loadBalancer: {servers: [{url: "http://127.0.0.1:2"}]}}
    both: {weighted: {services: [{name: one, weight: 1}, {name: two, weight: 1}]}}
  middlewares:
    prefix: {addPrefix: {prefix: /x}}
    chained: {chain: {middlewares: [prefix]}}
    slow: {rateLimit: {average: 1}}
"#;

/// A kit with the entry points `web`, and `outer` and `other`, which put `prefix` before their routers.
struct Bed {
    kit: Kit,
    runtime: tokio::runtime::Runtime,
}

impl Bed {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let entry_point = |name: &str, middlewares: &[&str]| EntryPointModel {
            name: name.into(),
            standing: Standing::Open,
            is_default: name == "web",
            middlewares: middlewares.iter().map(|name| Name::from(*name)).collect(),
            tls: None,
        };
        let udp = |name: &str| UdpEntryPointModel { name: name.into(), standing: Standing::Open };
        let entry_points = EntryPoints {
            tcp: vec![entry_point("web", &[]), entry_point("outer", &["prefix"]), entry_point("other", &["prefix"])],
            udp: vec![udp("dns"), udp("log")],
            written: Arc::default(),
        };
        let kit = Kit {
            entry_points: Arc::new(entry_points),
            internals: Arc::default(),
            default_syntax: RuleSyntax::V3,
            default_transport: Transport::build(&transport::Settings::default()).unwrap(),
            default_tcp_transport: tcp::Transport::build(&tcp::transport::Settings::default()).unwrap(),
            precedence: vec!["docker".to_owned(), "file".to_owned()],
            metrics: Arc::new(Metrics::new(&metrics::Settings::default(), 1)),
            tickets: Arc::default(),
            resolvers: ["le".into()].into(),
            staples: false,
            fallback: fallback::certificate().unwrap(),
            runtime: runtime.handle().clone(),
            give_back: None,
        };
        Self { kit, runtime }
    }

    fn compile(&self, text: &str, previous: Option<&Built>) -> Built {
        compile(Arc::new(read(text, "file")), previous, &self.kit)
    }

    fn problems(&self, text: &str) -> Vec<String> {
        self.compile(text, None).problems.iter().map(ToString::to_string).collect()
    }
}

fn read(text: &str, provider: &str) -> Routing {
    let (routing, problems) = load::published(text, Format::Yaml, "f", provider).unwrap();
    assert!(problems.is_empty(), "{problems}");
    routing
}

fn route<'b>(built: &'b Built, name: &str, entry_point: usize) -> &'b Arc<Route> {
    let table = &built.snapshot.http[entry_point];
    table.routes().iter().find(|route| route.name.as_str() == name).unwrap_or_else(|| panic!("{name}"))
}

fn chain_of(route: &Route) -> &Arc<Chain> {
    match &route.target {
        Target::Service { chain, .. } => chain,
        Target::Disabled => panic!("{} is disabled", route.name),
    }
}

#[test]
fn what_is_read_again_unchanged_is_kept_whole() {
    let bed = Bed::new();
    let before = bed.compile(TEXT, None);
    let after = bed.compile(TEXT, Some(&before));
    assert_eq!(after.snapshot.generation, 2);
    assert!(before.problems.is_empty(), "{}", before.problems);
    for (old, new) in before.snapshot.http.iter().zip(&after.snapshot.http) {
        assert!(Arc::ptr_eq(old, new));
    }
    for (name, service) in &*before.services {
        assert!(Arc::ptr_eq(service, &after.services[name]), "{name}");
    }
    for (name, middleware) in &before.middlewares {
        assert!(Arc::ptr_eq(middleware, &after.middlewares[name]), "{name}");
    }
}

/// Compiles `TEXT`, then the same with `from` replaced by `to`, and compares which routes stayed: of a, b and c at `web`.
fn check_kept(from: &str, to: &str, expected: [bool; 3]) -> (Built, Built) {
    let bed = Bed::new();
    let before = bed.compile(TEXT, None);
    let changed = TEXT.replacen(from, to, 1);
    assert_ne!(changed, TEXT);
    let after = bed.compile(&changed, Some(&before));
    let kept = ["a@file", "b@file", "c@file"].map(|name| Arc::ptr_eq(route(&before, name, 0), route(&after, name, 0)));
    assert_eq!(kept, expected, "{from} -> {to}");
    (before, after)
}

#[test]
fn a_changed_rule_replaces_that_route_alone() {
    let (before, after) = check_kept("Host(`b`)", "Host(`bb`)", [true, false, true]);
    assert!(Arc::ptr_eq(chain_of(route(&before, "b@file", 0)), chain_of(route(&after, "b@file", 0))));
    assert!(!Arc::ptr_eq(&before.snapshot.http[0], &after.snapshot.http[0]));
    // No route of these two has changed.
    assert!(Arc::ptr_eq(&before.snapshot.http[1], &after.snapshot.http[1]));
}

#[test]
fn a_changed_pool_replaces_the_routes_to_it_and_keeps_its_servers() {
    let (before, after) =
        check_kept("127.0.0.1:2\"}", "127.0.0.1:2\"}, {url: \"http://127.0.0.1:3\"}", [true, false, true]);
    let servers = |built: &Built| match &*built.services["two@file"] {
        Service::Servers(pool) => pool.members().iter().map(|member| member.server.clone()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let (old, new) = (servers(&before), servers(&after));
    assert_eq!((old.len(), new.len()), (1, 2));
    assert!(Arc::ptr_eq(&old[0], &new[0]));
}

#[test]
fn a_changed_middleware_replaces_the_routes_through_it() {
    // `c` passes it at other entry points, not at this one.
    check_kept("prefix: /x", "prefix: /y", [false, false, true]);
}

#[test]
fn files_of_users_are_read_again_with_each_configuration() {
    let bed = Bed::new();
    let users = tempfile::NamedTempFile::new().unwrap();
    let put = |name: &str| std::fs::write(&users, format!("{name}:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")).unwrap();
    let text = format!(
        "http:
  routers: {{r: {{rule: 'Host(`a`)', service: s, middlewares: [auth]}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:1'}}]}}}}}}
  middlewares: {{auth: {{basicAuth: {{usersFile: {}}}}}}}",
        users.path().display()
    );
    put("ann");
    let first = bed.compile(&text, None);
    let second = bed.compile(&text, Some(&first));
    assert!(Arc::ptr_eq(route(&first, "r@file", 0), route(&second, "r@file", 0)), "the same users");
    put("bob");
    let third = bed.compile(&text, Some(&second));
    assert!(!Arc::ptr_eq(route(&second, "r@file", 0), route(&third, "r@file", 0)), "another user");
    drop(users);
    let fourth = bed.compile(&text, Some(&third));
    assert!(matches!(route(&fourth, "r@file", 0).target, Target::Disabled), "no users, and nobody is let in");
}

#[test]
fn limits_of_a_router_outlive_changes_of_its_rule() {
    let limit = |built: &Built| chain_of(route(built, "a@file", 0)).steps()[1].middleware.clone();
    let (before, after) = check_kept("Host(`a`)", "Host(`aa`)", [false, true, true]);
    assert!(Arc::ptr_eq(&limit(&before), &limit(&after)));
    let (before, after) = check_kept("average: 1", "average: 2", [false, true, true]);
    assert!(!Arc::ptr_eq(&limit(&before), &limit(&after)));
}

#[test]
fn entry_points_that_treat_a_router_alike_share_its_route() {
    let built = Bed::new().compile(TEXT, None);
    let [web, outer, other] = [0, 1, 2].map(|entry_point| route(&built, "c@file", entry_point));
    assert!(Arc::ptr_eq(outer, other) && !Arc::ptr_eq(web, outer));
    assert_eq!((chain_of(web).steps().len(), chain_of(outer).steps().len()), (0, 1));
}

#[test]
fn routes_that_come_and_go_leave_the_others_alone() {
    let bed = Bed::new();
    let text = |names: &[&str]| {
        let router = |name: &&str| format!("    {name}: {{rule: \"Host(`{name}`)\", service: s}}\n");
        let routers: String = names.iter().map(router).collect();
        format!(
            "http:\n  routers:\n{routers}  services: {{s: {{loadBalancer: {{servers: [{{url: \"http://h:1\"}}]}}}}}}"
        )
    };
    let before = bed.compile(&text(&["b", "d", "f"]), None);
    for names in [&["a", "b", "c", "d", "e", "f", "g"][..], &["d"], &["a", "f"], &["b", "f"]] {
        let after = bed.compile(&text(names), Some(&before));
        for name in names.iter().filter(|name| ["b", "d", "f"].contains(name)) {
            let name = format!("{name}@file");
            assert!(Arc::ptr_eq(route(&before, &name, 0), route(&after, &name, 0)), "{name} of {names:?}");
        }
        assert_eq!(after.snapshot.http[0].routes().len(), names.len());
    }
}

#[test]
fn each_problem_is_told_once_for_each_router() {
    let text = |router: &str| {
        let services = "s: {loadBalancer: {servers: [{url: \"http://h:1\"}]}}";
        format!("http: {{routers: {{r: {{{router}}}}}, services: {{{services}}}}}")
    };
    for (router, expected) in [
        (
            "rule: \"Hots(`a`)\", service: x, entryPoints: [web, web]",
            &[
                "service: the service \"x@file\" does not exist",
                "rule: column 1: unknown matcher `Hots` (did you mean `Host`?)",
            ][..],
        ),
        (
            "rule: \"Host(`a`)\", service: s, middlewares: [m], entryPoints: [web, nowhere]",
            &[
                "entryPoints[1]: entryPoint \"nowhere\" doesn't exist (there are: web, outer, other)",
                "middlewares[0]: middleware \"m@file\" does not exist",
            ],
        ),
        (
            "rule: \"Host(`a`)\", service: s, middlewares: [m], entryPoints: [outer, other]",
            &[
                "entryPoints: entry point \"outer\": middleware \"prefix@file\" does not exist",
                "middlewares[0]: middleware \"m@file\" does not exist",
            ],
        ),
        (
            "rule: \"Host(`a:80`)\", service: s",
            &["rule: no host is `a:80`: write the domain without scheme, port and path"],
        ),
    ] {
        let problems = Bed::new().problems(&text(router));
        let told: Vec<&str> =
            problems.iter().filter_map(|problem| problem.split_once("r@file.").map(|(_, rest)| rest)).collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn doubts_are_told_with_every_configuration() {
    let bed = Bed::new();
    let text = "http: {routers: {r: {rule: \"Host(`a:80`)\", service: s}}, services: {s: {loadBalancer: {servers: [{url: \"http://h:1\"}]}}}}";
    let before = bed.compile(text, None);
    let after = bed.compile(text, Some(&before));
    assert!(Arc::ptr_eq(route(&before, "r@file", 0), route(&after, "r@file", 0)));
    assert_eq!((before.problems.len(), &before.problems), (1, &after.problems));
}

#[test]
fn ties_go_to_the_preferred_provider_then_to_the_name() {
    let bed = Bed::new();
    let text = |names: [&str; 2]| {
        let routers = names.map(|name| format!("{name}: {{rule: \"Path(`/{name}`)\", service: s@x}}")).join(", ");
        format!("http: {{routers: {{{routers}}}}}")
    };
    let mut routing = read(&text(["a", "b"]), "file");
    routing.merge(read(&text(["z", "y"]), "docker"));
    routing.merge(read(&text(["c", "long"]), "consul"));
    let built = compile(Arc::new(routing), None, &bed.kit);
    let order: Vec<&str> = built.snapshot.http[0].routes().iter().map(|route| route.name.as_str()).collect();
    assert_eq!(order, ["long@consul", "y@docker", "z@docker", "a@file", "b@file", "c@consul"]);
}

#[test]
fn chains_within_chains_do_not_multiply_without_end() {
    let mut middlewares = String::from("m0: {addPrefix: {prefix: /x}}");
    for level in 1..40 {
        let below = format!("m{}", level - 1);
        middlewares += &format!(", m{level}: {{chain: {{middlewares: [{below}, {below}]}}}}");
    }
    let text = format!(
        "http: {{middlewares: {{{middlewares}}}, routers: {{r: {{rule: \"Path(`/`)\", service: s, middlewares: [m39]}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: \"http://h:1\"}}]}}}}}}}}"
    );
    let problems = Bed::new().problems(&text);
    assert!(problems.len() == 1 && problems[0].contains("more than 1000"), "{problems:?}");
}

#[test]
fn chains_tell_what_is_wrong_with_them_used_or_not() {
    let problems = Bed::new().problems(
        "http: {middlewares: {fine: {addPrefix: {prefix: /x}}, bad: {addPrefix: {}}, round: {chain: {middlewares: [fine, about]}}, \
         about: {chain: {middlewares: [round]}}, lacks: {chain: {middlewares: [fine, none, bad, round]}}, \
         uses: {chain: {middlewares: [lacks]}}, whole: {chain: {middlewares: [fine]}}}}",
    );
    let circle = "could not instantiate middleware";
    let expected = [
        "bad@file.addPrefix.prefix: prefix cannot be empty".to_owned(),
        format!(
            "about@file.chain.middlewares[0]: {circle} about@file: recursion detected in about@file->round@file->about@file"
        ),
        "lacks@file.chain.middlewares[1]: middleware \"none@file\" does not exist".to_owned(),
        "lacks@file.chain.middlewares[2]: middleware \"bad@file\" is broken; see its own problems".to_owned(),
        "lacks@file.chain.middlewares[3]: middleware \"round@file\" is broken; see its own problems".to_owned(),
        format!(
            "round@file.chain.middlewares[1]: {circle} round@file: recursion detected in round@file->about@file->round@file"
        ),
        "uses@file.chain.middlewares[0]: middleware \"lacks@file\" is broken; see its own problems".to_owned(),
    ];
    assert_eq!(problems, expected.map(|problem| format!("error: http.middlewares.{problem}")));
}

#[test]
fn what_middlewares_warn_of_is_told() {
    let problems = Bed::new().problems("http: {middlewares: {f: {inFlightReq: {amount: 0}}}}");
    assert_eq!(problems, ["warning: http.middlewares.f@file.inFlightReq.amount: is 0, so every request is refused"]);
}

#[test]
fn pools_that_left_are_probed_no_longer() {
    let bed = Bed::new();
    let text =
        "http: {services: {s: {loadBalancer: {servers: [{url: \"http://127.0.0.1:1\"}], healthCheck: {path: /}}}}}";
    let before = bed.compile(text, None);
    let after = bed.compile(&text.replacen("{s:", "{t:", 1), Some(&before));
    before.start(&bed.kit);
    let tasks = || bed.kit.runtime.metrics().num_alive_tasks();
    assert_eq!(tasks(), 1);
    before.retire(&before);
    bed.runtime.block_on(tokio::task::yield_now());
    assert_eq!(tasks(), 1);
    before.retire(&after);
    bed.runtime.block_on(tokio::task::yield_now());
    assert_eq!(tasks(), 0);
}

const UDP: &str = r#"
udp:
  routers:
    b: {entryPoints: [dns], service: both}
    c: {service: one}
  services:
    one: {loadBalancer: {servers: [{address: "127.0.0.1:1"}]}}
    two: {loadBalancer: {servers: [{address: "127.0.0.1:2"}]}}
    both: {weighted: {services: [{name: one, weight: 3}, {name: two}]}}
"#;

fn udp_names(built: &Built) -> Vec<&str> {
    built.snapshot.udp.iter().map(|route| route.as_ref().map_or("-", |route| route.name.as_str())).collect()
}

#[test]
fn each_entry_point_for_udp_has_one_router() {
    let bed = Bed::new();
    let built = bed.compile(UDP, None);
    assert_eq!(udp_names(&built), ["b@file", "c@file"]);
    let told = |text: &str| bed.problems(text);
    assert_eq!(
        told(UDP),
        [
            "warning: udp.routers.c@file.entryPoints: is not used at \"dns\": an entry point for UDP has one router, and \"b@file\" comes first by name"
        ]
    );
    for (from, to, expected) in [
        ("service: one", "service: none", "udp.routers.c@file.service: the service \"none@file\" does not exist"),
        (
            "c: {service: one}",
            "c: {entryPoints: [log]}",
            "udp.routers.c@file.service: the service is missing on the udp router",
        ),
        ("[dns]", "[web]", "udp.routers.b@file.entryPoints[0]: entryPoint \"web\" doesn't exist"),
        ("127.0.0.1:1", "127.0.0.1", "udp.services.one@file.loadBalancer.servers[0].address: `127.0.0.1` has no port"),
        ("{name: two}", "{name: both}", "udp.services.both@file: recursion detected in both@file->both@file"),
        (
            "{name: two}",
            "{name: x}",
            "udp.services.both@file.weighted.services[1].name: the service \"x@file\" does not exist",
        ),
    ] {
        let told = told(&UDP.replacen(from, to, 1));
        assert!(told.iter().any(|problem| problem.contains(expected)), "{to}: {told:#?}");
    }
    // Who comes first keeps the place, even if it cannot be used: its datagrams were not meant for another.
    let broken = bed.compile(&UDP.replacen("service: both", "service: none", 1), None);
    assert_eq!(udp_names(&broken), ["-", "c@file"]);
    let (routing, _) = load::dynamic(&UDP.replacen("[dns]", "[dns], odd: 1", 1), Format::Yaml, "f", "file");
    assert_eq!(udp_names(&compile(Arc::new(routing), None, &bed.kit)), ["-", "c@file"]);
}

#[test]
fn what_is_unchanged_of_udp_is_kept() {
    let bed = Bed::new();
    let before = bed.compile(UDP, None);
    let kept = |text: &str| {
        let after = bed.compile(text, Some(&before));
        let routes = before.snapshot.udp.iter().zip(&after.snapshot.udp);
        routes.map(|(a, b)| a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b))).collect::<Vec<_>>()
    };
    assert_eq!(kept(UDP), [true, true]);
    assert_eq!(kept(&UDP.replacen("127.0.0.1:2", "127.0.0.1:3", 1)), [false, true]);
    assert_eq!(kept(&UDP.replacen("weight: 3", "weight: 4", 1)), [false, true]);
    let after =
        bed.compile(&UDP.replacen("\"127.0.0.1:1\"", "\"127.0.0.1:9\"}, {address: \"127.0.0.1:1\"", 1), Some(&before));
    let service::udp::Service::Servers(pool) = &*before.udp_services["one@file"] else { unreachable!() };
    assert!(after.snapshot.udp.iter().flatten().all(|route| route.service.has(&pool.servers()[0])), "the server stays");
}

#[test]
fn a_wildcard_is_told_of_hosts_whose_own_options_hold() {
    let bed = Bed::new();
    let text = |open: &str| {
        format!(
            r#"
http:
  routers:
    open: {{rule: "Host(`{open}`) && Path(`/p`)", service: one, tls: {{}}}}
    guarded: {{rule: "Host(`*.test`)", service: one, tls: {{options: modern}}}}
  services:
    one: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:1"}}]}}}}
tls:
  options:
    modern: {{minVersion: VersionTLS13}}
"#
        )
    };
    let told = bed.problems(&text("a.test"));
    assert!(told.iter().any(|told| told.contains("guarded@file.tls.options: the rule takes a.test too")), "{told:?}");
    for open in ["a.b.test", "test"] {
        assert_eq!(bed.problems(&text(open)), Vec::<String>::new(), "{open}");
    }
}

#[test]
fn a_broken_router_does_not_loosen_the_options_of_a_host() {
    let bed = Bed::new();
    let authority = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
    for broken in ["aa", "zz"] {
        let text = format!(
            r#"
http:
  routers:
    guarded: {{rule: "Host(`a`)", service: one, tls: {{options: guarded}}}}
    {broken}: {{rule: "Host(`a`) && Path(`/x`)", service: one, tls: {{optoins: guarded}}}}
  services:
    one: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:1"}}]}}}}
tls:
  options:
    guarded: {{clientAuth: {{caFiles: [{authority:?}]}}}}
"#
        );
        let (routing, _) = load::published(&text, Format::Yaml, "f", "file").unwrap();
        let built = compile(Arc::new(routing), None, &bed.kit);
        assert_eq!(built.snapshot.doors[0].terms(Some("a")).name.as_str(), "guarded@file", "{broken}");
        assert_eq!(built.snapshot.https[0].routes().len(), 2);
    }
}

#[test]
fn a_mistake_in_tls_does_not_make_a_router_one_without() {
    let bed = Bed::new();
    for wrong in ["[]", "[x]", "{optoins: x}", "{options: [a]}", "{domains: 5}"] {
        let text = format!(
            r#"
http:
  routers:
    whole: {{rule: "Host(`a`)", service: one, tls: {{}}}}
    wrong: {{rule: "Host(`a`) && Path(`/x`)", service: one, tls: {wrong}}}
  services:
    one: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:1"}}]}}}}
tcp:
  routers:
    whole: {{rule: "HostSNI(`*`)", service: one, tls: {{}}}}
    wrong: {{rule: "HostSNI(`t`)", service: one, tls: {wrong}}}
  services:
    one: {{loadBalancer: {{servers: [{{address: "127.0.0.1:1"}}]}}}}
"#
        );
        let (routing, told) = load::published(&text, Format::Yaml, "f", "file").unwrap();
        let built = compile(Arc::new(routing), None, &bed.kit);
        assert_eq!(built.snapshot.https[0].routes().len(), 2, "{wrong}: {told}");
        let tcp = built.snapshot.doors[0].tcp();
        assert_eq!(tcp.routes().filter(|route| !matches!(route.tls, TcpTls::Without)).count(), 2, "{wrong}");
    }
}

#[test]
fn authorities_that_cannot_be_read_any_more_stay_in_force() {
    let bed = Bed::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.pem");
    let authority = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
    std::fs::write(&file, &authority).unwrap();
    let text = |more: &str| {
        format!(
            r#"
http:
  routers:
    guarded: {{rule: "Host(`a`)", service: one, tls: {{options: guarded}}}}
  services:
    one: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:1"}}]}}}}
tls:
  certificates: [{more}]
  options:
    guarded: {{clientAuth: {{caFiles: [{file:?}]}}}}
"#
        )
    };
    let demands = |built: &Built| {
        let terms = built.snapshot.doors[0].terms(Some("a"));
        *terms.options.as_ref().expect("options that hold").client_demands()
    };
    let first = bed.compile(&text(""), None);
    let wanted = demands(&first);
    std::fs::write(&file, &authority[..authority.len() / 2]).unwrap();
    let half = bed.compile(&text(""), Some(&first));
    assert_eq!(demands(&half), wanted);
    // Told for as long as it lasts, also if something else has changed.
    let pair = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let (chain, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let other = bed.compile(&text(&format!("{{certFile: {chain:?}, keyFile: {key:?}}}")), Some(&half));
    assert_eq!(demands(&other), wanted);
    for built in [&half, &other] {
        let told = built.problems.to_string();
        assert!(told.contains("tls.options.guarded@file.clientAuth.caFiles[0]"), "{told}");
        assert!(told.contains("stay in force"), "{told}");
    }
    std::fs::write(&file, rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap().cert.pem()).unwrap();
    assert_ne!(demands(&bed.compile(&text(""), Some(&other))), wanted);
}

#[test]
fn certificates_are_wanted_for_the_names_of_tcp_routers_that_ask_for_them() {
    let mut bed = Bed::new();
    // It holds for HTTP routers only.
    let tls = crate::config::RouterTls { cert_resolver: Some("le".into()), ..crate::config::RouterTls::default() };
    Arc::make_mut(&mut bed.kit.entry_points).tcp[0].tls = Some(tls);
    for (router, expected) in [
        ("{rule: HostSNI(`a.test`) || HostSNI(`b.test`), tls: {certResolver: le}}", "a.test+b.test"),
        ("{rule: HostSNI(`a.test`), entryPoints: [web, outer], tls: {certResolver: le}}", "a.test"),
        ("{rule: HostSNI(`a.test`) && !HostSNI(`b.test`), tls: {certResolver: le}}", "a.test"),
        ("{rule: HostSNI(`*`), tls: {certResolver: le, domains: [{main: c.test, sans: [d.test]}]}}", "c.test+d.test"),
        ("{rule: HostSNI(`a.test`), tls: {certResolver: le, passthrough: true}}", "a.test"),
        ("{rule: HostSNI(`a.test`), tls: {domains: [{main: c.test}]}}", ""),
        ("{rule: HostSNI(`a.test`), tls: {}}", ""),
        (
            "{rule: HostSNI(`*`), tls: {certResolver: le}}",
            "warning: tcp.routers.r@file.tls.certResolver: the rule names no host",
        ),
        (
            "{rule: HostSNI(`a.test`), tls: {certResolver: no}}",
            "warning: tcp.routers.r@file.tls.certResolver: Router uses a nonexistent",
        ),
    ] {
        let router = router.replacen('{', "{service: s, ", 1);
        let servers = "{loadBalancer: {servers: [{address: '127.0.0.1:1'}]}}";
        let built = bed.compile(&format!("tcp: {{routers: {{r: {router}}}, services: {{s: {servers}}}}}"), None);
        let names = |wanted: &Wanted| {
            assert_eq!(&*wanted.resolver, "le");
            [std::slice::from_ref(&wanted.domain.main), &wanted.domain.sans[..]].concat().join("+")
        };
        let wanted: Vec<_> = built.wanted().iter().map(names).collect();
        let told = built.problems.to_string();
        if expected.starts_with("warning") {
            assert!(wanted.is_empty() && told.contains(expected), "{router}: {wanted:?} {told}");
        } else {
            assert_eq!(wanted.join(" "), expected, "{router}");
            assert_eq!(built.problems.len(), usize::from(router.contains("passthrough")), "{told}");
        }
    }
}

#[test]
fn all_that_is_wrong_with_the_tls_options_of_a_router_is_told_once() {
    let told = Bed::new().problems(
        "http:
  routers: {r: {rule: PathPrefix(`/`), service: s, entryPoints: [web, outer], tls: {options: missing}}}
  services: {s: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}}
",
    );
    let count = |part: &str| told.iter().filter(|problem| problem.contains(part)).count();
    assert_eq!((count("unknown TLS options: missing@file"), count("the rule names no host")), (1, 1), "{told:?}");
}
