//! Users and their password hashes, as `htpasswd` writes them.

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hashbrown::HashMap;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::fingerprint::fingerprint;
use crate::problem::{Problem, Problems, each};
use crate::units::Secret;

/// Largest file of users, in bytes.
const FILE_LIMIT_BYTES: u64 = 8 << 20;
/// Highest bcrypt cost: a check then takes a few seconds. Each step doubles it.
const BCRYPT_COST_LIMIT: u32 = 16;

/// Users by name.
pub(crate) struct Users {
    by_name: HashMap<Box<str>, usize, ahash::RandomState>,
    users: Vec<User>,
    /// The file that some of them come from, and the fingerprint of its text.
    file: Option<(Box<str>, u128)>,
}

/// One user.
#[derive(Debug)]
pub(crate) struct User {
    /// Name, as it is sent.
    pub(crate) name: Box<str>,
    /// What the password must hash to.
    pub(crate) hash: PasswordHash,
}

/// The hash against which a password is tried, and for whom.
#[derive(Clone, Copy)]
pub(crate) enum Candidate<'a> {
    /// A user's own.
    Known(&'a User),
    /// Somebody else's, tried so that an unknown name costs what a known one does. It proves nothing.
    Decoy(&'a PasswordHash),
}

impl Users {
    /// Takes the list and the file together; the file wins where both name a user.
    ///
    /// # Errors
    /// Problems under `users` or `usersFile`: each entry that cannot be read, or a file that cannot.
    pub(crate) fn load(list: &[Secret], file: &str) -> Result<Self, Problems> {
        if list.is_empty() && file.is_empty() {
            return Err(Problem::at("users", "names nobody").with_help("give `users` or `usersFile`").into());
        }
        let listed = list.iter().enumerate().map(|(index, entry)| {
            entry.reveal().parse().map_err(|message: &str| Problem::at(format!("users[{index}]"), message))
        });
        let text = match file {
            "" => Ok(String::new()),
            file => read_file(file).map_err(|message| Problem::at("usersFile", format!("`{file}` {message}"))),
        };
        let (text, unreadable) = match text {
            Ok(text) => (text, None),
            Err(problem) => (String::new(), Some(Err(problem))),
        };
        let lines = (1..).zip(text.lines().map(str::trim));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let filed = lines.map(|(number, line)| {
            line.parse()
                .map_err(|message: &str| Problem::at("usersFile", format!("line {number} of `{file}`: {message}")))
        });
        let found: Vec<User> = each(listed.chain(unreadable).chain(filed))?;
        let file = (!file.is_empty()).then(|| (file.into(), fingerprint(&[text.as_bytes()])));
        let mut users = Self { by_name: HashMap::default(), users: Vec::new(), file };
        found.into_iter().for_each(|user| users.put(user));
        Ok(users)
    }

    /// Whether their file still says the same. One that cannot be read does not.
    pub(crate) fn are_current(&self) -> bool {
        let says =
            |(file, text): &(Box<str>, u128)| read_file(file).is_ok_and(|now| fingerprint(&[now.as_bytes()]) == *text);
        self.file.as_ref().is_none_or(says)
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &User> {
        self.users.iter()
    }

    /// The hash to try for `name`; `None` if there are no users at all.
    ///
    /// A name that nobody has gets the hash of one of the users, always the same one, so that unknown names look like known
    /// ones even where the users' hashes differ in kind.
    pub(crate) fn candidate(&self, name: &[u8]) -> Option<Candidate<'_>> {
        let decoy = fingerprint(&[b"decoy", name]) % (self.users.len() as u128).max(1);
        match str::from_utf8(name).ok().and_then(|name| self.by_name.get(name)) {
            Some(index) => self.users.get(*index).map(Candidate::Known),
            None => self.users.get(decoy as usize).map(|user| Candidate::Decoy(&user.hash)),
        }
    }

    fn put(&mut self, user: User) {
        match self.by_name.get(&user.name) {
            Some(index) => self.users[*index] = user,
            None => {
                self.by_name.insert(user.name.clone(), self.users.len());
                self.users.push(user);
            }
        }
    }
}

fn read_file(path: &str) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut text = String::new();
    file.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        return Err(format!("is larger than {FILE_LIMIT_BYTES} bytes"));
    }
    Ok(text)
}

impl FromStr for User {
    type Err = &'static str;

