//! An order: from names to a certificate (RFC 8555 §7.4, §7.5).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};

use super::account::Account;
use super::claims::Claims;
use super::key;
use super::proof::{Kind, Proof, Prover};
use super::server::{Failure, Server, alternates, location, refused, retry_after};
use crate::config::resolvers::Acme;
use crate::tls::Chain;
use crate::tls::certificate::{self, Certificate};
use crate::units::Secret;

/// How long the server may take to look at our proofs.
const PROVED_WITHIN: Duration = Duration::from_secs(300);
/// The pauses between two looks.
const LOOKS: std::ops::RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(10);
/// Most chains that are looked at for the preferred one.
const CHAINS: usize = 8;

#[derive(Debug, Deserialize)]
struct State {
    status: String,
    #[serde(default)]
    authorizations: Vec<String>,
    #[serde(default)]
    finalize: String,
    certificate: Option<String>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Authorization {
    status: String,
    identifier: Identifier,
    #[serde(default)]
    challenges: Vec<Challenge>,
}

#[derive(Debug, Deserialize)]
struct Identifier {
    value: Box<str>,
}

#[derive(Debug, Deserialize)]
struct Challenge {
    r#type: String,
    url: String,
    #[serde(default)]
    token: String,
    error: Option<Value>,
}

/// A certificate with its issuers and its key, in PEM.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

/// What an order is made with.
pub(super) struct Orders {
    pub(super) server: Server,
    pub(super) account: Account,
    pub(super) settings: Arc<Acme>,
    pub(super) prover: Prover,
    pub(super) claims: Arc<Claims>,
}

/// Proofs that somebody may look at. They are withdrawn however the order ends.
struct Shown {
    prover: Prover,
    proofs: Vec<Proof>,
}

impl Shown {
    async fn withdraw(mut self) {
        while let Some(proof) = self.proofs.last().cloned() {
            self.prover.withdraw(&proof).await;
            self.proofs.pop();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.proofs.is_empty() {
            return;
        }
        let rest = Self { prover: self.prover.clone(), proofs: std::mem::take(&mut self.proofs) };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(rest.withdraw());
        }
    }
}

impl Orders {
    /// Gets a certificate for `names`. `replaces` is what the one before is called (RFC 9773).
    pub(super) async fn obtain(&self, names: &[Box<str>], replaces: Option<&str>) -> Result<Issued, Failure> {
        let claim = match self.prover.kind() {
            // Whoever looks for one of these says which.
            Kind::Http => None,
            Kind::Tls | Kind::Dns => Some(self.claims.take(names).await),
        };
        let (url, state) = self.begin(names, replaces).await?;
        let mut shown = Shown { prover: self.prover.clone(), proofs: Vec::new() };
        let proved = self.prove(&state, &mut shown).await;
        shown.withdraw().await;
        drop(claim);
        proved?;
        self.finish(&url, names).await
    }

    async fn begin(&self, names: &[Box<str>], replaces: Option<&str>) -> Result<(String, State), Failure> {
        let identifiers: Vec<_> = names
            .iter()
            .map(|name| {
                let kind = if name.parse::<std::net::IpAddr>().is_ok() { "ip" } else { "dns" };
                json!({"type": kind, "value": name})
            })
            .collect();
        let mut request = json!({"identifiers": identifiers});
        let profile = &*self.settings.profile;
        if !profile.is_empty() {
            let known = &self.server.directory.meta.profiles;
            if !known.contains_key(profile) {
                let names = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let names = if names.is_empty() { "it has none" } else { &names };
                return Err(Failure::Ours(format!("the server has no profile `{profile}`: {names}")));
            }
            request["profile"] = profile.into();
        }
        if let Some(replaces) = replaces {
            request["replaces"] = replaces.into();
        }
        let url = &self.server.directory.new_order;
        let answer = match self.server.post(self.account.signer(), url, Some(&request)).await {
            // It may have been replaced already, or be none that the server knows (RFC 9773 §5).
            Err(Failure::Refused { kind, .. })
                if replaces.is_some() && ["alreadyReplaced", "malformed", "conflict"].contains(&&*kind) =>
            {
                if let Some(request) = request.as_object_mut() {
                    request.remove("replaces");
                }
                self.server.post(self.account.signer(), url, Some(&request)).await?
            }
            other => other?,
        };
        Ok((location(&answer)?, super::server::read(&answer, url)?))
    }

