//! Fingerprints: fixed-size names for what clients say, which nobody outside can aim at.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use hmac::digest::{Key, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// HMAC-SHA256 under a secret that this process draws once, so that no fingerprint can be computed from outside.
static KEYED: LazyLock<Hmac<Sha256>> = LazyLock::new(|| {
    let mut secret = Key::<Hmac<Sha256>>::default();
    if getrandom::fill(&mut secret).is_err() {
        // The standard library draws its hash seeds by itself, and waits for the system's randomness if it must.
        for chunk in secret.chunks_mut(8) {
            chunk.copy_from_slice(&RandomState::new().build_hasher().finish().to_ne_bytes());
        }
    }
    <Hmac<Sha256> as KeyInit>::new(&secret)
});

/// The fingerprint of a list of texts: 128 bits of an HMAC over each with its length before it, so that `["ab", "c"]` and
/// `["a", "bc"]` differ.
pub(crate) fn fingerprint(parts: &[&[u8]]) -> u128 {
    let mut mac = KEYED.clone();
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    let digest = mac.finalize().into_bytes();
    digest.iter().take(16).fold(0, |bits, byte| (bits << 8) | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_stable_and_parts_do_not_run_together() {
        assert_eq!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"ab", b"c"]));
        assert_ne!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"a", b"bc"]));
        assert_ne!(fingerprint(&[b"abc"]), fingerprint(&[b"abc", b""]));
        assert_ne!(fingerprint(&[]), fingerprint(&[b""]));
    }
}
