use super::*;
use crate::config::address::{Address, Protocol};
use crate::observe::log::Level;
use crate::units::Name;

/// Loads a file of that name and text with flags, in a folder of its own.
fn load(name: &str, text: &str, flags: &[&str], variables: &[(&str, &str)]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let file = format!("--configFile={}", path.display());
    let args = std::iter::once(file).chain(flags.iter().map(|flag| (*flag).to_owned())).collect::<Vec<_>>();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    install(&args, variables)
}

fn problems(loaded: &Loaded) -> Vec<String> {
    let text = |problem: &Problem| {
        let place = problem.place.as_ref().map(|place| format!("{}:{} ", place.line, place.column)).unwrap_or_default();
        format!("{place}{}: {}", problem.path, problem.message)
    };
    loaded.problems.iter().map(text).collect()
}

fn names<'a>(names: impl IntoIterator<Item = &'a Name>) -> Vec<&'a str> {
    names.into_iter().map(Name::as_str).collect()
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let loaded = load(
        "a.toml",
        "[entryPoints.Web]\naddress = ':80'\n[log]\nlevel = 'INFO'\nformat = 'json'\n",
        &["--log.level=DEBUG"],
        &[("TRAEFIK_LOG_LEVEL", "WARN"), ("TRAEFIK_LOG_NOCOLOR", "true"), ("TRAEFIK_ENTRYPOINTS_WEB_ADDRESS", ":81")],
    );
    assert_eq!(problems(&loaded), Vec::<String>::new());
    assert_eq!(loaded.install.log.level, Level::Debug);
    assert!(loaded.install.log.no_color);
    assert_eq!(loaded.install.log.format, Some(crate::observe::log::Format::Json));
    assert_eq!(names(loaded.install.entry_points.keys()), ["Web"]);
    assert_eq!(loaded.install.entry_points["Web"].address, Address::any(81));
    assert_eq!(loaded.notices.len(), 1);
    assert!(
        loaded.notices[0].ends_with("a.toml, 3 environment variables, 1 flag; the later wins"),
        "{:?}",
        loaded.notices
    );
}

#[test]
fn entry_points_that_nobody_wrote() {
    for (flags, expected, defaults) in [
        (&[][..], &["http"][..], &["http"][..]),
        (&["--api.insecure"], &["http", "traefik"], &["http"]),
        (&["--ping"], &["http", "traefik"], &["http"]),
        (&["--ping.manualRouting"], &["http"], &["http"]),
        (&["--ping", "--ping.entryPoint=a", "--entryPoints.a.address=:1"], &["a"], &["a"]),
        (&["--metrics.prometheus"], &["http", "traefik"], &["http"]),
        (&["--entryPoints.b.address=:2", "--entryPoints.a.address=:1"], &["a", "b"], &["a", "b"]),
        (
            &["--entryPoints.b.address=:2", "--entryPoints.b.asDefault", "--entryPoints.a.address=:1"],
            &["a", "b"],
            &["b"],
        ),
    ] {
        let loaded = load("a.yaml", "", flags, &[]);
        assert_eq!(problems(&loaded), Vec::<String>::new(), "{flags:?}");
        assert_eq!(names(loaded.install.entry_points.keys()), expected, "{flags:?}");
        assert_eq!(names(&loaded.install.default_entry_points()), defaults, "{flags:?}");
    }
    let loaded = load("a.yaml", "", &["--api.insecure"], &[]);
    assert_eq!(
        loaded.install.entry_points["traefik"].address,
        Address { host: "".into(), port: 8080, protocol: Protocol::Tcp }
    );
}

