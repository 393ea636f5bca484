//! TLS options: versions, suites, groups, protocols, and what clients must prove.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::NoServerSessionStorage;
use rustls::{ProtocolVersion, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::certificates::{Certificates, Resolver};
use super::client_auth;
use super::tickets::{Ticketer, Tickets};
use crate::problem::{Problem, Problems, all, each};

pub use super::client_auth::Settings as ClientAuth;

/// Tickets that a client gets with one handshake in TLS 1.3.
const TICKETS: usize = 2;

/// `tls.options.<name>` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Oldest version: `VersionTLS12` or `VersionTLS13`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub min_version: String,
    /// Newest version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub max_version: String,
    /// Suites of TLS 1.2, by their IANA names; all that are considered safe if none are listed. Those of 1.3 are always offered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
    /// Groups for the key exchange, the preferred one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve_preferences: Vec<String>,
    /// What clients must prove.
    pub client_auth: ClientAuth,
    /// Refuses clients for whose name there is no certificate.
    pub sni_strict: bool,
    /// Protocols that may be agreed on, the preferred one first.
    pub alpn_protocols: Vec<String>,
    /// Makes every handshake a full one.
    pub disable_session_tickets: bool,
    /// Whether our order of suites counts, and not the client's. So it is unless this is `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_server_cipher_suites: Option<bool>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_version: String::new(),
            max_version: String::new(),
            cipher_suites: Vec::new(),
            curve_preferences: Vec::new(),
            client_auth: ClientAuth::default(),
            sni_strict: false,
            alpn_protocols: ["h2", "http/1.1", "acme-tls/1"].map(str::to_owned).into(),
            disable_session_tickets: false,
            prefer_server_cipher_suites: None,
        }
    }
}

/// TLS options as built: what handshakes are made with.
pub struct Options {
    config: Arc<ServerConfig>,
    /// For clients without a name, by the address they have called; only where a certificate is for that address.
    by_address: HashMap<IpAddr, Arc<ServerConfig>, RandomState>,
    client_auth: client_auth::ClientAuth,
    client_demands: [u8; 32],
}

impl Options {
    /// Reads the authorities, and joins everything. Warnings come along. If authorities cannot be read, those of `before` stay,
    /// which was built from the same settings, and what is wrong is among the warnings.
    ///
    /// # Errors
    /// Whatever is not known, or cannot be spoken: what would be left out might be what somebody relies on.
    pub fn build(
        settings: &Settings,
        certificates: &Arc<Certificates>,
        tickets: &Arc<Tickets>,
        before: Option<&Self>,
    ) -> Result<(Self, Problems), Problems> {
        let mut warnings = Problems::new();
        let (versions, suites, groups) =
            all((versions(settings), suites(settings, &mut warnings), groups(&settings.curve_preferences)))?;
        if versions.iter().all(|version| version.version == ProtocolVersion::TLSv1_2)
            && groups.iter().all(|group| !group.usable_for_version(ProtocolVersion::TLSv1_2))
        {
            let problem = Problem::at("curvePreferences", "none of these can be spoken in TLS 1.2");
            return Err(problem.with_help("add `X25519`, `CurveP256` or `CurveP384`").into());
        }
        let provider = Arc::new(CryptoProvider { cipher_suites: suites, kx_groups: groups, ..super::provider() });
        let client_auth = match (client_auth::build(&settings.client_auth, &provider), before) {
            (Ok(built), _) => built,
            (Err(wrong), None) => return Err(wrong.under("clientAuth")),
            (Err(wrong), Some(before)) => {
                let stays = |problem: Problem| problem.with_help("the authorities that were read before stay in force");
                warnings.extend(wrong.under("clientAuth").into_iter().map(stays));
                before.client_auth.clone()
            }
        };
        let config = |local: Option<IpAddr>| {
            let resolver = Resolver { certificates: certificates.clone(), is_strict: settings.sni_strict, local };
            let builder = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&versions)
                .map_err(|error| Problem::at("cipherSuites", format!("cannot be spoken: {error}")))?;
            let builder = match &client_auth.verifier {
                Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
                None => builder.with_no_client_auth(),
            };
            let mut config = builder.with_cert_resolver(Arc::new(resolver));
            config.alpn_protocols = settings.alpn_protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            config.ignore_client_order = settings.prefer_server_cipher_suites.unwrap_or(true);
            // Tickets need no memory here and survive an upgrade.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = if settings.disable_session_tickets { 0 } else { TICKETS };
            if !settings.disable_session_tickets {
                config.ticketer = Arc::new(Ticketer::new(tickets.clone(), &client_auth.identity));
            }
            Ok::<_, Problem>(Arc::new(config))
        };
        let mut by_address = HashMap::default();
        for address in certificates.addresses() {
            by_address.insert(address, config(Some(address))?);
        }
        let client_demands = Sha256::digest(&client_auth.identity).into();
        Ok((Self { config: config(None)?, by_address, client_auth, client_demands }, warnings))
    }

    /// Whether there is no handshake without a certificate of the client's.
    pub fn requires_certificate(&self) -> bool {
        self.client_auth.is_required
    }

    /// What clients must prove, as a digest: equal for equal demands.
    pub fn client_demands(&self) -> &[u8; 32] {
        &self.client_demands
    }

    /// What the handshake is made with, for a client that asks for `server_name` at the address `local`.
    pub fn server_config(&self, server_name: Option<&str>, local: IpAddr) -> &Arc<ServerConfig> {
        match server_name {
            None if !self.by_address.is_empty() => self.by_address.get(&local.to_canonical()).unwrap_or(&self.config),
            _ => &self.config,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").finish_non_exhaustive()
    }
}

