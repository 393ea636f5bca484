//! Labels whose values come from request headers: a bounded number of them, each with a small number of its own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::{Equivalent, HashMap};
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use smallvec::SmallVec;

/// The values of a request's header labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderValues(pub(super) u8);

/// Combinations of values beyond this many are counted together: clients choose the values.
const MAX_COMBINATIONS: usize = 254;
/// Stands for all further combinations.
const OTHERS: HeaderValues = HeaderValues(u8::MAX);
const OTHERS_VALUE: &str = "other";
/// Longer values are cut, in bytes.
const MAX_VALUE: usize = 64;

/// `headerLabels`, as built.
#[derive(Debug, Default)]
pub(super) struct HeaderLabels {
    labels: Box<[(String, HeaderName)]>,
    known: ArcSwap<Known>,
    /// Held by whoever adds a combination.
    adding: Mutex<()>,
}

type Values = Box<[Box<str>]>;

#[derive(Clone, Debug, Default)]
struct Known {
    numbers: HashMap<Arc<Values>, u8>,
    /// By number, less one: 0 is "no value at all".
    values: Vec<Arc<Values>>,
}

#[derive(Hash)]
struct Borrowed<'a>(&'a [Cow<'a, str>]);

impl Equivalent<Arc<Values>> for Borrowed<'_> {
    fn equivalent(&self, key: &Arc<Values>) -> bool {
        self.0.iter().map(|value| &**value).eq(key.iter().map(|value| &**value))
    }
}

impl HeaderLabels {
    /// `written` maps labels to header names; names that no header can have are left out.
    pub(super) fn new(written: &BTreeMap<String, String>) -> Self {
        let labels = written
            .iter()
            .filter_map(|(label, header)| Some((label.clone(), HeaderName::from_bytes(header.as_bytes()).ok()?)))
            .collect();
        Self { labels, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The values that a request has.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValues {
        if self.labels.is_empty() {
            return HeaderValues::default();
        }
        let values: SmallVec<[Cow<'_, str>; 4]> = self.labels.iter().map(|(_, name)| value(headers, name)).collect();
        if values.iter().all(|value| value.is_empty()) {
            return HeaderValues::default();
        }
        let known = self.known.load();
        match known.numbers.get(&Borrowed(&values)) {
            Some(number) => HeaderValues(*number),
            None if known.values.len() >= MAX_COMBINATIONS => OTHERS,
            None => self.learn(&values),
        }
    }

    fn learn(&self, values: &[Cow<'_, str>]) -> HeaderValues {
        let _adding = self.adding.lock();
        let mut known = Known::clone(&self.known.load());
        if let Some(number) = known.numbers.get(&Borrowed(values)) {
            return HeaderValues(*number);
        }
        let Some(number) = u8::try_from(known.values.len() + 1).ok().filter(|number| *number < OTHERS.0) else {
            return OTHERS;
        };
        let values: Arc<Values> = Arc::new(values.iter().map(|value| Box::from(&**value)).collect());
        known.values.push(values.clone());
        known.numbers.insert(values, number);
        self.known.store(Arc::new(known));
        HeaderValues(number)
    }

    /// Labels and values behind a number.
    pub(super) fn pairs(&self, values: HeaderValues) -> Vec<(&str, String)> {
        let known = self.known.load();
        let named = usize::from(values.0).checked_sub(1).and_then(|index| known.values.get(index));
        let value = |index: usize| match named {
            _ if values == OTHERS => OTHERS_VALUE.to_owned(),
            Some(named) => named[index].to_string(),
            None => String::new(),
        };
        self.labels.iter().enumerate().map(|(index, (label, _))| (label.as_str(), value(index))).collect()
    }
}

/// The value of a label: the header's first value, cut; what is not printable ASCII becomes `?`.
fn value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Cow<'h, str> {
    let bytes = headers.get(name).map_or(&b""[..], |value| value.as_bytes());
    let bytes = &bytes[..bytes.len().min(MAX_VALUE)];
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(is_plain) => Cow::Borrowed(text),
        _ => bytes.iter().map(|byte| if is_plain(byte) { char::from(*byte) } else { '?' }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn labels(written: &[(&str, &str)]) -> HeaderLabels {
        HeaderLabels::new(&written.iter().map(|(label, header)| ((*label).to_owned(), (*header).to_owned())).collect())
    }

    fn agent(value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(http::header::USER_AGENT, HeaderValue::from_bytes(value).unwrap())])
    }

    #[test]
    fn equal_values_have_equal_numbers() {
        let labels = labels(&[("agent", "User-Agent"), ("tenant", "X-Tenant")]);
        let first = labels.of(&agent(b"curl"));
        assert_eq!(labels.of(&agent(b"curl")), first);
        assert_ne!(labels.of(&agent(b"wget")), first);
        assert_eq!(labels.of(&HeaderMap::new()), HeaderValues(0));
        assert_eq!(labels.pairs(first), [("agent", "curl".to_owned()), ("tenant", String::new())]);
        assert_eq!(labels.pairs(HeaderValues(0)), [("agent", String::new()), ("tenant", String::new())]);
    }

    #[test]
    fn values_are_bounded_in_number_length_and_kind() {
        let labels = labels(&[("agent", "User-Agent")]);
        for number in 0..10_000 {
            labels.of(&agent(format!("agent {number}").as_bytes()));
        }
        assert_eq!(labels.of(&agent(b"one more")), OTHERS);
        assert_eq!(labels.pairs(OTHERS), [("agent", "other".to_owned())]);
        assert_eq!(labels.known.load().values.len(), MAX_COMBINATIONS);
        let headers = agent(&[&[b'x'; 100][..], b"\xff"].concat());
        assert_eq!(value(&headers, &http::header::USER_AGENT), "x".repeat(MAX_VALUE));
        assert_eq!(value(&agent(b"a\xffb\tc"), &http::header::USER_AGENT), "a?b?c");
    }

    #[test]
    fn threads_agree() {
        let labels = labels(&[("agent", "User-Agent")]);
        let numbers: Vec<Vec<HeaderValues>> = std::thread::scope(|scope| {
            let learn = || (0..100).map(|n| labels.of(&agent(format!("{n}").as_bytes()))).collect();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(learn)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(numbers.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
