//! Certificates and TLS options, read from their files. What did not change is kept, and what went bad stays as it was.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::config::router_tls::Domain;
use crate::config::tls::{Contested, DEFAULT, Tls as Written};
use crate::observe::metrics;
use crate::problem::{Problem, Problems};
use crate::tls::{Certificate, Certificates, Options, certificate, options};
use crate::units::{Name, pem};

use super::Kit;

/// Certificates and options as built.
pub(super) struct Tls {
    /// Every certificate that could be read, and what it was read from.
    read: Vec<Read>,
    certificates: Arc<Certificates>,
    options: BTreeMap<Name, BuiltOptions>,
}

/// A certificate, and what it was read from.
#[derive(Clone)]
struct Read {
    settings: Arc<certificate::Settings>,
    files: Files,
    certificate: Arc<Certificate>,
}

/// Options, and what they were built from.
struct BuiltOptions {
    settings: Option<Arc<options::Settings>>,
    files: Files,
    /// `None`: they are broken.
    built: Option<Arc<Options>>,
    warnings: Problems,
}

impl Tls {
    pub(super) fn build(written: &Written, previous: Option<&Self>, kit: &Kit, problems: &mut Problems) -> Self {
        let mut read = Vec::with_capacity(written.certificates.len());
        let before = Before::new(previous);
        for certificate in &written.certificates {
            let known = before.find(read.len(), &certificate.settings);
            let found = read_certificate(&certificate.settings, known, &certificate.path, problems);
            for store in certificate.settings.stores.iter().filter(|store| *store != DEFAULT) {
                let message = format!("the store `{store}` is not used: there is one store, called `{DEFAULT}`");
                problems.push(Problem::warning("stores", message).under(&certificate.path));
            }
            if !kit.staples && found.as_ref().is_some_and(|read| read.certificate.must_staple()) {
                let message =
                    "tells clients to insist on an OCSP answer in the handshake (RFC 7633), and none is shown";
                let problem =
                    Problem::warning("certFile", message).with_help("switch on `ocsp` in the static configuration");
                problems.push(problem.under(&certificate.path));
            }
            read.extend(found);
        }
        let default = default_certificate(written, &before, &mut read, problems);
        let default = default.unwrap_or_else(|| kit.fallback.clone());
        let all: Vec<_> = read.iter().map(|read| read.certificate.clone()).collect();
        let before = previous.filter(|before| {
            let is_same = |(a, b): (&Read, &Arc<Certificate>)| Arc::ptr_eq(&a.certificate, b);
            before.read.len() == all.len()
                && before.read.iter().zip(&all).all(is_same)
                && Arc::ptr_eq(before.certificates.default_certificate(), &default)
        });
        let certificates = match before {
            Some(before) => before.certificates.clone(),
            None => {
                if let Some(previous) = previous.filter(|_| kit.staples) {
                    let waiting = all.iter().filter(|certificate| previous.certificates.stand_in_for(certificate));
                    waiting.for_each(|certificate| tell_of_stand_in(certificate));
                }
                Arc::new(Certificates::new(&all, default))
            }
        };
        let options = build_options(written, &certificates, previous, kit, problems);
        Self { read, certificates, options }
    }

