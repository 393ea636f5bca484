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
            return Err(format!("`HTTPREQ_ENDPOINT` is no URL: {endpoint}"));
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
        if answer.status.is_success() { Ok(()) } else { Err(format!("{url} answers {}", answer.status)) }
    }
}
