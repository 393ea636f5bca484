//! `basicAuth`: name and password (RFC 7617).

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hashbrown::HashMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::field;
use super::fingerprint::fingerprint;
use super::password_check::{Busy, PasswordCheck};
use super::users::{Candidate, User, Users};
use super::{Flow, Kit, Middleware};
use crate::exchange::{Exchange, Fault, Reply};
use crate::problem::{Problem, Problems, all};
use crate::units::Secret;

/// Longest `name:password` that is looked at, in bytes; hashing takes time for each of them.
const CREDENTIALS_LIMIT_BYTES: usize = 1024;
/// Longest realm, in bytes.
const REALM_LIMIT_BYTES: usize = 256;

/// `basicAuth` as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Users as `name:hash`, with a hash of `htpasswd`: bcrypt (best), MD5 or SHA-1.
    pub users: Vec<Secret>,
    /// File with a `name:hash` per line, read with each configuration and each `reload`. It wins over `users`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub users_file: String,
    /// What the client shows when it asks for the password; without it, `traefik`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub realm: String,
    /// Keeps `Authorization` from the server.
    pub remove_header: bool,
    /// Request header that tells the server the user's name. What a client sends under this name never gets through.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header_field: String,
}

/// Asks for name and password.
pub struct BasicAuth {
    users: Users,
    realm: Box<str>,
    challenge: HeaderValue,
    removes_header: bool,
    field: Option<UserField>,
    check: PasswordCheck,
}

/// The header with the user's name, and its value for each user.
struct UserField {
    name: HeaderName,
    values: HashMap<Box<str>, HeaderValue, ahash::RandomState>,
}

impl Middleware for BasicAuth {
    type Settings = Settings;

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let realm = if settings.realm.is_empty() { "traefik" } else { &settings.realm };
        let field = Some(&*settings.header_field).filter(|field| !field.is_empty()).map(field_name);
        let users = Users::load(&settings.users, &settings.users_file);
        let (users, challenge, field) = all((users, challenge(realm), field.transpose()))?;
        Ok(Self {
            field: field.map(|name| UserField::build(name, &users)).transpose()?,
            users,
            realm: realm.into(),
            challenge,
            removes_header: settings.remove_header,
            check: PasswordCheck::new(),
        })
    }

    fn is_current(&self) -> bool {
        self.users.are_current()
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        let credentials = credentials(request);
        if let Some(field) = &self.field {
            field::remove(request, &field.name);
        }
        let user = match credentials {
            Some(credentials) => self.user_of(&credentials).await,
            None => Ok(None),
        };
        match user {
            Ok(Some(user)) => {
                self.admit(user, request, exchange);
                Flow::Continue
            }
            Ok(None) => {
                let reply = Reply::fault(Fault::Unauthorized).with(WWW_AUTHENTICATE, self.challenge.clone());
                Flow::Reply(Box::new(reply))
            }
            Err(Busy) => {
                let reply = Reply::fault(Fault::AuthenticationBusy).with(RETRY_AFTER, HeaderValue::from(1));
                Flow::Reply(Box::new(reply))
            }
        }
    }
}

impl BasicAuth {
    /// The user whose name and password these are.
    async fn user_of(&self, credentials: &[u8]) -> Result<Option<&User>, Busy> {
        // RFC 7617 §2: the first colon ends the name.
        let Some(colon) = credentials.iter().position(|byte| *byte == b':') else { return Ok(None) };
        let (name, password) = (&credentials[..colon], &credentials[colon + 1..]);
        let Some(candidate) = self.users.candidate(name) else { return Ok(None) };
        let [kind, salt, digest] = match candidate {
            Candidate::Known(user) => user.hash.parts(),
            Candidate::Decoy(hash) => hash.parts(),
        };
        let claim = fingerprint(&[b"basic", self.realm.as_bytes(), name, kind, salt, digest, password]);
        let is_proven = self.check.proves(claim, candidate, password, Instant::now()).await?;
        Ok(match candidate {
            Candidate::Known(user) if is_proven => Some(user),
            _ => None,
        })
    }

