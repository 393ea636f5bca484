//! Variables that tell a DNS provider who we are, as lego names them.

use std::collections::BTreeMap;

use crate::units::environment;

/// Largest file that a variable names, in bytes.
const LIMIT_BYTES: u64 = 64 << 10;

/// The variables of the process.
pub(in crate::provider::acme) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// As they are now.
    pub(in crate::provider::acme) fn of_process() -> Self {
        Self(environment().collect())
    }

    #[cfg(test)]
    pub(in crate::provider::acme) fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// The value of a variable; if it is not set, what stands in the file that `NAME_FILE` names.
    ///
    /// # Errors
    /// If that file cannot be read.
    pub(super) fn find(&self, name: &str) -> Result<Option<String>, String> {
        if let Some(value) = self.0.get(name).filter(|value| !value.is_empty()) {
            return Ok(Some(value.clone()));
        }
        let Some(path) = self.0.get(&format!("{name}_FILE")).filter(|path| !path.is_empty()) else { return Ok(None) };
        let unreadable = |error: std::io::Error| format!("cannot read the file of `{name}_FILE`: {error}");
        if std::fs::metadata(path).map_err(unreadable)?.len() > LIMIT_BYTES {
            return Err(format!("the file of `{name}_FILE` is larger than {LIMIT_BYTES} bytes"));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// The value of the first of these that is set.
    ///
    /// # Errors
    /// If none is.
    pub(super) fn need(&self, names: &[&str]) -> Result<String, String> {
        for name in names {
            if let Some(found) = self.find(name)? {
                return Ok(found);
            }
        }
        Err(format!("the environment variable {} is not set", names.join(" or ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_from_variables_or_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "deep\n").unwrap();
        let path = path.to_str().unwrap();
        let found = Environment::of(&[("A", "1"), ("B_FILE", path), ("C_FILE", "/no/such/file"), ("D", "")]);
        assert_eq!(found.find("A"), Ok(Some("1".to_owned())));
        assert_eq!(found.need(&["X", "B"]), Ok("deep".to_owned()));
        assert!(found.find("C").is_err());
        assert_eq!(found.find("D"), Ok(None));
        assert_eq!(found.need(&["D", "E"]), Err("the environment variable D or E is not set".to_owned()));
    }
}
