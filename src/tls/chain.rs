//! What a certificate and those of its issuers say of themselves.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate, as far as somebody needs to know who renews it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Names and addresses that it is for, lower case.
    pub names: Vec<String>,
    /// From when it is valid, in seconds of Unix time.
    pub not_before: i64,
    /// Until when it is valid.
    pub not_after: i64,
    /// What the key of its issuer is called.
    pub authority_key: Option<Vec<u8>>,
    /// Its number, as it is written.
    pub serial: Vec<u8>,
    /// Common name of the issuer of each, from it upwards.
    pub issuers: Vec<String>,
}

impl Chain {
    /// Reads PEM text: the certificate first, then its issuers.
    ///
    /// # Errors
    /// A sentence without a subject.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for (at, der) in CertificateDer::pem_slice_iter(text.as_bytes()).enumerate() {
            let der = der.map_err(|error| format!("is not valid PEM: {error}"))?;
            let (_, read) =
                X509Certificate::from_der(&der).map_err(|error| format!("holds an invalid certificate: {error}"))?;
            let issuer = read.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
            found.issuers.push(issuer.unwrap_or_default().to_owned());
            if at == 0 {
                found.describe(&read);
            }
        }
        if found.issuers.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(found) }
    }

    fn describe(&mut self, leaf: &X509Certificate<'_>) {
        self.not_before = leaf.validity().not_before.timestamp();
        self.not_after = leaf.validity().not_after.timestamp();
        self.serial = leaf.tbs_certificate.raw_serial().to_vec();
        self.authority_key = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref().map(|key| key.0.to_vec()),
            _ => None,
        });
        if let Ok(Some(names)) = leaf.subject_alternative_name() {
            self.names = names.value.general_names.iter().filter_map(written).collect();
        }
    }
}

fn written(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::IpAddr::from(bytes).to_string()),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_certificate_is_described() {
        let pair = crate::tls::certificate::tests::pair(&["A.example", "192.0.2.7"]);
        let found = Chain::read(&pair.cert_file).unwrap();
        assert_eq!(found.names, ["a.example", "192.0.2.7"]);
        assert!(found.not_before < found.not_after && !found.serial.is_empty());
        assert_eq!(found.issuers, ["rcgen self signed cert"]);
        assert!(Chain::read("").is_err());
    }
}