    /// `name:hash`. The message never repeats the text, which is a secret.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, hash) = text.split_once(':').ok_or("is not of the form `name:hash`")?;
        if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_control()) {
            return Err("has an empty name, or one with control characters");
        }
        Ok(Self { name: name.into(), hash: hash.parse()? })
    }
}

/// What a password must hash to.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum PasswordHash {
    /// `$2a$`, `$2b$`, `$2y$`.
    Bcrypt(Box<str>),
    /// `$apr1$`, `$1$`.
    Md5 {
        /// The prefix, which is hashed too.
        magic: &'static str,
        /// Up to eight bytes.
        salt: Box<str>,
        /// The digest in md5-crypt's own base 64.
        digest: [u8; 22],
    },
    /// `{SHA}`: without salt, kept for old files.
    Sha1([u8; 20]),
}

impl PasswordHash {
    /// Whether `password` hashes to it. Takes the same time whatever the answer is; up to seconds.
    pub(crate) fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Md5 { magic, salt, digest } => {
                md5_crypt(password, magic.as_bytes(), salt.as_bytes()).ct_eq(digest).into()
            }
            Self::Sha1(digest) => <[u8; 20]>::from(sha1::Sha1::digest(password)).ct_eq(digest).into(),
        }
    }

    /// Whether trying it takes so long that a worker must not do it.
    pub(crate) const fn is_slow(&self) -> bool {
        !matches!(self, Self::Sha1(_))
    }

    /// All that tells it from another one.
    pub(crate) fn parts(&self) -> [&[u8]; 3] {
        match self {
            Self::Bcrypt(hash) => [b"bcrypt", hash.as_bytes(), b""],
            Self::Md5 { magic, salt, digest } => [magic.as_bytes(), salt.as_bytes(), digest],
            Self::Sha1(digest) => [b"sha1", digest, b""],
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for PasswordHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
            let parts: bcrypt::HashParts = text.parse().map_err(|_| "has a damaged bcrypt hash")?;
            if !(4..=BCRYPT_COST_LIMIT).contains(&parts.get_cost()) {
                return Err("has a bcrypt hash whose cost is not between 4 and 16");
            }
            return Ok(Self::Bcrypt(text.into()));
        }
        for magic in ["$apr1$", "$1$"] {
            if let Some(rest) = text.strip_prefix(magic) {
                return md5_parts(magic, rest).ok_or("has a damaged MD5 hash");
            }
        }
        if let Some(encoded) = text.strip_prefix("{SHA}") {
            let digest = STANDARD.decode(encoded).ok().and_then(|bytes| bytes.try_into().ok());
            return digest.map(Self::Sha1).ok_or("has a damaged SHA-1 hash");
        }
        Err("has a hash of an unknown kind; known are bcrypt ($2y$), MD5 ($apr1$) and {SHA}")
    }
}

const MD5_CRYPT_DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn md5_parts(magic: &'static str, rest: &str) -> Option<PasswordHash> {
    let (salt, digest) = rest.split_once('$')?;
    let digest: [u8; 22] = digest.as_bytes().try_into().ok()?;
    (salt.len() <= 8 && digest.iter().all(|byte| MD5_CRYPT_DIGITS.contains(byte))).then(|| PasswordHash::Md5 {
        magic,
        salt: salt.into(),
        digest,
    })
}

/// Poul-Henning Kamp's md5-crypt; Apache's variant differs in the prefix only.
fn md5_crypt(password: &[u8], magic: &[u8], salt: &[u8]) -> [u8; 22] {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut first = Md5::new().chain_update(password).chain_update(magic).chain_update(salt);
    let mut left = password.len();
    while left > 0 {
        let taken = left.min(16);
        first.update(&inner[..taken]);
        left -= taken;
    }
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut digest = first.finalize();
    for round in 0..1_000 {
        let mut next = Md5::new();
        let is_odd = round % 2 == 1;
        next.update(if is_odd { password } else { digest.as_slice() });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if is_odd { digest.as_slice() } else { password });
        digest = next.finalize();
    }
    md5_crypt_digits(&digest.into())
}

