//! OCSP: what the authority of a certificate says of it, shown in handshakes. The authority, its responder and the client are
//! OpenSSL's.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis::tls::Certificate;
use portcullis::tls::certificate::Settings;
use portcullis::tls::ocsp::{Question, Verdict};
use portcullis::units::Secret;

use crate::clock::Clock;
use crate::harness::gateway::Gateway;
use crate::harness::pebble::free_port;
use crate::harness::peer::{Peer, until};
use crate::harness::responder::{Registry, shown};
use crate::harness::server::{Server, Step, answer};
use crate::harness::tls::{Pair, quoted};

/// The first pause after a failure is ten seconds and a quarter at most.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);

fn written(pair: &Pair) -> String {
    format!("{{certFile: {}, keyFile: {}}}", quoted(&pair.certificate), quoted(&pair.key))
}

/// A router for any host over TLS, and these certificates.
fn routing(certificates: &[&Pair], more: &str) -> String {
    let certificates: Vec<_> = certificates.iter().map(|pair| written(pair)).collect();
    format!(
        "http:\n  routers: {{all: {{rule: 'PathPrefix(`/`)', service: noop@internal, tls: {{}}}}}}\n\
         tls:\n  certificates: [{}]\n{more}",
        certificates.join(", ")
    )
}

fn responder(url: &str) -> String {
    format!("authorityInfoAccess = OCSP;URI:{url}")
}