    /// All that could be read.
    pub(super) fn index(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// Whether there are options of this name, broken or not.
    pub(super) fn has(&self, name: &Name) -> bool {
        self.options.contains_key(name)
    }

    /// The options of this name, or the default ones; `None` if they are broken or not there.
    pub(super) fn options(&self, name: Option<&Name>) -> Option<Arc<Options>> {
        self.options.get(name.map_or(DEFAULT, Name::as_str)).and_then(|options| options.built.clone())
    }

    /// Every certificate that was read, for the metrics.
    pub(super) fn certificates(&self) -> Vec<metrics::Certificate> {
        let told = self.read.iter().map(|read| {
            let certificate = &read.certificate;
            let mut names: Vec<&str> = certificate.names().iter().map(|name| &**name).collect();
            names.sort_unstable();
            metrics::Certificate {
                common_name: certificate.common_name().to_owned(),
                serial: certificate.serial().to_owned(),
                names: names.join(","),
                not_after: certificate.not_after(),
            }
        });
        // The same one may be written in several places, and a series is told once.
        let mut seen = HashSet::new();
        told.filter(|certificate| seen.insert(certificate.clone())).collect()
    }

    /// Whether a file is another than the one that was read.
    pub(super) fn has_stale_files(&self) -> bool {
        let read = self.read.iter().map(|read| (&read.files, certificate_paths(&read.settings)));
        let options = self
            .options
            .values()
            .filter_map(|built| built.settings.as_ref().map(|settings| (&built.files, authority_paths(settings))));
        read.chain(options).any(|(files, paths)| *files != Files::of(&paths))
    }
}

fn tell_of_stand_in(certificate: &Certificate) {
    let names = certificate.names().join(", ");
    log::info!(
        event = "staple-awaited", names = names;
        "clients insist on an OCSP answer for the new certificate for {names}: the one before is shown until there is one, for five minutes at most"
    );
}

/// What was read before.
struct Before<'a> {
    read: &'a [Read],
    /// By the certificates' files, from when it is needed on.
    by_file: OnceCell<HashMap<&'a str, Vec<&'a Read>>>,
}

impl<'a> Before<'a> {
    fn new(previous: Option<&'a Tls>) -> Self {
        Self { read: previous.map(|previous| &previous.read[..]).unwrap_or_default(), by_file: OnceCell::new() }
    }

    /// What was read from `settings`; looked for first where it should be. If one of thousands goes, all that follow have other
    /// places.
    fn find(&self, at: usize, settings: &certificate::Settings) -> Option<&'a Read> {
        let is_it = |read: &&Read| *read.settings == *settings;
        if let Some(found) = self.read.get(at).filter(is_it) {
            return Some(found);
        }
        let by_file = self.by_file.get_or_init(|| {
            let mut by_file = HashMap::<_, Vec<_>>::with_capacity(self.read.len());
            for read in self.read {
                by_file.entry(&*read.settings.cert_file).or_default().push(read);
            }
            by_file
        });
        by_file.get(&*settings.cert_file)?.iter().copied().find(is_it)
    }
}

/// Reads a certificate, unless its files are as they were. One that went bad stays as it was.
fn read_certificate(
    settings: &Arc<certificate::Settings>,
    before: Option<&Read>,
    path: &str,
    problems: &mut Problems,
) -> Option<Read> {
    let files = Files::of(&certificate_paths(settings));
    if let Some(before) = before.filter(|before| before.files == files) {
        return Some(before.clone());
    }
    match Certificate::read(settings) {
        Ok(certificate) => Some(Read { settings: settings.clone(), files, certificate: Arc::new(certificate) }),
        Err(wrong) => {
            let stays = before.is_some();
            problems.extend(wrong.into_iter().map(|problem| {
                let problem = problem.under(path);
                if stays { problem.with_help("the certificate that was read before stays in force") } else { problem }
            }));
            // With the files as they are now: they were looked at, and the next change is news.
            before.map(|before| Read { files, ..before.clone() })
        }
    }
}

/// The certificate of the default store, if it names one.
fn default_certificate(
    written: &Written,
    before: &Before<'_>,
    read: &mut Vec<Read>,
    problems: &mut Problems,
) -> Option<Arc<Certificate>> {
    for name in written.stores.keys().chain(written.broken.stores.keys()).filter(|name| name.as_str() != DEFAULT) {
        let message = format!("is not used: there is one store, called `{DEFAULT}`");
        problems.push(Problem::warning(format!("tls.stores.{name}"), message));
    }
    if written.broken.contested.contains(&Contested::Store) {
        let message = "is written by several providers: none of them holds";
        problems.push(Problem::at(format!("tls.stores.{DEFAULT}"), message));
        return None;
    }
    let store = written.stores.get(DEFAULT)?;
    let Some(settings) = store.default_certificate.clone() else {
        return store.default_generated_cert.as_ref().and_then(|generated| got(read, generated.domain.as_ref()?));
    };
    let settings = Arc::new(settings);
    let path = format!("tls.stores.{DEFAULT}.defaultCertificate");
    let found = read_certificate(&settings, before.find(read.len(), &settings), &path, problems)?;
    let certificate = found.certificate.clone();
    read.push(found);
    Some(certificate)
}

