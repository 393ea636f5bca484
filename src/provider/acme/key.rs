//! Keys: that of an account, which signs requests (RFC 7515), and those of certificates.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::{Value, json};

use super::der;
use crate::config::resolvers::{Acme, KeyType};

/// Text as it stands in JWS.
pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The key of an account.
pub(super) enum AccountKey {
    Rsa(Box<rsa::KeyPair>),
    /// On P-256 or P-384.
    Ecdsa(EcdsaKeyPair, Curve),
}

#[derive(Clone, Copy)]
pub(super) enum Curve {
    P256,
    P384,
}

impl AccountKey {
    /// A new one, and as it is stored. RSA with 4096 bits in PKCS#1: the only kind that Traefik makes and reads.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(super) fn generate() -> Result<(Self, Vec<u8>), String> {
        let key = rsa::KeyPair::generate(KeySize::Rsa4096).map_err(|_| "cannot make a key")?;
        let pkcs8 = key.as_der().map_err(|_| "cannot write a key")?;
        let stored = der::inside_pkcs8(pkcs8.as_ref()).ok_or("cannot write a key")?.to_vec();
        Ok((Self::Rsa(Box::new(key)), stored))
    }

    /// Reads one that was stored: PKCS#1, PKCS#8 or SEC1.
    pub(super) fn read(stored: &[u8]) -> Option<Self> {
        if let Ok(key) = rsa::KeyPair::from_der(stored).or_else(|_| rsa::KeyPair::from_pkcs8(stored)) {
            return Some(Self::Rsa(Box::new(key)));
        }
        for (algorithm, curve) in
            [(&ECDSA_P256_SHA256_FIXED_SIGNING, Curve::P256), (&ECDSA_P384_SHA384_FIXED_SIGNING, Curve::P384)]
        {
            let read = EcdsaKeyPair::from_private_key_der(algorithm, stored)
                .or_else(|_| EcdsaKeyPair::from_pkcs8(algorithm, stored));
            if let Ok(key) = read {
                return Some(Self::Ecdsa(key, curve));
            }
        }
        None
    }

    /// The public part (RFC 7517), its members in the order of their names.
    pub(super) fn jwk(&self) -> Value {
        match self {
            Self::Rsa(key) => {
                let (modulus, exponent) = der::rsa_public(key.public_key().as_ref()).unwrap_or_default();
                json!({"e": encode(exponent), "kty": "RSA", "n": encode(modulus)})
            }
            Self::Ecdsa(key, curve) => {
                // 4, then both coordinates.
                let point = key.public_key().as_ref().get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                let name = match curve {
                    Curve::P256 => "P-256",
                    Curve::P384 => "P-384",
                };
                json!({"crv": name, "kty": "EC", "x": encode(x), "y": encode(y)})
            }
        }
    }

    /// What a server calls the key by (RFC 7638).
    pub(super) fn thumbprint(&self) -> String {
        encode(digest::digest(&digest::SHA256, self.jwk().to_string().as_bytes()))
    }

    /// A request, signed. `payload` is empty for one that only reads.
    ///
    /// # Errors
    /// If the key cannot sign.
    pub(super) fn sign(&self, mut header: Value, payload: &str) -> Result<Value, String> {
        header["alg"] = match self {
            Self::Rsa(_) => "RS256".into(),
            Self::Ecdsa(_, Curve::P256) => "ES256".into(),
            Self::Ecdsa(_, Curve::P384) => "ES384".into(),
        };
        let (header, payload) = (encode(header.to_string()), encode(payload));
        let message = format!("{header}.{payload}");
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).map(|()| signature)
            }
            Self::Ecdsa(key, _) => key.sign(&random, message.as_bytes()).map(|signature| signature.as_ref().to_vec()),
        };
        let signature = signature.map_err(|_| "the account's key cannot sign")?;
        Ok(json!({"protected": header, "payload": payload, "signature": encode(signature)}))
    }

    /// What binds this key to an account that exists elsewhere (RFC 8555 §7.3.4).
    pub(super) fn bind(&self, kid: &str, secret: &[u8], url: &str) -> Value {
        let header = encode(json!({"alg": "HS256", "kid": kid, "url": url}).to_string());
        let payload = encode(self.jwk().to_string());
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let signature = encode(hmac::sign(&key, format!("{header}.{payload}").as_bytes()));
        json!({"protected": header, "payload": payload, "signature": signature})
    }
}