/// All but two: the log's level and the throttle, each with a note in the table of keys.
#[test]
fn the_defaults_are_those_of_traefik() {
    let install = load("a.yaml", "entryPoints: {web: {address: ':80', proxyProtocol: {insecure: true}}}\naccessLog: {}\nmetrics: {prometheus: {}}\napi: {}\nping: {}", &[], &[]).install;
    let written = serde_json::to_value(&install).unwrap();
    for (pointer, expected) in [
        ("/entryPoints/web/transport/respondingTimeouts/readTimeout", serde_json::json!("1m")),
        ("/entryPoints/web/transport/respondingTimeouts/idleTimeout", serde_json::json!("3m")),
        ("/entryPoints/web/transport/lifeCycle/graceTimeOut", serde_json::json!("10s")),
        ("/entryPoints/web/http/sanitizePath", serde_json::json!(true)),
        ("/entryPoints/web/http/maxHeaderBytes", serde_json::json!(1_048_576)),
        ("/entryPoints/web/http/encodedCharacters/allowEncodedSlash", serde_json::json!(true)),
        ("/entryPoints/web/http2/maxConcurrentStreams", serde_json::json!(250)),
        ("/entryPoints/web/proxyProtocol/trustedIPs", serde_json::json!([])),
        ("/entryPoints/web/observability/accessLogs", serde_json::json!(true)),
        ("/providers/providersThrottleDuration", serde_json::json!("500ms")),
        ("/accessLog/fields/defaultMode", serde_json::json!("keep")),
        ("/accessLog/fields/headers/defaultMode", serde_json::json!("drop")),
        ("/metrics/prometheus/buckets", serde_json::json!([0.1, 0.3, 1.2, 5.0])),
        ("/api/dashboard", serde_json::json!(true)),
        ("/ping/terminatingStatusCode", serde_json::json!(503)),
        ("/log/level", serde_json::json!("INFO")),
        ("/serversTransport/maxIdleConnsPerHost", serde_json::json!(200)),
        ("/core/defaultRuleSyntax", serde_json::json!("v3")),
    ] {
        assert_eq!(written.pointer(pointer), Some(&expected), "{pointer}");
    }
}

#[test]
fn what_is_wrong_is_left_out_and_the_rest_stands() {
    let text = "
entryPoints:
  web: {address: ':80', http: {redirections: {entryPoint: {to: secure}}}}
  odd: {address: nonsense}
  dns: {address: ':53/udp', udp: {timeout: 0}}
  good: {address: ':443/udp'}
  secure: {address: ':443'}
  lost: {address: ':1', http: {redirections: {entryPoint: {to: nowhere}}}}
log: {level: LOUD}
ping: {entryPoint: gone}
api: {basePath: 'no slash'}
core: {defaultRuleSyntax: v4}
threads: 0
http: {routers: {}}
";
    let loaded = load("a.yaml", text, &[], &[]);
    assert_eq!(
        problems(&loaded),
        [
            "14:1 http: is not read, because no provider is pointed at this file",
            "9:14 log.level: unknown level `LOUD`: expected TRACE, DEBUG, INFO, WARN, ERROR, FATAL or PANIC",
            "12:27 core.defaultRuleSyntax: `v4` is not known, expected one of `v2`, `v3`",
            "4:18 entryPoints.odd.address: `nonsense` has no port, expected a form like `:80` or `127.0.0.1:8080`",
            "5:44 entryPoints.dns.udp.timeout: expected more than zero: a session that never ends is never released",
            "8:64 entryPoints.lost.http.redirections.entryPoint.to: there is no entry point `nowhere`",
            "10:20 ping.entryPoint: there is no entry point `gone`",
            "11:17 api.basePath: `no slash` is not a path of letters, digits and `/_.:~-`",
            "13:10 threads: expected at least 1",
        ]
    );
    let install = &loaded.install;
    assert_eq!(names(install.entry_points.keys()), ["good", "secure", "web"]);
    assert_eq!(names(install.broken_entry_points.keys()), ["dns", "lost", "odd"]);
    let redirection = install.entry_points["web"].http.redirections.entry_point.as_ref().unwrap();
    assert_eq!((&*redirection.scheme, redirection.permanent, redirection.port), ("https", true, Some(443)));
    assert_eq!((install.log.level, install.threads), (Level::Info, None));
}

/// HTTP is not spoken where datagrams come in.
#[test]
fn entry_points_for_udp_serve_nothing_else() {
    let text = "
entryPoints:
  web: {address: ':53', http: {redirections: {entryPoint: {to: dns}}}}
  dns: {address: ':53/udp'}
  more: {address: ':53/udp'}
ping: {entryPoint: dns}
";
    let loaded = load("a.yaml", text, &[], &[]);
    assert_eq!(
        problems(&loaded),
        [
            "5:19 entryPoints.more.address: entry point `dns` listens on :53/udp already",
            "3:64 entryPoints.web.http.redirections.entryPoint.to: there is no entry point `dns`",
            "6:20 ping.entryPoint: there is no entry point `dns`",
        ]
    );
    assert_eq!(names(loaded.install.entry_points.keys()), ["dns"]);
}

