//! `httpreq`: a webhook writes the records.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Uri};
use serde_json::json;

use super::{Environment, Record};
use crate::provider::acme::web::Web;
use crate::units::Secret;

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
        let is_url = endpoint.parse::<Uri>().is_ok_and(|url| url.scheme().is_some() && url.host().is_some());
        if !is_url {
            // Which may be a secret.
            return Err("`HTTPREQ_ENDPOINT` is no URL".to_owned());
        }
        let user = environment.find("HTTPREQ_USERNAME")?;
        let password = environment.find("HTTPREQ_PASSWORD")?;
        let authorization = user.zip(password).map(|(user, password)| {
            Secret::new(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
        });
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
