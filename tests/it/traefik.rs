//! Configurations as users of Traefik have them, run as they are: file, flags or environment, and old spellings.

use std::fs;

use crate::harness::gateway::Gateway;
use crate::harness::peer::Peer;
use crate::harness::server::Server;
use crate::harness::tool::Tool;

/// Two files, YAML: what starts the process, and what may change.
#[tokio::test]
async fn two_files_in_yaml() {
    let server = Server::echo().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(
        path.join("traefik.yml"),
        format!(
            "global:
  checkNewVersion: false
  sendAnonymousUsage: false

entryPoints:
  admin:
    address: \"127.0.0.1:0\"
  web-secure:
    address: \"127.0.0.1:0\"
    http:
      middlewares:
        - security-headers@file
    forwardedHeaders:
      trustedIPs:
        - \"127.0.0.1/32\"
        - \"192.168.1.7\"
    transport:
      lifeCycle:
        requestAcceptGraceTimeout: 42
        graceTimeOut: 42
      respondingTimeouts:
        readTimeout: 42
        writeTimeout: 42s
        idleTimeout: 3m

providers:
  providersThrottleDuration: 10ms
  file:
    directory: {0}/dynamic
    watch: true

api:
  dashboard: true

ping:
  entryPoint: \"admin\"

log:
  level: INFO
  filePath: {0}/process.log

metrics:
  prometheus:
    buckets:
      - 0.1
      - 0.3
      - 1.2
      - 5.0
    addEntryPointsLabels: true
    addServicesLabels: true
    entryPoint: admin

accessLog:
  filePath: {0}/access.log
  format: json
  bufferingSize: 0
  filters:
    statusCodes:
      - \"200\"
      - \"300-302\"
    retryAttempts: true
    minDuration: \"10ms\"
  fields:
    defaultMode: keep
    names:
      ClientUsername: drop
    headers:
      defaultMode: keep
      names:
        User-Agent: redact
        Authorization: drop
        Content-Type: keep
",
            path.display()
        ),
    )
    .unwrap();
    fs::create_dir(path.join("dynamic")).unwrap();
    fs::write(
        path.join("dynamic/routers.yml"),
        "http:
  routers:
    Router-1:
      rule: \"Host(`example.com`) && Path(`/foo`) || Host(`example.org`)\"
      entryPoints:
        - \"web-secure\"
      priority: 2
      middlewares:
        - authentication
        - add-foo-prefix
      service: service-foo
    dashboard:
      rule: Host(`traefik.example.com`) && (PathPrefix(`/api`) || PathPrefix(`/dashboard`))
      entryPoints:
        - admin
      service: api@internal
",
    )
    .unwrap();
    fs::write(
        path.join("dynamic/rest.yml"),
        format!(
            "http:
  middlewares:
    security-headers:
      headers:
        frameDeny: true
        browserXssFilter: true
        contentTypeNosniff: true
        stsSeconds: 31536000
        forceSTSHeader: true
        customResponseHeaders:
          X-Powered-By: \"\"
          Server: \"\"
    authentication:
      basicAuth:
        users:
          - \"test:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/\"
          - \"test2:$apr1$d9hr9HBB$4HxwgUir3HP4EsggP/QNo0\"
    add-foo-prefix:
      addPrefix:
        prefix: \"/foo\"
  services:
    service-foo:
      loadBalancer:
        healthCheck:
          path: /health
          interval: \"10s\"
          timeout: \"3s\"
        passHostHeader: false
        sticky:
          cookie:
            name: my_cookie
            secure: true
            httpOnly: true
        servers:
          - url: \"{0}/\"
          - url: \"{0}\"
            weight: 2
",
            server.url()
        ),
    )
    .unwrap();
    let gateway = Gateway::bare(&[&format!("--configFile={}", path.join("traefik.yml").display())], folder).await;
    let mut peer = Peer::connect(gateway.address_of("web-secure")).await;
    let get = "GET /foo HTTP/1.1\r\nHost: example.com\r\n";
    assert_eq!(peer.request(&format!("{get}\r\n")).await.status, 401);
    let answer =
        peer.request(&format!("{get}Authorization: Basic dGVzdDp0ZXN0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n")).await;
    assert_eq!((answer.status, answer.text()), (200, "GET /foo/foo HTTP/1.1"));
    for (name, value) in [
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("x-xss-protection", "1; mode=block"),
        ("strict-transport-security", "max-age=31536000"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{}", answer.head);
    }
    assert!(answer.header("set-cookie").is_some_and(|cookie| cookie.starts_with("my_cookie=")), "{}", answer.head);
    let seen = server.last();
    assert_eq!(seen.header("host"), Some(server.address().to_string().as_str()));
    assert_eq!(seen.header("x-forwarded-for"), Some("10.0.0.1, 127.0.0.1"));
    let mut admin = Peer::connect(gateway.address_of("admin")).await;
    let version = admin.request("GET /api/version HTTP/1.1\r\nHost: traefik.example.com\r\n\r\n").await;
    assert_eq!(version.status, 200);
    assert_eq!(admin.get("/ping", "").await.text(), "OK");
    let line = gateway.logged_path("/foo").await;
    assert_eq!((&line["RouterName"], &line["ClientUsername"]), (&"Router-1@file".into(), &serde_json::Value::Null));
}

/// TOML, both halves in one file, with the canary of the documentation.
#[tokio::test]
async fn one_file_in_toml() {
    let (app, canary) = (Server::says("v1").await, Server::says("v2").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("traefik.toml");
    fs::write(
        &file,
        format!(
            "[entryPoints]
  [entryPoints.web]
    address = \"127.0.0.1:0\"

[log]
  filePath = \"{0}/process.log\"

[providers]
  [providers.file]
    filename = \"{0}/traefik.toml\"

[http.routers]
  [http.routers.app]
    rule = \"PathPrefix(`/`)\"
    service = \"app\"

[http.services]
  [http.services.app]
    [[http.services.app.weighted.services]]
      name = \"appv1\"
      weight = 3
    [[http.services.app.weighted.services]]
      name = \"appv2\"
      weight = 1

  [http.services.appv1]
    [http.services.appv1.loadBalancer]
      [[http.services.appv1.loadBalancer.servers]]
        url = \"{1}/\"

  [http.services.appv2]
    [http.services.appv2.loadBalancer]
      [[http.services.appv2.loadBalancer.servers]]
        url = \"{2}/\"
",
            folder.path().display(),
            app.url(),
            canary.url()
        ),
    )
    .unwrap();
    let gateway = Gateway::bare(&["--configfile", file.to_str().unwrap()], folder).await;
    let mut peer = gateway.connect().await;
    let mut second = 0;
    for _ in 0..8 {
        second += usize::from(peer.get("/", "").await.text() == "v2");
    }
    assert_eq!(second, 2);
}

/// Flags as in a compose file, in lower case as many write them.
#[tokio::test]
async fn flags_in_lower_case() {
    let server = Server::says("ok").await;
    let folder = tempfile::tempdir().unwrap();
    let dynamic = folder.path().join("dynamic.yml");
    fs::write(
        &dynamic,
        format!(
            "http:
  routers:
    to-app:
      rule: HostRegexp(`^.+\\.example\\.com$`)
      service: app
      middlewares: [limit, in-flight, gzip, retry-it]
  middlewares:
    limit: {{rateLimit: {{average: 100, burst: 50}}}}
    in-flight: {{inFlightReq: {{amount: 10, sourceCriterion: {{ipStrategy: {{depth: 1}}}}}}}}
    gzip: {{compress: {{}}}}
    retry-it: {{retry: {{attempts: 4, initialInterval: 100ms}}}}
  services:
    app: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            server.url()
        ),
    )
    .unwrap();
    let gateway = Gateway::bare(
        &[
            "--entrypoints.web.address=127.0.0.1:0",
            "--entrypoints.web.forwardedheaders.insecure",
            "--providers.file.filename",
            dynamic.to_str().unwrap(),
            "--api=true",
            "--api.dashboard=false",
            "--accesslog=true",
            &format!("--accesslog.filepath={}/access.log", folder.path().display()),
            &format!("--log.filepath={}/process.log", folder.path().display()),
            "--log.level=debug",
            "--global.sendanonymoususage=false",
        ],
        folder,
    )
    .await;
    let mut peer = gateway.connect().await;
    let answer = peer.request("GET / HTTP/1.1\r\nHost: a.example.com\r\nX-Forwarded-For: 10.1.1.1\r\n\r\n").await;
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    assert_eq!(peer.get("/", "").await.status, 404);
}

#[test]
fn the_environment_in_capitals() {
    let told = Tool::new("config print")
        .env("TRAEFIK_ENTRYPOINTS_WEB_ADDRESS", ":8080")
        .env("TRAEFIK_ENTRYPOINTS_WEB_FORWARDEDHEADERS_TRUSTEDIPS", "10.0.0.0/8,127.0.0.1")
        .env("TRAEFIK_PROVIDERS_FILE_FILENAME", "/etc/traefik/dynamic.yml")
        .env("TRAEFIK_ACCESSLOG", "true")
        .env("TRAEFIK_METRICS_PROMETHEUS", "true")
        .run();
    assert_eq!(told.code, Some(0), "{told:?}");
    for part in [
        "address = \":8080\"",
        "\"10.0.0.0/8\"",
        "filename = \"/etc/traefik/dynamic.yml\"",
        "[accessLog]",
        "[metrics.prometheus]",
    ] {
        assert!(told.out.contains(part), "{part} is not in {}", told.out);
    }
}

/// What cannot be done is said, not passed over.
#[test]
fn what_is_missing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, part) in [
        ("docker", "providers: {docker: {exposedByDefault: false}}", "providers.docker"),
        ("acme", "certificatesResolvers: {le: {tailscale: {}}}", "certificatesResolvers.le.tailscale"),
        (
            "tls",
            "http: {routers: {a: {rule: 'Host(`a`)', service: b, tls: {certResolver: le}}}}",
            "http.routers.a@file.tls",
        ),
        ("forward", "http: {middlewares: {a: {forwardAuth: {address: 'http://a'}}}}", "http.middlewares.a"),
        ("mirror", "http: {services: {a: {mirroring: {service: b}}}}", "http.services.a"),
        ("tcp", "tcp: {routers: {a: {rule: 'HostSNI(`*`)', service: b}}}", "tcp"),
        ("tracing", "tracing: {otlp: {http: {endpoint: 'http://a'}}}", "tracing"),
    ] {
        let file = format!("{name}.yaml");
        fs::write(folder.path().join(&file), text).unwrap();
        let told = Tool::with(["check", "--strict", &file]).within(folder.path()).run();
        assert!(matches!(told.code, Some(3 | 4)), "{name}: {told:?}");
        assert!(told.out.contains(part) && told.out.contains(&file), "{name}: {told:?}");
    }
}
