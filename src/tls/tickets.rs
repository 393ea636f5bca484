//! Session tickets: what lets a client go on with a session instead of a full handshake (RFC 8446 §4.6.1, RFC 5077).
//!
//! The keys are ours and not the library's, so that a successor process can take them over: after an upgrade clients would
//! otherwise all make full handshakes at once.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use parking_lot::Mutex;
use rustls::server::ProducesTickets;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client_hello::Cursor;

/// A key makes tickets for so long, in seconds.
const MAKES_FOR: u64 = 12 * 3600;
/// A key opens tickets for so long after it was made, in seconds.
const OPENS_FOR: u64 = 36 * 3600;
/// Most keys that are kept.
const KEY_LIMIT: usize = 4;

const NAME_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
/// Bytes of one key as it is handed over: when it was made, its name, the key itself.
const EXPORTED_BYTES: usize = 8 + NAME_BYTES + SECRET_BYTES;

/// The keys of all tickets of the process.
pub struct Tickets {
    /// The newest one first.
    keys: ArcSwap<Vec<Key>>,
    /// Held by who makes the next key.
    rotation: Mutex<()>,
}

#[derive(Clone)]
struct Key {
    /// Seconds of Unix time.
    made: u64,
    name: [u8; NAME_BYTES],
    secret: [u8; SECRET_BYTES],
    cipher: Arc<LessSafeKey>,
}

impl Key {
    fn new(made: u64, name: [u8; NAME_BYTES], secret: [u8; SECRET_BYTES]) -> Option<Self> {
        let cipher = Arc::new(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).ok()?));
        Some(Self { made, name, secret, cipher })
    }

    fn random(now: u64) -> Option<Self> {
        let (mut name, mut secret) = ([0; NAME_BYTES], [0; SECRET_BYTES]);
        getrandom::fill(&mut name).ok()?;
        getrandom::fill(&mut secret).ok()?;
        Self::new(now, name, secret)
    }

    fn opens(&self, now: u64) -> bool {
        now < self.made.saturating_add(OPENS_FOR)
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self { keys: ArcSwap::default(), rotation: Mutex::new(()) }
    }
}

impl Tickets {
    /// The keys that still open tickets, for a successor. They are secrets.
    pub fn export(&self) -> Vec<u8> {
        let now = now();
        let keys = self.keys.load();
        let opens = keys.iter().filter(|key| key.opens(now));
        opens.flat_map(|key| [&key.made.to_be_bytes()[..], &key.name, &key.secret].concat()).collect()
    }

    /// Takes over what a predecessor has exported. What is no such thing is left out.
    pub fn import(&self, exported: &[u8]) {
        let now = now();
        let read = |bytes: &[u8]| {
            let (made, rest) = bytes.split_at_checked(8)?;
            let (name, secret) = rest.split_at_checked(NAME_BYTES)?;
            // A clock that was turned back must not let a key live for ever.
            let made = u64::from_be_bytes(made.try_into().ok()?).min(now);
            Key::new(made, name.try_into().ok()?, secret.try_into().ok()?)
        };
        let keys: Vec<Key> = exported
            .chunks_exact(EXPORTED_BYTES)
            .filter_map(read)
            .filter(|key| key.opens(now))
            .take(KEY_LIMIT)
            .collect();
        if !keys.is_empty() {
            let _turn = self.rotation.lock();
            self.keys.store(Arc::new(keys));
        }
    }

    /// The key that makes tickets now.
    fn newest(&self, now: u64) -> Option<Key> {
        let fresh = |keys: &[Key]| keys.first().filter(|key| now < key.made.saturating_add(MAKES_FOR)).cloned();
        if let Some(key) = fresh(&self.keys.load()) {
            return Some(key);
        }
        let _turn = self.rotation.lock();
        let keys = self.keys.load_full();
        if let Some(key) = fresh(&keys) {
            return Some(key);
        }
        let key = Key::random(now)?;
        let older = keys.iter().filter(|key| key.opens(now)).take(KEY_LIMIT - 1);
        self.keys.store(Arc::new([&key].into_iter().chain(older).cloned().collect()));
        Some(key)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({} keys)", self.keys.load().len())
    }
}

/// Makes and opens the tickets of one set of options.
#[derive(Debug)]
pub(super) struct Ticketer {
    tickets: Arc<Tickets>,
    /// What a session was begun under: it does not go on under anything else.
    scope: [u8; 32],
}

impl Ticketer {
    /// Tickets that are only good where clients must prove the same of themselves.
    pub(super) fn new(tickets: Arc<Tickets>, client_auth: &[u8]) -> Self {
        Self { tickets, scope: Sha256::digest(client_auth).into() }
    }