    /// Proves every name of an order that is not proved yet.
    async fn prove(&self, order: &State, shown: &mut Shown) -> Result<(), Failure> {
        let mut waiting = Vec::new();
        let thumbprint = self.account.key.thumbprint();
        for url in &order.authorizations {
            let (found, _) = self.server.fetch::<Authorization>(self.account.signer(), url).await?;
            match &*found.status {
                "valid" => continue,
                "pending" => {}
                other => return Err(Failure::Unreachable(format!("the authorization of a name is {other}"))),
            }
            let kind = self.prover.kind();
            let name = found.identifier.value;
            let Some(challenge) = found.challenges.into_iter().find(|challenge| challenge.r#type == kind.name()) else {
                let message = format!("the server does not offer {} for {name}", kind.name());
                return Err(Failure::Ours(message));
            };
            let authorization = format!("{}.{thumbprint}", challenge.token);
            let proof = Proof { name, token: challenge.token.into(), authorization: authorization.into() };
            // Noted first: a proof that was made by half is withdrawn, too.
            shown.proofs.push(proof.clone());
            self.prover.present(&proof).await.map_err(Failure::Ours)?;
            waiting.push((url, challenge.url));
        }
        if waiting.is_empty() {
            return Ok(());
        }
        self.prover.settle(&shown.proofs).await.map_err(Failure::Ours)?;
        for (_, challenge) in &waiting {
            self.server.post(self.account.signer(), challenge, Some(&json!({}))).await?;
        }
        let until = Instant::now() + PROVED_WITHIN;
        for (url, _) in waiting {
            self.await_proof(url, until).await?;
        }
        Ok(())
    }

    async fn await_proof(&self, url: &str, until: Instant) -> Result<(), Failure> {
        let mut pause = *LOOKS.start();
        loop {
            let (found, answer) = self.server.fetch::<Authorization>(self.account.signer(), url).await?;
            match &*found.status {
                "valid" => return Ok(()),
                "pending" | "processing" => {}
                _ => {
                    let problem = found.challenges.into_iter().find_map(|challenge| challenge.error);
                    let name = found.identifier.value;
                    return Err(match problem.map(|problem| refused(&problem, None)) {
                        Some(Failure::Refused { kind, detail, .. }) => {
                            let detail = format!("{name}: {detail}");
                            Failure::Refused { kind, detail, about: Some(name), retry_after: None }
                        }
                        _ => Failure::Unreachable(format!("{name} was not believed to be ours")),
                    });
                }
            }
            self.look_later(&mut pause, retry_after(&answer, SystemTime::now()), until).await?;
        }
    }

    /// Has the certificate issued and gets it.
    async fn finish(&self, url: &str, names: &[Box<str>]) -> Result<Issued, Failure> {
        let within = self.settings.certificate_timeout.positive().unwrap_or(PROVED_WITHIN);
        let until = Instant::now() + PROVED_WITHIN;
        let mut pause = *LOOKS.start();
        // The proofs are seen; the order may need a moment to see that, too.
        let finalize = loop {
            let (state, answer) = self.server.fetch::<State>(self.account.signer(), url).await?;
            match &*state.status {
                "ready" => break state.finalize,
                "pending" | "processing" => {}
                other => return Err(broken(other, state.error)),
            }
            self.look_later(&mut pause, retry_after(&answer, SystemTime::now()), until).await?;
        };
        let (settings, wanted) = (self.settings.clone(), names.to_vec());
        let made = tokio::task::spawn_blocking(move || key::request(&settings, &wanted)).await;
        let (key, csr) = made.map_err(|error| Failure::Ours(error.to_string()))?.map_err(Failure::Ours)?;
        let request = json!({"csr": key::encode(csr)});
        self.server.post(self.account.signer(), &finalize, Some(&request)).await?;
        let until = Instant::now() + within;
        pause = *LOOKS.start();
        let certificate = loop {
            let (state, answer) = self.server.fetch::<State>(self.account.signer(), url).await?;
            match (&*state.status, state.certificate) {
                ("valid", Some(certificate)) => break certificate,
                ("valid" | "processing" | "ready" | "pending", _) => {}
                (other, _) => return Err(broken(other, state.error)),
            }
            self.look_later(&mut pause, retry_after(&answer, SystemTime::now()), until).await?;
        };
        let key = key.serialize_pem();
        let chain = self.chain(&certificate).await?;
        check(&chain, &key, names)?;
        Ok(Issued { chain, key })
    }