    fn admit(&self, user: &User, request: &mut RequestHeader, exchange: &mut Exchange) {
        if self.removes_header {
            request.remove_header(&AUTHORIZATION);
        }
        if let Some(field) = &self.field
            && let Some(value) = field.values.get(&user.name)
        {
            field::set(request, &field.name, value.clone());
        }
        exchange.user = Some(user.name.clone());
    }
}

impl UserField {
    fn build(name: HeaderName, users: &Users) -> Result<Self, Problem> {
        let value = |user: &User| HeaderValue::from_str(&user.name).map(|value| (user.name.clone(), value));
        let values = users.iter().map(value).collect::<Result<_, _>>();
        let values = values.map_err(|_| Problem::at("headerField", "a user has a name that no header can carry"))?;
        Ok(Self { name, values })
    }
}

fn field_name(written: &str) -> Result<HeaderName, Problem> {
    field::name(written).map_err(|message| Problem::at("headerField", message))
}

/// `Basic realm="…"` with the realm as a quoted string (RFC 9110 §5.6.4).
fn challenge(realm: &str) -> Result<HeaderValue, Problem> {
    let quoted = realm.replace('\\', r"\\").replace('"', "\\\"");
    match HeaderValue::from_str(&format!("Basic realm=\"{quoted}\"")) {
        Ok(value) if realm.len() <= REALM_LIMIT_BYTES => Ok(value),
        Ok(_) => Err(Problem::at("realm", format!("is longer than {REALM_LIMIT_BYTES} bytes"))),
        Err(_) => Err(Problem::at("realm", "has a character that no header can carry")),
    }
}