/// Waits for what OpenSSL's client is shown to be as it should.
async fn until_shown(gateway: &Gateway, registry: &Registry, name: &str, is_it: impl Fn(Option<&str>) -> bool) {
    let by = Instant::now() + SHOWN_WITHIN;
    loop {
        let found = shown(gateway.address(), name, &registry.path("ca.pem"), "").await;
        if is_it(found.as_deref()) {
            return;
        }
        assert!(Instant::now() < by, "{name}: {found:?} {}", gateway.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_good(found: Option<&str>) -> bool {
    found.is_some_and(|text| text.contains("Cert Status: good"))
}

#[tokio::test]
async fn answers_of_a_real_responder_are_stapled_and_revocations_told() {
    let registry = Registry::new();
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/");
    let insists = format!("{}\ntlsfeature = status_request", responder(&url));
    let pairs = [
        registry.certify("a.test", 1, &insists),
        registry.certify("revoked.test", 2, &responder(&url)),
        registry.certify("silent.test", 3, ""),
    ];
    let default = registry.certify("d.test", 4, &responder("http://elsewhere.test/ocsp"));
    registry.know(&[("01", true), ("02", false), ("04", true)]);
    let file = registry.path("static.yaml");
    fs::write(&file, format!("ocsp: {{responderOverrides: {{'http://elsewhere.test/ocsp': '{url}'}}}}\n")).unwrap();
    let stores = format!("  stores: {{default: {{defaultCertificate: {}}}}}\n", written(&default));
    let gateway = Gateway::setup()
        .flag(format!("configFile={}", file.display()))
        .flag("metrics.prometheus.entryPoint=web")
        .flag("metrics.prometheus=true")
        .dynamic(routing(&pairs.each_ref(), &stores))
        .start()
        .await;
    let (address, authority) = (gateway.address(), registry.path("ca.pem"));
    // Nobody is there yet: handshakes go on without.
    let by = Instant::now() + SHOWN_WITHIN;
    while gateway.log().matches("staple-failed").count() < 3 {
        assert!(Instant::now() < by, "{}", gateway.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shown(address, "a.test", &authority, "").await, None);
    assert!(gateway.log().contains("clients were told to insist on one"), "{}", gateway.log());
    let _responder = registry.respond(port);
    for name in ["a.test", "d.test", "unknown.test"] {
        until_shown(&gateway, &registry, name, is_good).await;
        for version in ["-tls1_2", "-tls1_3"] {
            assert!(is_good(shown(address, name, &authority, version).await.as_deref()), "{name} {version}");
        }
    }
    let by = Instant::now() + SHOWN_WITHIN;
    while !gateway.log().contains("certificate-revoked") {
        assert!(Instant::now() < by, "{}", gateway.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for name in ["revoked.test", "silent.test"] {
        assert_eq!(shown(address, name, &authority, "").await, None, "{name}");
    }
    let page = Peer::connect(address).await.get("/metrics", "").await;
    for line in [
        "portcullis_ocsp_certificates{state=\"valid\"} 2",
        "portcullis_ocsp_certificates{state=\"revoked\"} 1",
        "portcullis_ocsp_certificates{state=\"missing\"} 0",
        "portcullis_ocsp_answers_total{result=\"revoked\"} 1",
    ] {
        assert!(page.text().contains(line), "{line}: {}", page.text());
    }
    // The same certificate from another reading keeps its answer.
    let before = gateway.log().matches("staple-obtained").count();
    gateway.apply(&(routing(&pairs.each_ref(), &stores) + "  options: {default: {minVersion: VersionTLS12}}\n")).await;
    assert!(is_good(shown(address, "a.test", &authority, "").await.as_deref()));
    assert_eq!(gateway.log().matches("staple-obtained").count(), before);
}

/// `ocsp` is part of the static configuration: a reload says that it waits, an upgrade has it act.
#[tokio::test]
async fn switching_it_on_waits_for_an_upgrade() {
    let registry = Registry::new();
    let port = free_port();
    let pair = registry.certify("a.test", 1, &responder("http://elsewhere.test/ocsp"));
    registry.know(&[("01", true)]);
    let _responder = registry.respond(port);
    let file = registry.path("static.yaml");
    fs::write(&file, "{}\n").unwrap();
    let gateway =
        Gateway::setup().flag(format!("configFile={}", file.display())).dynamic(routing(&[&pair], "")).start().await;
    fs::write(&file, "ocsp:\n  responderOverrides: {'http://elsewhere.test/ocsp': 'ftp://a'}\n").unwrap();
    let told = gateway.told("reload").await;
    assert!(told.err.contains("static.yaml:2:") && told.err.contains("no URL of HTTP"), "{told:?}");
    assert!(told.out.contains("`portcullis upgrade` would be refused"), "{told:?}");
    let url = format!("http://127.0.0.1:{port}/");
    fs::write(&file, format!("ocsp: {{responderOverrides: {{'http://elsewhere.test/ocsp': '{url}'}}}}\n")).unwrap();
    let told = gateway.told("reload").await;
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:?}");
    let waiting: Vec<_> = told.out.lines().skip(1).collect();
    assert_eq!(waiting, ["waits for `portcullis upgrade`: ocsp: not set -> set"]);
    assert_eq!(shown(gateway.address(), "a.test", &registry.path("ca.pem"), "").await, None);
    let upgraded = gateway.told("upgrade").await;
    assert_eq!(upgraded.code, Some(0), "{upgraded:?}");
    until_shown(&gateway, &registry, "a.test", is_good).await;
    // Whom to ask is a setting that waits as well.
    fs::write(&file, "ocsp: {responderOverrides: {'http://elsewhere.test/ocsp': 'http://127.0.0.1:9/'}}\n").unwrap();
    let told = gateway.told("reload").await;
    let setting = "ocsp.responderOverrides.http://elsewhere.test/ocsp";
    let expected = format!("waits for `portcullis upgrade`: {setting}: \"{url}\" -> \"http://127.0.0.1:9/\"");
    assert_eq!(told.out.lines().skip(1).collect::<Vec<_>>(), [expected], "{told:?}");
    assert!(is_good(shown(gateway.address(), "a.test", &registry.path("ca.pem"), "").await.as_deref()));
    let heir = told_heir(&upgraded.out);
    rustix::process::kill_process(heir, rustix::process::Signal::TERM).unwrap();
}

/// The process that an upgrade has started.
fn told_heir(out: &str) -> rustix::process::Pid {
    let number = out.split(' ').find_map(|word| word.parse::<i32>().ok()).unwrap();
    rustix::process::Pid::from_raw(number).unwrap()
}

/// A responder that gives these answers, each once, and then always the last one.
async fn gives(answers: Vec<Vec<u8>>) -> Server {
    Server::start(move |request| {
        let Some(body) = answers.get(request.connection).or(answers.last()) else { return answer(503, "", "") };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        vec![Step::ReadBody, Step::Send([head.as_bytes(), body].concat())]
    })
    .await
}

#[tokio::test]
async fn an_upgrade_hands_over_what_authorities_have_said() {
    let (registry, clock) = (Registry::new(), Clock::build());
    let insists = format!("{}\ntlsfeature = status_request", responder("http://a.test/"));
    let pairs = [registry.certify("a.test", 1, &insists), registry.certify("b.test", 2, &responder("http://b.test/"))];
    // Of before the revocation, and valid for another day.
    registry.know(&[("01", true), ("02", true)]);
    clock.set(-3600);
    let moved = [("LD_PRELOAD", clock.path("clock.so")), ("TEST_CLOCK", clock.path("moved"))];
    let moved = moved.each_ref().map(|(name, value)| (*name, value.as_str()));
    let old = registry.answer("b.test", "ca", "-ndays 1", &moved);
    registry.know(&[("01", true), ("02", false)]);
    let good = registry.answer("a.test", "ca", "-ndays 1", &[]);
    let revoked = registry.answer("b.test", "ca", "-ndays 1", &[]);
    let servers = [gives(vec![good, Vec::new()]).await, gives(vec![revoked, old]).await];
    let [a, b] = servers.each_ref().map(Server::url);
    let overrides = format!("{{'http://a.test/': '{a}', 'http://b.test/': '{b}'}}");
    let file = registry.path("static.yaml");
    fs::write(&file, format!("ocsp: {{responderOverrides: {overrides}}}\n")).unwrap();
    let gateway = Gateway::setup()
        .flag(format!("configFile={}", file.display()))
        .dynamic(routing(&pairs.each_ref(), ""))
        .start()
        .await;
    until_shown(&gateway, &registry, "a.test", is_good).await;
    until(|| gateway.log().contains("certificate-revoked")).await;
    let upgraded = gateway.told("upgrade").await;
    assert_eq!(upgraded.code, Some(0), "{upgraded:?}");
    for _ in 0..10 {
        let found = shown(gateway.address(), "a.test", &registry.path("ca.pem"), "").await;
        assert!(is_good(found.as_deref()), "{found:?} {}", gateway.log());
        assert_eq!(shown(gateway.address(), "b.test", &registry.path("ca.pem"), "").await, None);
    }
    // It knew them before it served, and nobody was asked again.
    assert!(gateway.log().contains("staples-inherited"), "{}", gateway.log());
    assert_eq!(servers.each_ref().map(Server::count), [1, 1], "{}", gateway.log());
    rustix::process::kill_process(told_heir(&upgraded.out), rustix::process::Signal::TERM).unwrap();
}

/// Clients that insist on an answer are never without one while a certificate is renewed.
#[tokio::test]
async fn a_certificate_that_insists_on_an_answer_is_shown_once_it_has_one() {
    let registry = Registry::new();
    registry.know(&[("01", true), ("02", true)]);
    let extensions = |url: &str| format!("{}\ntlsfeature = status_request", responder(url));
    let old = registry.certify("a.test", 1, &extensions("http://first.test/"));
    let first = gives(vec![registry.answer("a.test", "ca", "-ndays 1", &[])]).await;
    let new = registry.certify("a.test", 2, &extensions("http://second.test/"));
    let body = registry.answer("a.test", "ca", "-ndays 1", &[]);
    // It takes its time.
    let second = Server::start(move |_| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        vec![Step::ReadBody, Step::WaitForTest, Step::Send([head.as_bytes(), &body].concat())]
    })
    .await;
    let file = registry.path("static.yaml");
    let overrides = format!("{{'http://first.test/': '{}', 'http://second.test/': '{}'}}", first.url(), second.url());
    fs::write(&file, format!("ocsp: {{responderOverrides: {overrides}}}\n")).unwrap();
    let gateway =
        Gateway::setup().flag(format!("configFile={}", file.display())).dynamic(routing(&[&old], "")).start().await;
    let is_about = |found: Option<&str>, serial: &str| {
        assert!(is_good(found), "there is always an answer: {found:?}");
        found.is_some_and(|text| text.contains(&format!("Serial Number: {serial}")))
    };
    until_shown(&gateway, &registry, "a.test", is_good).await;
    gateway.apply(&routing(&[&new], "")).await;
    second.until_count(1).await;
    let found = shown(gateway.address(), "a.test", &registry.path("ca.pem"), "").await;
    assert!(is_about(found.as_deref(), "01"), "{found:?}");
    assert!(gateway.log().contains("staple-awaited"), "{}", gateway.log());
    second.go();
    until_shown(&gateway, &registry, "a.test", |found| is_about(found, "02")).await;
    // The time of the one before is over for good.
    gateway.apply(&(routing(&[&new], "") + "  options: {default: {minVersion: VersionTLS12}}\n")).await;
    let found = shown(gateway.address(), "a.test", &registry.path("ca.pem"), "").await;
    assert!(is_about(found.as_deref(), "02"), "{found:?}");
}

#[tokio::test]
async fn an_answer_is_shown_until_it_ends_and_not_a_moment_longer() {
    let (registry, clock) = (Registry::new(), Clock::build());
    let answers = registry.path("answers");
    fs::create_dir(&answers).unwrap();
    let folder = answers.clone();
    // The first one ends in ten seconds; then there is garbage, until the test lets a good one through.
    let server = Server::start(move |request| {
        let body = fs::read(folder.join(request.connection.to_string())).unwrap_or_else(|_| b"garbage".to_vec());
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        vec![Step::ReadBody, Step::Send([head.as_bytes(), &body].concat())]
    })
    .await;
    let pair = registry.certify("a.test", 1, &responder(&server.url()));
    registry.know(&[("01", true)]);
    clock.set(-50);
    let moved = [("LD_PRELOAD", clock.path("clock.so")), ("TEST_CLOCK", clock.path("moved"))];
    let moved = moved.each_ref().map(|(name, value)| (*name, value.as_str()));
    let first = registry.answer("a.test", "ca", "-nmin 1", &moved);
    fs::write(answers.join("0"), first).unwrap();
    let gateway = Gateway::setup().flag("ocsp=true").dynamic(routing(&[&pair], "")).start().await;
    until_shown(&gateway, &registry, "a.test", is_good).await;
    // At half of what was left it is asked again. Garbage takes nothing away, but the end does.
    until_shown(&gateway, &registry, "a.test", |found| found.is_none()).await;
    // Handshakes see the end by themselves; the task tells of it within a second.
    until(|| gateway.log().contains("the last one has ended")).await;
    assert!(server.count() >= 2 && gateway.log().contains("the answer cannot be read"), "{}", gateway.log());
    let second = registry.answer("a.test", "ca", "-ndays 1", &[]);
    for connection in server.connections()..server.connections() + 100 {
        fs::write(answers.join(connection.to_string()), &second).unwrap();
    }
    until_shown(&gateway, &registry, "a.test", is_good).await;
    assert_eq!(server.received()[0].header("content-type"), Some("application/ocsp-request"));
}

#[tokio::test]
async fn an_answer_is_renewed_before_it_ends() {
    let (registry, clock) = (Registry::new(), Clock::build());
    let path = registry.path("answer-now");
    let served = path.clone();
    let server = Server::start(move |_| {
        let Ok(body) = fs::read(&served) else { return answer(503, "", "") };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        vec![Step::ReadBody, Step::Send([head.as_bytes(), &body].concat())]
    })
    .await;
    let pair = registry.certify("a.test", 1, &responder(&server.url()));
    registry.know(&[("01", true)]);
    clock.set(-22);
    let moved = [("LD_PRELOAD", clock.path("clock.so")), ("TEST_CLOCK", clock.path("moved"))];
    let moved = moved.each_ref().map(|(name, value)| (*name, value.as_str()));
    // Half of it is over in eight seconds, all of it in thirty-eight.
    fs::write(&path, registry.answer("a.test", "ca", "-nmin 1", &moved)).unwrap();
    let gateway = Gateway::setup().flag("ocsp=true").dynamic(routing(&[&pair], "")).start().await;
    until_shown(&gateway, &registry, "a.test", is_good).await;
    let next = |text: &str| text.split("Next Update:").nth(1).map(|rest| rest.lines().next().unwrap().to_owned());
    let first = next(&shown(gateway.address(), "a.test", &registry.path("ca.pem"), "").await.unwrap());
    fs::write(&path, registry.answer("a.test", "ca", "-ndays 1", &[])).unwrap();
    until_shown(&gateway, &registry, "a.test", |found| {
        let text = found.expect("there is always one");
        next(text) != first
    })
    .await;
    assert!(!gateway.log().contains("staple-failed"), "{}", gateway.log());
}

#[test]
fn only_answers_that_hold_are_believed() {
    let (registry, other, clock) = (Registry::new(), Registry::new(), Clock::build());
    let url = responder("http://ocsp.test/");
    let pair = registry.certify("a.test", 1, &url);
    registry.certify("revoked.test", 2, &url);
    registry.certify("nobody.test", 9, &url);
    registry.certify("delegate", 100, "extendedKeyUsage = OCSPSigning");
    registry.certify("presumptuous", 101, "extendedKeyUsage = serverAuth");
    registry.know(&[("01", true), ("02", false)]);
    // Another authority that calls itself the same way would not help: its key is another.
    other.certify("a.test", 1, &url);
    other.know(&[("01", true)]);
    let read = |pair: &Pair| {
        let key_file = Secret::new(pair.key.clone());
        Certificate::read(&Settings { cert_file: pair.certificate.clone(), key_file, stores: Vec::new() }).unwrap()
    };
    let certificate = read(&pair);
    assert_eq!(certificate.responders().iter().map(|url| &**url).collect::<Vec<_>>(), ["http://ocsp.test/"]);
    let question = Question::about(&certificate).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let at = |moved: i64, more: &str, signer: &str| {
        clock.set(moved);
        let moved = [("LD_PRELOAD", clock.path("clock.so")), ("TEST_CLOCK", clock.path("moved"))];
        registry.answer("a.test", signer, more, &moved.each_ref().map(|(name, value)| (*name, value.as_str())))
    };
    let good = at(0, "-ndays 1", "ca");
    let judge = |answer: &[u8]| question.judge(answer, now);
    for answer in
        [&good, &at(0, "-ndays 1", "delegate"), &at(200, "-ndays 1", "ca"), &at(0, "-ndays 1 -resp_key_id", "ca")]
    {
        match judge(answer) {
            Ok(Verdict::Good(staple)) => {
                assert_eq!(*staple.der, **answer);
                assert!((86_000..87_000).contains(&(staple.next_update - now)), "{staple:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    // That of a certificate that is not valid any more, of one that is not for this, or without its certificate.
    for (answer, expected) in [
        (at(0, "-ndays 1", "presumptuous"), "must not"),
        (at(0, "-ndays 1 -resp_no_certs", "delegate"), "not signed by the issuer"),
        (other.answer("a.test", "ca", "-ndays 1", &[]), "not believed"),
        (registry.answer("revoked.test", "ca", "-ndays 1", &[]), "another certificate"),
        (at(0, "", "ca"), "until when"),
        (at(-86_401, "-ndays 1", "ca"), "has ended"),
        (at(3600, "-ndays 1", "ca"), "holds in"),
        (b"\x30\x03\x0a\x01\x03".to_vec(), "try later"),
        (b"\x30\x03\x0a\x01\x00".to_vec(), "empty"),
        (b"garbage".to_vec(), "cannot be read"),
        (Vec::new(), "cannot be read"),
        ([&good[..], b"x"].concat(), "cannot be read"),
        (vec![0x30; 1 << 20], "larger"),
    ] {
        let found = judge(&answer).unwrap_err();
        assert!(found.contains(expected), "{found}: {expected}");
    }
    let revoked = Question::about(&read(&registry.pair("revoked.test"))).unwrap();
    let answer = registry.answer("revoked.test", "ca", "-ndays 1", &[]);
    assert!(matches!(revoked.judge(&answer, now), Ok(Verdict::Revoked { at: 1_735_689_600, .. })));
    let nobody = Question::about(&read(&registry.pair("nobody.test"))).unwrap();
    let answer = registry.answer("nobody.test", "ca", "-ndays 1", &[]);
    assert!(nobody.judge(&answer, now).unwrap_err().contains("does not know"));
    // No byte of it may be another.
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        match judge(&changed) {
            // Who has signed and what else is sent along is not signed.
            Ok(Verdict::Good(staple)) => assert!((86_000..87_000).contains(&(staple.next_update - now)), "byte {at}"),
            Ok(other) => panic!("byte {at}: {other:?}"),
            Err(_) => {}
        }
        assert!(judge(&good[..at]).is_err(), "cut at {at}");
    }
    let alone = Pair { certificate: fs::read_to_string(registry.path("a.test.pem")).unwrap(), key: pair.key };
    assert!(Question::about(&read(&alone)).unwrap_err().contains("does not follow it"));
}
