//! `acme.json`: accounts, keys and certificates, in Traefik's layout. One process writes at a time; a file that cannot be read is
//! never overwritten.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::patience::Remembered;
use crate::config::router_tls::Domain;

/// Largest file that is read, in bytes: some thousand certificates.
const LIMIT_BYTES: u64 = 64 << 20;

/// What the file beside the storage is called that has what servers have refused.
const REFUSALS: &str = ".refusals";

/// Everything in the file, by resolver.
pub(super) type Document = Map<String, Value>;

/// What one resolver keeps. Members that are not known here stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Kept {
    pub(super) account: Option<Account>,
    #[serde(deserialize_with = "null_is_none")]
    pub(super) certificates: Vec<Stored>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// An account at an ACME server.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Account {
    pub(super) email: String,
    pub(super) registration: Option<Registration>,
    /// PKCS#1 in base64.
    pub(super) private_key: String,
    pub(super) key_type: String,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// What the server has said of an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Registration {
    pub(super) body: Value,
    /// Its name at the server.
    pub(super) uri: String,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// A certificate.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Stored {
    pub(super) domain: Domain,
    /// PEM in base64: it, then its issuers.
    pub(super) certificate: String,
    /// PEM in base64.
    pub(super) key: String,
    #[serde(rename = "Store")]
    pub(super) store: String,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// Without the key.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("email", &self.email).field("key_type", &self.key_type).finish_non_exhaustive()
    }
}

/// Without the key.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl Account {
    pub(super) fn new(email: &str, registration: Registration, private_key: &[u8]) -> Self {
        Self {
            email: email.to_owned(),
            registration: Some(registration),
            private_key: BASE64_STANDARD.encode(private_key),
            // As lego calls RSA with 4096 bits.
            key_type: "4096".to_owned(),
            other: Map::new(),
        }
    }

    /// The key as it is stored.
    pub(super) fn key(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(&self.private_key).ok()
    }
}

impl Registration {
    pub(super) fn new(uri: String, body: Value) -> Self {
        Self { body, uri, other: Map::new() }
    }
}

impl Stored {
    pub(super) fn new(domain: Domain, chain: &str, key: &str) -> Self {
        Self {
            domain,
            certificate: BASE64_STANDARD.encode(chain),
            key: BASE64_STANDARD.encode(key),
            store: "default".to_owned(),
            other: Map::new(),
        }
    }

    /// Certificate and key in PEM.
    pub(super) fn pem(&self) -> Option<(String, String)> {
        let text = |written: &str| String::from_utf8(BASE64_STANDARD.decode(written).ok()?).ok();
        Some((text(&self.certificate)?, text(&self.key)?))
    }
}

impl Kept {
    /// Puts a certificate in the place of the one for the same names.
    pub(super) fn put(&mut self, new: Stored) {
        match self.certificates.iter_mut().find(|stored| stored.domain == new.domain) {
            Some(stored) => *stored = new,
            None => self.certificates.push(new),
        }
    }
}

fn null_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Stored>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The file, for all resolvers that share it.
pub(super) struct Storage {
    path: PathBuf,
    /// What was read or written last: a file that goes away takes no certificate with it.
    last: Mutex<Option<Document>>,
    /// One change at a time: two that had read the same would each write without the other.
    changing: Mutex<()>,
    held: Mutex<Weak<Held>>,
}

/// The right to write, against other processes. Dropped by the last that works.
#[derive(Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "its end is what it is for")] File);