/// The decoded `name:password`. Of two `Authorization` fields one might be checked here and the other one there, so they
/// count as none.
fn credentials(request: &RequestHeader) -> Option<SmallVec<[u8; 64]>> {
    let mut values = request.headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else { return None };
    let (scheme, token) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let token = token.trim_ascii();
    if token.len() > CREDENTIALS_LIMIT_BYTES.div_ceil(3) * 4 {
        return None;
    }
    let mut decoded = SmallVec::from_elem(0, token.len().div_ceil(4) * 3);
    let length = STANDARD.decode_slice(token, &mut decoded).ok()?;
    decoded.truncate(length);
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::sample;
    use crate::units::Name;

    fn build(json: &str) -> Result<BasicAuth, String> {
        let name = Name::from("a@file");
        BasicAuth::build(&serde_json::from_str(json).unwrap(), &Kit { name: &name })
            .map_err(|problem| problem.to_string())
    }

    const USERS: &str =
        r#""users":["ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/","bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="]"#;

    fn with(more: &str) -> BasicAuth {
        build(&format!("{{{USERS}{more}}}")).unwrap()
    }

    async fn send(auth: &BasicAuth, headers: &[(&'static str, &str)]) -> (RequestHeader, Exchange, Option<Reply>) {
        let (mut request, mut exchange) = (sample::request("GET", "/"), sample::exchange());
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        let reply = match auth.on_request(&mut request, &mut exchange).await {
            Flow::Continue => None,
            Flow::Reply(reply) => Some(*reply),
        };
        (request, exchange, reply)
    }

    fn basic(credentials: &str) -> String {
        format!("Basic {}", STANDARD.encode(credentials))
    }

    #[tokio::test]
    async fn admits_by_name_and_password() {
        let auth = with("");
        for (value, user) in [
            (basic("ann:secret"), Some("ann")),
            (basic("ann:secret"), Some("ann")),
            (basic("bob:secret"), Some("bob")),
            (basic("bob:secret").replace("Basic ", "bAsIc  "), Some("bob")),
            (basic("ann:wrong"), None),
            (basic("ann:"), None),
            (basic("ann"), None),
            (basic("nobody:secret"), None),
            (basic(":secret"), None),
            (basic(&format!("ann:{}", "x".repeat(2_000))), None),
            ("Basic !!!".to_owned(), None),
            ("Basic".to_owned(), None),
            ("Bearer abc".to_owned(), None),
        ] {
            let (_, exchange, reply) = send(&auth, &[("Authorization", &value)]).await;
            assert_eq!(exchange.user.as_deref(), user, "{value}");
            assert_eq!(reply.map(|reply| reply.header.status.as_u16()), user.is_none().then_some(401), "{value}");
        }
    }

    #[tokio::test]
    async fn without_or_with_two_credentials_it_asks() {
        let auth = with(r#","realm":"a \"b\" \\c""#);
        let right = basic("ann:secret");
        for headers in [&[][..], &[("Authorization", right.as_str()), ("Authorization", "Bearer x")]] {
            let (_, _, reply) = send(&auth, headers).await;
            let reply = reply.unwrap();
            assert_eq!(reply.header.headers["www-authenticate"], r#"Basic realm="a \"b\" \\c""#);
            assert_eq!(reply.fault, Some(Fault::Unauthorized));
        }
        let (_, _, reply) = send(&with(""), &[]).await;
        assert_eq!(reply.unwrap().header.headers["www-authenticate"], r#"Basic realm="traefik""#);
    }

    #[tokio::test]
    async fn tells_the_server_who_it_is_and_nobody_else_can() {
        let auth = with(r#","headerField":"X-User","removeHeader":true"#);
        let forged = [("X-User", "root"), ("X_User", "root"), ("x.user", "root"), ("X-Other", "kept")];
        for (credentials, admitted) in [("ann:secret", true), ("ann:wrong", false)] {
            let value = basic(credentials);
            let mut headers = forged.to_vec();
            headers.push(("Authorization", &value));
            let (request, _, reply) = send(&auth, &headers).await;
            assert_eq!(reply.is_none(), admitted);
            let seen: Vec<_> = request.headers.iter().filter(|(_, value)| *value != "kept").collect();
            match seen.as_slice() {
                [(name, value)] if admitted => assert_eq!((name.as_str(), value.as_bytes()), ("x-user", &b"ann"[..])),
                [(name, _)] => assert_eq!(*name, "authorization"),
                other => panic!("{other:?}"),
            }
        }
        let (request, _, _) = send(&with(""), &[("Authorization", &basic("bob:secret"))]).await;
        assert!(request.headers.contains_key("authorization"), "kept unless asked otherwise");
    }

    #[tokio::test]
    async fn names_and_realms_may_be_in_any_script() {
        let users = r#""users":["jörg:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="]"#;
        let auth = build(&format!(r#"{{{users},"realm":"Büro","headerField":"X-User"}}"#)).unwrap();
        let (request, _, reply) = send(&auth, &[("Authorization", &basic("jörg:secret"))]).await;
        assert!(reply.is_none());
        assert_eq!(request.headers["x-user"].as_bytes(), "jörg".as_bytes());
        let (_, _, reply) = send(&auth, &[]).await;
        let challenge = reply.unwrap().header.headers["www-authenticate"].clone();
        assert_eq!(challenge.as_bytes(), "Basic realm=\"Büro\"".as_bytes());
    }

    #[test]
    fn refuses_to_stand_open_or_shut_by_mistake() {
        for (json, part) in [
            ("{}".to_owned(), "users: names nobody"),
            (r#"{"users":["ann"]}"#.to_owned(), "users[0]: is not of the form"),
            (r#"{"usersFile":"/nonexistent"}"#.to_owned(), "usersFile: `/nonexistent` cannot be read"),
            (format!(r#"{{{USERS},"headerField":"a b"}}"#), "headerField: `a b` is not"),
            (format!(r#"{{{USERS},"realm":"a\nb"}}"#), "realm: has a character"),
        ] {
            let problem = build(&json).err().unwrap();
            assert!(problem.contains(part), "{json}: {problem}");
        }
    }

    #[test]
    fn users_are_not_printed() {
        let settings: Settings = serde_json::from_str(&format!("{{{USERS}}}")).unwrap();
        assert!(!serde_json::to_string(&settings).unwrap().contains("apr1"));
        assert!(!format!("{settings:?}").contains("apr1"));
    }
}
