//! The certificate for whom there is none: self-signed, made when the process starts. Browsers warn of it, as they should.

use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::Certificate;
use crate::problem::Problem;

/// Common name of the certificate.
const NAME: &str = "Portcullis default certificate";

/// Makes one, with a name that nobody asks for.
///
/// # Errors
/// If there is no randomness to be had.
pub fn certificate() -> Result<Arc<Certificate>, Problem> {
    let wrong = |error: rcgen::Error| Problem::at("tls", format!("cannot make the default certificate: {error}"));
    let key = KeyPair::generate().map_err(wrong)?;
    let name = format!("{:016x}.{:016x}.portcullis.default", fastrand::u64(..), fastrand::u64(..));
    let mut params = CertificateParams::new(vec![name]).map_err(wrong)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, NAME);
    // No client trusts it, so that it need never be renewed.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    let made = params.self_signed(&key).map_err(wrong)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Certificate::new(vec![made.der().clone()], key).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_certificate_for_nobody() {
        let made = certificate().unwrap();
        assert!(made.names()[0].ends_with(".portcullis.default"));
        assert!(made.subject().contains(NAME), "{}", made.subject());
    }
}