impl Storage {
    pub(super) fn new(path: &str) -> Arc<Self> {
        Arc::new(Self {
            path: path.into(),
            last: Mutex::new(None),
            changing: Mutex::new(()),
            held: Mutex::new(Weak::new()),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The part of one resolver as it is now. Blocks.
    ///
    /// # Errors
    /// A sentence without a subject, for a problem at the setting. The last good content stays what it was.
    pub(super) fn load(&self, resolver: &str) -> Result<Kept, String> {
        let document = self.read()?;
        part(&document, resolver)
    }

    /// What was read last, whatever has become of the file since.
    pub(super) fn last(&self, resolver: &str) -> Kept {
        self.last.lock().as_ref().and_then(|document| part(document, resolver).ok()).unwrap_or_default()
    }

    /// Changes the part of one resolver. Whoever calls holds the right to. Blocks until it is on the disk.
    ///
    /// # Errors
    /// A sentence without a subject. The file is as it was.
    pub(super) fn update(&self, _: &Held, resolver: &str, change: impl FnOnce(&mut Kept)) -> Result<(), String> {
        let _alone = self.changing.lock();
        let mut document = self.read()?;
        let mut kept = part(&document, resolver)?;
        change(&mut kept);
        let kept = serde_json::to_value(kept).map_err(|error| error.to_string())?;
        document.insert(resolver.to_owned(), kept);
        self.write(&document).map_err(|error| format!("cannot be written: {error}"))?;
        *self.last.lock() = Some(document);
        Ok(())
    }

    /// The right to write, if no other process has it.
    ///
    /// # Errors
    /// If the lock's file cannot be made.
    pub(super) fn hold(&self) -> Result<Option<Arc<Held>>, String> {
        let mut held = self.held.lock();
        if let Some(held) = held.upgrade() {
            return Ok(Some(held));
        }
        let path = self.beside(".lock");
        // Not the file itself: that is replaced with each change.
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| format!("cannot be locked: {}: {error}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let new = Arc::new(Held(file));
                *held = Arc::downgrade(&new);
                Ok(Some(new))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(format!("cannot be locked: {}: {error}", path.display())),
        }
    }

    fn read(&self) -> Result<Document, String> {
        let mut last = self.last.lock();
        let text = match read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(last.clone().unwrap_or_default()),
            Err(error) => return Err(format!("cannot be read: {error}")),
        };
        // An empty one is what people make to set its permissions.
        let document: Document = if text.trim_ascii().is_empty() {
            last.clone().unwrap_or_default()
        } else {
            serde_json::from_slice(&text).map_err(|error| format!("is not valid: {error}"))?
        };
        *last = Some(document.clone());
        Ok(document)
    }

    fn write(&self, document: &Document) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(document)?;
        if text.len() as u64 > LIMIT_BYTES {
            // It could not be read again.
            return Err(io::Error::other(format!("it would be larger than {LIMIT_BYTES} bytes")));
        }
        replace(&self.path, &text)
    }

    /// What a resolver had to do with servers that refuse, from the file beside the storage. It is no loss if that cannot be read.
    pub(super) fn remembered(&self, resolver: &str) -> Vec<Remembered> {
        self.all_remembered().remove(resolver).unwrap_or_default()
    }

    /// Keeps that. Whoever calls holds the right to. Blocks until it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn remember(&self, _: &Held, resolver: &str, refusals: Vec<Remembered>) -> io::Result<()> {
        let _alone = self.changing.lock();
        let mut all = self.all_remembered();
        if refusals.is_empty() {
            all.remove(resolver);
        } else {
            all.insert(resolver.to_owned(), refusals);
        }
        replace(&self.beside(REFUSALS), &serde_json::to_vec_pretty(&all)?)
    }

    fn all_remembered(&self) -> BTreeMap<String, Vec<Remembered>> {
        let path = self.beside(REFUSALS);
        let told = |error: &dyn fmt::Display| log::warn!("{} cannot be read: {error}", path.display());
        match read(&path) {
            Ok(text) => serde_json::from_slice(&text).inspect_err(|error| told(error)).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                told(&error);
                BTreeMap::new()
            }
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(ending);
        path.into()
    }
}

/// Puts a text in the place of a file, so that there is always one of the two.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    // Through links: what they point to is replaced, not they.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut next = path.clone().into_os_string();
    next.push(".new");
    let _ = fs::remove_file(&next);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&next)?;
    let written = file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&next, &path));
    if written.is_err() {
        let _ = fs::remove_file(&next);
    }
    written?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn part(document: &Document, resolver: &str) -> Result<Kept, String> {
    match document.get(resolver) {
        None | Some(Value::Null) => Ok(Kept::default()),
        Some(written) => Kept::deserialize(written).map_err(|error| format!("is not valid at `{resolver}`: {error}")),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("its permissions are {mode:o}, and others must not read keys: set them to 600");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    if !found.is_file() || found.len() > LIMIT_BYTES {
        let message = format!("it is no file of {LIMIT_BYTES} bytes at most");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut text = Vec::new();
    file.take(LIMIT_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
