//! Proofs that a name is ours: an answer to a request, a handshake, or a record in DNS (RFC 8555 §8, RFC 8737).

use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use aws_lc_rs::digest;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hashbrown::HashMap;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use parking_lot::RwLock;
use pingora::http::RequestHeader;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::PrivateKeyDer;

use super::dns::Dns;
use super::key::encode;
use crate::exchange::view::canonical_host;
use crate::exchange::{Exchange, Reply};
use crate::service::Internal;
use crate::tls::Challenges;

/// Where HTTP-01 looks (RFC 8555 §8.3).
pub(super) const PATH: &str = "/.well-known/acme-challenge/";

/// Which kind of proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Tls,
    Dns,
}

/// What proves one name.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    pub(super) name: Box<str>,
    pub(super) token: Box<str>,
    pub(super) authorization: Box<str>,
}

impl Proof {
    /// What stands in DNS (RFC 8555 §8.4).
    pub(super) fn record(&self) -> String {
        encode(digest::digest(&digest::SHA256, self.authorization.as_bytes()))
    }
}

/// Answers to requests for proofs, by token, each for its name alone: `acme-http@internal`.
#[derive(Debug, Default)]
pub struct Answers(RwLock<HashMap<Box<str>, Answer, RandomState>>);

#[derive(Clone, Debug)]
struct Answer {
    name: Box<str>,
    authorization: Box<str>,
}

#[cfg(test)]
impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }
}

impl Internal for Answers {
    fn name(&self) -> &str {
        "acme-http"
    }

    fn reply<'a>(&'a self, request: &'a RequestHeader, exchange: &'a Exchange) -> BoxFuture<'a, Reply> {
        let token = request.uri.path().strip_prefix(PATH).unwrap_or_default();
        let host = canonical_host(exchange.original.host.to_str().unwrap_or_default());
        let found = self.0.read().get(token).filter(|answer| answer.name.eq_ignore_ascii_case(&host)).cloned();
        async move {
            let Some(found) = found else { return Reply::status(StatusCode::NOT_FOUND) };
            Reply::status(StatusCode::OK)
                .with(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
                .with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
                .with_body(found.authorization.into_string())
        }
        .boxed()
    }
}

/// Gives and withdraws proofs.
#[derive(Clone)]
pub(super) enum Prover {
    Http(Arc<Answers>, Duration),
    Tls(Arc<Challenges>, Duration),
    Dns(Arc<Dns>),
}

impl Prover {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Http(..) => Kind::Http,
            Self::Tls(..) => Kind::Tls,
            Self::Dns(_) => Kind::Dns,
        }
    }

    /// Has the proof ready for whoever looks.
    pub(super) async fn present(&self, proof: &Proof) -> Result<(), String> {
        match self {
            Self::Http(answers, _) => {
                let Proof { name, token, authorization } = proof.clone();
                answers.0.write().insert(token, Answer { name, authorization });
                Ok(())
            }
            Self::Tls(challenges, _) => show(challenges, proof),
            Self::Dns(dns) => dns.present(proof).await,
        }
    }

    /// Waits until the server may look.
    pub(super) async fn settle(&self, proofs: &[Proof]) -> Result<(), String> {
        match self {
            Self::Http(_, delay) | Self::Tls(_, delay) => {
                tokio::time::sleep(*delay).await;
                Ok(())
            }
            Self::Dns(dns) => dns.await_propagation(proofs).await,
        }
    }

    /// Ends what was presented.
    pub(super) async fn withdraw(&self, proof: &Proof) {
        match self {
            Self::Http(answers, _) => drop(answers.0.write().remove(&proof.token)),
            Self::Tls(challenges, _) => challenges.remove(&shown_as(&proof.name)),
            Self::Dns(dns) => {
                if let Err(error) = dns.withdraw(proof).await {
                    log::warn!("the DNS record that proved {} stays: {error}", proof.name);
                }
            }
        }
    }
}

/// A certificate that is for one name and carries the proof (RFC 8737 §3).
fn show(challenges: &Challenges, proof: &Proof) -> Result<(), String> {
    let wrong = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new(vec![proof.name.to_string()]).map_err(wrong)?;
    let digest = digest::digest(&digest::SHA256, proof.authorization.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    let key = KeyPair::generate().map_err(wrong)?;
    let certificate = params.self_signed(&key).map_err(wrong)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    challenges.insert(&shown_as(&proof.name), certificate.der().clone(), key).map_err(|problem| problem.message)
}

/// The server name that is asked with: addresses have none, and are asked for by the name that reverses them (RFC 8738 §6).
fn shown_as(name: &str) -> String {
    match name.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Ok(std::net::IpAddr::V6(ip)) => {
            let digits = ip.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            digits.map(|digit| format!("{digit:x}.")).collect::<String>() + "ip6.arpa"
        }
        Err(_) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_in_reverse() {
        for (name, expected) in [
            ("a.test", "a.test"),
            ("192.0.2.1", "1.2.0.192.in-addr.arpa"),
            ("::1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa"),
        ] {
            assert_eq!(shown_as(name), expected);
        }
    }

    #[tokio::test]
    async fn answers_are_for_one_name_each() {
        let answers = Arc::<Answers>::default();
        let prover = Prover::Http(answers.clone(), Duration::ZERO);
        for (name, token) in [("a.test", "t"), ("::1", "u")] {
            let proof = Proof { name: name.into(), token: token.into(), authorization: "t.x".into() };
            prover.present(&proof).await.unwrap();
        }
        for (host, token, expected) in [
            ("a.test", "t", 200),
            ("A.Test:5002", "t", 200),
            ("[::1]:80", "u", 200),
            ("b.test", "t", 404),
            ("a.test", "u", 404),
            ("a.test", "", 404),
        ] {
            let request = crate::exchange::sample::request("GET", &format!("{PATH}{token}"));
            let exchange = crate::exchange::sample::exchange_for("GET", host);
            let reply = answers.reply(&request, &exchange).await;
            assert_eq!(reply.header.status, expected, "{host} {token}");
        }
    }

    #[tokio::test]
    async fn proofs_are_there_until_they_are_withdrawn() {
        let proof = Proof { name: "a.test".into(), token: "t".into(), authorization: "t.x".into() };
        let (answers, challenges) = (Arc::<Answers>::default(), Arc::<Challenges>::default());
        for prover in [Prover::Http(answers.clone(), Duration::ZERO), Prover::Tls(challenges.clone(), Duration::ZERO)] {
            prover.present(&proof).await.unwrap();
            let is_there = || match prover.kind() {
                Kind::Http => answers.0.read().contains_key("t"),
                _ => challenges.find("a.test").is_some(),
            };
            assert!(is_there());
            prover.withdraw(&proof).await;
            assert!(!is_there());
        }
    }
}