/// A new key of a certificate, and the request for one (RFC 2986). Takes seconds for large RSA keys.
///
/// # Errors
/// A sentence.
pub(super) fn request(settings: &Acme, names: &[Box<str>]) -> Result<(KeyPair, Vec<u8>), String> {
    let key = generate(settings.key_type)?;
    let written: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(written).map_err(|error| error.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    // RFC 5280 has no room for longer ones.
    if let Some(main) = names.first().filter(|main| !settings.disable_common_name && main.len() <= 64) {
        params.distinguished_name.push(DnType::CommonName, &**main);
    }
    for address in &settings.email_addresses {
        let address = address.to_string().try_into().map_err(|error: rcgen::Error| error.to_string())?;
        params.subject_alt_names.push(SanType::Rfc822Name(address));
    }
    let request = params.serialize_request(&key).map_err(|error| error.to_string())?;
    Ok((key, request.der().to_vec()))
}

fn generate(kind: KeyType) -> Result<KeyPair, String> {
    let size = match kind {
        KeyType::Ec256 => return curve(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyType::Ec384 => return curve(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyType::Rsa2048 => KeySize::Rsa2048,
        KeyType::Rsa4096 => KeySize::Rsa4096,
        KeyType::Rsa8192 => KeySize::Rsa8192,
    };
    let key = rsa::KeyPair::generate(size).map_err(|_| "cannot make a key")?;
    let pkcs8 = key.as_der().map_err(|_| "cannot write a key")?;
    KeyPair::try_from(pkcs8.as_ref()).map_err(|error| error.to_string())
}

fn curve(algorithm: &'static rcgen::SignatureAlgorithm) -> Result<KeyPair, String> {
    KeyPair::generate_for(algorithm).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_keys_of_every_form_are_read() {
        let (key, pkcs1) = AccountKey::generate().unwrap();
        let again = AccountKey::read(&pkcs1).unwrap();
        assert_eq!(again.thumbprint(), key.thumbprint());
        assert_eq!(again.jwk()["e"], "AQAB");
        for kind in [KeyType::Ec256, KeyType::Ec384, KeyType::Rsa2048] {
            let pkcs8 = generate(kind).unwrap().serialize_der();
            assert!(AccountKey::read(&pkcs8).is_some(), "{kind:?}");
        }
        assert!(AccountKey::read(b"nothing").is_none());
    }

    #[test]
    fn a_signature_can_be_verified() {
        let (key, _) = AccountKey::generate().unwrap();
        let signed = key.sign(json!({"url": "u"}), "{}").unwrap();
        let text = |name: &str| signed[name].as_str().unwrap().to_owned();
        let message = format!("{}.{}", text("protected"), text("payload"));
        let AccountKey::Rsa(pair) = &key else { panic!() };
        let public = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256,
            pair.public_key(),
        );
        let signature = BASE64_URL_SAFE_NO_PAD.decode(text("signature")).unwrap();
        public.verify(message.as_bytes(), &signature).unwrap();
    }

    #[test]
    fn a_request_names_what_it_is_for() {
        let settings = Acme { key_type: KeyType::Ec256, email_addresses: vec!["a@b.test".into()], ..Acme::default() };
        let names: [Box<str>; 3] = ["a.test".into(), "*.a.test".into(), "192.0.2.1".into()];
        let (_, csr) = request(&settings, &names).unwrap();
        let contains = |csr: &[u8], text: &str| csr.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(contains(&csr, "*.a.test") && contains(&csr, "a@b.test"));
        let long = format!("{}.test", "a".repeat(63));
        assert!(request(&settings, &[long.as_str().into()]).is_ok());
    }
}
