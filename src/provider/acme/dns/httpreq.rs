//! `httpreq`: a webhook writes the records.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Uri};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{Environment, Record};
use crate::units::Secret;
use crate::web::Web;

pub(super) struct HttpReq {
    endpoint: String,
    is_raw: bool,
    /// User and password, as they are sent.
    authorization: Option<Secret>,
    web: Web,
}

impl HttpReq {
    pub(super) fn new(environment: &Environment, web: Web) -> Result<Self, String> {
        let endpoint = environment.need(&["HTTPREQ_ENDPOINT"])?;
        let url = endpoint.parse::<Uri>().ok().filter(|url| url.scheme().is_some() && url.host().is_some());
        // It is not told: it may be a secret.
        let url = url.ok_or("`HTTPREQ_ENDPOINT` is no URL")?;
        let user = environment.find("HTTPREQ_USERNAME")?;
        let password = environment.find("HTTPREQ_PASSWORD")?;
        // As lego has it, the URL may name them, too.
        let in_url = || {
            let (named, _) = url.authority()?.as_str().rsplit_once('@')?;
            let (user, password) = named.split_once(':').unwrap_or((named, ""));
            Some(percent_decode_str(user).chain([b':']).chain(percent_decode_str(password)).collect::<Vec<u8>>())
        };
        let credentials = user.zip(password).map(|(user, password)| format!("{user}:{password}").into_bytes());
        let authorization = credentials
            .or_else(in_url)
            .map(|credentials| Secret::new(format!("Basic {}", BASE64_STANDARD.encode(credentials))));
        let is_raw = environment.find("HTTPREQ_MODE")?.is_some_and(|mode| mode == "RAW");
        Ok(Self { endpoint: endpoint.trim_end_matches('/').to_owned(), is_raw, authorization, web })
    }

    /// Asks it to `present` or to `cleanup`.
    pub(super) async fn post(&self, action: &str, record: &Record<'_>) -> Result<(), String> {
        let body = if self.is_raw {
            let proof = record.proof;
            json!({"domain": proof.name, "token": proof.token, "keyAuth": proof.authorization})
        } else {
            json!({"fqdn": record.name, "value": record.text})
        };
        let url = format!("{}/{action}", self.endpoint);
        let mut request = Request::builder().method(Method::POST).uri(&url).header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.reveal());
        }
        let request = request.body(Bytes::from(body.to_string())).map_err(|error| error.to_string())?;
        let answer = self.web.send(request).await?;
        if answer.status.is_success() { Ok(()) } else { Err(format!("`HTTPREQ_ENDPOINT` answers {}", answer.status)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::acme::proof::Proof;

    #[test]
    fn user_and_password_are_variables_or_in_the_url() {
        let sent = |variables: &[(&str, &str)]| {
            let web = crate::provider::acme::webhook().unwrap();
            let httpreq = HttpReq::new(&Environment::of(variables), web).unwrap();
            httpreq.authorization.map(|secret| secret.reveal().to_owned())
        };
        let basic = |text: &str| Some(format!("Basic {}", BASE64_STANDARD.encode(text)));
        let plain = ("HTTPREQ_ENDPOINT", "https://hook.test/x@y");
        let named = ("HTTPREQ_ENDPOINT", "https://ada:se%3Acret@hook.test/");
        let user = ("HTTPREQ_USERNAME", "bob");
        let password = ("HTTPREQ_PASSWORD", "p");
        assert_eq!(sent(&[plain]), None);
        assert_eq!(sent(&[plain, user, password]), basic("bob:p"));
        assert_eq!(sent(&[named]), basic("ada:se:cret"));
        assert_eq!(sent(&[("HTTPREQ_ENDPOINT", "https://token@hook.test")]), basic("token:"));
        assert_eq!(sent(&[named, user, password]), basic("bob:p"));
    }

    #[tokio::test]
    async fn what_the_endpoint_says_of_us_is_not_told() {
        let proof = Proof { name: "a.test".into(), token: "t".into(), authorization: "t.x".into() };
        let record = Record { name: "_acme-challenge.a.test.".to_owned(), text: "v".to_owned(), proof: &proof };
        let web = || crate::provider::acme::webhook().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let endpoint = format!("http://ada:secret@{address}/secret");
        let httpreq = HttpReq::new(&Environment::of(&[("HTTPREQ_ENDPOINT", &endpoint)]), web()).unwrap();
        let error = httpreq.post("present", &record).await.unwrap_err();
        assert!(error.contains(&address.to_string()) && !error.contains("secret"), "{error}");
        let error = HttpReq::new(&Environment::of(&[("HTTPREQ_ENDPOINT", "ada:secret@")]), web()).err().unwrap();
        assert!(error.contains("HTTPREQ_ENDPOINT") && !error.contains("secret"), "{error}");
    }
}