/// The certificate that a resolver got for these names; of several, the one that is valid longest.
fn got(read: &[Read], domain: &Domain) -> Option<Arc<Certificate>> {
    let has = |read: &&Read, name: &str| read.certificate.names().iter().any(|known| known.eq_ignore_ascii_case(name));
    let found = read.iter().filter(|read| has(read, &domain.main) && domain.sans.iter().all(|name| has(read, name)));
    found.map(|read| read.certificate.clone()).max_by_key(|certificate| certificate.not_after())
}

fn build_options(
    written: &Written,
    certificates: &Arc<Certificates>,
    previous: Option<&Tls>,
    kit: &Kit,
    problems: &mut Problems,
) -> BTreeMap<Name, BuiltOptions> {
    let mut found = BTreeMap::new();
    let is_contested = written.broken.contested.contains(&Contested::Options);
    let defaults = Arc::new(options::Settings::default());
    let implied = (!written.options.contains_key(DEFAULT)).then(|| (Name::from(DEFAULT), &defaults));
    for (name, settings) in written.options.iter().map(|(name, settings)| (name.clone(), settings)).chain(implied) {
        if is_contested && name.as_str() == DEFAULT {
            continue;
        }
        let files = Files::of(&authority_paths(settings));
        let before = previous
            .and_then(|before| before.options.get(&name))
            .filter(|before| before.settings.as_ref() == Some(settings));
        let is_same = previous.is_some_and(|before| Arc::ptr_eq(&before.certificates, certificates));
        let path = format!("tls.options.{name}");
        let (built, warnings) = match before {
            Some(BuiltOptions { built: Some(built), warnings, files: old, .. }) if is_same && *old == files => {
                (Some(built.clone()), warnings.clone())
            }
            _ => {
                match Options::build(settings, certificates, &kit.tickets, before.and_then(|it| it.built.as_deref())) {
                    Ok((built, warnings)) => (Some(Arc::new(built)), warnings),
                    Err(wrong) => {
                        problems.extend(wrong.under(&path));
                        (None, Problems::new())
                    }
                }
            }
        };
        problems.extend(warnings.clone().under(&path));
        found.insert(name, BuiltOptions { settings: Some(settings.clone()), files, built, warnings });
    }
    for (name, remains) in &written.broken.options {
        if let Some(settings) = &remains.rest
            && let Err(wrong) = Options::build(settings, certificates, &kit.tickets, None)
        {
            problems.extend(remains.news(wrong).under(&format!("tls.options.{name}")));
        }
        found.insert(name.clone(), broken());
    }
    if is_contested {
        let message =
            "is written by several providers: none of them holds, and connections that would need it are refused";
        problems.push(Problem::at(format!("tls.options.{DEFAULT}"), message));
        found.insert(DEFAULT.into(), broken());
    }
    found
}

fn broken() -> BuiltOptions {
    BuiltOptions { settings: None, files: Files::default(), built: None, warnings: Problems::new() }
}

fn certificate_paths(settings: &certificate::Settings) -> Vec<&str> {
    vec![&settings.cert_file, settings.key_file.reveal()]
}

fn authority_paths(settings: &options::Settings) -> Vec<&str> {
    settings.client_auth.ca_files.iter().map(String::as_str).collect()
}

/// What tells that a file is still the same: its size, its time and its number. `None`: it is not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Files(Vec<Option<(u64, i64, i64, u64)>>);

impl Files {
    /// Looks at each path that is none of PEM text.
    pub(super) fn of(written: &[&str]) -> Self {
        let look = |path: &&str| {
            let found = fs::metadata(path).ok()?;
            Some((found.len(), found.mtime(), found.mtime_nsec(), found.ino()))
        };
        Self(written.iter().filter(|written| !pem::is_inline(written)).map(look).collect())
    }
}
