//! Proof by a record in DNS: who writes it, and how long it takes until it is seen everywhere.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::proof::Proof;
use crate::config::resolvers::{DnsChallenge, Propagation};
use crate::problem::Problem;
use crate::web::Web;

mod environment;
mod exec;
mod httpreq;
mod look_up;
mod rfc2136;

pub(super) use environment::Environment;
use look_up::LookUp;

/// How long a record may take to be seen, unless the environment says otherwise.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// How often is looked.
const LOOKS_EVERY: Duration = Duration::from_secs(2);
/// All providers that there are.
const BUILT_IN: [&str; 3] = ["exec", "httpreq", "rfc2136"];

/// Who writes records.
enum Writer {
    Exec(exec::Exec),
    HttpReq(httpreq::HttpReq),
    Rfc2136(rfc2136::Rfc2136),
}

/// A record: its name with a dot at the end, and its text.
#[derive(Debug)]
struct Record<'a> {
    name: String,
    text: String,
    proof: &'a Proof,
}

pub(super) struct Dns {
    writer: Writer,
    look_up: LookUp,
    propagation: Propagation,
    seen_within: Duration,
    looks_every: Duration,
}

/// Whether there is a provider of this name.
///
/// # Errors
/// The problem, at `dnsChallenge.provider`.
pub(super) fn check(provider: &str) -> Result<(), Problem> {
    if BUILT_IN.contains(&provider) {
        return Ok(());
    }
    let help = format!("there are: {}; `exec` and `httpreq` reach every other one", BUILT_IN.join(", "));
    let message = format!("there is no DNS provider `{provider}`");
    Err(Problem::at("dnsChallenge.provider", message).with_help(help))
}

impl Dns {
    /// The provider that is named, with what the environment says of it.
    ///
    /// # Errors
    /// A variable that is missing or wrong, a name server that is none.
    pub(super) fn new(settings: &DnsChallenge, environment: &Environment, web: Web) -> Result<Self, Problem> {
        let wrong = |message: String| Problem::at("dnsChallenge.provider", message);
        let name = &*settings.provider;
        let look_up = LookUp::new(&settings.resolvers)?;
        let writer = match name {
            "exec" => exec::Exec::new(environment).map(Writer::Exec),
            "httpreq" => httpreq::HttpReq::new(environment, web).map(Writer::HttpReq),
            "rfc2136" => rfc2136::Rfc2136::new(environment).map(Writer::Rfc2136),
            _ => return Err(check(name).err().unwrap_or_else(|| wrong("does not exist".to_owned()))),
        };
        let prefix = name.to_ascii_uppercase();
        let seconds = |variable: &str, default: Duration| {
            let found = environment.find(&format!("{prefix}_{variable}")).map_err(wrong)?;
            let Some(found) = found else { return Ok(default) };
            let seconds =
                found.parse::<u32>().map_err(|_| wrong(format!("`{prefix}_{variable}` is no number of seconds")))?;
            Ok::<_, Problem>(Duration::from_secs(seconds.into()))
        };
        Ok(Self {
            writer: writer.map_err(wrong)?,
            look_up,
            propagation: settings.propagation(),
            seen_within: seconds("PROPAGATION_TIMEOUT", SEEN_WITHIN)?,
            looks_every: seconds("POLLING_INTERVAL", LOOKS_EVERY)?.max(Duration::from_millis(100)),
        })
    }

    pub(super) async fn present(&self, proof: &Proof) -> Result<(), String> {
        let record = self.record(proof).await;
        match &self.writer {
            Writer::Exec(exec) => exec.run("present", &record).await,
            Writer::HttpReq(httpreq) => httpreq.post("present", &record).await,
            Writer::Rfc2136(rfc2136) => rfc2136.change(rfc2136::Change::Add, &record, &self.look_up).await,
        }
    }

    pub(super) async fn withdraw(&self, proof: &Proof) -> Result<(), String> {
        let record = self.record(proof).await;
        match &self.writer {
            Writer::Exec(exec) => exec.run("cleanup", &record).await,
            Writer::HttpReq(httpreq) => httpreq.post("cleanup", &record).await,
            Writer::Rfc2136(rfc2136) => rfc2136.change(rfc2136::Change::Remove, &record, &self.look_up).await,
        }
    }

    /// The record of a proof, where an alias leads to if there is one.
    async fn record<'a>(&self, proof: &'a Proof) -> Record<'a> {
        let name = format!("_acme-challenge.{}.", proof.name.trim_end_matches('.'));
        let name = self.look_up.canonical(&name).await;
        Record { name, text: proof.record(), proof }
    }

    /// Waits until the records are seen by those who are asked.
    pub(super) async fn await_propagation(&self, proofs: &[Proof]) -> Result<(), String> {
        tokio::time::sleep(self.propagation.delay_before_checks.or_zero()).await;
        if self.propagation.disable_checks {
            return Ok(());
        }
        let mut waiting = BTreeSet::new();
        for proof in proofs {
            let record = self.record(proof).await;
            waiting.insert((record.name, record.text));
        }
        let until = Instant::now() + self.seen_within;
        loop {
            let mut unseen = BTreeSet::new();
            let mut last = String::new();
            for (name, text) in waiting {
                if let Err(error) = self.look_up.sees(&name, &text, &self.propagation).await {
                    last = format!("{name}: {error}");
                    unseen.insert((name, text));
                }
            }
            if unseen.is_empty() {
                return Ok(());
            }
            if Instant::now() + self.looks_every > until {
                return Err(format!("the record is not seen within {:?}: {last}", self.seen_within));
            }
            waiting = unseen;
            tokio::time::sleep(self.looks_every).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn times_of_the_environment_are_seconds() {
        for (written, is_right) in [("0", true), ("600", true), ("18446744073709551615", false), ("1m", false)] {
            let settings = DnsChallenge { provider: "exec".into(), ..DnsChallenge::default() };
            let variables = [("EXEC_PATH", "/bin/true"), ("EXEC_PROPAGATION_TIMEOUT", written)];
            let dns = Dns::new(&settings, &Environment::of(&variables), crate::provider::acme::webhook().unwrap());
            assert_eq!(dns.is_ok(), is_right, "{written}");
        }
    }

    #[test]
    fn unknown_providers_are_refused_with_those_that_there_are() {
        assert!(BUILT_IN.iter().all(|name| check(name).is_ok()));
        let problem = check("clodflare").unwrap_err();
        assert_eq!(problem.path, "dnsChallenge.provider");
        assert!(problem.help.unwrap().contains("exec, httpreq, rfc2136"));
    }
}
