//! One file per middleware. Requests go down the chain; responses come back up, as deep as the request went.

use std::fmt;
use std::future::Future;

use pingora::http::{RequestHeader, ResponseHeader};
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::exchange::{Exchange, Reply};
use crate::problem::{Problem, Problems};
use crate::units::Name;

pub mod add_prefix;
mod alias;
pub mod basic_auth;
pub mod chain;
pub mod compress;
pub mod content_type;
pub mod encoded_characters;
pub mod field;
mod fingerprint;
pub mod grpc_web;
pub mod headers;
pub mod in_flight_req;
pub mod ip_allow_list;
mod password_check;
pub mod path;
pub mod rate_limit;
mod recent;
mod redirect;
pub mod redirect_regex;
pub mod redirect_scheme;
pub mod replace_path;
pub mod replace_path_regex;
pub mod retry;
pub mod source;
pub mod strip_prefix;
pub mod strip_prefix_regex;
pub mod tcp;
#[cfg(test)]
mod testing;
mod users;

pub use chain::{Chain, Step};

/// What a builder may ask for.
#[derive(Clone, Debug)]
pub struct Kit<'a> {
    /// The middleware's own qualified name.
    pub name: &'a Name,
}

/// Whether the request goes on.
#[derive(Debug)]
pub enum Flow {
    /// To the next middleware, and at last to the service.
    Continue,
    /// No further: this is the answer. It goes up through the middlewares that the request has passed.
    Reply(Box<Reply>),
}

impl Flow {
    /// Answers with `reply`.
    pub fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// A middleware continues or replies; it does not fail.
pub trait Middleware: Sized + Send + Sync + 'static {
    /// What users write.
    type Settings: DeserializeOwned + Serialize + Clone + PartialEq + fmt::Debug;

    /// Whether each router that uses it gets an instance of its own (limits are counted per router, as in Traefik).
    fn is_per_router(settings: &Self::Settings) -> bool {
        let _ = settings;
        false
    }

    /// What is accepted for compatibility but does nothing; warnings whose paths are relative to the settings.
    fn warnings(settings: &Self::Settings) -> Vec<Problem> {
        let _ = settings;
        Vec::new()
    }

    /// Builds it.
    ///
    /// # Errors
    /// Everything that is wrong, not only what is found first; paths are relative to the settings.
    fn build(settings: &Self::Settings, kit: &Kit<'_>) -> Result<Self, Problems>;

    /// Whether the files that it was built from still say the same. Asked before it is kept for the next configuration.
    fn is_current(&self) -> bool {
        true
    }

    /// On the way down.
    fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> impl Future<Output = Flow> + Send {
        let _ = (request, exchange);
        async { Flow::Continue }
    }

    /// On the way up.
    fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
        let _ = (response, exchange);
    }
}

