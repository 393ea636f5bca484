//! Certificates from real ACME servers: Pebble, and Caddy. What is not installed is skipped with a word.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use serde_json::Value;

use crate::harness::gateway::{Gateway, Setup};
use crate::harness::pebble::{self, Process, free_port, listening, tell_names, trusting};
use crate::harness::peer::{Peer, until};
use crate::harness::server::{Server, Step, ok};
use crate::harness::tls::{get, shake_hands};
use crate::harness::tool::Tool;

/// An order takes seconds: keys are made, and half of the nonces refused.
const ORDER_WITHIN: Duration = Duration::from_secs(60);

const SKIPPED: &str = "skipped: no pebble";

fn routing(server: &Server, routers: &str) -> String {
    format!(
        "http:\n  routers:\n{routers}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n",
        server.url()
    )
}

fn router(name: &str, rule: &str, tls: &str) -> String {
    format!("    {name}: {{rule: '{rule}', service: s, entryPoints: [secure], tls: {tls}}}\n")
}

/// A gateway with the entry points that this Pebble looks at, and a resolver `le` with keys that are made quickly.
fn gateway(pebble: &pebble::Setup, storage: &Path, challenge: &str) -> Setup {
    let acme = |key: &str, value: &str| format!("certificatesResolvers.le.acme.{key}={value}");
    Gateway::setup()
        .flag(format!("entryPoints.open.address=127.0.0.1:{}", pebble.http))
        .flag(format!("entryPoints.secure.address=127.0.0.1:{}", pebble.tls))
        .flag(acme("caServer", &pebble.directory()))
        .flag(acme("caCertificates", &pebble.roots().display().to_string()))
        .flag(acme("storage", &storage.display().to_string()))
        .flag(acme("email", "ada@example.test"))
        .flag(acme("keyType", "EC256"))
        .flag(acme(challenge.split('=').next().unwrap(), challenge.split('=').nth(1).unwrap_or("true")))
}

fn secure(pebble: &pebble::Setup) -> SocketAddr {
    ([127, 0, 0, 1], pebble.tls).into()
}