#[test]
fn a_redirection_to_a_closed_entry_point_stands() {
    let text = "entryPoints: {web: {address: ':80', http: {redirections: {entryPoint: {to: secure}}}}, secure: {address: ':443', http: {tls: {certResolver: [x]}}}}";
    let loaded = load("a.yaml", text, &[], &[]);
    assert_eq!(loaded.problems.len(), 1, "{}", loaded.problems);
    assert_eq!(names(loaded.install.entry_points.keys()), ["web"]);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    for (name, text, expected) in [
        ("a.toml", "a = \n", "1:5: error: "),
        ("a.ini", "", ": error: expected a file that ends with .toml, .yaml or .yml"),
    ] {
        let loaded = load(name, text, &[], &[]);
        assert!(loaded.problems.has_errors() && loaded.problems.to_string().contains(expected), "{}", loaded.problems);
    }
    let loaded = install(&["--configFile=/nonexistent/a.toml".to_owned()], std::iter::empty());
    assert!(
        loaded.problems.to_string().starts_with("/nonexistent/a.toml: error: cannot be read: "),
        "{}",
        loaded.problems
    );
}

#[test]
fn files_are_looked_for_in_order() {
    let variables = [("HOME".to_owned(), "/h".to_owned()), ("XDG_CONFIG_HOME".to_owned(), "/x".to_owned())];
    let found = candidates(&variables).into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let stems = [
        "/etc/portcullis/portcullis",
        "/etc/traefik/traefik",
        "/x/portcullis",
        "/x/traefik",
        "/h/.config/portcullis",
        "/h/.config/traefik",
        "./portcullis",
        "./traefik",
    ];
    let expected = stems.iter().flat_map(|stem| ["toml", "yaml", "yml"].map(|ending| format!("{stem}.{ending}")));
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn providers_keep_their_own_settings() {
    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct File {
        directory: String,
        watch: bool,
    }
    let providers =
        load("a.yaml", "providers: {file: {directory: /x, watch: 'no'}, providersThrottleDuration: 5}", &[], &[])
            .install
            .providers;
    assert_eq!(providers.settings::<File>("file"), Ok(Some(File { directory: "/x".into(), watch: false })));
    assert_eq!(providers.settings::<File>("docker"), Ok(None));
    assert_eq!(providers.providers_throttle_duration, crate::units::Duration::from_secs(5));
}

#[test]
fn routers_are_read_compactly_and_written_back() {
    let text = r#"
        [http.routers.a]
        rule = "Host(`a`)"
        service = "s"
        entryPoints = ["web"]
        middlewares = ["m", "n@docker"]
        priority = 7
        ruleSyntax = "v2"
        [http.routers.a.observability]
        accessLogs = false
        [http.routers.b]
        rule = "Host(`b`)"
        service = "s"
        entryPoints = ["web"]
        middlewares = ["m", "n@docker"]
        [http.routers.c]
        service = "s"
        [http.routers.d]
        rule = "Host(`d`)"
        priority = 9223372036854775807
        [entryPoints.web]
        address = ":80"
    "#;
    let (routing, problems) = dynamic(text, Format::Toml, "r.toml", "file");
    let messages = problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect::<Vec<_>>();
    assert_eq!(
        messages,
        [
            "http.routers.c.rule: is missing",
            "http.routers.d.priority: the router priority 9223372036854775807 exceeds the max user-defined priority 9223372036854774807",
        ]
    );
    let http = &routing.http;
    assert_eq!(names(http.broken.routers.keys()), ["c@file", "d@file"]);
    assert_eq!(
        serde_json::to_value(&http.routers).unwrap(),
        serde_json::json!({
            "a@file": {
                "rule": "Host(`a`)", "service": "s@file", "entryPoints": ["web"], "middlewares": ["m@file", "n@docker"],
                "priority": 7, "ruleSyntax": "v2", "observability": {"accessLogs": false}
            },
            "b@file": {
                "rule": "Host(`b`)", "service": "s@file", "entryPoints": ["web"], "middlewares": ["m@file", "n@docker"]
            },
            "d@file": {"rule": "Host(`d`)", "priority": i64::MAX - 1000}
        })
    );
    assert!(Arc::ptr_eq(&http.routers["a@file"].common.middlewares, &http.routers["b@file"].common.middlewares));
    assert!(size_of::<crate::config::Router>() <= 24, "{}", size_of::<crate::config::Router>());
}

#[test]
fn an_unreadable_text_is_told_apart() {
    assert!(published("http: [", Format::Yaml, "r.yaml", "file").is_err());
    assert!(published("http: 3", Format::Yaml, "r.yaml", "file").is_ok_and(|(_, problems)| problems.len() == 1));
    let (routing, problems) = dynamic("http: [", Format::Yaml, "r.yaml", "file");
    assert_eq!((routing, problems.len()), (Routing::default(), 1));
}