/// Generates the two closed enums over all middlewares and the matches that dispatch to them.
macro_rules! registry {
    ($($key:literal => $variant:ident($type:ty),)*) => {
        /// One middleware as written: a map with exactly one key, which names its type.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Settings {
            /// `chain`: other middlewares, by name.
            Chain(Box<chain::Settings>),
            $(
                #[doc = concat!("`", $key, "`.")]
                $variant(Box<<$type as Middleware>::Settings>),
            )*
        }

        impl Settings {
            /// The keys of all types, in the order of the registry.
            pub const KINDS: &'static [&'static str] = &["chain", $($key,)*];

            /// The key that names its type.
            pub fn kind(&self) -> &'static str {
                match self {
                    Self::Chain(_) => "chain",
                    $(Self::$variant(_) => $key,)*
                }
            }

            /// Whether each router that uses it gets an instance of its own.
            pub fn is_per_router(&self) -> bool {
                match self {
                    Self::Chain(_) => false,
                    $(Self::$variant(settings) => <$type as Middleware>::is_per_router(settings),)*
                }
            }

            /// What is written but does nothing; paths start with the kind.
            pub fn warnings(&self) -> Vec<Problem> {
                let found = match self {
                    Self::Chain(_) => Vec::new(),
                    $(Self::$variant(settings) => <$type as Middleware>::warnings(settings),)*
                };
                found.into_iter().map(|problem| problem.under(self.kind())).collect()
            }

            /// Reads the settings of one type; `None` if nothing is written under its key.
            fn read<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Option<Self>, A::Error> {
                Ok(match kind {
                    "chain" => map.next_value::<Option<_>>()?.map(Self::Chain),
                    $($key => map.next_value::<Option<_>>()?.map(Self::$variant),)*
                    unknown => return Err(A::Error::unknown_field(unknown, Self::KINDS)),
                })
            }
        }

        impl Serialize for Settings {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(1))?;
                match self {
                    Self::Chain(settings) => map.serialize_entry("chain", settings)?,
                    $(Self::$variant(settings) => map.serialize_entry($key, settings)?,)*
                }
                map.end()
            }
        }

        /// One middleware as built. A closed enum, so that a chain of them is one state machine without boxed futures.
        #[allow(clippy::large_enum_variant, reason = "each stands in an Arc of its own; a box would cost a second hop per request")]
        pub enum AnyMiddleware {
            $(
                #[doc = concat!("`", $key, "`.")]
                $variant($type),
            )*
        }

        impl AnyMiddleware {
            /// Builds one.
            ///
            /// # Errors
            /// Problems whose paths start with the kind: `addPrefix.prefix`. A `chain` is an error: its parts are steps, not it.
            pub fn build(settings: &Settings, kit: &Kit<'_>) -> Result<Self, Problems> {
                match settings {
                    Settings::Chain(_) => Err(Problem::at("", "a chain is a list of middlewares, not one of them").into()),
                    $(Settings::$variant(settings) => <$type as Middleware>::build(settings, kit).map(Self::$variant),)*
                }
                .map_err(|problems| problems.under(settings.kind()))
            }

            /// The key that names its type.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $key,)*
                }
            }

            /// Whether the files that it was built from still say the same. Reads them.
            pub fn is_current(&self) -> bool {
                match self {
                    $(Self::$variant(middleware) => middleware.is_current(),)*
                }
            }

            /// On the way down.
            #[inline]
            pub async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
                match self {
                    $(Self::$variant(middleware) => middleware.on_request(request, exchange).await,)*
                }
            }

            /// On the way up.
            #[inline]
            pub fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange) {
                match self {
                    $(Self::$variant(middleware) => middleware.on_response(response, exchange),)*
                }
            }
        }
    };
}
// One line per middleware: the key that users write, the variant, the type.
registry! {
    "addPrefix" => AddPrefix(add_prefix::AddPrefix),
    "basicAuth" => BasicAuth(basic_auth::BasicAuth),
    "compress" => Compress(compress::Compress),
    "contentType" => ContentType(content_type::ContentType),
    "encodedCharacters" => EncodedCharacters(encoded_characters::EncodedCharacters),
    "grpcWeb" => GrpcWeb(grpc_web::GrpcWeb),
    "headers" => Headers(headers::Headers),
    "inFlightReq" => InFlightReq(in_flight_req::InFlightReq),
    "ipAllowList" => IpAllowList(ip_allow_list::IpAllowList),
    "ipWhiteList" => IpWhiteList(ip_allow_list::IpWhiteList),
    "rateLimit" => RateLimit(rate_limit::RateLimit),
    "redirectRegex" => RedirectRegex(redirect_regex::RedirectRegex),
    "redirectScheme" => RedirectScheme(redirect_scheme::RedirectScheme),
    "replacePath" => ReplacePath(replace_path::ReplacePath),
    "replacePathRegex" => ReplacePathRegex(replace_path_regex::ReplacePathRegex),
    "retry" => Retry(retry::Retry),
    "stripPrefix" => StripPrefix(strip_prefix::StripPrefix),
    "stripPrefixRegex" => StripPrefixRegex(strip_prefix_regex::StripPrefixRegex),
}

impl Settings {
    /// The names that a `chain` lists; `None` for every other type.
    pub fn chain(&self) -> Option<&[Name]> {
        match self {
            Self::Chain(chain) => Some(&chain.middlewares),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneKey;

        impl<'de> Visitor<'de> for OneKey {
            type Value = Settings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with one key that names the type of the middleware")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
                let mut found = None;
                while let Some(kind) = map.next_key::<String>()? {
                    let Some(settings) = Settings::read(&kind, &mut map)? else { continue };
                    if found.replace(settings).is_some() {
                        return Err(A::Error::custom(
                            "cannot create middleware: multi-types middleware not supported, consider declaring two different pieces of middleware instead",
                        ));
                    }
                }
                found.ok_or_else(|| A::Error::custom("the middleware does not have any type defined"))
            }
        }

        deserializer.deserialize_map(OneKey)
    }
}

impl fmt::Debug for AnyMiddleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Settings, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn one_key_names_the_type_and_comes_back() {
        for json in [r#"{"addPrefix":{"prefix":"/a"}}"#, r#"{"chain":{"middlewares":["a","b@docker"]}}"#] {
            let settings = parse(json).unwrap();
            assert_eq!(serde_json::to_string(&settings).unwrap(), json);
            assert!(json[2..].starts_with(settings.kind()));
        }
        assert_eq!(parse(r#"{"addPrefix":{"prefix":"/a"},"chain":null}"#).unwrap().kind(), "addPrefix");
        assert_eq!(parse(r#"{"chain":{"middlewares":["a"]}}"#).unwrap().chain(), Some(&[Name::from("a")][..]));
        assert_eq!(parse(r#"{"addPrefix":{"prefix":"/a"}}"#).unwrap().chain(), None);
    }

    #[test]
    fn none_several_and_unknown_types_are_refused() {
        for (json, part) in [
            ("{}", "does not have any type defined"),
            (r#"{"addPrefix":{"prefix":"/a"},"chain":{"middlewares":[]}}"#, "multi-types middleware not supported"),
            (r#"{"addprefix":{"prefix":"/a"}}"#, "unknown field `addprefix`"),
            (r#"{"addPrefix":{"prefix":"/a","x":1}}"#, "unknown field `x`"),
            (r#""addPrefix""#, "a map with one key"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn problems_start_with_the_kind() {
        let name = Name::from("a@file");
        let build = |json| AnyMiddleware::build(&parse(json).unwrap(), &Kit { name: &name }).unwrap_err().only().path;
        assert_eq!(build(r#"{"addPrefix":{"prefix":""}}"#), "addPrefix.prefix");
        assert_eq!(build(r#"{"chain":{"middlewares":[]}}"#), "chain");
    }
}