/// The certificate that is shown to who asks for this name, once it is one that the client trusts.
async fn trusted(
    client: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
    gateway: &Gateway,
) -> CertificateDer<'static> {
    let by = Instant::now() + ORDER_WITHIN;
    loop {
        match shake_hands(client, address, name).await {
            Ok(stream) => return stream.get_ref().1.peer_certificates().unwrap()[0].clone(),
            Err(error) => assert!(Instant::now() < by, "{name}: {error}\n{}", gateway.log()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn logs(gateway: &Gateway, words: &str) {
    let by = Instant::now() + ORDER_WITHIN;
    while !gateway.log().contains(words) {
        assert!(Instant::now() < by, "{words} is not in {}", gateway.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn stored(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_certificate_is_issued_used_renewed_and_survives_an_upgrade() {
    let Some(pebble) = pebble::Setup::new().life(15).start().await else { return eprintln!("{SKIPPED}") };
    let server = Server::says("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("acme.json");
    // Everything without TLS is sent to TLS, but for the proofs.
    let gateway = gateway(&pebble.setup, &storage, "httpChallenge.entryPoint=open")
        .flag("entryPoints.open.http.redirections.entryPoint.to=secure")
        .dynamic(routing(&server, &router("a", "Host(`a.test`)", "{certResolver: le}")))
        .start()
        .await;
    let (client, address) = (pebble.client().await, secure(&pebble.setup));
    let first = trusted(&client, address, "a.test", &gateway).await;
    assert!(get(&client, address, "a.test", "a.test").await.unwrap().ends_with("hello"));
    let file = stored(&storage);
    let le = &file["le"];
    assert_eq!(le["Account"]["Email"], "ada@example.test");
    assert_eq!(le["Account"]["KeyType"], "4096");
    assert!(le["Account"]["Registration"]["uri"].as_str().unwrap().starts_with("https://127.0.0.1"));
    assert_eq!(le["Certificates"][0]["domain"]["main"], "a.test");
    assert_eq!(fs::metadata(&storage).unwrap().permissions().mode() & 0o777, 0o600);
    // At two thirds of its life there is another one; nobody sees the old one end.
    let another = |last: CertificateDer<'static>| {
        let (client, gateway) = (&client, &gateway);
        async move {
            let by = Instant::now() + ORDER_WITHIN;
            loop {
                let shown = trusted(client, address, "a.test", gateway).await;
                if shown != last {
                    return shown;
                }
                assert!(Instant::now() < by, "it is not renewed: {}", gateway.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let second = another(first).await;
    assert_eq!(stored(&storage)["le"]["Certificates"].as_array().unwrap().len(), 1);
    let told = gateway.told("upgrade").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(trusted(&client, address, "a.test", &gateway).await, second);
    another(second).await;
    // All with one account.
    assert_eq!(pebble.log().matches("There are now 1 accounts in memory").count(), 1);
    assert!(!pebble.log().contains("There are now 2 accounts"), "{}", pebble.log());
    let heir = told.out.split(' ').find_map(|word| word.parse::<i32>().ok()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(heir).unwrap(), rustix::process::Signal::TERM)
        .unwrap();
}

#[tokio::test]
async fn proofs_in_handshakes_with_an_account_that_is_bound() {
    let Some(pebble) = pebble::Setup::new().bound().env("PEBBLE_AUTHZREUSE", "0").start().await else {
        return eprintln!("{SKIPPED}");
    };
    let server = Server::says("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let routers = router("a", "Host(`a.test`) || Host(`b.test`)", "{certResolver: le}")
        + &router("w", "Host(`x.w.test`)", "{certResolver: le, domains: [{main: \"*.w.test\"}]}")
        + &router("n", "Host(`n.test`)", "{certResolver: nobody}");
    let stores = "tls: {stores: {default: {defaultGeneratedCert: {resolver: le, domain: {main: d.test}}}}}\n";
    let gateway = gateway(&pebble.setup, &folder.path().join("acme.json"), "tlsChallenge")
        .flag("certificatesResolvers.le.acme.eab.kid=kid-1")
        .flag("certificatesResolvers.le.acme.eab.hmacEncoded=zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W")
        .dynamic(routing(&server, &routers) + stores)
        .start()
        .await;
    let (client, address) = (pebble.client().await, secure(&pebble.setup));
    let one = trusted(&client, address, "a.test", &gateway).await;
    assert_eq!(trusted(&client, address, "b.test", &gateway).await, one, "one rule, one certificate");
    // Whoever asks for another name is shown the certificate that was got for that.
    let default = trusted(&client, address, "d.test", &gateway).await;
    let stream = shake_hands(&client, address, "a.test").await.unwrap();
    assert_ne!(stream.get_ref().1.peer_certificates().unwrap()[0], default);
    let refused = shake_hands(&client, address, "other.test").await.unwrap_err().to_string();
    assert!(refused.contains("d.test"), "{refused}");
    // Nobody else gets anywhere with the protocol of proofs.
    let mut prover = (*client).clone();
    prover.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let prover = Arc::new(prover);
    assert!(shake_hands(&prover, address, "a.test").await.is_err());
    let log = gateway.log();
    assert!(log.contains("only the DNS challenge proves wildcards"), "{log}");
    assert!(log.contains("Router uses a nonexistent certificate resolver: nobody"), "{log}");
    assert!(!log.contains("zWNDZM6eQ"), "a secret is in the log");
}

#[tokio::test]
async fn tcp_routers_get_certificates_for_their_names() {
    let Some(pebble) = pebble::Setup::new().start().await else { return eprintln!("{SKIPPED}") };
    // Nobody but the server ends a connection that a TCP router takes.
    let server = Server::start(|_| [ok("hello"), vec![Step::Close]].concat()).await;
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("acme.json");
    let tcp = |name: &str, rule: &str, tls: &str| {
        format!("    {name}: {{rule: HostSNI(`{rule}`), service: s, entryPoints: [secure], tls: {tls}}}\n")
    };
    let routers = tcp("t", "t.test", "{certResolver: le}")
        + &tcp("p", "p.test", "{}")
        // It takes what nobody else does, but for proofs.
        + &tcp("d", "*", "{certResolver: le, domains: [{main: d.test}]}");
    let services = format!("  services: {{s: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}}}\n", server.address());
    let gateway = gateway(&pebble.setup, &storage, "tlsChallenge")
        // That is for HTTP routers only.
        .flag("entryPoints.secure.http.tls.certResolver=le")
        .dynamic(
            routing(&server, "    h: {rule: Host(`h.test`), service: s, entryPoints: [secure]}\n")
                + &format!("tcp:\n  routers:\n{routers}{services}"),
        )
        .start()
        .await;
    let (client, address) = (pebble.client().await, secure(&pebble.setup));
    for name in ["t.test", "d.test", "h.test"] {
        trusted(&client, address, name, &gateway).await;
        assert!(get(&client, address, name, name).await.unwrap().ends_with("hello"), "{name}");
    }
    let file = stored(&storage);
    let kept = file["le"]["Certificates"].as_array().unwrap();
    let mut names: Vec<_> = kept.iter().map(|kept| kept["domain"]["main"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["d.test", "h.test", "t.test"]);
    assert!(shake_hands(&client, address, "p.test").await.is_err());
}

#[tokio::test]
async fn two_resolvers_prove_one_name_one_after_the_other() {
    let Some(pebble) = pebble::Setup::new().env("PEBBLE_AUTHZREUSE", "0").start().await else {
        return eprintln!("{SKIPPED}");
    };
    let server = Server::says("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let storages = ["one.json", "two.json"].map(|name| folder.path().join(name));
    let other = |key: &str, value: &str| format!("certificatesResolvers.other.acme.{key}={value}");
    // Each shows its proof for a while before the server may look.
    let running = gateway(&pebble.setup, &storages[0], "tlsChallenge.delay=700ms")
        .flag(other("caServer", &pebble.setup.directory()))
        .flag(other("caCertificates", &pebble.setup.roots().display().to_string()))
        .flag(other("storage", &storages[1].display().to_string()))
        .flag(other("keyType", "EC256"))
        .flag(other("tlsChallenge.delay", "700ms"))
        .dynamic(routing(
            &server,
            &(router("a", "Host(`a.test`)", "{certResolver: le}")
                + &router("b", "Host(`a.test`) && PathPrefix(`/b`)", "{certResolver: other}")),
        ))
        .start()
        .await;
    let by = Instant::now() + ORDER_WITHIN;
    let has =
        |path: &Path, name: &str| path.exists() && stored(path)[name]["Certificates"][0]["domain"]["main"] == "a.test";
    while !(has(&storages[0], "le") && has(&storages[1], "other")) {
        assert!(Instant::now() < by && !running.log().contains("certificate-failed"), "{}", running.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A program that writes what Pebble's name server answers.
fn writer(folder: &Path, management: SocketAddr) -> std::path::PathBuf {
    let path = folder.join("writer");
    let text = format!(
        "#!/bin/sh\nverb=clear-txt\n[ \"$1\" = present ] && verb=set-txt\n\
         exec curl -sSf -d \"{{\\\"host\\\": \\\"$2\\\", \\\"value\\\": \\\"$3\\\"}}\" http://{management}/$verb\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn by_dns(setup: Setup, pebble: &pebble::Setup) -> Setup {
    let dns = |key: &str, value: &str| format!("certificatesResolvers.le.acme.dnsChallenge.{key}={value}");
    setup
        .flag(dns("resolvers", &pebble.name_server()))
        .flag(dns("propagation.requireAllRNS", "true"))
        .flag(dns("propagation.disableANSChecks", "true"))
}

#[tokio::test]
async fn wildcards_are_proved_by_records_that_a_program_writes() {
    let Some(pebble) = pebble::Setup::new().env("PEBBLE_AUTHZREUSE", "100").start().await else {
        return eprintln!("{SKIPPED}");
    };
    let server = Server::says("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let program = writer(folder.path(), pebble.setup.dns_management());
    let domains = "{certResolver: le, domains: [{main: w.test, sans: [\"*.w.test\"]}]}";
    let routers = router("w", "HostRegexp(`^.+$`)", domains) + &router("x", "Host(`x.w.test`)", "{certResolver: le}");
    let gateway =
        by_dns(gateway(&pebble.setup, &folder.path().join("acme.json"), "dnsChallenge.provider=exec"), &pebble.setup)
            .env("EXEC_PATH", &program.display().to_string())
            .env("EXEC_POLLING_INTERVAL", "0")
            .dynamic(routing(&server, &routers))
            .start()
            .await;
    let (client, address) = (pebble.client().await, secure(&pebble.setup));
    let wild = trusted(&client, address, "x.w.test", &gateway).await;
    assert_eq!(trusted(&client, address, "w.test", &gateway).await, wild);
    assert_eq!(stored(&folder.path().join("acme.json"))["le"]["Certificates"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for_and_a_webhook_proves() {
    let setup = pebble::Setup::new();
    let server = Server::says("hello").await;
    let management = setup.dns_management();
    let done = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    let webhook = Server::start(move |_| vec![Step::ReadBody, Step::WaitForTest, Step::Send(done.clone())]).await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = by_dns(gateway(&setup, &folder.path().join("acme.json"), "dnsChallenge.provider=httpreq"), &setup)
        .env("HTTPREQ_ENDPOINT", &format!("{}/hook/", webhook.url()))
        .env("HTTPREQ_USERNAME", "ada")
        .env("HTTPREQ_PASSWORD", "secret")
        .env("HTTPREQ_POLLING_INTERVAL", "0")
        .dynamic(routing(&server, &router("a", "Host(`a.test`)", "{certResolver: le}")))
        .start()
        .await;
    logs(&gateway, "certificate-failed").await;
    // Traffic goes on, with the certificate of last resort.
    let mut peer = gateway.connect().await;
    assert_eq!(peer.request("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status, 404);
    let address = secure(&setup);
    let Some(pebble) = setup.start().await else { return eprintln!("{SKIPPED}") };
    let relay = async {
        for turn in 0.. {
            let by = Instant::now() + ORDER_WITHIN;
            while !webhook.received().get(turn).is_some_and(|request| request.whole) {
                assert!(Instant::now() < by, "{}", gateway.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let request = webhook.received()[turn].clone();
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let record = serde_json::json!({"host": body["fqdn"], "value": body["value"]}).to_string();
            match request.path() {
                "/hook/present" => tell_names(management, "set-txt", &record),
                other => {
                    assert_eq!(other, "/hook/cleanup");
                    tell_names(management, "clear-txt", &record);
                    webhook.go();
                    return;
                }
            }
            webhook.go();
        }
    };
    relay.await;
    trusted(&pebble.client().await, address, "a.test", &gateway).await;
    let asked = webhook.received();
    assert!(asked.iter().all(|request| request.header("authorization") == Some("Basic YWRhOnNlY3JldA==")));
}

#[tokio::test]
async fn a_proof_that_is_not_believed_is_not_tried_again_at_once() {
    let mut setup = pebble::Setup::new();
    let imposter = Server::says("no proof").await;
    let entry = setup.http;
    // It looks elsewhere.
    setup.http = imposter.address().port();
    let Some(pebble) = setup.start().await else { return eprintln!("{SKIPPED}") };
    let server = Server::says("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let acme = |key: &str, value: &str| format!("certificatesResolvers.le.acme.{key}={value}");
    let setup = || {
        Gateway::setup()
            .flag(format!("entryPoints.open.address=127.0.0.1:{entry}"))
            .flag("entryPoints.secure.address=127.0.0.1:0")
            .flag(acme("caServer", &pebble.setup.directory()))
            .flag(acme("caCertificates", &pebble.setup.roots().display().to_string()))
            .flag(acme("storage", &folder.path().join("acme.json").display().to_string()))
            .flag(acme("httpChallenge.entryPoint", "open"))
            .dynamic(routing(&server, &router("a", "Host(`a.test`)", "{certResolver: le}")))
    };
    let gateway = setup().start().await;
    logs(&gateway, "certificate-failed").await;
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("certificate-failed")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let again = line.to_string();
    assert!(again.contains("unauthorized"), "{again}");
    let seconds = again.split("next attempt in ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!((60..=75).contains(&seconds), "{again}");
    // An unknown proof is none of ours; nothing of it reaches a server.
    let mut peer = Peer::connect(([127, 0, 0, 1], entry).into()).await;
    let answer = peer.request("GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!((answer.status, server.count()), (404, 0));
    assert!(pebble.log().contains("a.test"));
    // Nor is it by who comes after.
    let refusals = folder.path().join("acme.json.refusals");
    until(|| fs::read_to_string(&refusals).is_ok_and(|text| text.contains("a.test"))).await;
    drop(gateway);
    let gateway = setup().start().await;
    logs(&gateway, "1 refusals of before are heeded").await;
    logs(&gateway, "no certificate for a.test").await;
    assert!(!gateway.log().contains("certificate-ordered"), "{}", gateway.log());
}

#[tokio::test]
async fn a_file_of_before_is_taken_over_with_its_account() {
    let Some(pebble) = pebble::Setup::new().start().await else { return eprintln!("{SKIPPED}") };
    let server = Server::says("hello").await;
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("acme.json");
    let setup = || gateway(&pebble.setup, &storage, "tlsChallenge");
    let first = router("a", "Host(`a.test`)", "{certResolver: le}");
    let (client, address) = (pebble.client().await, secure(&pebble.setup));
    let shown = {
        let gateway = setup().dynamic(routing(&server, &first)).start().await;
        trusted(&client, address, "a.test", &gateway).await
    };
    let before = stored(&storage);
    let gateway = setup()
        .dynamic(routing(&server, &(first + &router("b", "Host(`b.test`)", "{certResolver: le}"))))
        .start()
        .await;
    // In force from the first connection on.
    let stream = shake_hands(&client, address, "a.test").await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], shown);
    trusted(&client, address, "b.test", &gateway).await;
    let after = stored(&storage);
    assert_eq!(after["le"]["Account"], before["le"]["Account"]);
    assert_eq!(after["le"]["Certificates"][0], before["le"]["Certificates"][0]);
    assert_eq!(after["le"]["Certificates"].as_array().unwrap().len(), 2);
    assert!(!pebble.log().contains("There are now 2 accounts"), "{}", pebble.log());
}

#[tokio::test]
async fn a_storage_that_cannot_be_used_is_told_and_left_alone() {
    let (server, setup) = (Server::says("hello").await, pebble::Setup::new());
    for (text, mode, words) in [("{}", 0o644, "others must not read keys"), ("{\"le\": [", 0o600, "is not valid")] {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("acme.json");
        fs::write(&storage, text).unwrap();
        fs::set_permissions(&storage, fs::Permissions::from_mode(mode)).unwrap();
        let gateway = gateway(&setup, &storage, "tlsChallenge")
            .dynamic(routing(&server, &router("a", "Host(`a.test`)", "{certResolver: le}")))
            .start()
            .await;
        logs(&gateway, words).await;
        assert_eq!(fs::read_to_string(&storage).unwrap(), text);
        let path = format!("--certificatesResolvers.le.acme.storage={}", storage.display());
        let told = Tool::with(["check", &path, "--certificatesResolvers.le.acme.tlsChallenge=true"]).run();
        assert!(told.out.contains("certificatesResolvers.le.acme.storage") && told.out.contains(words), "{told:?}");
    }
}

#[test]
fn bad_resolvers_are_told_by_check() {
    for (flags, words) in [
        ("certificatesResolvers.le.acme.email=a@b.test", "names no challenge"),
        ("certificatesResolvers.le.tailscale=true", "certificatesResolvers.le.tailscale"),
        ("certificatesResolvers.le.acme.dnsChallenge.provider=clodflare", "there is no DNS provider `clodflare`"),
        ("certificatesResolvers.le.acme.dnsChallenge.provider=exec", "EXEC_PATH is not set"),
        ("certificatesResolvers.le.acme.httpChallenge.entryPoint=nowhere", "there is no entry point `nowhere`"),
        ("certificatesResolvers.le.acme.keyType=EC521", "EC521"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let told = Tool::with(["check", "--strict", &format!("--{flags}")]).within(folder.path()).run();
        assert!(matches!(told.code, Some(3 | 4)), "{flags}: {told:?}");
        assert!(told.out.contains(words), "{flags}: {told:?}");
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "check writes nothing");
    }
}

/// A second server: that of Caddy. It looks at port 80 only.
#[tokio::test]
async fn caddy_issues_too() {
    if std::net::TcpListener::bind("127.0.0.1:80").is_err() {
        return eprintln!("skipped: port 80 is not free for us");
    }
    let folder = tempfile::tempdir().unwrap();
    let (port, secure) = (free_port(), free_port());
    let configuration = format!(
        "{{\n admin off\n skip_install_trust\n auto_https disable_redirects\n storage file_system {}\n}}\n\
         https://127.0.0.1:{port} {{\n bind 127.0.0.1\n tls internal\n acme_server\n}}\n",
        folder.path().join("caddy").display()
    );
    fs::write(folder.path().join("Caddyfile"), configuration).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.path().join("Caddyfile"));
    command.env("HOME", folder.path());
    let Some(_caddy) = Process::start(&mut command, &folder.path().join("caddy.log")) else {
        return eprintln!("skipped: no caddy");
    };
    listening(([127, 0, 0, 1], port).into()).await;
    let root = folder.path().join("caddy/pki/authorities/local/root.crt");
    let by = Instant::now() + ORDER_WITHIN;
    while !root.exists() {
        assert!(Instant::now() < by, "caddy has no authority");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let server = Server::says("hello").await;
    let acme = |key: &str, value: &str| format!("certificatesResolvers.le.acme.{key}={value}");
    let gateway = Gateway::setup()
        .flag("entryPoints.open.address=127.0.0.1:80")
        .flag(format!("entryPoints.secure.address=127.0.0.1:{secure}"))
        .flag(acme("caServer", &format!("https://127.0.0.1:{port}/acme/local/directory")))
        .flag(acme("caCertificates", &root.display().to_string()))
        .flag(acme("storage", &folder.path().join("acme.json").display().to_string()))
        .flag(acme("keyType", "EC384"))
        .flag(acme("httpChallenge.entryPoint", "open"))
        .dynamic(routing(&server, &router("a", "Host(`localhost`)", "{certResolver: le}")))
        .start()
        .await;
    let client = trusting(&fs::read_to_string(&root).unwrap());
    trusted(&client, ([127, 0, 0, 1], secure).into(), "localhost", &gateway).await;
}
