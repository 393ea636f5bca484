//! Names of routers, services and middlewares: `api@file`.

use std::borrow::Borrow;
use std::fmt;

use arcstr::ArcStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name, cheap to clone. Qualified once its provider is known: `local@provider`.
///
/// The last `@` parts the two, as Traefik does it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(ArcStr);

impl Name {
    /// A name as written.
    pub fn new(text: impl Into<ArcStr>) -> Self {
        Self(text.into())
    }

    /// `local@provider`.
    pub fn qualified(local: &str, provider: &str) -> Self {
        Self(format!("{local}@{provider}").into())
    }

    /// The name itself if it names a provider, otherwise `self@provider`: a bare reference stays within its provider.
    #[must_use]
    pub fn within(&self, provider: &str) -> Self {
        if self.0.contains('@') { self.clone() } else { Self::qualified(&self.0, provider) }
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the last `@`.
    pub fn local(&self) -> &str {
        self.0.rsplit_once('@').map_or(&*self.0, |(local, _)| local)
    }

    /// What stands behind the last `@`.
    pub fn provider(&self) -> Option<&str> {
        self.0.rsplit_once('@').map(|(_, provider)| provider)
    }

    /// Whether it belongs to the gateway itself.
    pub fn is_internal(&self) -> bool {
        self.provider() == Some("internal")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word() {
        assert_eq!((size_of::<Name>(), size_of::<Option<Name>>()), (8, 8));
    }

    #[test]
    fn the_last_at_sign_parts_name_and_provider() {
        let name = Name::from("a@b@docker");
        assert_eq!((name.local(), name.provider()), ("a@b", Some("docker")));
        assert_eq!(Name::from("a").within("file").as_str(), "a@file");
        assert_eq!(Name::from("a@docker").within("file").as_str(), "a@docker");
    }
}
