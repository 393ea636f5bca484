//! All certificates, by the names they are for: the exact name, then a wildcard, then the default one.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use smallvec::SmallVec;

use super::Certificate;

/// Those for one name, the preferred one first.
type Candidates = SmallVec<[Arc<Certificate>; 1]>;

/// All certificates, indexed. Immutable: a change makes another index.
#[derive(Debug)]
pub struct Certificates {
    exact: HashMap<Box<str>, Candidates, RandomState>,
    /// By what follows the one label that `*` stands for.
    under: HashMap<Box<str>, Candidates, RandomState>,
    addresses: HashMap<IpAddr, Candidates, RandomState>,
    default: Arc<Certificate>,
    /// Every one of them, the default one last.
    all: Box<[Arc<Certificate>]>,
}

impl Certificates {
    /// Indexes `certificates`. Of several for one name, those with short keys come first, then those that are valid longer,
    /// then those named first.
    pub fn new(certificates: &[Arc<Certificate>], default: Arc<Certificate>) -> Self {
        let mut ordered: Vec<_> = certificates.iter().collect();
        ordered.sort_by_key(|certificate| (certificate.is_rsa(), std::cmp::Reverse(certificate.not_after())));
        let all = certificates.iter().chain([&default]).cloned().collect();
        let (exact, under, addresses) = (HashMap::default(), HashMap::default(), HashMap::default());
        let mut index = Self { exact, under, addresses, default, all };
        for certificate in ordered {
            for name in certificate.names() {
                match name.strip_prefix("*.") {
                    Some(domain) => index.under.entry_ref(domain).or_default().push(certificate.clone()),
                    None => index.exact.entry_ref(&**name).or_default().push(certificate.clone()),
                }
            }
            for address in certificate.addresses() {
                index.addresses.entry(*address).or_default().push(certificate.clone());
            }
        }
        index
    }

    /// The one for whom no other is.
    pub fn default_certificate(&self) -> &Arc<Certificate> {
        &self.default
    }

    /// Every one of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.all.iter()
    }

    /// Has one of these stand in for `new`, which is not among them, until its authority has answered. Whether one does: only for those
    /// that tell clients to insist on that, and for some minutes at most.
    pub fn stand_in_for(&self, new: &Arc<Certificate>) -> bool {
        if !new.must_staple() {
            return false;
        }
        let named = new.names().first().and_then(|name| match name.strip_prefix("*.") {
            Some(domain) => self.under.get(domain),
            None => self.exact.get(&**name),
        });
        let found = named.or_else(|| self.addresses.get(new.addresses().first()?)).map(|found| &found[..]);
        let found = found.unwrap_or_default();
        // One that goes on has had its time.
        !found.iter().any(|known| Arc::ptr_eq(known, new)) && found.iter().any(|before| new.let_stand_in(before))
    }

    /// Whether there is one for `name` that is not the default one.
    pub fn has(&self, name: &str) -> bool {
        self.named(name).is_some()
    }

    /// Addresses that certificates are for.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }

    fn named(&self, name: &str) -> Option<&Candidates> {
        self.exact.get(name).or_else(|| self.under.get(parent(name)?))
    }
}

/// What follows the first label.
fn parent(name: &str) -> Option<&str> {
    name.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent)
}

/// The first of several certificates that the client can verify, or the first one of all.
fn pick(candidates: &Candidates, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
    let fits = |certificate: &&Arc<Certificate>| certificate.key.key.choose_scheme(schemes).is_some();
    candidates.iter().find(fits).or(candidates.first()).map(|certificate| certificate.shown())
}

/// Picks certificates during handshakes.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) certificates: Arc<Certificates>,
    /// Refuses clients for whose name there is no certificate (`sniStrict`).
    pub(super) is_strict: bool,
    /// The address that was called, where a certificate for it may be shown to clients without a name.
    pub(super) local: Option<IpAddr>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(|name| name.strip_suffix('.').unwrap_or(name));
        let schemes = hello.signature_schemes();
        let found = match name {
            Some(name) => self.certificates.named(name),
            None => self.local.and_then(|local| self.certificates.addresses.get(&local)),
        };
        match found {
            Some(candidates) => pick(candidates, schemes),
            None if self.is_strict => None,
            None => Some(self.certificates.default.shown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::pair;
    use super::*;

    fn certificate(names: &[&str]) -> Arc<Certificate> {
        Arc::new(Certificate::read(&pair(names)).unwrap())
    }

    #[test]
    fn exact_names_come_before_wildcards() {
        let (exact, wild, default) =
            (certificate(&["a.b.c"]), certificate(&["*.b.c", "192.0.2.1"]), certificate(&["d"]));
        let index = Certificates::new(&[wild.clone(), exact.clone()], default);
        let named = |name: &str| index.named(name).map(|found| found[0].clone());
        assert!(Arc::ptr_eq(&named("a.b.c").unwrap(), &exact));
        assert!(Arc::ptr_eq(&named("x.b.c").unwrap(), &wild));
        for name in ["b.c", "x.y.b.c", ".b.c", "*.b.c.d", ""] {
            assert!(named(name).is_none(), "{name}");
        }
        assert_eq!(index.addresses().count(), 1);
        assert!(index.has("x.b.c") && !index.has("d"));
    }
}