/// Sixteen bytes as 22 digits, in md5-crypt's order: three bytes give four digits, lowest six bits first.
fn md5_crypt_digits(digest: &[u8; 16]) -> [u8; 22] {
    const GROUPS: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];
    let mut digits = [0; 22];
    let digit = |bits: u32, place: u32| MD5_CRYPT_DIGITS[(bits >> (6 * place)) as usize & 0x3f];
    for (group, out) in GROUPS.iter().zip(digits.chunks_mut(4)) {
        let bits = group.iter().fold(0, |bits, index| (bits << 8) | u32::from(digest[*index]));
        for (place, out) in (0..).zip(out) {
            *out = digit(bits, place);
        }
    }
    digits[20] = digit(u32::from(digest[11]), 0);
    digits[21] = digit(u32::from(digest[11]), 1);
    digits
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Cost 4, of `secret`.
    pub(crate) const BCRYPT: &str = "$2y$04$Fhsgn.hqqzQFxPcXCBoFg.2bJFIZfyZnDo4Rem.YRifAdRPCg9Ooi";

    #[test]
    fn verifies_what_htpasswd_and_openssl_write() {
        for (hash, password) in [
            (BCRYPT, "secret"),
            ("$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/", "secret"),
            ("$apr1$ab$gKhZBrGB72uepPfbjFigT/", "a much longer passphrase, longer than sixteen"),
            ("$1$zYx./012$Vq8czG7LkOzxhmzy1Ky3L.", "pässword"),
            ("$apr1$abcd$xc0GS6mcK/RPjawIVUTD1/", ""),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "secret"),
        ] {
            let hash: PasswordHash = hash.parse().unwrap();
            assert!(hash.is_of(password.as_bytes()), "{password}");
            assert!(!hash.is_of(format!("{password}x").as_bytes()), "{password}x");
            assert!(!hash.is_of(b"other"));
        }
    }

    #[test]
    fn refuses_what_it_cannot_verify() {
        for (user, part) in [
            ("secret", "form"),
            (":$apr1$ab$gKhZBrGB72uepPfbjFigT/", "empty name"),
            ("a\u{7}:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "control"),
            ("a:secret", "unknown kind"),
            ("a:", "unknown kind"),
            ("a:$2x$04$abcdefghijklmnopqrstuuLzP9FLWTpBbOQJYGMqEK6dEEfIJl5eK", "unknown kind"),
            ("a:$2y$17$abcdefghijklmnopqrstuuLzP9FLWTpBbOQJYGMqEK6dEEfIJl5eK", "cost"),
            ("a:$2y$04$abc", "damaged bcrypt"),
            ("a:$apr1$abcdefghi$gKhZBrGB72uepPfbjFigT/", "damaged MD5"),
            ("a:$apr1$ab$gKhZBrGB72uepPfbjFigT", "damaged MD5"),
            ("a:{SHA}5en6G6MezRroT3XKqkdPOmY", "damaged SHA-1"),
        ] {
            let problem = user.parse::<User>().unwrap_err();
            assert!(problem.contains(part), "{user}: {problem}");
        }
    }

    #[test]
    fn the_file_wins_over_the_list() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "# old users\n\n  bob:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\r\neve:{BCRYPT}").unwrap();
        let list = [Secret::new("bob:$apr1$abcd$xc0GS6mcK/RPjawIVUTD1/"), Secret::new(format!("ann:{BCRYPT}"))];
        let users = Users::load(&list, file.path().to_str().unwrap()).unwrap();
        let mut names: Vec<_> = users.iter().map(|user| &*user.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["ann", "bob", "eve"]);
        let Some(Candidate::Known(bob)) = users.candidate(b"bob") else { panic!("bob is known") };
        assert!(bob.hash.is_of(b"secret"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_problem() {
        let load = |file: &str| Users::load(&[], file).err().map(|problem| problem.to_string()).unwrap_or_default();
        assert!(load("").contains("users: names nobody"));
        assert!(load("/nonexistent/users").contains("usersFile: `/nonexistent/users` cannot be read"));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\nbob:hunter2\n").unwrap();
        let problem = load(file.path().to_str().unwrap());
        assert!(problem.contains("line 2 of") && !problem.contains("hunter2"), "{problem}");
    }

    #[test]
    fn unknown_names_always_meet_the_same_decoy() {
        let list = ["a", "b", "c", "d"].map(|name| Secret::new(format!("{name}:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=")));
        let users = Users::load(&list, "").unwrap();
        let decoy = |name: &[u8]| match users.candidate(name) {
            Some(Candidate::Decoy(hash)) => std::ptr::from_ref(hash),
            _ => panic!("a decoy"),
        };
        assert_eq!(decoy(b"mallory"), decoy(b"mallory"));
        let met: std::collections::HashSet<_> = (0..200u8).map(|name| decoy(&[b'm', name])).collect();
        assert_eq!(met.len(), 4);
        assert!(matches!(users.candidate(b"\xff"), Some(Candidate::Decoy(_))));
    }
}