    fn make(&self, plain: &[u8], now: u64) -> Option<Vec<u8>> {
        let key = self.tickets.newest(now)?;
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        key.cipher.seal_in_place_append_tag(nonce_of, Aad::from(&self.scope[..]), &mut sealed).ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.tickets.keys.load();
        let key = keys.iter().find(|key| key.name == name && key.opens(now))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let length = key.cipher.open_in_place(nonce, Aad::from(&self.scope[..]), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        (OPENS_FOR - MAKES_FOR) as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.make(plain, now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let now = now();
        self.open(ticket, now).filter(|session| may_go_on(session, now))
    }
}

/// Whether the certificate that the client showed when the session began is still valid, if it showed one. Each resumption makes
/// new tickets: without this, a client could go on for as long as it likes.
fn may_go_on(session: &[u8], now: u64) -> bool {
    match shown_by_client(session) {
        Some([]) => true,
        Some(certificate) => X509Certificate::from_der(certificate)
            .is_ok_and(|(_, read)| u64::try_from(read.validity().not_after.timestamp()).is_ok_and(|last| now <= last)),
        None => false,
    }
}

/// The client's certificate in a session as the library writes it (rustls, `ServerSessionValue`); empty if there is none. `None`:
/// it is written in another way, and a full handshake does no harm.
fn shown_by_client(session: &[u8]) -> Option<&[u8]> {
    let mut session = Cursor(session);
    if session.number8()? == 1 {
        let _server_name = session.vector8()?;
    }
    let _version_and_suite = session.take(2 + 2)?;
    let _secret = session.vector8()?;
    let _has_extended_secret = session.number8()?;
    match session.number8()? {
        0 => Some(&[]),
        1 => Cursor(session.vector24()?).vector24().filter(|certificate| !certificate.is_empty()),
        _ => None,
    }
}

/// Seconds of Unix time: keys outlive the process that made them.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use rustls::ClientConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::tls::{Certificate, Certificates, Options, handshake, options};

    fn ticketer(tickets: &Arc<Tickets>, client_auth: &[u8]) -> Ticketer {
        Ticketer::new(tickets.clone(), client_auth)
    }

    #[test]
    fn tickets_open_where_they_were_made_and_nowhere_else() {
        let tickets = Arc::new(Tickets::default());
        let (open, guarded) = (ticketer(&tickets, b""), ticketer(&tickets, b"authority"));
        let now = now();
        let ticket = open.make(b"session", now).unwrap();
        assert_eq!(open.open(&ticket, now).as_deref(), Some(&b"session"[..]));
        assert_eq!(guarded.open(&ticket, now), None, "other demands on clients");
        let other = ticketer(&Arc::new(Tickets::default()), b"");
        assert_eq!(other.open(&ticket, now), None, "other keys");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(open.open(&changed, now), None, "byte {at}");
            assert_eq!(open.open(&ticket[..at], now), None, "cut at {at}");
        }
    }

    #[test]
    fn keys_rotate_and_age() {
        let tickets = Arc::new(Tickets::default());
        let ticketer = ticketer(&tickets, b"");
        let start = now();
        let ticket = ticketer.make(b"session", start).unwrap();
        let again = ticketer.make(b"session", start + MAKES_FOR - 1).unwrap();
        assert_eq!(ticket[..NAME_BYTES], again[..NAME_BYTES]);
        let later = ticketer.make(b"session", start + MAKES_FOR).unwrap();
        assert_ne!(ticket[..NAME_BYTES], later[..NAME_BYTES]);
        assert!(ticketer.open(&ticket, start + OPENS_FOR - 1).is_some());
        assert!(ticketer.open(&ticket, start + OPENS_FOR).is_none());
        for day in 1..20 {
            ticketer.make(b"session", start + day * MAKES_FOR).unwrap();
            assert!(tickets.keys.load().len() <= KEY_LIMIT);
        }
    }

    #[test]
    fn a_successor_opens_what_its_predecessor_made() {
        let (old, new) = (Arc::new(Tickets::default()), Arc::new(Tickets::default()));
        let ticket = ticketer(&old, b"").make(b"session", now()).unwrap();
        new.import(&old.export());
        assert!(ticketer(&new, b"").open(&ticket, now()).is_some());
        for garbage in [&b""[..], b"garbage", &[0; EXPORTED_BYTES], &[255; EXPORTED_BYTES + 3]] {
            new.import(garbage);
        }
        assert!(ticketer(&new, b"").make(b"session", now()).is_some());
    }

    /// A certificate of a client's, valid or not any more.
    fn client(
        roots: &rustls::RootCertStore,
        version: &'static rustls::SupportedProtocolVersion,
        year: i32,
    ) -> Arc<ClientConfig> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["ada".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(crate::tls::provider()));
        let builder = builder.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots.clone());
        Arc::new(builder.with_client_auth_cert(chain, key).unwrap())
    }

    #[tokio::test]
    async fn a_session_does_not_outlive_the_certificate_of_its_client() {
        let pair = crate::tls::certificate::tests::pair(&["a.test"]);
        let shown = Arc::new(Certificate::read(&pair).unwrap());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(shown.chain()[0].clone()).unwrap();
        let certificates = Arc::new(Certificates::new(&[], shown));
        // Takes also those that are not valid any more: only so can a session begin with one.
        let any = options::ClientAuth { client_auth_type: "RequireAnyClientCert".into(), ..Default::default() };
        let settings = options::Settings { client_auth: any, ..Default::default() };
        let (options, _) = Options::build(&settings, &certificates, &Arc::default(), None).unwrap();
        let address = [127, 0, 0, 1].into();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for (year, expected) in [(2100, [false, true, true]), (2020, [false; 3])] {
                let client = TlsConnector::from(client(&roots, version, year));
                for is_resumed in expected {
                    let (near, far) = tokio::io::duplex(64 << 10);
                    let config = options.server_config(Some("a.test"), address).clone();
                    let serve = async {
                        let (mut stream, facts) = handshake::accept(config, far).await.unwrap();
                        stream.write_all(b"!").await.unwrap();
                        stream.flush().await.unwrap();
                        facts
                    };
                    let ask = async {
                        let mut stream = client.connect("a.test".try_into().unwrap(), near).await.unwrap();
                        // Tickets come before it.
                        stream.read_u8().await.unwrap();
                    };
                    let (facts, ()) = tokio::join!(serve, ask);
                    assert_eq!(facts.is_resumed, is_resumed, "{year} {}", facts.version);
                    assert_eq!(facts.client_subject.as_deref(), Some("CN=rcgen self signed cert"));
                }
            }
        }
    }
}
