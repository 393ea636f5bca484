//! Our account at an ACME server: the one that is kept, or a new one (RFC 8555 §7.3).

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::Uri;
use serde_json::{Value, json};

use super::key::AccountKey;
use super::server::{Failure, Server, Signer, location, read};
use super::storage::{self, Registration};
use crate::config::resolvers::{Acme, Eab};

/// An account that may order.
pub(super) struct Account {
    pub(super) key: AccountKey,
    /// Its name at the server.
    pub(super) name: String,
}

impl Account {
    /// The one that is kept, if it is at this server.
    ///
    /// # Errors
    /// If its key cannot be read: it is not thrown away for another one.
    pub(super) fn kept(kept: Option<&storage::Account>, settings: &Acme) -> Result<Option<Self>, Failure> {
        let Some((kept, registration)) = kept.and_then(|kept| Some((kept, kept.registration.as_ref()?))) else {
            return Ok(None);
        };
        let name = registration.uri.clone();
        // Another server knows nothing of it.
        let host = |url: &str| url.parse::<Uri>().ok().and_then(|url| url.host().map(str::to_owned));
        if name.is_empty() || host(&name) != host(&settings.ca_server) {
            log::warn!("the ACME account {name} is not at {}: another one is made", settings.ca_server);
            return Ok(None);
        }
        let key = kept.key().and_then(|key| AccountKey::read(&key)).ok_or_else(|| {
            Failure::Ours(format!("the key of the account {name} cannot be read: mend it, or take the account out"))
        })?;
        Ok(Some(Self { key, name }))
    }

    /// Makes a new one; with it comes what is to be kept.
    pub(super) async fn register(server: &Server, settings: &Acme) -> Result<(Self, storage::Account), Failure> {
        if server.directory.meta.external_account_required && settings.eab.is_none() {
            return Err(Failure::Ours(
                "the server only takes accounts that are bound to one of its own: set `eab`".to_owned(),
            ));
        }
        let made = tokio::task::spawn_blocking(AccountKey::generate).await;
        let (key, stored) = made.map_err(|error| Failure::Ours(error.to_string()))?.map_err(Failure::Ours)?;
        let url = &server.directory.new_account;
        let mut request = json!({"termsOfServiceAgreed": true});
        if !settings.email.is_empty() {
            request["contact"] = json!([format!("mailto:{}", settings.email)]);
        }
        if let Some(eab) = &settings.eab {
            request["externalAccountBinding"] = key.bind(&eab.kid, &secret(eab)?, url);
        }
        let answer = server.post(Signer::Key(&key), url, Some(&request)).await?;
        let name = location(&answer)?;
        let body: Value = read(&answer, url)?;
        let kept = storage::Account::new(&settings.email, Registration::new(name.clone(), body), &stored);
        Ok((Self { key, name }, kept))
    }

    pub(super) fn signer(&self) -> Signer<'_> {
        Signer::Account(&self.key, &self.name)
    }
}

/// The secret of a binding: base64 of URLs, with or without its end.
fn secret(eab: &Eab) -> Result<Vec<u8>, Failure> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let written = eab.hmac_encoded.reveal().replace('+', "-").replace('/', "_");
    let found = GeneralPurpose::new(&URL_SAFE, config).decode(written);
    found.map_err(|_| Failure::Ours("`eab.hmacEncoded` is not base64 of URLs".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Secret;

    #[test]
    fn secrets_are_read_in_every_spelling() {
        for (written, expected) in [("-_8", Some(vec![251, 255])), ("+/8=", Some(vec![251, 255])), ("!", None)] {
            let eab = Eab { kid: "k".into(), hmac_encoded: Secret::new(written) };
            assert_eq!(secret(&eab).ok(), expected, "{written}");
        }
    }

    #[test]
    fn an_account_of_another_server_is_not_ours() {
        let (_, stored) = AccountKey::generate().unwrap();
        let registration = Registration::new("https://ca.test/acct/1".to_owned(), Value::Null);
        let kept = storage::Account::new("", registration, &stored);
        for (server, expected) in [("https://ca.test/dir", true), ("https://other.test/dir", false)] {
            let settings = Acme { ca_server: server.into(), ..Acme::default() };
            assert_eq!(Account::kept(Some(&kept), &settings).unwrap().is_some(), expected, "{server}");
        }
    }

    #[test]
    fn an_account_whose_key_cannot_be_read_is_not_replaced() {
        let registration = Registration::new("https://ca.test/acct/1".to_owned(), Value::Null);
        let kept = storage::Account::new("", registration, b"nothing");
        let settings = |server: &str| Acme { ca_server: server.into(), ..Acme::default() };
        assert!(matches!(Account::kept(Some(&kept), &settings("https://ca.test/dir")), Err(Failure::Ours(_))));
        assert!(matches!(Account::kept(Some(&kept), &settings("https://other.test/dir")), Ok(None)));
        assert!(matches!(Account::kept(None, &settings("https://ca.test/dir")), Ok(None)));
    }
}
