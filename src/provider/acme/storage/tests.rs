use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::*;
use crate::config::router_tls::Domain;

/// As Traefik 3 writes it.
const WRITTEN: &str = r#"{
  "le": {
    "Account": {
      "Email": "a@b.test",
      "Registration": {
        "body": {"status": "valid", "contact": ["mailto:a@b.test"]},
        "uri": "https://ca.test/acct/7"
      },
      "PrivateKey": "AQID",
      "KeyType": "4096"
    },
    "Certificates": [
      {"domain": {"main": "a.test", "sans": ["b.test"]}, "certificate": "Yw==", "key": "aw==", "Store": "default"}
    ]
  },
  "other": {"Account": null, "Certificates": null, "Later": 1}
}"#;

fn storage(text: &str) -> (tempfile::TempDir, Arc<Storage>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acme.json");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let storage = Storage::new(path.to_str().unwrap());
    (folder, storage)
}

#[test]
fn a_file_of_traefik_is_taken_over_as_it_is() {
    let (_folder, storage) = storage(WRITTEN);
    let kept = storage.load("le").unwrap();
    let account = kept.account.clone().unwrap();
    assert_eq!(account.key().unwrap(), [1, 2, 3]);
    assert_eq!(account.registration.unwrap().uri, "https://ca.test/acct/7");
    assert_eq!(kept.certificates[0].domain.sans[0].as_ref(), "b.test");
    assert_eq!(kept.certificates[0].pem().unwrap(), ("c".to_owned(), "k".to_owned()));
    let held = storage.hold().unwrap().unwrap();
    storage.update(&held, "other", |kept| kept.put(Stored::new(Domain::default(), "x", "y"))).unwrap();
    let before: Value = serde_json::from_str(WRITTEN).unwrap();
    let after: Value = serde_json::from_slice(&fs::read(storage.path()).unwrap()).unwrap();
    assert_eq!(after["le"], before["le"]);
    assert_eq!(after["other"]["Later"], 1);
    assert_eq!(after["other"]["Certificates"][0]["Store"], "default");
    assert_eq!(fs::metadata(storage.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_certificate_takes_the_place_of_the_one_for_the_same_names() {
    let domain = |main: &str| Domain { main: main.into(), sans: Box::default() };
    let mut kept = Kept::default();
    for (main, text) in [("a", "1"), ("b", "2"), ("a", "3")] {
        kept.put(Stored::new(domain(main), text, ""));
    }
    let texts: Vec<_> = kept.certificates.iter().map(|stored| stored.pem().unwrap().0).collect();
    assert_eq!(texts, ["3", "2"]);
}

#[test]
fn what_cannot_be_read_is_not_overwritten() {
    for text in ["{", "[]", r#"{"le": 1}"#, r#"{"le": {"Certificates": 1}}"#] {
        let (_folder, storage) = storage(text);
        let held = storage.hold().unwrap().unwrap();
        assert!(storage.load("le").unwrap_err().contains("is not valid"), "{text}");
        assert!(storage.update(&held, "le", |_| {}).is_err());
        assert_eq!(fs::read_to_string(storage.path()).unwrap(), text);
    }
    let (_folder, storage) = storage(WRITTEN);
    fs::set_permissions(storage.path(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(storage.load("le").unwrap_err().contains("640"));
}

#[test]
fn a_file_that_goes_away_takes_nothing_with_it() {
    let (_folder, storage) = storage(WRITTEN);
    let before = storage.load("le").unwrap();
    fs::remove_file(storage.path()).unwrap();
    assert_eq!(storage.load("le").unwrap(), before);
    let held = storage.hold().unwrap().unwrap();
    storage.update(&held, "other", |_| {}).unwrap();
    assert_eq!(Storage::new(storage.path().to_str().unwrap()).load("le").unwrap(), before);
}

#[test]
fn changes_at_the_same_time_are_all_kept() {
    let (_folder, storage) = storage("");
    let held = storage.hold().unwrap().unwrap();
    std::thread::scope(|scope| {
        for resolver in ["a", "b", "c", "d"] {
            let (storage, held) = (&storage, &held);
            scope.spawn(move || {
                for at in 0..20 {
                    let domain = Domain { main: format!("{at}.test").into(), sans: Box::default() };
                    let stored = Stored::new(domain, "", "");
                    storage.update(held, resolver, |kept| kept.put(stored)).unwrap();
                }
            });
        }
    });
    for resolver in ["a", "b", "c", "d"] {
        assert_eq!(storage.load(resolver).unwrap().certificates.len(), 20, "{resolver}");
    }
}

#[test]
fn one_holds_it_and_the_same_process_shares() {
    let (_folder, storage) = storage("");
    let held = storage.hold().unwrap();
    assert!(held.is_some() && storage.hold().unwrap().is_some());
    let other = Storage::new(storage.path().to_str().unwrap());
    assert!(other.hold().unwrap().is_none());
    drop(held);
    assert!(other.hold().unwrap().is_some());
}

#[test]
fn what_was_refused_is_kept_beside_it() {
    let (_folder, storage) = storage(WRITTEN);
    let text = r#"{"le": [{"names": ["a"], "failures": 2, "kind": "k", "detail": "d", "at": 1, "again": 2}]}"#;
    let path = storage.beside(REFUSALS);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let kept = storage.remembered("le");
    assert_eq!(kept.len(), 1);
    let held = storage.hold().unwrap().unwrap();
    storage.remember(&held, "other", kept.clone()).unwrap();
    assert_eq!((storage.remembered("le"), storage.remembered("other")), (kept.clone(), kept));
    storage.remember(&held, "le", Vec::new()).unwrap();
    assert!(storage.remembered("le").is_empty());
    fs::write(&path, "{").unwrap();
    assert!(storage.remembered("other").is_empty());
    assert_eq!(fs::read_to_string(storage.path()).unwrap(), WRITTEN);
}
