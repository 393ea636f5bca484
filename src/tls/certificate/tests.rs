use super::*;

/// A self-signed pair for these names.
pub(in crate::tls) fn pair(names: &[&str]) -> Settings {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key_file = Secret::new(made.signing_key.serialize_pem());
    Settings { cert_file: made.cert.pem(), key_file, stores: Vec::new() }
}

#[test]
fn names_and_addresses_are_told() {
    let found = Certificate::read(&pair(&["A.example", "*.b.example", "192.0.2.7", "2001:db8::1"])).unwrap();
    assert_eq!(found.names().iter().map(|name| &**name).collect::<Vec<_>>(), ["a.example", "*.b.example"]);
    assert_eq!(found.addresses(), ["192.0.2.7".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
    assert!(!found.is_rsa());
    assert!(found.not_after() > 0);
}

/// A self-signed pair for these names that tells clients to insist on an answer of `http://a/`.
fn insisting(names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    let access = b"\x30\x17\x30\x15\x06\x08\x2b\x06\x01\x05\x05\x07\x30\x01\x86\x09http://a/".to_vec();
    params.custom_extensions = [
        (&[1, 3, 6, 1, 5, 5, 7, 1, 24][..], b"\x30\x03\x02\x01\x05".to_vec()),
        (&[1, 3, 6, 1, 5, 5, 7, 1, 1][..], access),
    ]
    .map(|(oid, content)| rcgen::CustomExtension::from_oid_content(oid, content))
    .into();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert_file = params.self_signed(&key).unwrap().pem();
    let key_file = Secret::new(key.serialize_pem());
    let read = Certificate::read(&Settings { cert_file, key_file, stores: Vec::new() }).unwrap();
    assert!(read.must_staple() && read.responders().len() == 1);
    read
}

#[test]
fn an_older_one_stands_in_until_there_is_an_answer_and_for_minutes_at_most() {
    let shown = |certificate: &Certificate, now: i64| {
        let [own, other] = [certificate.stapled.load_full(), certificate.stand_in.load_full()];
        let shown = certificate.shown_of([&own, &other], now);
        (shown.cert[0].clone(), shown.ocsp.is_some())
    };
    let now = now();
    let [first, second, third] = [["a", "b"], ["b", "a"], ["a", "b"]].map(|names| insisting(&names));
    let leaf = |certificate: &Certificate| certificate.chain()[0].clone();
    assert!(!second.let_stand_in_at(&first, now), "it has no answer itself");
    first.staple(Some((b"1", now + 1000)));
    assert!(second.let_stand_in_at(&first, now));
    assert_eq!(shown(&second, now), (leaf(&first), true));
    // Its time does not begin anew with the next one.
    assert!(third.let_stand_in_at(&second, now + 200));
    for certificate in [&second, &third] {
        assert_eq!(shown(certificate, now + 299), (leaf(&first), true));
        assert_eq!(shown(certificate, now + 300), (leaf(certificate), false));
    }
    second.staple(Some((b"2", now + 1000)));
    assert_eq!(shown(&second, now), (leaf(&second), true));
    third.staple(None);
    assert_eq!(shown(&third, now), (leaf(&third), false));
    first.staple(Some((b"1", now + 10)));
    assert!(third.let_stand_in_at(&first, now));
    assert_eq!(shown(&third, now + 10), (leaf(&third), false), "no longer than its answer holds");
}

#[test]
fn only_one_for_the_same_names_and_clients_stands_in() {
    let now = now();
    let before = insisting(&["a", "b"]);
    before.staple(Some((b"1", now + 1000)));
    let plain = Certificate::read(&pair(&["a"])).unwrap();
    let answered = insisting(&["a"]);
    answered.staple(Some((b"2", now + 1000)));
    for (new, expected) in
        [(insisting(&["a"]), true), (insisting(&["a", "c"]), false), (plain, false), (answered, false)]
    {
        assert_eq!(new.let_stand_in_at(&before, now), expected, "{new:?}");
    }
    assert!(!insisting(&["a"]).let_stand_in_at(&before, now + 1000), "its answer has ended");
}

#[test]
fn mistakes_name_the_field() {
    let (one, other) = (pair(&["a"]), pair(&["b"]));
    let mixed = Settings { key_file: other.key_file, ..one.clone() };
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    for (settings, expected) in [
        (mixed, "keyFile"),
        (Settings { cert_file: "/no/such/file".into(), ..one.clone() }, "certFile"),
        (Settings { cert_file: garbage, ..one.clone() }, "certFile"),
        (Settings { cert_file: one.key_file.reveal().to_owned(), ..one.clone() }, "certFile"),
        (Settings { key_file: Secret::new(one.cert_file.clone()), ..one.clone() }, "keyFile"),
        (Settings::default(), "certFile keyFile"),
    ] {
        let found = Certificate::read(&settings).unwrap_err();
        let paths: Vec<_> = found.iter().map(|problem| &*problem.path).collect();
        assert_eq!(paths.join(" "), expected);
    }
}
