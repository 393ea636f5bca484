//! `certificatesResolvers`: who gets certificates, from whom, and how it proves that names are ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::problem::{Problem, Problems};
use crate::units::{Duration, Secret};

/// All resolvers, by name.
pub type Resolvers = BTreeMap<Box<str>, Resolver>;

/// One resolver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resolver {
    /// It speaks ACME (RFC 8555).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
}

/// Certificates from an ACME server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Acme {
    /// Address that the server may write to.
    pub email: Box<str>,
    /// URL of the server's directory.
    pub ca_server: Box<str>,
    /// Common name of the issuer whose chain is taken, if the server offers several.
    pub preferred_chain: Box<str>,
    /// Kind of certificate, one of those that the server offers.
    pub profile: Box<str>,
    /// Addresses that stand in the certificate.
    pub email_addresses: Vec<Box<str>>,
    /// Leaves the common name out of the request.
    pub disable_common_name: bool,
    /// File in which accounts, keys and certificates are kept. Several resolvers may share it.
    pub storage: Box<str>,
    /// Kind of the certificates' keys.
    pub key_type: KeyType,
    /// Binds the account to one that the server's owner knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab: Option<Eab>,
    /// How long certificates are valid, in hours. It decides how early they are renewed.
    pub certificates_duration: i64,
    /// How long one request to the server may take.
    pub client_timeout: Duration,
    /// How long the server may take to begin its answer.
    pub client_response_header_timeout: Duration,
    /// How long the server may take to issue a certificate once all is proved.
    pub certificate_timeout: Duration,
    /// Authorities that vouch for the server, as PEM files or text.
    #[serde(rename = "caCertificates")]
    pub ca_certificates: Vec<String>,
    /// Whether those of the system do so, too.
    pub ca_system_cert_pool: bool,
    /// Name that the server's certificate must be for, if not that of its URL.
    pub ca_server_name: Box<str>,
    /// Proof by a record in DNS. The only one for wildcards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_challenge: Option<DnsChallenge>,
    /// Proof by an answer to a request without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_challenge: Option<HttpChallenge>,
    /// Proof by a handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_challenge: Option<TlsChallenge>,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            email: "".into(),
            ca_server: "https://acme-v02.api.letsencrypt.org/directory".into(),
            preferred_chain: "".into(),
            profile: "".into(),
            email_addresses: Vec::new(),
            disable_common_name: false,
            storage: "acme.json".into(),
            key_type: KeyType::Rsa4096,
            eab: None,
            certificates_duration: 90 * 24,
            client_timeout: Duration::from_secs(120),
            client_response_header_timeout: Duration::from_secs(30),
            certificate_timeout: Duration::from_secs(30),
            ca_certificates: Vec::new(),
            ca_system_cert_pool: false,
            ca_server_name: "".into(),
            dns_challenge: None,
            http_challenge: None,
            tls_challenge: None,
        }
    }
}

/// Kind of a certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyType {
    /// ECDSA on P-256.
    #[serde(rename = "EC256")]
    Ec256,
    /// ECDSA on P-384.
    #[serde(rename = "EC384")]
    Ec384,
    /// RSA with 2048 bits.
    #[serde(rename = "RSA2048")]
    Rsa2048,
    /// RSA with 4096 bits.
    #[serde(rename = "RSA4096")]
    Rsa4096,
    /// RSA with 8192 bits.
    #[serde(rename = "RSA8192")]
    Rsa8192,
}

/// Binds an account to one that exists elsewhere (RFC 8555 §7.3.4).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Eab {
    /// Name of the key.
    pub kid: Box<str>,
    /// The key, in base64 of URLs.
    pub hmac_encoded: Secret,
}

/// Proof by a record in DNS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DnsChallenge {
    /// Who writes the record, by the name that lego has for it.
    pub provider: Box<str>,
    /// Name servers that are asked, instead of those of the system.
    pub resolvers: Vec<Box<str>>,
    /// Whether it is looked up before the server is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
    /// The old name of `propagation.delayBeforeChecks`.
    pub delay_before_check: Duration,
    /// The old name of `propagation.disableChecks`.
    pub disable_propagation_check: bool,
}

/// Whether a record is looked up before the server is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Propagation {
    /// It is not.
    pub disable_checks: bool,
    /// The name servers of the zone are not asked.
    #[serde(rename = "disableANSChecks")]
    pub disable_ans_checks: bool,
    /// All of `resolvers` must see it.
    #[serde(rename = "requireAllRNS")]
    pub require_all_rns: bool,
    /// How long is waited first.
    pub delay_before_checks: Duration,
}