fn versions(settings: &Settings) -> Result<Vec<&'static SupportedProtocolVersion>, Problems> {
    let read =
        |path: &str, written: &str, default: u8| match written {
            "" => Ok(default),
            "VersionTLS12" => Ok(2),
            "VersionTLS13" => Ok(3),
            "VersionTLS10" | "VersionTLS11" => {
                let message = format!("`{written}` cannot be spoken: it is no longer safe (RFC 8996)");
                Err(Problem::at(path, message).with_help("write `VersionTLS12`"))
            }
            other => Err(Problem::at(path, format!("`{other}` is not known"))
                .with_help("expected `VersionTLS12` or `VersionTLS13`")),
        };
    let (least, most) =
        all((read("minVersion", &settings.min_version, 2), read("maxVersion", &settings.max_version, 3)))?;
    if least > most {
        return Err(Problem::at("maxVersion", "is older than `minVersion`").into());
    }
    let known = [(3, &rustls::version::TLS13), (2, &rustls::version::TLS12)];
    Ok(known.into_iter().filter(|(version, _)| (least..=most).contains(version)).map(|(_, version)| version).collect())
}

/// The suites of TLS 1.2 that can be spoken.
const SUITES: [(&str, SupportedCipherSuite); 8] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The suites of TLS 1.3: always offered, as Go has it.
const SUITES_13: [(&str, SupportedCipherSuite); 3] = [
    ("TLS_AES_128_GCM_SHA256", cipher_suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
];

/// Suites that Traefik knows and the library does not speak: no forward secrecy, or an old mode of the cipher.
const UNSAFE_SUITES: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

fn suites(settings: &Settings, warnings: &mut Problems) -> Result<Vec<SupportedCipherSuite>, Problems> {
    let mut suites: Vec<SupportedCipherSuite> = SUITES_13.iter().map(|(_, suite)| *suite).collect();
    let written = &settings.cipher_suites;
    if written.is_empty() {
        suites.extend(super::provider().cipher_suites.iter().filter(|suite| suite.tls13().is_none()));
        return Ok(suites);
    }
    let mut has_tls12 = false;
    let () = each(written.iter().enumerate().map(|(at, name)| {
        let here = |message: String| Problem::at(format!("cipherSuites[{at}]"), message);
        if let Some((_, suite)) = SUITES.iter().find(|(known, _)| known == name) {
            has_tls12 = true;
            if !suites.contains(suite) {
                suites.push(*suite);
            }
        } else if UNSAFE_SUITES.contains(&&**name) {
            warnings.push(Problem::warning(
                format!("cipherSuites[{at}]"),
                format!("`{name}` cannot be spoken: it is no longer safe; it is left out"),
            ));
        } else if !SUITES_13.iter().any(|(known, _)| known == name) {
            let names = SUITES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(here(format!("`{name}` is not known")).with_help(format!("there are: {names}")));
        }
        Ok(())
    }))?;
    if !has_tls12 && settings.min_version != "VersionTLS13" {
        let names = SUITES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let problem = Problem::at("cipherSuites", "none of these can be spoken in TLS 1.2");
        return Err(problem.with_help(format!("write `minVersion: VersionTLS13`, or one of {names}")).into());
    }
    Ok(suites)
}

fn groups(written: &[String]) -> Result<Vec<&'static dyn SupportedKxGroup>, Problems> {
    if written.is_empty() {
        return Ok(super::provider().kx_groups);
    }
    let read = |(at, name): (usize, &String)| {
        let here = |message: String| Problem::at(format!("curvePreferences[{at}]"), message);
        match &**name {
            "X25519" => Ok(kx_group::X25519),
            "CurveP256" | "secp256r1" => Ok(kx_group::SECP256R1),
            "CurveP384" | "secp384r1" => Ok(kx_group::SECP384R1),
            "X25519MLKEM768" => Ok(kx_group::X25519MLKEM768),
            "SecP256r1MLKEM768" => Ok(kx_group::SECP256R1MLKEM768),
            "CurveP521" | "secp521r1" => {
                Err(here(format!("`{name}` cannot be spoken")).with_help("`CurveP384` is the largest curve there is"))
            }
            other => Err(here(format!("`{other}` is not known"))
                .with_help("expected `X25519MLKEM768`, `SecP256r1MLKEM768`, `X25519`, `CurveP256` or `CurveP384`")),
        }
    };
    each(written.iter().enumerate().map(read))
}