    /// The certificate with its issuers: the preferred chain, if there is one.
    async fn chain(&self, url: &str) -> Result<String, Failure> {
        let answer = self.server.post(self.account.signer(), url, None).await?;
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        let first = text(&answer.body);
        let preferred = &*self.settings.preferred_chain;
        if preferred.is_empty() || is_issued_by(&first, preferred) {
            return Ok(first);
        }
        for url in alternates(&answer).iter().take(CHAINS) {
            let other = text(&self.server.post(self.account.signer(), url, None).await?.body);
            if is_issued_by(&other, preferred) {
                return Ok(other);
            }
        }
        log::warn!("the server offers no chain to `{preferred}`: the first one is taken");
        Ok(first)
    }

    async fn look_later(&self, pause: &mut Duration, asked: Option<Duration>, until: Instant) -> Result<(), Failure> {
        let next = asked.unwrap_or(*pause).clamp(*LOOKS.start(), *LOOKS.end());
        if Instant::now() + next > until {
            return Err(Failure::Unreachable("the server takes too long to issue the certificate".to_owned()));
        }
        tokio::time::sleep(next).await;
        *pause = (*pause * 2).min(*LOOKS.end());
        Ok(())
    }
}

fn broken(status: &str, error: Option<Value>) -> Failure {
    match error {
        Some(problem) => refused(&problem, None),
        None => Failure::Unreachable(format!("the order is {status}")),
    }
}

/// Whether we can use what was issued.
fn check(chain: &str, key: &str, names: &[Box<str>]) -> Result<(), Failure> {
    let settings =
        certificate::Settings { cert_file: chain.to_owned(), key_file: Secret::new(key), stores: Vec::new() };
    let wrong = |message: String| Failure::Unreachable(format!("what was issued cannot be used: {message}"));
    if !crate::units::pem::is_inline(chain) {
        return Err(wrong("it is not PEM".to_owned()));
    }
    let read = Certificate::read(&settings).map_err(|problems| wrong(problems.to_string()))?;
    for name in names {
        let is_there = match name.parse() {
            Ok(address) => read.addresses().contains(&address),
            Err(_) => read.names().iter().any(|known| known.eq_ignore_ascii_case(name)),
        };
        if !is_there {
            return Err(wrong(format!("{name} is not in it")));
        }
    }
    Ok(())
}

/// Whether the last of a chain was issued by who has this common name.
fn is_issued_by(chain: &str, name: &str) -> bool {
    Chain::read(chain).is_ok_and(|chain| chain.issuers.last().is_some_and(|last| last == name))
}

/// What a certificate is called where servers tell when to renew it (RFC 9773 §4.1).
pub(super) fn renewal_name(chain: &Chain) -> Option<String> {
    Some(format!("{}.{}", key::encode(chain.authority_key.as_ref()?), key::encode(&chain.serial)))
}

/// The kinds of proof, as servers name them.
impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http-01",
            Self::Tls => "tls-alpn-01",
            Self::Dns => "dns-01",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::acme::Answers;

    #[tokio::test]
    async fn proofs_of_an_order_that_is_cut_off_are_withdrawn() {
        let answers = Arc::<Answers>::default();
        let prover = Prover::Http(answers.clone(), Duration::ZERO);
        let proof = Proof { name: "a.test".into(), token: "t".into(), authorization: "t.x".into() };
        prover.present(&proof).await.unwrap();
        let order = tokio::spawn(async move {
            let _shown = Shown { prover, proofs: vec![proof] };
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        assert!(!answers.is_empty());
        order.abort();
        assert!(order.await.is_err());
        while !answers.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