impl DnsChallenge {
    /// What holds of the new and the old names.
    pub fn propagation(&self) -> Propagation {
        let mut found = self.propagation.clone().unwrap_or_default();
        found.disable_checks |= self.disable_propagation_check;
        if found.delay_before_checks == Duration::ZERO {
            found.delay_before_checks = self.delay_before_check;
        }
        found
    }
}

/// Proof by an answer to a request without TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpChallenge {
    /// The entry point that is reached at port 80 from outside.
    pub entry_point: Box<str>,
    /// How long the server is told to wait.
    pub delay: Duration,
}

/// Proof by a handshake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsChallenge {
    /// How long the server is told to wait.
    pub delay: Duration,
}

impl Acme {
    /// What of it makes no sense, whatever else there is. `has_entry_point` tells whether there is one of a name.
    pub fn problems(&self, has_entry_point: &dyn Fn(&str) -> bool) -> Problems {
        let mut found = Problems::new();
        let challenges = [self.dns_challenge.is_some(), self.http_challenge.is_some(), self.tls_challenge.is_some()];
        match challenges.into_iter().filter(|is_there| *is_there).count() {
            1 => {}
            0 => found.push(Problem::at("", "names no challenge").with_help(CHALLENGES)),
            _ => found.push(Problem::at("", "names several challenges").with_help(CHALLENGES)),
        }
        if let Some(challenge) = &self.http_challenge
            && !has_entry_point(&challenge.entry_point)
        {
            let message = format!("there is no entry point `{}`", challenge.entry_point);
            found.push(Problem::at("httpChallenge.entryPoint", message));
        }
        if self.dns_challenge.as_ref().is_some_and(|challenge| challenge.provider.is_empty()) {
            found.push(Problem::at("dnsChallenge.provider", "must be set"));
        }
        if self.storage.is_empty() {
            found.push(Problem::at("storage", "must be set"));
        }
        if !self.ca_server.starts_with("https://") && !self.ca_server.starts_with("http://") {
            found.push(Problem::at("caServer", format!("`{}` is not a URL of http or https", self.ca_server)));
        }
        if self.certificates_duration <= 0 {
            found.push(Problem::at("certificatesDuration", "must be above 0"));
        }
        let (whole, head) = (self.client_timeout.positive(), self.client_response_header_timeout.positive());
        if let (Some(whole), Some(head)) = (whole, head)
            && whole < head
        {
            let message = "must not be shorter than `clientResponseHeaderTimeout`";
            found.push(Problem::at("clientTimeout", message));
        }
        if let Some(eab) = &self.eab
            && (eab.kid.is_empty() || eab.hmac_encoded.reveal().is_empty())
        {
            found.push(Problem::at("eab", "needs both `kid` and `hmacEncoded`"));
        }
        found
    }
}

const CHALLENGES: &str = "write one of `httpChallenge`, `tlsChallenge` and `dnsChallenge`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let good = Acme { tls_challenge: Some(TlsChallenge::default()), ..Acme::default() };
        let http = |entry_point: &str| Some(HttpChallenge { entry_point: entry_point.into(), ..Default::default() });
        for (settings, expected) in [
            (good.clone(), ""),
            (Acme::default(), "names no challenge"),
            (Acme { http_challenge: http("web"), ..good.clone() }, "several"),
            (Acme { http_challenge: http("web"), ..Acme::default() }, ""),
            (Acme { http_challenge: http("wep"), ..Acme::default() }, "httpChallenge.entryPoint"),
            (Acme { dns_challenge: Some(DnsChallenge::default()), ..Acme::default() }, "dnsChallenge.provider"),
            (Acme { storage: "".into(), ..good.clone() }, "storage"),
            (Acme { ca_server: "ca.test".into(), ..good.clone() }, "caServer"),
            (Acme { certificates_duration: 0, ..good.clone() }, "certificatesDuration"),
            (Acme { client_timeout: Duration::from_secs(1), ..good.clone() }, "clientTimeout"),
            (Acme { eab: Some(Eab { kid: "k".into(), ..Eab::default() }), ..good }, "eab"),
        ] {
            let found = settings.problems(&|name| name == "web").to_string();
            assert_eq!(found.is_empty(), expected.is_empty(), "{found}");
            assert!(found.contains(expected), "{found}: {expected}");
        }
    }

    #[test]
    fn old_names_of_propagation_count() {
        let old = DnsChallenge {
            delay_before_check: Duration::from_secs(5),
            disable_propagation_check: true,
            ..DnsChallenge::default()
        };
        let found = old.propagation();
        assert!(found.disable_checks && found.delay_before_checks == Duration::from_secs(5));
    }
}