#[cfg(test)]
mod tests {
    use super::super::fallback;
    use super::*;

    fn build(json: &str) -> Result<(Options, Problems), Problems> {
        let certificates = Arc::new(Certificates::new(&[], fallback::certificate().unwrap()));
        Options::build(&serde_json::from_str(json).unwrap(), &certificates, &Arc::default(), None)
    }

    #[test]
    fn what_cannot_be_spoken_is_refused_where_it_is_written() {
        for (json, expected) in [
            (r#"{"minVersion": "VersionTLS10"}"#, "minVersion"),
            (r#"{"minVersion": "VersionTLS11", "maxVersion": "1.3"}"#, "minVersion maxVersion"),
            (r#"{"minVersion": "VersionTLS13", "maxVersion": "VersionTLS12"}"#, "maxVersion"),
            (r#"{"cipherSuites": ["TLS_NONE"]}"#, "cipherSuites[0]"),
            (r#"{"cipherSuites": ["TLS_RSA_WITH_AES_128_CBC_SHA"]}"#, "cipherSuites"),
            (r#"{"cipherSuites": ["TLS_AES_128_GCM_SHA256"]}"#, "cipherSuites"),
            (r#"{"curvePreferences": ["X25519", "CurveP521", "P256"]}"#, "curvePreferences[1] curvePreferences[2]"),
            (r#"{"maxVersion": "VersionTLS12", "curvePreferences": ["X25519MLKEM768"]}"#, "curvePreferences"),
            (r#"{"clientAuth": {"clientAuthType": "Some"}}"#, "clientAuth.clientAuthType"),
            (r#"{"clientAuth": {"clientAuthType": "RequireAndVerifyClientCert"}}"#, "clientAuth.clientAuthType"),
            (r#"{"clientAuth": {"caFiles": ["/no/such/file"]}}"#, "clientAuth.caFiles[0]"),
        ] {
            let found = build(json).map(|_| ()).unwrap_err();
            let paths: Vec<_> = found.iter().map(|problem| &*problem.path).collect();
            assert_eq!(paths.join(" "), expected, "{json}");
        }
    }

    #[test]
    fn unsafe_suites_beside_others_are_left_out_with_a_word() {
        let json =
            r#"{"cipherSuites": ["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]}"#;
        let (options, warnings) = build(json).unwrap();
        assert_eq!(warnings.only().path, "cipherSuites[0]");
        let config = options.server_config(None, [127, 0, 0, 1].into());
        assert_eq!(config.crypto_provider().cipher_suites.len(), SUITES_13.len() + 1);
        assert!(config.ignore_client_order && config.max_early_data_size == 0);
    }

    #[test]
    fn tickets_are_made_unless_they_are_switched_off() {
        for (json, expected) in [("{}", true), (r#"{"disableSessionTickets": true}"#, false)] {
            let (options, _) = build(json).unwrap();
            let config = options.server_config(None, [127, 0, 0, 1].into());
            assert_eq!((config.ticketer.enabled(), config.send_tls13_tickets > 0), (expected, expected), "{json}");
        }
    }
}
