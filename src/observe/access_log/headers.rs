//! Which header fields a line shows.

use hashbrown::HashMap;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::settings::{HeaderMode, Headers};

/// What happens to header fields, as built.
#[derive(Debug, Default)]
pub(super) struct HeaderRules {
    default: HeaderMode,
    by_name: HashMap<HeaderName, HeaderMode>,
    /// Those of `by_name` that are shown, in the order of their names.
    shown: Box<[HeaderName]>,
}

/// Fields whose values let others in. `keep` for all fields does not mean these.
const CREDENTIALS: [HeaderName; 4] =
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE];

impl HeaderRules {
    pub(super) fn new(settings: &Headers) -> Self {
        let by_name: HashMap<HeaderName, HeaderMode> = settings
            .names
            .iter()
            .filter_map(|(name, mode)| Some((HeaderName::from_bytes(name.as_bytes()).ok()?, *mode)))
            .collect();
        let mut shown: Vec<HeaderName> =
            by_name.iter().filter(|(_, mode)| **mode != HeaderMode::Drop).map(|(name, _)| name.clone()).collect();
        shown.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        Self { default: settings.default_mode, by_name, shown: shown.into() }
    }

    /// Whether nothing is shown of any field.
    pub(super) fn show_nothing(&self) -> bool {
        self.default == HeaderMode::Drop && self.shown.is_empty()
    }

    /// What happens to one field.
    pub(super) fn mode(&self, name: &HeaderName) -> HeaderMode {
        if !self.by_name.is_empty()
            && let Some(mode) = self.by_name.get(name)
        {
            return *mode;
        }
        match self.default {
            HeaderMode::Keep if CREDENTIALS.contains(name) => HeaderMode::Redact,
            mode => mode,
        }
    }

    /// Calls `show` with each field that is shown; with its values, unless they are redacted.
    pub(super) fn each<'h>(
        &self,
        headers: &'h HeaderMap,
        mut show: impl FnMut(&HeaderName, Option<header::ValueIter<'h, HeaderValue>>),
    ) {
        let mut one = |name: &HeaderName, mode: HeaderMode| match mode {
            HeaderMode::Drop => {}
            HeaderMode::Redact => show(name, None),
            HeaderMode::Keep => show(name, Some(headers.get_all(name).into_iter())),
        };
        if self.default == HeaderMode::Drop {
            for name in self.shown.iter().filter(|name| headers.contains_key(*name)) {
                one(name, self.mode(name));
            }
        } else {
            // The host has fields of its own.
            for name in headers.keys().filter(|name| **name != header::HOST) {
                one(name, self.mode(name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HeaderMode::{Drop, Keep, Redact};

    fn rules(default_mode: HeaderMode, names: &[(&str, HeaderMode)]) -> HeaderRules {
        let names = names.iter().map(|(name, mode)| ((*name).to_owned(), *mode)).collect();
        HeaderRules::new(&Headers { default_mode, names })
    }

    #[test]
    fn modes() {
        let check = |rules: &HeaderRules, name: &'static str, expected: HeaderMode| {
            assert_eq!(rules.mode(&HeaderName::from_static(name)), expected, "{name}");
        };
        let named = rules(Drop, &[("User-AGENT", Keep), ("x-key", Redact)]);
        check(&named, "user-agent", Keep);
        check(&named, "x-key", Redact);
        check(&named, "referer", Drop);
        let all = rules(Keep, &[("Cookie", Keep), ("referer", Drop)]);
        check(&all, "accept", Keep);
        check(&all, "authorization", Redact);
        check(&all, "set-cookie", Redact);
        check(&all, "cookie", Keep);
        check(&all, "referer", Drop);
        check(&rules(Redact, &[]), "accept", Redact);
        assert!(rules(Drop, &[("a", Drop)]).show_nothing());
        assert!(!rules(Drop, &[("a", Redact)]).show_nothing());
    }
}
